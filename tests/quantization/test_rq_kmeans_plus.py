from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from genrec.errors import ArtefactError, ConfigError
from genrec.quantization import RQVAE, RQKMeans, RQKMeansPlus
from genrec.quantization.rq_kmeans_plus import Residual

QUICK = {"hidden": (32,), "steps": 200, "batch_size": 64}


def vectors(n=600, d=16, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, d))[rng.integers(50, size=n)] + 0.3 * rng.normal(size=(n, d))
    return (x * 0.9 ** np.arange(d) + 2).astype(np.float32)


def distortion(quantizer, x: np.ndarray) -> float:
    missed = ((quantizer.decode(quantizer.encode(x)) - x) ** 2).sum()
    return float(missed / ((x - x.mean(axis=0)) ** 2).sum())


def test_the_network_starts_as_the_identity():
    x = torch.randn(5, 4)
    torch.testing.assert_close(Residual((4, 7, 4))(x), x)


def test_without_learning_it_is_residual_kmeans():
    x = vectors()
    options = {"update": "ste", "learning_rate": 0.0, "revive_every": 0, "refine": 0}
    still = RQKMeansPlus((16, 16), **{**QUICK, **options, "steps": 5}).fit(x)
    plain = RQKMeans((16, 16), balanced=False).fit(x)
    assert distortion(still, x) == pytest.approx(distortion(plain, x), rel=0.05)
    mean, scale = still._mean.numpy(), still._scale.numpy()
    assert np.ptp(scale) == 0
    first, second = (book.astype(np.float64) * scale for book in still.codebooks())
    codes = still.encode(x)
    z = x - mean
    for code in range(16):
        # Lloyd has converged: each code is the mean of the residuals that chose it.
        assert np.allclose(first[code], z[codes[:, 0] == code].mean(axis=0), atol=0.05)
    assert np.allclose(still.decode(codes), first[codes[:, 0]] + second[codes[:, 1]] + mean)


def test_training_lowers_the_distortion():
    x = vectors()
    trained = RQKMeansPlus((16, 16), **{**QUICK, "steps": 400}).fit(x)
    plain = RQKMeans((16, 16), balanced=False).fit(x)
    assert distortion(trained, x) < distortion(plain, x)
    assert trained.report["utilisation"] == [1.0, 1.0]


@pytest.mark.parametrize("update", ["ste", "rotation"])
def test_each_update_and_sinkhorn_train(update):
    x = vectors()
    quantizer = RQKMeansPlus((16, 16), update=update, sinkhorn=0.01, **QUICK).fit(x)
    assert distortion(quantizer, x) < 0.5


def test_constant_columns_come_back():
    x = np.concatenate([vectors(), np.full((600, 1), 7.5, dtype=np.float32)], axis=1)
    quantizer = RQKMeansPlus((8, 8), **QUICK).fit(x)
    assert (quantizer.decode(quantizer.encode(x))[:, 16] == 7.5).all()


def test_options_are_checked_and_have_no_latent_width():
    with pytest.raises(ConfigError, match="update: 'emma'"):
        RQKMeansPlus(update="emma")
    with pytest.raises(ConfigError, match="sinkhorn: is -1"):
        RQKMeansPlus(sinkhorn=-1)
    assert "latent" not in RQKMeansPlus().config
    assert "warmup_steps" not in RQKMeansPlus().config


def test_the_folder_is_not_one_of_rq_vae(tmp_path):
    RQKMeansPlus((4,), **QUICK).fit(vectors()).save_pretrained(tmp_path / "q")
    with pytest.raises(ArtefactError, match="rq-kmeans-plus"):
        RQVAE.from_pretrained(tmp_path / "q")


def test_progress_is_shown_on_request(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    RQKMeansPlus((8, 8), **QUICK).fit(vectors(), progress=True)
    assert "rq-kmeans-plus" in capsys.readouterr().err
