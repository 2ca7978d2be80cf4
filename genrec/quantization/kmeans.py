"""k-means (Lloyd's algorithm) in torch: one matrix product per block, deterministic under a seed.

Assignments come from `ResidualSearch`, sums run in row order, and the stopping rule counts changed
assignments, so that the number of threads does not change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from genrec.quantization.nearest import ResidualSearch

INITS = ("k-means++", "sample")
_POOL = 8  # points per code that k-means++ draws from
_PLUS_PLUS = 2048  # codes above which k-means++ would take longer than Lloyd: "sample" instead
_REPAIRS = 10


def kmeans(
    x: Tensor,
    k: int,
    *,
    rng: np.random.Generator,
    iterations: int = 25,
    init: str | Tensor = "k-means++",
    on_step: Callable[[], object] | None = None,
) -> Tensor:
    """Centroids float32 [k, d] of the rows of x [n, d], n >= k.

    Empty clusters are re-seeded from the points farthest from their centroid, after the last
    iteration too: every centroid then is the nearest one of some row, if x has k distinct rows.

    Args:
        x: float32 vectors, centred around zero for best accuracy.
        k: number of centroids.
        rng: source of randomness.
        iterations: Lloyd iterations at most; it stops when no assignment changes.
        init: "k-means++" (Arthur and Vassilvitskii, 2007; on a sample; up to 2,048 centroids, then
            "sample"), "sample" (distinct rows at random), or centroids to start from.
        on_step: called after each iteration.
    """
    if isinstance(init, Tensor):
        centroids = init.clone()
    elif init == "k-means++" and k <= _PLUS_PLUS:
        centroids = _plus_plus(x, k, rng)
    else:
        centroids = x[_draw(len(x), k, rng)].clone()
    norms = x.norm(dim=1)
    previous: Tensor | None = None
    for _ in range(iterations):
        codes = assign(x, centroids, norms)
        if previous is not None and torch.equal(codes, previous):
            break
        counts = torch.bincount(codes, minlength=k)
        mean = _sums(x, codes, k) / counts.clamp(min=1)[:, None]
        old, centroids = centroids, torch.where(counts[:, None] > 0, mean, centroids)
        _reseed(x, codes, counts, old, centroids)
        previous = codes
        if on_step is not None:
            on_step()
    for _ in range(_REPAIRS):
        codes = assign(x, centroids, norms)
        counts = torch.bincount(codes, minlength=k)
        if not _reseed(x, codes, counts, centroids, centroids):
            break
    return centroids


def residual_kmeans(
    x: Tensor,
    sizes: Sequence[int],
    *,
    rng: np.random.Generator,
    iterations: int = 25,
    init: str | Sequence[Tensor] = "k-means++",
) -> tuple[list[Tensor], Tensor]:
    """k-means of each level on what the levels before it leave of the rows of x [n, d].

    Args:
        x: float32 vectors, at least as many as the largest size.
        sizes: number of codes of each level.
        rng: source of randomness.
        iterations: Lloyd iterations of each level at most.
        init: as in `kmeans`, or one codebook [K_l, d] per level to start from.

    Returns:
        The codebooks, float32 [K_l, d] each, and the codes int64 [n, L].
    """
    rest, codebooks, codes = x, [], []
    for level, size in enumerate(sizes):
        start = init if isinstance(init, str) else init[level]
        codebook = kmeans(rest, size, rng=rng, iterations=iterations, init=start)
        codebooks.append(codebook)
        codes.append(assign(rest, codebook))
        rest = rest - codebook[codes[-1]]
    return codebooks, torch.stack(codes, dim=1)


def assign(x: Tensor, centroids: Tensor, norms: Tensor | None = None) -> Tensor:
    """Number of the nearest centroid of each row, int64 [n]."""
    return ResidualSearch([centroids], center=False).codes(x, norms)[:, 0]


def _reseed(x: Tensor, codes: Tensor, counts: Tensor, centroids: Tensor, target: Tensor) -> bool:
    """Put the points farthest from their centroid in the place of empty ones; whether any moved."""
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty) == 0:
        return False
    distance = torch.empty(len(x), device=x.device)
    for start in range(0, len(x), 16_384):
        part = slice(start, start + 16_384)
        distance[part] = (x[part] - centroids[codes[part]]).square_().sum(dim=1)
    order = torch.sort(distance, descending=True, stable=True).indices
    order = order[distance[order] > 0]
    # Equal rows are near each other in this order; the first of each run of equal rows is enough.
    pool = order[: 4 * len(empty) + 1024]
    rows = x[pool]
    fresh = torch.ones(len(pool), dtype=torch.bool, device=x.device)
    fresh[1:] = (rows[1:] != rows[:-1]).any(dim=1)
    chosen = pool[fresh][: len(empty)]
    target[empty[: len(chosen)]] = x[chosen]
    return len(chosen) > 0


def _sums(x: Tensor, codes: Tensor, k: int) -> Tensor:
    """Sum of the rows of each cluster [k, d], in an order that does not depend on threads."""
    sums = torch.zeros(k, x.shape[1], device=x.device)
    if x.device.type == "cpu":
        return sums.index_add_(0, codes, x)
    # Atomic additions on other devices come in any order; a product with one-hot rows does not.
    for start in range(0, len(x), 16_384):
        part = slice(start, start + 16_384)
        sums += torch.nn.functional.one_hot(codes[part], k).to(x.dtype).T @ x[part]
    return sums


def _draw(n: int, count: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.choice(n, size=count, replace=False))


def _plus_plus(x: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """k-means++ on a sample: each next centroid with probability proportional to its distance."""
    pool = x[_draw(len(x), min(len(x), _POOL * k), rng).to(x.device)]
    chosen = [int(rng.integers(len(pool)))]
    gap = torch.empty_like(pool)
    distance = torch.full((len(pool),), float("inf"), device=x.device)
    while len(chosen) < k:
        torch.sub(pool, pool[chosen[-1]], out=gap)
        distance = torch.minimum(distance, gap.square_().sum(dim=1))
        total = np.cumsum(distance.double().cpu().numpy())
        if total[-1] == 0:
            # Fewer distinct rows than centroids: the rest repeat the first and stay unused.
            chosen += [chosen[0]] * (k - len(chosen))
        else:
            pick = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
            chosen.append(min(pick, len(pool) - 1))
    return pool[torch.tensor(chosen, device=x.device)].clone()
