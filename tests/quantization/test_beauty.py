"""Quality on real vectors: MiniLM of Beauty's titles and categories, where the file is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from genrec.quantization import make_quantizer

FILE = Path(os.environ.get("GENREC_DATA", "")) / "vectors" / "beauty_minilm.npy"


@pytest.fixture(scope="module")
def beauty() -> np.ndarray:
    if "GENREC_DATA" not in os.environ:
        pytest.skip("GENREC_DATA is not set")
    if not FILE.is_file():
        pytest.skip(f"{FILE} is not there: float32 [12101, 384] of the Beauty items")
    return np.load(FILE)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "options", "distortion", "collisions"),
    [
        ("rq-kmeans", {}, 0.39, 0.23),
        pytest.param("rq-vae", {}, 0.42, 0.13, marks=pytest.mark.slow),
        pytest.param("opq", {"num_subspaces": 16}, 0.30, 0.012, marks=pytest.mark.slow),
        pytest.param("opq", {"num_subspaces": 32}, 0.19, 0.005, marks=pytest.mark.slow),
    ],
)
def test_every_code_is_used(beauty, name, options, distortion, collisions):
    quantizer = make_quantizer(name, **options).fit(beauty)
    codes = quantizer.encode(beauty)
    used = tuple(len(np.unique(column)) for column in codes.T)
    assert used == quantizer.codebook_sizes
    missed = ((beauty - quantizer.decode(codes)) ** 2).sum()
    assert missed / ((beauty - beauty.mean(axis=0)) ** 2).sum() < distortion
    _, group, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    assert (counts[group.ravel()] > 1).mean() < collisions
