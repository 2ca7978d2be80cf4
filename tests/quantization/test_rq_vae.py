from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from genrec.errors import ConfigError
from genrec.quantization import RQVAE

QUICK = {"hidden": (32,), "latent": 8, "steps": 200, "warmup_steps": 50, "batch_size": 64}


def vectors(n=600, d=16, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, d))[rng.integers(50, size=n)] + 0.3 * rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def distortion(quantizer: RQVAE, x: np.ndarray) -> float:
    missed = ((quantizer.decode(quantizer.encode(x)) - x) ** 2).sum()
    return float(missed / ((x - x.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize("update", ["ema", "ste", "rotation"])
def test_every_code_is_used_and_the_vectors_come_back(update):
    x = vectors()
    quantizer = RQVAE((32, 32, 32), update=update, learning_rate=5e-3, **QUICK).fit(x)
    codes = quantizer.encode(x)
    assert [len(np.unique(column)) for column in codes.T] == [32, 32, 32]
    assert quantizer.report["utilisation"] == [1.0, 1.0, 1.0]
    assert distortion(quantizer, x) < 0.5
    assert quantizer.report["reconstruction"] == pytest.approx(distortion(quantizer, x), rel=0.2)


def test_codes_equal_the_slow_reference():
    x = vectors()
    quantizer = RQVAE((16, 8), **QUICK).fit(x)
    rest = quantizer._latent(torch.from_numpy(x)).numpy()
    books = quantizer.codebooks()
    assert [book.shape for book in books] == [(16, 8), (8, 8)]
    slow = []
    for book in books:
        slow.append(((rest[:, None] - book[None]) ** 2).sum(axis=2).argmin(axis=1))
        rest = rest - book[slow[-1]]
    assert np.array_equal(quantizer.encode(x), np.stack(slow, axis=1))


def test_columns_of_any_scale_weigh_the_same():
    x = vectors()
    scaled = x * np.float32(2.0) ** np.arange(-20, 12, 2) + 1
    options = {**QUICK, "learning_rate": 5e-3}
    one = RQVAE((16, 16), **options).fit(x)
    other = RQVAE((16, 16), **options).fit(x * np.float32(1024))
    assert np.array_equal(one.encode(x), other.encode(x * np.float32(1024)))
    far = RQVAE((16, 16), **options).fit(scaled)
    assert far.report["reconstruction"] == pytest.approx(one.report["reconstruction"], rel=0.3)


def test_constant_columns_come_back():
    x = np.concatenate([vectors(), np.full((600, 2), 1234.5, dtype=np.float32)], axis=1)
    quantizer = RQVAE((16, 16), **QUICK).fit(x)
    assert (quantizer.decode(quantizer.encode(x))[:, 16:] == 1234.5).all()


def test_a_plateau_stops_training():
    options = {**QUICK, "steps": 5000, "learning_rate": 0.0, "patience": 2}
    quantizer = RQVAE((8, 8), **options).fit(vectors())
    assert quantizer.report["steps"] < 2000


def test_divergence_says_what_to_do():
    with pytest.raises(ConfigError, match=r"diverged.*learning_rate"):
        RQVAE((8, 8), **{**QUICK, "learning_rate": 1e30}).fit(vectors())


def test_linear_and_deep_networks():
    x = vectors()
    for hidden in ((), (24, 20, 12)):
        quantizer = RQVAE((16, 16), **{**QUICK, "hidden": hidden}).fit(x)
        assert len(quantizer._encoder) == 2 * len(hidden) + 1
        assert quantizer.encode(x).shape == (600, 2)


def test_revival_and_refinement_can_be_off():
    x = vectors()
    plain = RQVAE((16, 16), revive_every=0, refine=0, **QUICK).fit(x)
    assert plain.encode(x).max() < 16


def test_a_sample_is_enough():
    x = vectors(n=3000)
    quantizer = RQVAE((8, 8), max_samples=100, **QUICK).fit(x)
    assert len(np.unique(quantizer.encode(x)[:, 0])) == 8


def test_another_seed_other_codes():
    x = vectors()
    one, other = (RQVAE((16, 16), seed=seed, **QUICK).fit(x).encode(x) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_progress_is_shown_on_request(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    RQVAE((8, 8), **QUICK).fit(vectors(), progress=True)
    assert "rq-vae" in capsys.readouterr().err


def test_sinkhorn_separates_items_that_share_the_codes_before():
    x = vectors()
    shares = []
    for epsilon in (0.0, 0.003):
        quantizer = RQVAE((4, 32), sinkhorn=epsilon, refine=0, **QUICK).fit(x)
        tuples = np.unique(quantizer.encode(x), axis=0)
        shares.append(len(tuples))
    assert shares[1] > 0.9 * shares[0]
    assert shares[0] != shares[1]
