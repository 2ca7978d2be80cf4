from __future__ import annotations

import faiss
import numpy as np
import pytest

from genrec.quantization import OPQ


def vectors(n=800, d=12, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3).astype(np.float32)


def distortion(quantizer: OPQ, x: np.ndarray) -> float:
    missed = ((quantizer.decode(quantizer.encode(x)) - x) ** 2).sum()
    return float(missed / ((x - x.mean(axis=0)) ** 2).sum())


def test_decode_turns_the_codes_of_each_subspace_back():
    x = vectors()
    quantizer = OPQ(3, 16, iterations=5).fit(x)
    codes, books = quantizer.encode(x), quantizer.codebooks()
    assert [book.shape for book in books] == [(16, 4)] * 3
    turned = np.concatenate([book[codes[:, m]] for m, book in enumerate(books)], axis=1)
    turn = quantizer._arrays["forward"]
    assert np.allclose(turn.T @ turn, np.eye(12), atol=1e-5)
    assert np.allclose(quantizer.decode(codes), turned @ turn.T + x.mean(axis=0), atol=1e-4)


def test_codes_equal_the_slow_reference_and_faiss():
    x = vectors()
    quantizer = OPQ(4, 16, iterations=5).fit(x)
    arrays = quantizer._arrays
    turned = (x - arrays["mean"]) @ arrays["forward"]
    slow = [
        ((turned[:, None, 3 * m : 3 * m + 3] - book[None]) ** 2).sum(axis=2).argmin(axis=1)
        for m, book in enumerate(quantizer.codebooks())
    ]
    codes = quantizer.encode(x)
    assert np.array_equal(codes, np.stack(slow, axis=1))
    product = faiss.ProductQuantizer(12, 4, 4)
    faiss.copy_array_to_vector(arrays["codebooks"].ravel(), product.centroids)
    packed = product.compute_codes(turned.astype(np.float32))
    theirs = np.stack([packed[:, m // 2] >> (4 * (m % 2)) & 15 for m in range(4)], axis=1)
    assert (codes == theirs).mean() > 0.999


def test_the_rotation_lowers_the_distortion():
    x = vectors(n=3000)
    product = faiss.ProductQuantizer(12, 3, 4)
    product.cp.min_points_per_centroid = 1
    product.train(x)
    plain = product.decode(product.compute_codes(x))
    missed = float(((plain - x) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum())
    assert distortion(OPQ(3, 16, iterations=20).fit(x), x) < 0.9 * missed
    quantizer = OPQ(3, 16, rotate=False).fit(x)
    assert distortion(quantizer, x) == pytest.approx(missed, rel=0.03)
    assert np.array_equal(quantizer._arrays["forward"], np.eye(12))


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("levels", [1, 5, 12, 16])
def test_any_number_of_subspaces(levels, whiten):
    x = vectors()
    quantizer = OPQ(levels, 16, iterations=3, whiten=whiten).fit(x)
    assert quantizer.codebook_sizes == (16,) * levels
    assert distortion(quantizer, x) < 0.8


@pytest.mark.parametrize("whiten", [False, True])
def test_fewer_items_than_columns(whiten):
    for seed in range(6):
        x = vectors(n=5 + seed, d=64, seed=seed)
        quantizer = OPQ(4, 4, iterations=3, whiten=whiten).fit(x)
        assert distortion(quantizer, x) < 1


def test_whitening_gives_each_direction_the_same_weight():
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(2000, 4)) * [100, 1, 1, 1]).astype(np.float32)
    small = []
    for whiten in (False, True):
        quantizer = OPQ(2, 4, iterations=5, whiten=whiten).fit(x)
        missed = (quantizer.decode(quantizer.encode(x)) - x)[:, 1:]
        small.append(float((missed**2).sum() / (x[:, 1:] ** 2).sum()))
    assert small[1] < small[0]


def test_whitening_survives_constant_and_repeated_columns():
    x = vectors(d=4)
    x = np.concatenate([x, x, np.full((len(x), 2), 9, dtype=np.float32)], axis=1)
    quantizer = OPQ(5, 16, iterations=3, whiten=True).fit(x)
    decoded = quantizer.decode(quantizer.encode(x))
    assert np.allclose(decoded[:, 8:], 9, atol=1e-2)
    assert np.allclose(decoded[:, :4], decoded[:, 4:8], atol=0.1)


def test_the_seed_matters():
    x = vectors()
    one, other = (OPQ(3, 16, iterations=3, seed=seed).fit(x) for seed in (0, 1))
    assert not np.array_equal(one.codebooks(), other.codebooks())


def test_faiss_keeps_its_threads():
    threads = faiss.omp_get_max_threads()
    OPQ(3, 4, iterations=2).fit(vectors())
    assert faiss.omp_get_max_threads() == threads
