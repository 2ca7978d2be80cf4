from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import ConfigError
from genrec.evaluation.scaling import bootstrap_power_law, fit_power_law

SIZES = np.logspace(4, 8, 9)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.0, 4.0), st.floats(0.2, 3.0), st.floats(0.08, 0.7))
def test_an_exact_law_is_found(floor: float, drop: float, exponent: float) -> None:
    """`drop` is what the smallest model loses above the floor."""
    scale = drop * SIZES[0] ** exponent
    losses = floor + scale * SIZES**-exponent
    found = fit_power_law(SIZES.tolist(), losses.tolist())
    assert found.error < 1e-5
    np.testing.assert_allclose(found.at(SIZES), losses, rtol=1e-4)
    assert found.exponent == pytest.approx(exponent, rel=0.05, abs=0.01)
    assert found.floor == pytest.approx(floor, abs=0.05)


def test_the_fit_is_at_least_as_good_as_any_on_a_grid() -> None:
    generator = np.random.default_rng(0)
    losses = (2 + 40 * SIZES**-0.3) * (1 + 0.01 * generator.normal(size=len(SIZES)))
    found = fit_power_law(SIZES.tolist(), losses.tolist())
    floors, scales, exponents = np.meshgrid(
        np.linspace(0, 3, 61), np.logspace(0, 3, 61), np.linspace(0.05, 0.8, 61), indexing="ij"
    )
    laws = floors[..., None] + scales[..., None] * SIZES ** -exponents[..., None]
    errors = np.sqrt(np.square(laws / losses - 1).mean(-1))
    assert found.error <= errors.min()


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(12):
        losses = (2 + 40 * SIZES**-0.3) * (1 + 0.003 * generator.normal(size=len(SIZES)))
        found = bootstrap_power_law(
            SIZES.tolist(), losses.tolist(), samples=40, level=0.9, seed=trial
        )
        low, high = found.intervals["exponent"]
        hits += low <= 0.3 <= high
        assert low <= high
    assert 8 <= hits <= 12


def test_seeds_that_miss_the_law_together_are_no_more_points_for_it() -> None:
    miss = 0.004 * np.random.default_rng(2).normal(size=len(SIZES))
    losses = (2 + 40 * SIZES**-0.3) * (1 + miss)
    wide = []
    for seeds in (1, 4):
        found = bootstrap_power_law(
            np.repeat(SIZES, seeds).tolist(), np.repeat(losses, seeds).tolist(), samples=100
        )
        low, high = found.intervals["exponent"]
        wide.append(high - low)
    assert wide[1] == pytest.approx(wide[0], rel=0.2)


def test_one_seed_gives_one_interval() -> None:
    losses = (2 + 40 * SIZES**-0.3) * (1 + 0.01 * np.cos(np.arange(len(SIZES))))
    first, again, other = (
        bootstrap_power_law(SIZES.tolist(), losses.tolist(), samples=20, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first.intervals != other.intervals
    assert first.law == other.law


@pytest.mark.parametrize(
    ("sizes", "losses", "message"),
    [
        ([10, 20], [3, 2], "2 sizes; a law with three numbers"),
        ([10, 20, 20], [3, 2, 2.1], "2 sizes"),
        ([10, 20, 30], [3, 2], "3 sizes for 2 losses"),
        ([10, 20, 0], [3, 2, 1], "parameters: number 2 is 0.0"),
        ([10, 20, 30], [3, np.nan, 1], "losses: number 1 is nan"),
    ],
)
def test_what_cannot_be_fitted_is_said(sizes: list, losses: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_power_law(sizes, losses)


def test_three_sizes_have_no_interval() -> None:
    with pytest.raises(ConfigError, match="3 sizes; expected at least four"):
        bootstrap_power_law([10, 20, 40, 40], [3, 2, 1.5, 1.6])
