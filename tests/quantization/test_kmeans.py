from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from genrec.quantization.kmeans import (
    _sums,
    assign,
    center,
    cluster,
    kmeans,
    residual_kmeans,
    subtract,
)


def points(n=400, d=5, seed=0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def inertia(x: torch.Tensor, centroids: torch.Tensor) -> float:
    return float((x - centroids[assign(x, centroids)]).square().sum())


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("init", ["k-means++", "sample"])
def test_as_good_as_scikit_learn(init):
    x = points(n=2000, d=8)
    ours = inertia(x, kmeans(x, 30, rng=rng(), iterations=50, init=init))
    theirs = KMeans(30, n_init=1, max_iter=50, random_state=0).fit(x.numpy()).inertia_
    assert ours < 1.03 * theirs


def test_one_iteration_from_given_centroids_is_the_mean_of_each_cluster():
    x = points()
    start = x[:6].clone()
    codes = assign(x, start)
    expected = torch.stack([x[codes == k].mean(dim=0) for k in range(6)])
    found = kmeans(x, 6, rng=rng(), iterations=1, init=start)
    torch.testing.assert_close(found, expected)
    assert torch.equal(start, x[:6])


def test_more_iterations_are_never_worse():
    x = points()
    errors = [inertia(x, kmeans(x, 12, rng=rng(), iterations=i)) for i in (1, 3, 10, 30)]
    assert errors == sorted(errors, reverse=True)


def test_it_stops_when_nothing_changes():
    steps = []
    cluster(points(), 4, rng=rng(), iterations=1000, on_step=lambda: steps.append(1))
    assert len(steps) < 200


@pytest.mark.parametrize("init", ["k-means++", "sample"])
@pytest.mark.parametrize("k", [1, 50, 399, 400])
def test_every_centroid_is_used(init, k):
    x = points()
    centroids = kmeans(x, k, rng=rng(), iterations=3, init=init)
    assert len(torch.unique(assign(x, centroids))) == k


def test_empty_clusters_are_seeded_from_the_farthest_points():
    x = torch.tensor([[0.0], [0.1], [10.0], [10.0], [-20.0]])
    start = torch.tensor([[0.0], [1000.0], [2000.0]])
    centroids = kmeans(x, 3, rng=rng(), init=start)
    assert sorted(centroids[:, 0].tolist()) == pytest.approx([-20.0, 0.05, 10.0])


def test_fewer_distinct_points_than_centroids():
    x = torch.eye(3).repeat(20, 1)
    for init in ("k-means++", "sample"):
        centroids = kmeans(x, 10, rng=rng(), init=init)
        assert inertia(x, centroids) == 0
        assert len(torch.unique(assign(x, centroids))) == 3


def test_many_centroids_start_from_a_sample():
    x = points(n=3000, d=2)
    centroids = kmeans(x, 2500, rng=rng(), iterations=2)
    assert len(torch.unique(assign(x, centroids))) == 2500


def test_sums_equal_a_loop():
    x, codes = points(50), torch.arange(50) % 7
    slow = torch.stack([x[codes == k].sum(dim=0) for k in range(8)])
    torch.testing.assert_close(_sums(x, codes, 8), slow)


def test_residual_levels_equal_one_kmeans_after_another():
    x = points()
    books, codes = residual_kmeans(x, (6, 4), rng=rng(), iterations=5)
    source, rest = rng(), x
    for level, size in enumerate((6, 4)):
        expected = kmeans(rest, size, rng=source, iterations=5)
        assert torch.equal(books[level], expected)
        assert torch.equal(codes[:, level], assign(rest, expected))
        rest = rest - expected[codes[:, level]]
    again, _ = residual_kmeans(x, (6, 4), rng=rng(), iterations=1, init=books)
    assert inertia(x, again[0]) <= inertia(x, books[0])


def slow_cluster(x: np.ndarray, centroids: np.ndarray, iterations: int) -> np.ndarray:
    """The algorithm of `cluster` in float64, with means computed anew after each part."""
    k, parts = len(centroids), 1
    codes = np.full(len(x), -1)

    def means() -> np.ndarray:
        return np.stack([x[codes == c].mean(axis=0) for c in range(k)])

    for _ in range(iterations):
        for first in range(parts):
            gap = x[first::parts, None] - centroids[None]
            codes[first::parts] = np.square(gap).sum(axis=2).argmin(axis=1)
            centroids = centroids + 1.3 * (means() - centroids)
        parts = min(61, 1 + len(x) // max(1024, 16 * k))
    return means()


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_clusters_equal_the_slow_reference(iterations):
    x = points(n=5000, d=4)
    expected = slow_cluster(x.double().numpy(), x[:7].double().numpy(), iterations)
    found, codes = cluster(x, 7, rng=rng(), iterations=iterations, init=x[:7])
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)
    assert torch.equal(codes, assign(x, found))


def test_it_stops_when_few_assignments_change():
    steps = []
    cluster(points(), 8, rng=rng(), tolerance=0.2, on_step=lambda: steps.append(1))
    assert 2 <= len(steps) < 10


def test_center_and_subtract_work_in_place():
    x = points(n=3000, d=4) + 5
    expected = x - x.double().mean(dim=0).float()
    mean = center(x)
    torch.testing.assert_close(x, expected)
    assert mean.shape == (4,)
    codebook, codes = points(9, 4), torch.arange(3000) % 9
    subtract(x, codebook, codes)
    torch.testing.assert_close(x, expected - codebook[codes])
