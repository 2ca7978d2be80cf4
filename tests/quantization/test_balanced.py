from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from genrec.quantization import RQKMeans
from genrec.quantization.balanced import balanced_kmeans, capped_assign
from genrec.quantization.kmeans import assign, kmeans


def points(n=400, d=4, seed=0) -> torch.Tensor:
    """One crowd and a few far away, which plain k-means shares out unevenly."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    x[: n // 10] = 5 * x[: n // 10] + 8
    return x


def free(k: int) -> torch.Tensor:
    return torch.zeros(k, dtype=torch.float64)


def cost(x: torch.Tensor, centroids: torch.Tensor, codes: torch.Tensor) -> float:
    return float((x - centroids[codes]).square().sum())


def optimum(x: torch.Tensor, centroids: torch.Tensor, cap: int) -> float:
    """The cheapest capped assignment, by matching rows to `cap` copies of each code."""
    distances = torch.cdist(x.double(), centroids.double()).square().numpy()
    copies = np.repeat(distances, cap, axis=1)
    rows, columns = linear_sum_assignment(copies)
    return float(copies[rows, columns].sum())


@pytest.mark.parametrize(("n", "k"), [(400, 8), (401, 8), (50, 50), (30, 7), (5, 1)])
def test_no_code_holds_more_than_the_cap(n, k):
    x = points(n)
    cap = -(-n // k)
    codes, _ = capped_assign(x, x[:k].clone(), cap, free(k))
    assert int(torch.bincount(codes, minlength=k).max()) <= cap


def test_near_the_optimal_capped_assignment():
    x = points(200)
    centroids = kmeans(x, 8, rng=np.random.default_rng(0))
    prices, best = free(8), optimum(x, centroids, 25)
    first = cost(x, centroids, capped_assign(x, centroids, 25, prices)[0])
    for _ in range(30):
        codes, prices = capped_assign(x, centroids, 25, prices)
    assert best <= first < 1.3 * best
    assert cost(x, centroids, codes) < 1.1 * best


def test_room_for_everyone_is_the_nearest_code():
    x = points()
    codes, prices = capped_assign(x, x[:8].clone(), 400, free(8))
    assert torch.equal(codes, assign(x, x[:8].clone()))
    assert (prices >= 0).all()


def alike(n=120, crowd=90) -> torch.Tensor:
    """A crowd of equal rows, and others all around it."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(3))
    x[:crowd] = 0
    return x


