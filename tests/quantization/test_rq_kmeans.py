from __future__ import annotations

import sys

import faiss
import numpy as np
import pytest
import torch

from genrec.quantization import RQKMeans
from genrec.quantization.nearest import ResidualSearch


def vectors(n=1000, d=10, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(40, d))[rng.integers(40, size=n)] * 3 + rng.normal(size=(n, d))
    ).astype(np.float32)


def slow_encode(x: np.ndarray, books: list[np.ndarray]) -> np.ndarray:
    rest, codes = x.astype(np.float64), []
    for book in books:
        distances = ((rest[:, None] - book[None].astype(np.float64)) ** 2).sum(axis=2)
        codes.append(distances.argmin(axis=1))
        rest = rest - book[codes[-1]]
    return np.stack(codes, axis=1)


def test_codes_equal_the_slow_reference():
    x = vectors()
    quantizer = RQKMeans((16, 8, 4)).fit(x[:800])
    assert np.array_equal(quantizer.encode(x), slow_encode(x, quantizer.codebooks()))


def test_decode_is_the_sum_of_the_codes():
    x = vectors()
    quantizer = RQKMeans((16, 8)).fit(x)
    codes, books = quantizer.encode(x), quantizer.codebooks()
    assert np.allclose(quantizer.decode(codes), books[0][codes[:, 0]] + books[1][codes[:, 1]])


def test_each_level_has_its_own_size_and_uses_every_code():
    quantizer = RQKMeans((32, 8, 16, 4), init="sample").fit(vectors())
    assert quantizer.codebook_sizes == (32, 8, 16, 4)
    assert [len(book) for book in quantizer.codebooks()] == [32, 8, 16, 4]
    codes = quantizer.encode(vectors())
    assert [len(np.unique(column)) for column in codes.T] == [32, 8, 16, 4]


def test_more_levels_reconstruct_better():
    x = vectors()
    errors = []
    for levels in (1, 2, 3):
        quantizer = RQKMeans((16,) * levels).fit(x)
        errors.append(float(((quantizer.decode(quantizer.encode(x)) - x) ** 2).sum()))
    assert errors[0] > errors[1] > errors[2]


def test_the_sample_is_capped_and_follows_the_seed():
    x = vectors(n=4000)
    one, same, other = (RQKMeans((8, 8), samples_per_code=20, seed=s).fit(x) for s in (0, 0, 1))
    assert np.array_equal(one.codebooks(), same.codebooks())
    assert not np.array_equal(one.codebooks(), other.codebooks())


def test_as_many_codes_as_items():
    x = vectors(n=300)
    quantizer = RQKMeans((300, 2)).fit(x)
    assert len(np.unique(quantizer.encode(x)[:, 0])) == 300


def test_65536_codes():
    x = torch.arange(65_536, dtype=torch.float32)[:, None]
    search = ResidualSearch([x, torch.tensor([[-0.25], [0.25]])])
    rows = torch.tensor([0, 1, 40_000, 65_535])
    assert search.codes(x[rows] + 0.2).tolist() == [[int(r), 1] for r in rows]


def test_far_from_the_origin():
    x = (vectors().astype(np.float64) + 1e5).astype(np.float32)
    quantizer = RQKMeans((16, 8)).fit(x)
    missed = ((quantizer.decode(quantizer.encode(x)).astype(np.float64) - x) ** 2).sum()
    assert missed < 0.3 * ((x - x.astype(np.float64).mean(axis=0)) ** 2).sum()


def test_progress_is_shown_on_request(capsys, monkeypatch):
    RQKMeans((4, 4)).fit(vectors(), progress=True)
    assert capsys.readouterr().err == ""  # no terminal, no bar
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    RQKMeans((4, 4)).fit(vectors(), progress=True)
    assert "rq-kmeans" in capsys.readouterr().err
    RQKMeans((4, 4)).fit(vectors())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("duplicates", [2, 500])
def test_equal_vectors_share_a_tuple(duplicates):
    x = np.repeat(vectors(n=20), duplicates, axis=0)
    codes = RQKMeans((16, 16)).fit(x).encode(x)
    assert len(np.unique(codes, axis=0)) == 20


def test_threads_and_batches_change_neither_codebooks_nor_codes():
    # Enough rows for several parts of an iteration.
    x, before = vectors(n=9000, d=48), torch.get_num_threads()
    fitted = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            fitted.append(RQKMeans((64, 32, 16), balanced=False).fit(x))
            assert np.array_equal(fitted[-1].encode(x, batch_size=1000), fitted[0].encode(x))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*(quantizer.codebooks() for quantizer in fitted), strict=True):
        assert np.array_equal(one, two)


def test_as_little_distortion_as_faiss():
    x = vectors(n=20_000, d=24)
    errors = {"ours": 0.0, "faiss": 0.0}
    for seed in range(3):
        quantizer = RQKMeans((64, 64), seed=seed, balanced=False).fit(x)
        errors["ours"] += float(((quantizer.decode(quantizer.encode(x)) - x) ** 2).sum())
        rest = x.copy()
        for _ in range(2):
            theirs = faiss.Kmeans(24, 64, niter=25, seed=seed, max_points_per_centroid=len(x))
            theirs.train(rest)
            rest -= theirs.centroids[theirs.index.search(rest, 1)[1][:, 0]]
        errors["faiss"] += float((rest**2).sum())
    assert errors["ours"] < 1.01 * errors["faiss"]
