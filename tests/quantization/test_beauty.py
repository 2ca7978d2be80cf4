"""Every code of every level is used on real vectors: the text of Amazon Beauty's items."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from genrec.data import Dataset
from genrec.data.sources import prepare_tables
from genrec.embedding import LexicalEmbedder
from genrec.quantization import make_quantizer


@pytest.fixture(scope="module")
def beauty(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    if "GENREC_DATA" not in os.environ:
        pytest.skip("GENREC_DATA is not set")
    source = Path(os.environ["GENREC_DATA"]) / "amazon2014-beauty" / "joined"
    data: Dataset = prepare_tables(tmp_path_factory.mktemp("beauty") / "dataset", source)
    return LexicalEmbedder(template="{title}. {categories}").embed(data.catalog).vectors


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "options", "collisions"),
    [
        ("rq-kmeans", {}, 0.3),
        ("rq-kmeans", {"balanced": False}, 0.3),
        pytest.param("rq-vae", {}, 0.3, marks=pytest.mark.slow),
        pytest.param("opq", {"num_subspaces": 16}, 0.1, marks=pytest.mark.slow),
        pytest.param("mhq", {}, 0.1, marks=pytest.mark.slow),
    ],
)
def test_every_code_is_used(
    beauty: np.ndarray, name: str, options: dict, collisions: float
) -> None:
    quantizer = make_quantizer(name, **options).fit(beauty)
    codes = quantizer.encode(beauty)
    used = tuple(len(np.unique(column)) for column in codes.T)
    assert used == quantizer.codebook_sizes
    _, group, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    assert (counts[group.ravel()] > 1).mean() < collisions
