from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from genrec.errors import ConfigError
from genrec.quantization import MHQ, OPQ, RQKMeans, load_quantizer
from genrec.quantization.mhq import deal, polar


def vectors(n=1500, d=16, seed=0) -> np.ndarray:
    """Clusters on axes of falling variance, turned at random."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, d))[rng.integers(40, size=n)] + 0.5 * rng.normal(size=(n, d))
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (x * 0.8 ** np.arange(d) @ turn + 3).astype(np.float32)


def distortion(quantizer, x: np.ndarray) -> float:
    missed = ((quantizer.decode(quantizer.encode(x)) - x) ** 2).sum()
    return float(missed / ((x - x.mean(axis=0)) ** 2).sum())


def projection(quantizer: MHQ) -> np.ndarray:
    return quantizer._arrays["forward"]


def test_codes_decode_and_distances_equal_the_slow_reference():
    x = vectors()
    quantizer = MHQ(2, 3, 8, epochs=3).fit(x)
    assert quantizer.codebook_sizes == (8,) * 6
    books, codes = quantizer.codebooks(), quantizer.encode(x)
    assert [book.shape for book in books] == [(8, 8)] * 6
    z = (x - quantizer._arrays["mean"]) @ projection(quantizer)
    coded = np.zeros_like(z)
    for m in range(2):
        part = slice(8 * m, 8 * m + 8)
        for level in range(3):
            column = 3 * m + level
            rest = z[:, part] - coded[:, part]
            slow = ((rest[:, None] - books[column][None]) ** 2).sum(axis=2)
            assert np.array_equal(codes[:, column], slow.argmin(axis=1))
            found = quantizer.level_distances(x, codes[:, :column])
            assert np.allclose(found, slow, rtol=1e-4, atol=1e-4)
            coded[:, part] += books[column][codes[:, column]]
    back = coded @ projection(quantizer).T + quantizer._arrays["mean"]
    assert np.allclose(quantizer.decode(codes), back, atol=1e-4)


def test_a_column_depends_on_the_columns_of_its_own_subspace_only():
    x = vectors(n=300)
    quantizer = MHQ(2, 2, 8, epochs=1).fit(x)
    prefix = quantizer.encode(x)[:, :3]
    changed = prefix.copy()
    changed[:, :2] = 7 - changed[:, :2]
    one, other = (quantizer.level_distances(x, p) for p in (prefix, changed))
    assert np.array_equal(one, other)
    changed[:, 2] = 7 - changed[:, 2]
    assert not np.allclose(one, quantizer.level_distances(x, changed))


@pytest.mark.parametrize("subspaces", [2, 4])
def test_one_level_reaches_the_distortion_of_opq(subspaces):
    x = vectors(n=3000)
    ours = MHQ(subspaces, 1, 16).fit(x)
    theirs = OPQ(subspaces, 16).fit(x)
    assert distortion(ours, x) < 1.03 * distortion(theirs, x)


def test_one_subspace_reaches_the_distortion_of_residual_kmeans():
    x = vectors(n=3000)
    ours, theirs = MHQ(1, 3, 16).fit(x), RQKMeans((16, 16, 16), balanced=False).fit(x)
    assert distortion(ours, x) < 1.04 * distortion(theirs, x)


def test_training_lowers_the_distortion_and_the_report_says_it():
    x = vectors()
    start, end = MHQ(4, 2, 8, epochs=0).fit(x), MHQ(4, 2, 8).fit(x)
    assert distortion(end, x) < distortion(start, x)
    assert end.report["reconstruction"] == pytest.approx(distortion(end, x), rel=1e-3)
    assert sum(end.report["energies"]) == pytest.approx(1, abs=1e-4)


def test_hard_projections_are_orthonormal():
    square = projection(MHQ(4, 2, 8, epochs=5).fit(vectors()))
    assert np.allclose(square.T @ square, np.eye(16), atol=1e-5)
    narrow = projection(MHQ(4, 2, 8, dim=8, epochs=5).fit(vectors()))
    assert narrow.shape == (16, 8)
    assert np.allclose(narrow.T @ narrow, np.eye(8), atol=1e-5)
    wide = projection(MHQ(3, 1, 8, epochs=5).fit(vectors()))
    assert wide.shape == (16, 18)
    assert np.allclose(wide @ wide.T, np.eye(16), atol=1e-5)


def test_a_narrow_projection_keeps_the_directions_that_carry_most():
    x = vectors()
    quantizer = MHQ(2, 3, 16, dim=8).fit(x)
    kept = ((x - x.mean(axis=0)) @ projection(quantizer)) ** 2
    variance = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    assert kept.sum() / len(x) > 0.98 * variance[:8].sum()


def test_without_orthogonality_the_projection_collapses():
    """L_rec is measured after the projection: nothing else keeps W_P from zero."""
    x = vectors(n=600)
    options = {"epochs": 100, "batch_size": 300, "learning_rate": 1e-2}
    found = {
        kind: MHQ(4, 1, 16, orthogonality=kind, **options).fit(x)
        for kind in ("hard", "penalty", "none")
    }
    loss = {kind: quantizer.report["reconstruction"] for kind, quantizer in found.items()}
    energy = {kind: sum(quantizer.report["energies"]) for kind, quantizer in found.items()}
    assert loss["none"] < 0.05 * loss["hard"]
    assert energy["none"] < 0.5
    assert energy["hard"] == pytest.approx(1, abs=1e-4)
    assert energy["penalty"] > 0.9
    smallest = {kind: quantizer.report["singular_values"][1] for kind, quantizer in found.items()}
    assert smallest["hard"] == pytest.approx(1, abs=1e-4)
    assert smallest["none"] < 0.1 < 0.9 < smallest["penalty"]
    # The vanishing loss is worth nothing: the vectors come back worse.
    assert distortion(found["none"], x) > 1.5 * distortion(found["hard"], x)
    assert distortion(found["penalty"], x) < 1.2 * distortion(found["hard"], x)


def test_the_penalty_keeps_the_projection_near_orthonormal():
    options = {"orthogonality": "penalty", "epochs": 60, "batch_size": 500, "learning_rate": 1e-2}
    gaps = []
    for weight in (0.01, 10.0):
        turn = projection(MHQ(4, 1, 16, orthogonality_weight=weight, **options).fit(vectors()))
        gaps.append(np.abs(turn.T @ turn - np.eye(16)).max())
    assert gaps[1] < 0.05 < gaps[0]


@pytest.mark.parametrize(("orthogonality", "share"), [("hard", 0.8), ("penalty", 0.3)])
def test_the_balance_term_evens_out_the_energies(orthogonality, share):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(1500, 8)) * [8, 1, 1, 1, 1, 1, 1, 1]).astype(np.float32)
    options = {"orthogonality": orthogonality, "epochs": 60, "learning_rate": 1e-2}
    spread = []
    for weight in (0.0, 1.0):
        quantizer = MHQ(2, 1, 16, balance=weight, batch_size=500, **options).fit(x)
        energies = np.array(quantizer.report["energies"])
        spread.append(float(np.abs(energies - energies.mean()).mean()))
    assert spread[1] < share * spread[0]


def test_a_heavy_balance_term_does_not_turn_subspaces_over():
    x = vectors() * np.linspace(3, 0.3, 16, dtype=np.float32)
    spread = []
    for weight in (0.0, 100.0):
        energies = np.array(MHQ(4, 2, 16, balance=weight).fit(x).report["energies"])
        spread.append(float(np.abs(energies - energies.mean()).mean() / energies.mean()))
    assert spread[1] < spread[0]


def test_modalities_weigh_the_same():
    loud, quiet = vectors(d=8) * 100, vectors(d=8, seed=1)
    x = np.concatenate([loud, quiet], axis=1)

    def missed(quantizer: MHQ) -> float:
        gap = (quantizer.decode(quantizer.encode(x)) - x)[:, 8:]
        return float((gap**2).sum() / ((quiet - quiet.mean(axis=0)) ** 2).sum())

    plain = MHQ(2, 2, 16).fit(x)
    balanced = MHQ(2, 2, 16, modalities=[8, 8]).fit(x)
    assert missed(plain) > 0.8
    assert missed(balanced) < 0.5
    codes = balanced.encode(x)
    scaled = MHQ(2, 2, 16, modalities=[8, 8]).fit(x * np.repeat([1.0, 64.0], 8).astype("float32"))
    same = scaled.encode(x * np.repeat([1.0, 64.0], 8).astype("float32"))
    assert (same == codes).mean() > 0.95


def test_a_silent_modality_changes_nothing():
    x = np.concatenate([vectors(d=8), np.full((1500, 4), 5, dtype=np.float32)], axis=1)
    quantizer = MHQ(2, 2, 8, modalities=[8, 4], epochs=2).fit(x)
    decoded = quantizer.decode(quantizer.encode(x))
    assert np.allclose(decoded[:, 8:], 5, atol=1e-4)
    assert distortion(quantizer, x) < 0.6


def test_every_code_is_used():
    x = vectors()
    quantizer = MHQ(4, 2, 32).fit(x)
    assert [len(np.unique(column)) for column in quantizer.encode(x).T] == [32] * 8


def test_a_sample_is_enough_and_the_seed_matters(tmp_path):
    x = vectors(n=3000)
    options = {"samples_per_code": 20, "epochs": 2}
    one, other = (MHQ(2, 2, 8, seed=seed, **options).fit(x) for seed in (0, 1))
    assert not np.array_equal(one.encode(x), other.encode(x))
    one.save_pretrained(tmp_path / "q")
    assert np.array_equal(load_quantizer(tmp_path / "q").encode(x), one.encode(x))


def test_axes_are_dealt_out_evenly():
    places = deal(np.array([8.0, 4.0, 2.0, 1.0]), 2, 2)
    assert sorted(places.tolist()) == [0, 1, 2, 3]
    # The largest and the smallest share a subspace, and so do the two in between.
    assert [place // 2 for place in places] == [0, 1, 1, 0]
    assert len(set(deal(np.zeros(5), 3, 2).tolist())) == 5


def test_polar_equals_the_best_of_many_rotations():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 5, generator=generator)
    best = float((matrix * polar(matrix)).sum())
    for _ in range(50):
        other = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
        assert float((matrix * other).sum()) < best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10}, "dim: is 10; expected a multiple of num_subspaces, 8, e.g. 8"),
        ({"dim": 4}, "dim: is 4"),
        ({"orthogonality": "soft"}, "orthogonality: 'soft' is unknown"),
        ({"decay": 1.0}, "decay: is 1"),
        ({"levels": 0}, "levels: is 0"),
        ({"num_subspaces": 0}, "num_subspaces: is 0"),
        ({"codebook_size": 0}, "codebook_size: is 0"),
        ({"balance": -1}, "balance: is -1"),
        ({"modalities": [0, 16]}, "modalities: is 0"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        MHQ(**options)


def test_modalities_that_do_not_add_up_are_named():
    with pytest.raises(ConfigError, match=r"modalities: \[8, 4\] are 12 columns.*have 16"):
        MHQ(2, 1, 4, modalities=[8, 4]).fit(vectors())


def test_progress_is_shown_on_request(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    MHQ(2, 1, 4, epochs=1).fit(vectors(n=100), progress=True)
    assert "mhq" in capsys.readouterr().err
