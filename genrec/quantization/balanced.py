"""Balanced k-means: no cluster has more than an even share of the rows, rounded up.

Each Lloyd iteration assigns in two steps. Codes have prices that rise while more rows want them
than they may hold, so that most rows choose evenly of their own accord; then the rows that are
still too many move on, those that lose least first. Nothing loops over rows.

Rows that are alike move on together, and fill one code in each round: many of them, with many codes
that hold few rows each, would take a round for every code. So the rounds have a budget, and what is
left of such crowds then takes the open codes next to its own in their order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from genrec.quantization.kmeans import _sums, assign, kmeans
from genrec.quantization.nearest import pair_distances

_STEP = 0.2  # of the prices, in mean squared distances
_BUDGET = 8  # distances of the rounds of an assignment, in times those of all rows to all codes


def balanced_kmeans(
    x: Tensor,
    k: int,
    *,
    rng: np.random.Generator,
    iterations: int = 25,
    init: str | Tensor = "k-means++",
    on_step: Callable[[], object] | None = None,
) -> Tensor:
    """Centroids float32 [k, d] of clusters of at most ceil(n / k) of the rows of x [n, d].

    Arguments as of `kmeans`; it ends before `iterations` when no assignment changes. Empty clusters
    of a plain assignment to the nearest centroid are re-seeded at the end, as there.
    """
    centroids = kmeans(x, k, rng=rng, iterations=int(isinstance(init, str)), init=init)
    prices = torch.zeros(k, dtype=torch.float64, device=x.device)
    previous = None
    for _ in range(iterations):
        codes, prices = capped_assign(x, centroids, -(-len(x) // k), prices)
        if previous is not None and torch.equal(codes, previous):
            break
        previous = codes
        counts = torch.bincount(codes, minlength=k)
        means = _sums(x, codes, k) / counts.clamp(min=1)[:, None]
        centroids = torch.where(counts[:, None] > 0, means, centroids)
        if on_step is not None:
            on_step()
    return kmeans(x, k, rng=rng, iterations=0, init=centroids)


def capped_assign(x: Tensor, centroids: Tensor, cap: int, prices: Tensor) -> tuple[Tensor, Tensor]:
    """A near code of each row, none chosen more than `cap` times, and the prices thereafter.

    Args:
        x: float32 [n, d].
        centroids: float32 [k, d], with k * cap >= n.
        cap: rows a code may hold.
        prices: float64 [k], 0 or more, added to the squared distances.

    Returns:
        int64 [n] codes and float64 [k] prices, raised where more rows than `cap` asked, lowered
        where fewer did.
    """
    codes = _assign_priced(x, centroids, prices)
    counts = torch.bincount(codes, minlength=len(centroids))
    own = _distances(x, centroids, torch.arange(len(x), device=x.device), codes)
    # Summed by numpy: the order of torch's sum of many rows depends on the number of threads.
    scale = float(own.cpu().numpy().mean())
    fresh = prices + _STEP * scale * (counts.double() / cap - 1).clamp(max=1)
    fresh -= fresh.min()
    # A row moves to an open code only, and a full code never opens again: every round fills a
    # code or is the last. A row keeps its target until that one is full.
    cost = own + prices[codes]
    target, target_cost = torch.full_like(codes, -1), torch.empty_like(cost)
    budget = _BUDGET * len(x) * len(centroids)
    while bool((counts > cap).any()):
        rows = (counts > cap)[codes].nonzero()[:, 0]
        open_codes = counts < cap
        lost = rows[(target[rows] < 0) | ~open_codes[target[rows]]]
        if len(lost):
            free = open_codes.nonzero()[:, 0]
            budget -= len(lost) * len(free)
            if budget < 0:
                _fill(codes, cost, counts, centroids, cap, prices)
                break
            found = free[_assign_priced(x[lost], centroids[free], prices[free])]
            target[lost] = found
            target_cost[lost] = _distances(x, centroids, lost, found) + prices[found]
        added = target_cost[rows] - cost[rows]
        # Within each code the rows that lose least come first; so many as are too many move.
        order = torch.sort(added, stable=True).indices
        order = order[torch.sort(codes[rows][order], stable=True).indices]
        grouped = codes[rows][order]
        place = torch.arange(len(rows), device=x.device)
        start = torch.full_like(counts, len(rows)).scatter_reduce_(0, grouped, place, "amin")
        moving = rows[order[place - start[grouped] < counts[grouped] - cap]]
        codes[moving], cost[moving] = target[moving], target_cost[moving]
        target[moving] = -1
        counts = torch.bincount(codes, minlength=len(centroids))
    return codes, fresh


def _fill(
    codes: Tensor, cost: Tensor, counts: Tensor, centroids: Tensor, cap: int, prices: Tensor
) -> None:
    """Move what is too much for a code to the open codes nearest to it, in place.

    Codes are dealt with one after the other, those that hold most first. Of the rows of a code the
    dearest leave. It loops over codes that hold too many.
    """
    room = cap - counts.clamp(max=cap)
    order = torch.sort(counts, descending=True, stable=True).indices
    for code in order[: int((counts > cap).sum())].tolist():
        rows = (codes == code).nonzero()[:, 0]
        leaving = rows[torch.sort(cost[rows], stable=True).indices[cap:]]
        free = room.nonzero()[:, 0]
        away = (centroids[free] - centroids[code]).double().square_().sum(dim=1) + prices[free]
        near = free[torch.sort(away, stable=True).indices]
        places = near.repeat_interleave(room[near])[: len(leaving)]
        codes[leaving] = places
        room -= torch.bincount(places, minlength=len(room))


def _assign_priced(x: Tensor, centroids: Tensor, prices: Tensor) -> Tensor:
    """Code of least squared distance plus price: the nearest one with a further coordinate."""
    height = prices.sqrt().to(x.dtype)[:, None]
    flat = torch.nn.functional.pad(x, (0, 1))
    return assign(flat, torch.cat([centroids, height], dim=1))


def _distances(x: Tensor, centroids: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
    return pair_distances(lambda part: x[part].double(), rows, centroids, codes)