@pytest.mark.parametrize("cap", [2, 3, 7])
def test_a_crowd_of_equal_rows_fills_the_codes_around_it(monkeypatch, cap):
    """What the rounds do one code at a time, `_fill` does at once: the nearest codes, in order."""
    x = alike()
    centroids = torch.cat([torch.zeros(1, 2), x[90:], torch.full((60, 2), 50.0)])
    slow = capped_assign(x, centroids, cap, free(91))[0]
    monkeypatch.setattr("genrec.quantization.balanced._BUDGET", 0)
    fast = capped_assign(x, centroids, cap, free(91))[0]
    loads = [torch.bincount(codes, minlength=91) for codes in (slow, fast)]
    assert torch.equal(*loads) and int(loads[0].max()) == cap
    assert cost(x, centroids, fast) == pytest.approx(cost(x, centroids, slow), rel=0.02)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 60), k=st.integers(1, 20), crowd=st.integers(0, 60), seed=st.integers(0, 99)
)
def test_without_a_budget_nothing_is_over_the_cap_and_fitting_rows_stay(n, k, crowd, seed):
    x = alike(n, min(crowd, n))
    k = min(k, n)
    cap = -(-n // k)
    centroids = x[torch.from_numpy(np.random.default_rng(seed).permutation(n)[:k])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genrec.quantization.balanced._BUDGET", 0)
        codes, _ = capped_assign(x, centroids, cap, free(k))
    wanted = assign(x, centroids)
    loads, asked = (torch.bincount(c, minlength=k) for c in (codes, wanted))
    assert int(loads.max()) <= cap
    fits = asked[wanted] <= cap
    assert torch.equal(codes[fits], wanted[fits])
    assert (loads[asked >= cap] == cap).all()


def test_it_ends_when_nothing_changes():
    x = points(50)

    def made(iterations: int) -> tuple[int, torch.Tensor]:
        steps: list[int] = []
        options = {"rng": np.random.default_rng(0), "on_step": lambda: steps.append(1)}
        centroids = balanced_kmeans(x, 4, iterations=iterations, **options)
        return len(steps), centroids

    ends = {iterations: made(iterations) for iterations in (2, 200, 500)}
    assert 2 < ends[200][0] == ends[500][0] < 200
    assert torch.equal(ends[200][1], ends[500][1])
    assert not torch.equal(ends[2][1], ends[500][1])


def test_prices_rise_where_too_many_ask():
    x = torch.cat([torch.zeros(30, 1), torch.ones(10, 1)]) + 0.01 * torch.randn(40, 1)
    _, prices = capped_assign(x, torch.tensor([[0.0], [1.0]]), 20, free(2))
    assert prices[0] > prices[1] == 0


def test_clusters_are_more_even_than_those_of_plain_kmeans():
    x = points(2000)
    spread = []
    for cluster in (kmeans, balanced_kmeans):
        centroids = cluster(x, 16, rng=np.random.default_rng(0), iterations=25)
        assert len(torch.unique(assign(x, centroids))) == 16
        spread.append(float(torch.bincount(assign(x, centroids)).double().std()))
    assert spread[1] < 0.6 * spread[0]


def test_the_quantizer_balances_unless_told_otherwise_and_uses_every_code():
    x = points(1500).numpy()
    plain, even = RQKMeans((16, 16), balanced=False).fit(x), RQKMeans((16, 16)).fit(x)
    assert even.config["balanced"] is True
    loads = [np.bincount(q.encode(x)[:, 0], minlength=16) for q in (plain, even)]
    assert loads[1].max() < loads[0].max()
    assert (loads[1] > 0).all()


def test_neither_threads_nor_batches_change_a_bit():
    """Rows enough that torch would share a sum of them out among its threads."""
    x = points(33_001, 2)
    threads = torch.get_num_threads()
    made = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            # One sum in three is another one in other parts, so there are several.
            prices = [
                capped_assign(points(33_001, 2, seed), x[:2], 33_001, free(2))[1].tolist()
                for seed in range(12)
            ]
            quantizer = RQKMeans((4, 4), iterations=2, samples_per_code=10_000).fit(x.numpy())
            encoded = [quantizer.encode(x.numpy(), batch_size=size) for size in (1_000, 100_000)]
            assert np.array_equal(*encoded)
            books = [book.tobytes() for book in quantizer.codebooks()]
            made.append((prices, books, encoded[0]))
    finally:
        torch.set_num_threads(threads)
    assert made[0][:2] == made[1][:2]
    assert np.array_equal(made[0][2], made[1][2])


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 2.5, -3.0, 1e6]), min_size=1, max_size=40),
    k=st.integers(1, 12),
    seed=st.integers(0, 3),
)
def test_any_points_are_shared_out(values, k, seed):
    x = torch.tensor(values)[:, None]
    k = min(k, len(x))
    cap = -(-len(x) // k)
    start = x[torch.from_numpy(np.random.default_rng(seed).permutation(len(x))[:k])]
    codes, prices = capped_assign(x, start, cap, free(k))
    assert int(torch.bincount(codes, minlength=k).max()) <= cap
    assert torch.isfinite(prices).all()
    centroids = balanced_kmeans(x, k, rng=np.random.default_rng(seed), iterations=3)
    assert centroids.shape == (k, 1)
    assert torch.isfinite(centroids).all()
