"""Balanced last codes for colliding items: entropic optimal transport inside each prefix.

The items of a prefix that collide are spread over the last level's codes which no other item of the
prefix has. Every item sends a mass of one, every open code receives at most its share (the number
of items divided by that of open codes, rounded up), and the plan is the cheapest of these up to an
entropy term (Cuturi, NeurIPS 2013), found by Sinkhorn's iterations; for an upper bound instead of
an equality these are those of Chizat et al., Mathematics of Computation 2018.

LC-Rec (arXiv 2311.09049) assigns colliding items by such a plan, with equal shares for all codes.
Where there are fewer items than codes that makes an item indifferent between several codes, and an
upper bound does not: alone, an item goes to the nearest open code. LC-Rec takes each item's largest
entry, which leaves items with equal vectors together, and repeats for up to 20 rounds. Here the
plan is rounded once: items take codes in the order of their mass, and a code that is full is asked
no more. A prefix with more items than codes ends up balanced, but keeps collisions; `reassign`
would move items to other prefixes.

Groups of similar size are solved together, padded to the same number of items; the Python loops are
over such blocks, iterations and rounds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from genrec.quantization import Quantizer
from genrec.tokenizers.keys import TupleKeys
from genrec.tokenizers.reassign import rank_within

EPSILON = 0.003
ITERATIONS = 50
BLOCK = 1 << 21


def sinkhorn_codes(
    codes: np.ndarray,
    sizes: tuple[int, ...],
    tie_order: np.ndarray,
    quantizer: Quantizer,
    vectors: np.ndarray,
    *,
    taken: np.ndarray | None = None,
    epsilon: float = EPSILON,
    iterations: int = ITERATIONS,
) -> np.ndarray:
    """Codes whose last level is balanced over the colliding items of each prefix.

    Args:
        codes: `int [N, L]`.
        sizes: codes per level.
        tie_order: `int64 [N]`; decides between items that cost the same, so that the result does
            not depend on the order of the items.
        quantizer: whose `level_distances` are the costs.
        vectors: `float32 [N, d]`.
        taken: `int [M, L]`, tuples of further items that keep what they have.
        epsilon: weight of the entropy, relative to costs that span 2 within a prefix; not below
            0.003, whose exponentials just fit float64.
        iterations: of Sinkhorn.

    Returns:
        `int32 [N, L]`; only the last codes of colliding items differ from `codes`.
    """
    codes = np.array(codes, dtype=np.int32)
    rows = np.argsort(tie_order)
    last, size = len(sizes) - 1, sizes[-1]
    everyone = codes[rows] if taken is None else np.concatenate([codes[rows], taken])
    tuples = TupleKeys(everyone, sizes).row
    moving = np.bincount(tuples)[tuples] > 1
    moving[len(rows) :] = False
    prefix = TupleKeys(everyone[:, :last], sizes[:last]).row
    names, group = np.unique(prefix[moving], return_inverse=True)
    rows = rows[np.flatnonzero(moving)]

    staying = np.flatnonzero(~moving & np.isin(prefix, names))
    staying = staying[np.argsort(prefix[staying], kind="stable")]
    starts = np.searchsorted(prefix[staying], names)
    lengths = np.searchsorted(prefix[staying], names, side="right") - starts
    for members, numbers in _batches(group, len(names), size):
        local = np.searchsorted(numbers, group[members])
        others = staying[ranges(starts[numbers], lengths[numbers])]
        # Codes of a prefix that other items hold are closed, unless that closes all of them.
        is_open = np.ones((len(numbers), size), dtype=bool)
        is_open[np.repeat(np.arange(len(numbers)), lengths[numbers]), everyone[others, last]] = (
            False
        )
        is_open[~is_open.any(axis=1)] = True
        chosen = rows[members]
        costs = quantizer.level_distances(vectors[chosen], codes[chosen, :last])
        mass = _plan(costs, local, is_open, epsilon, iterations)
        codes[chosen, last] = _round(mass, local, is_open)
    return codes


def _batches(
    group: np.ndarray, num_groups: int, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions `int [n]` and the groups they belong to (ascending), similar groups together.

    Groups are padded to a power of two, which depends on nothing but their own size: so do their
    sums, to the last bit.
    """
    counts = np.bincount(group, minlength=num_groups)
    padded = 1 << np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64)
    order = np.argsort(group, kind="stable")
    starts = np.cumsum(counts) - counts
    for width in np.unique(padded).tolist():
        alike = np.flatnonzero(padded == width)
        step = max(1, BLOCK // (width * size))
        for start in range(0, len(alike), step):
            numbers = alike[start : start + step]
            yield order[ranges(starts[numbers], counts[numbers])], numbers


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of several ranges, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.asarray(np.arange(lengths.sum()) + np.repeat(starts - before, lengths))


def _plan(
    costs: np.ndarray, group: np.ndarray, is_open: np.ndarray, epsilon: float, iterations: int
) -> np.ndarray:
    """The transport plans, `float64 [n, K]`.

    Args:
        costs: `float [n, K]`.
        group: `int [n]`, ascending; rows of one group share a plan.
        is_open: `bool [G, K]`, the codes that may receive mass.
        epsilon: weight of the entropy.
        iterations: of Sinkhorn.
    """
    counts = np.bincount(group, minlength=len(is_open))
    within = rank_within(group)
    width = 1 << int(np.ceil(np.log2(counts.max())))
    # Within exp(-2 / epsilon) of 1, and the potentials stay within the same range: nothing
    # overflows, and without logarithms an iteration is two passes over the kernel.
    kernel = np.zeros((len(is_open), width, costs.shape[1]))
    kernel[group, within] = np.exp(_scaled(costs, group, is_open) / -epsilon)
    share = _share(counts, is_open)[:, None].astype(np.float64)
    right = is_open.astype(np.float64)
    left = np.zeros((len(is_open), width))
    sums = np.empty_like(left)
    for _ in range(iterations):
        # Sums of fixed order: equal vectors get equal plans, and ties are decided by tie order.
        np.einsum("gik,gk->gi", kernel, right, out=sums)
        np.divide(1.0, sums, out=left, where=sums > 0)
        sent = np.einsum("gik,gi->gk", kernel, left)
        np.divide(share, sent, out=right, where=sent > share)
        right[sent <= share] = 1.0
    plan = kernel * left[:, :, None] * right[:, None, :]
    return np.asarray(plan[group, within])


def _share(counts: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """`int [G]`: the most items that a code of each group has to hold."""
    return np.asarray(-(-counts // is_open.sum(axis=1)))


def _scaled(costs: np.ndarray, group: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """Costs of each group above its items' cheapest, scaled to 0..2; infinite for closed codes."""
    values = costs.astype(np.float64)
    closed = ~is_open[group]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    cheapest = np.where(closed, np.inf, values).min(axis=1)
    dearest = np.where(closed, -np.inf, values).max(axis=1)
    low = np.minimum.reduceat(cheapest, starts)[group]
    high = np.maximum.reduceat(dearest, starts)[group]
    half = np.maximum((high - low) / 2, np.finfo(np.float64).tiny)
    # A plan does not change if all costs of an item are lowered by as much.
    values = np.where(closed, 0.0, values - cheapest[:, None]) / half[:, None]
    values[closed] = np.inf
    return values


def _round(mass: np.ndarray, group: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """One code for each item, `int [n]`, the heaviest first, as evenly as the numbers allow.

    Args:
        mass: `float [n, K]`, rows in tie order within their group.
        group: `int [n]`.
        is_open: `bool [G, K]`.
    """
    size = mass.shape[1]
    counts = np.bincount(group, minlength=len(is_open))
    room = np.where(is_open, _share(counts, is_open)[:, None], 0).ravel()
    preferred = np.argsort(-mass, axis=1, kind="stable")
    chosen = np.empty(len(mass), dtype=np.int64)
    choice = np.zeros(len(mass), dtype=np.int64)
    waiting = np.arange(len(mass))
    while len(waiting):
        # Codes fill up and never open again, so every item walks down its preferences once.
        stuck = waiting
        while len(stuck := stuck[room[_slot(group, preferred, choice, stuck, size)] == 0]):
            choice[stuck] += 1
        slot = _slot(group, preferred, choice, waiting, size)
        order = np.argsort(-mass[waiting, slot % size], kind="stable")
        order = order[rank_within(slot[order]) < room[slot[order]]]
        chosen[waiting[order]] = slot[order] % size
        room -= np.bincount(slot[order], minlength=len(room))
        waiting = np.delete(waiting, order)
    return chosen


def _slot(
    group: np.ndarray, preferred: np.ndarray, choice: np.ndarray, items: np.ndarray, size: int
) -> np.ndarray:
    """Number of the (group, code) that each item would take next."""
    return np.asarray(group[items] * size + preferred[items, choice[items]])
