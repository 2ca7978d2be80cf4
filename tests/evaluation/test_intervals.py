from __future__ import annotations

import numpy as np
import pytest

from genrec.evaluation.intervals import bootstrap_intervals, bootstrap_means, paired_difference


def test_equals_a_loop_over_resamples() -> None:
    values = np.random.default_rng(1).random((37, 3))
    fast = bootstrap_means(values, replicates=50, seed=5)
    generator = np.random.default_rng(5)
    drawn = generator.integers(37, size=(50, 37))
    slow = np.array([[values[row, m].mean() for m in range(3)] for row in drawn])
    assert fast == pytest.approx(slow)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).random((101, 2))
    whole = bootstrap_means(values, replicates=40, seed=3)
    monkeypatch.setattr("genrec.evaluation.intervals._CHUNK_NUMBERS", 250)
    assert bootstrap_means(values, replicates=40, seed=3) == pytest.approx(whole)


def test_agrees_with_the_normal_interval_of_a_proportion() -> None:
    hits = (np.arange(10_000) % 20 == 0).astype(float)
    found = bootstrap_intervals({"recall": hits}, replicates=2000)["recall"]
    half = 1.96 * np.sqrt(0.05 * 0.95 / len(hits))
    assert found.value == pytest.approx(0.05)
    assert found.low == pytest.approx(0.05 - half, abs=0.1 * half)
    assert found.high == pytest.approx(0.05 + half, abs=0.1 * half)


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        sample = (generator.random(300) < 0.3).astype(float)
        found = bootstrap_intervals({"x": sample}, replicates=300, seed=trial)["x"]
        covered += found.low <= 0.3 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_same_seed_same_interval_and_shared_users() -> None:
    values = np.random.default_rng(4).random(200)
    first = bootstrap_intervals({"a": values, "b": 2 * values}, seed=9)
    assert first == bootstrap_intervals({"a": values, "b": 2 * values}, seed=9)
    assert first["b"].low == pytest.approx(2 * first["a"].low)
    assert first["a"] != bootstrap_intervals({"a": values}, seed=10)["a"]


def test_no_replicates_no_width() -> None:
    found = bootstrap_intervals({"a": np.array([0.0, 1.0])}, replicates=0)["a"]
    assert found.as_dict() == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_a_small_paired_gain_shows_where_separate_intervals_overlap() -> None:
    generator = np.random.default_rng(6)
    base = generator.random(2000)
    better = base + 0.01 + 0.01 * generator.normal(size=2000)
    alone = bootstrap_intervals({"base": base, "better": better})
    assert alone["better"].low < alone["base"].high
    found = paired_difference(better, base)
    assert found.significant and found.value == pytest.approx(0.01, abs=0.002)
    assert found.p_value == pytest.approx(2 / 1001)
    back = paired_difference(base, better)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_no_difference_is_not_significant() -> None:
    same = np.random.default_rng(0).random(100)
    found = paired_difference(same, same)
    assert not found.significant and found.p_value == 1.0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="same users"):
        paired_difference(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="users, metrics"):
        bootstrap_means(np.zeros((0, 2)))
