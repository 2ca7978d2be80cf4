"""k-means in torch: one matrix product per block, deterministic under a seed.

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
_PARTS = 61  # of an iteration; no power of two, so that rows of a part do not share cache sets
_PART = 1024  # rows of a part at least
_SHARE = 16  # rows of a part per code at least
MANY = 128  # rows per code from which an iteration is done in parts; fewer settle on worse codes
_PUSH = 1.3  # of the way from a centroid to the mean; 1 is Lloyd's


def kmeans(
    x: Tensor,
    k: int,
    *,
    rng: np.random.Generator,
    iterations: int = 25,
    init: str | Tensor = "k-means++",
) -> Tensor:
    """Centroids float32 [k, d] of the rows of x [n, d]; arguments as of `cluster`."""
    return cluster(x, k, rng=rng, iterations=iterations, init=init)[0]


def cluster(
    x: Tensor,
    k: int,
    *,
    rng: np.random.Generator,
    iterations: int = 25,
    init: str | Tensor = "k-means++",
    tolerance: float = 0.0,
    on_step: Callable[[], object] | None = None,
) -> tuple[Tensor, Tensor]:
    """Centroids float32 [k, d] of the rows of x [n, d], n >= k, and the nearest of each row.

    With fewer than 128 rows per code this is Lloyd's algorithm. With more, after a first iteration
    over all rows, centroids are updated after each part of an iteration (rows 0, p, 2p, ...; then
    1, p + 1, ...) and are pushed past the means by three tenths of the way: about 13 iterations
    then reach the distortion of 25 of Lloyd's.

    Empty clusters are re-seeded from the points farthest from their centroid, after the last
    iteration too: every centroid then is the nearest one of some row, if x has k distinct rows.

    Args:
        x: float32 vectors, centred around zero for best accuracy.
        k: number of centroids.
        rng: source of randomness.
        iterations: passes over the rows at most.
        tolerance: stop when at most this share of the assignments changes in one iteration.
        init: "k-means++" (Arthur and Vassilvitskii, 2007; on a sample; up to 2,048 centroids, then
            "sample"), "sample" (distinct rows at random), or centroids to start from.
        on_step: called after each iteration.

    Returns:
        The centroids, and int64 [n].
    """
    if isinstance(init, Tensor):
        centroids = init.clone()
    elif init == "k-means++" and k <= _PLUS_PLUS:
        centroids = _plus_plus(x, k, rng)
    else:
        centroids = x[_draw(len(x), k, rng)].clone()
    norms = x.norm(dim=1)
    update = _by_parts if len(x) >= MANY * k else _lloyd
    centroids = update(x, norms, centroids, iterations, tolerance, on_step)
    for _ in range(_REPAIRS):
        codes = assign(x, centroids, norms)
        counts = torch.bincount(codes, minlength=k)
        if not _reseed(x, codes, counts, centroids, centroids):
            return centroids, codes
    return centroids, assign(x, centroids, norms)


def _lloyd(
    x: Tensor,
    norms: Tensor,
    centroids: Tensor,
    iterations: int,
    tolerance: float,
    on_step: Callable[[], object] | None,
) -> Tensor:
    """Each iteration assigns all rows, then moves all centroids to the means."""
    previous = torch.full((len(x),), -1, device=x.device)
    for _ in range(iterations):
        codes = assign(x, centroids, norms)
        if int((codes != previous).sum()) <= tolerance * len(x):
            break
        counts = torch.bincount(codes, minlength=len(centroids))
        old, centroids = centroids, _means(_sums(x, codes, len(centroids)), counts, centroids)
        _reseed(x, codes, counts, old, centroids)
        previous = codes
        if on_step is not None:
            on_step()
    return centroids


def _by_parts(
    x: Tensor,
    norms: Tensor,
    centroids: Tensor,
    iterations: int,
    tolerance: float,
    on_step: Callable[[], object] | None,
) -> Tensor:
    """Centroids move after each part of an iteration, past the means by a share of the way."""
    k = len(centroids)
    codes = torch.full((len(x),), -1, device=x.device)
    sums = torch.zeros(k, x.shape[1], dtype=torch.float64, device=x.device)
    counts = torch.zeros(k, dtype=torch.int64, device=x.device)
    parts = 1
    for _ in range(iterations):
        changed = 0
        for first in range(parts):
            block = slice(first, None, parts)
            changed += _move(x[block], norms[block], centroids, codes[block], sums, counts)
            centroids = centroids + _PUSH * (_means(sums, counts, centroids) - centroids)
        if on_step is not None:
            on_step()
        if changed <= tolerance * len(x):
            break
        if not counts.all():
            _reseed(x, codes, counts, centroids, centroids)
        parts = min(_PARTS, 1 + len(x) // max(_PART, _SHARE * k))
    return _means(_sums(x, codes, k), counts, centroids) if iterations else centroids


def _move(
    x: Tensor, norms: Tensor, centroids: Tensor, codes: Tensor, sums: Tensor, counts: Tensor
) -> int:
    """Assign a block of rows and update codes, sums and counts in place; how many rows changed."""
    new = assign(x, centroids, norms)
    rows = (new != codes).nonzero()[:, 0]
    new, old = new[rows], codes[rows]
    codes[rows] = new
    counts += torch.bincount(new, minlength=len(counts))
    if len(rows) == len(x) and not (old >= 0).any():
        sums += _sums(x, new, len(sums))
        return len(rows)
    placed = old >= 0
    added = torch.zeros_like(sums, dtype=x.dtype)
    for start in range(0, len(rows), _PART):
        part = slice(start, start + _PART)
        moved, left = x[rows[part]], placed[part]
        _add(added, new[part], moved)
        if left.all():
            _add(added, old[part], moved.neg_())
        elif left.any():
            _add(added, old[part][left], -moved[left])
    sums += added
    counts -= torch.bincount(old[placed], minlength=len(counts))
    return len(rows)


def _means(sums: Tensor, counts: Tensor, centroids: Tensor) -> Tensor:
    """Mean of each cluster; the centroid it has where the cluster is empty."""
    mean = (sums / counts.clamp(min=1)[:, None]).float()
    return torch.where(counts[:, None] > 0, mean, centroids)


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
        codebook, nearest = cluster(rest, size, rng=rng, iterations=iterations, init=start)
        codebooks.append(codebook)
        codes.append(nearest)
        rest = rest - codebook[codes[-1]]
    return codebooks, torch.stack(codes, dim=1)


def center(x: Tensor) -> Tensor:
    """Subtract from the rows of x [n, d] their mean, in place; the mean, float32 [d]."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for block in x.split(_PART):
        total += block.double().sum(dim=0)
    mean = (total / len(x)).float()
    x -= mean
    return mean


def subtract(x: Tensor, codebook: Tensor, codes: Tensor) -> None:
    """Subtract from each row of x [n, d] its code's vector, in place."""
    for block, part in zip(x.split(_PART), codes.split(_PART), strict=True):
        block -= codebook[part]


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
    return _add(torch.zeros(k, x.shape[1], dtype=x.dtype, device=x.device), codes, x)


def _add(sums: Tensor, codes: Tensor, x: Tensor) -> Tensor:
    if x.device.type == "cpu":
        return sums.index_add_(0, codes, x)
    # Atomic additions on other devices come in any order; a product with one-hot rows does not.
    for start in range(0, len(x), 16_384):
        part = slice(start, start + 16_384)
        sums += torch.nn.functional.one_hot(codes[part], len(sums)).to(x.dtype).T @ x[part]
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
