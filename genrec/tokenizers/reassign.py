"""Own tuples for colliding items at least cost: optimal matching on the last level.

Within a group of items that share all codes but the last, the items of a collided group are matched
to the last level's codes so that no code is used twice and the summed squared distance is least
(Hungarian matching; arXiv 2605.25330 found it 8-24% cheaper than greedy repair).

A group with more items than the last codebook has codes cannot be matched. Room is made first, from
the top of the tree down: wherever a prefix holds more items than tuples below it, the items for
which it costs least move to a sibling prefix (another code on that prefix's last level) with room,
and take the nearest codes below it. For a group too large for the last codebook that means another
code on the second-last level; the levels above take part only if their siblings are full as well.
So every item gets its own tuple whenever there are at least as many tuples as items. With more
items than tuples, those last in the tie order keep the codes they had, and collide.

The Python loops here are over overfull prefixes and collided groups, not over items. Distances are
computed for many groups at once, in blocks of at most `BLOCK` numbers or one group; while room is
made, for the items of the overfull siblings at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from genrec.errors import ConfigError
from genrec.quantization import Quantizer
from genrec.tokenizers.keys import TupleKeys

BLOCK = 1 << 22
LARGEST = 1 << 30  # costs held at once, of the items of one prefix or of overfull siblings: 4 GiB


def reassign_codes(
    codes: np.ndarray,
    sizes: tuple[int, ...],
    tie_order: np.ndarray,
    quantizer: Quantizer,
    vectors: np.ndarray,
    *,
    taken: np.ndarray | None = None,
) -> np.ndarray:
    """Codes without collisions wherever the code space allows, close to the codes given.

    Args:
        codes: `int [N, L]`.
        sizes: codes per level.
        tie_order: `int64 [N]`; decides between items that cost the same, so that the result does
            not depend on the order of the items.
        quantizer: whose `level_distances` are the costs.
        vectors: `float32 [N, d]`.
        taken: `int [M, L]`, tuples of further items that keep what they have.

    Returns:
        `int32 [N, L]`; only items of collided groups or overfull prefixes differ from `codes`.

    Raises:
        ConfigError: if so many items crowd before so many codes that their costs are too large.
    """
    codes = np.array(codes, dtype=np.int32)
    held = codes[:0] if taken is None else _distinct(taken, sizes)
    rows = np.argsort(tie_order)[: math.prod(sizes) - len(held)]
    for level in range(len(sizes) - 1):
        moved = _make_room(codes, held, sizes, level, rows, quantizer, vectors)
        _encode_below(codes, sizes, level, moved, quantizer, vectors)
    _match_groups(codes, held, sizes, rows, quantizer, vectors)
    return codes


def _distinct(tuples: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    return tuples[np.unique(TupleKeys(tuples, sizes).row, return_index=True)[1]]


def _make_room(
    codes: np.ndarray,
    held: np.ndarray,
    sizes: tuple[int, ...],
    level: int,
    rows: np.ndarray,
    quantizer: Quantizer,
    vectors: np.ndarray,
) -> np.ndarray:
    """Move items to sibling prefixes until no prefix of length `level + 1` is overfull.

    Returns the items moved, in place in `codes[:, level]`.
    """
    capacity = math.prod(sizes[level + 1 :])
    if capacity >= len(rows) + len(held):
        return rows[:0]
    everyone = np.concatenate([codes[rows], held])
    node = TupleKeys(everyone[:, : level + 1], sizes[: level + 1]).row
    overfull = np.bincount(node)[node] > capacity
    if not overfull.any():
        return rows[:0]
    parent = TupleKeys(everyone[:, :level], sizes[:level]).row
    touched = np.flatnonzero(np.isin(parent, parent[overfull]))
    moved = []
    for places in _split(touched, parent[touched]):
        own = everyone[places, level]
        counts = np.bincount(own, minlength=sizes[level])
        movable = (counts[own] > capacity) & (places < len(rows))
        members, own = rows[places[movable]], own[movable]
        _check_costs(len(members), sizes, level)
        target = _spread(_costs(codes, level, members, quantizer, vectors), own, counts, capacity)
        codes[members, level] = target
        moved.append(members[target != own])
    return np.concatenate(moved)


def _spread(costs: np.ndarray, own: np.ndarray, counts: np.ndarray, capacity: int) -> np.ndarray:
    """Choose which items leave their overfull code, and for which code with room.

    Items leave in the order of the added cost of their cheapest open code. Where several want the
    last room of a code, those left over choose again.

    Args:
        costs: `float [m, K]`.
        own: `int [m]`, the code each item has; each is overfull.
        counts: `int [K]`, items per code, those that stay included.
        capacity: items a code can hold.

    Returns:
        `int [m]`, the code of each item; no code holds more than `capacity`.
    """
    own_cost = np.take_along_axis(costs, own[:, None], axis=1)[:, 0]
    preferred = _nearest_first(costs)
    room = np.maximum(capacity - counts, 0)
    excess = np.maximum(counts - capacity, 0)
    target = own.copy()
    staying = np.arange(len(own))
    choice = np.zeros(len(own), dtype=np.int64)
    while excess.any():
        # Codes fill up and never open again, so every item walks down its preferences once.
        stuck = staying
        while len(stuck := stuck[room[preferred[stuck, choice[stuck]]] == 0]):
            choice[stuck] += 1
        best = preferred[staying, choice[staying]]
        price = costs[staying, best] - own_cost[staying]
        order = np.argsort(price, kind="stable")
        order = order[rank_within(own[staying[order]]) < excess[own[staying[order]]]]
        order = order[rank_within(best[order]) < room[best[order]]]
        leaving = staying[order]
        target[leaving] = best[order]
        excess -= np.bincount(own[leaving], minlength=len(excess))
        room -= np.bincount(best[order], minlength=len(room))
        staying = staying[(target[staying] == own[staying]) & (excess[own[staying]] > 0)]
    return target


def _nearest_first(costs: np.ndarray) -> np.ndarray:
    """Codes of each row in the order of their cost, `int32 [m, K]`."""
    order = np.empty(costs.shape, dtype=np.int32)
    step = max(1, BLOCK // costs.shape[1])
    for start in range(0, len(costs), step):
        order[start : start + step] = costs[start : start + step].argsort(axis=1, kind="stable")
    return order


def _encode_below(
    codes: np.ndarray,
    sizes: tuple[int, ...],
    level: int,
    moved: np.ndarray,
    quantizer: Quantizer,
    vectors: np.ndarray,
) -> None:
    """Give the moved items the nearest code on each level below `level`, in place."""
    for below in range(level + 1, len(sizes)):
        step = max(1, BLOCK // sizes[below])
        for start in range(0, len(moved), step):
            rows = moved[start : start + step]
            costs = _costs(codes, below, rows, quantizer, vectors)
            codes[rows, below] = costs.argmin(axis=1)


def _match_groups(
    codes: np.ndarray,
    held: np.ndarray,
    sizes: tuple[int, ...],
    rows: np.ndarray,
    quantizer: Quantizer,
    vectors: np.ndarray,
) -> None:
    """Match the items of every collided group to the last level's free codes, in place."""
    last = len(sizes) - 1
    everyone = np.concatenate([codes[rows], held])
    tuples = TupleKeys(everyone, sizes).row
    group = TupleKeys(everyone[:, :last], sizes[:last]).row
    collided = np.flatnonzero(np.isin(group, group[np.bincount(tuples)[tuples] > 1]))
    for block in _blocks(list(_split(collided, group[collided])), BLOCK // sizes[last]):
        members = [rows[places[places < len(rows)]] for places in block]
        _check_costs(sum(map(len, members)), sizes, last)
        costs = _costs(codes, last, np.concatenate(members), quantizer, vectors)
        start = 0
        for places, own in zip(block, members, strict=True):
            part = costs[start : start + len(own)]
            part[:, everyone[places[places >= len(rows)], last]] = np.inf
            codes[own, last] = _match(part)
            start += len(own)


def _match(costs: np.ndarray) -> np.ndarray:
    """Distinct codes `int [g]` at least total cost; costs `[g, K]` are infinite where forbidden."""
    if (costs == costs[0]).all():
        # Identical vectors, the common case in real catalogs and the slowest for the solver.
        return np.argsort(costs[0], kind="stable")[: len(costs)]
    from scipy.optimize import linear_sum_assignment  # slow to import

    return linear_sum_assignment(costs)[1]


def _check_costs(items: int, sizes: tuple[int, ...], level: int) -> None:
    """Refuse what would take all memory, such as 50,000 equal items on a level of 65,535 codes."""
    if items * sizes[level] > LARGEST:
        where = "in one prefix" if level == len(sizes) - 1 else "in prefixes with too few tuples"
        raise ConfigError(
            f"collisions: 'reassign' finds {items:,} items {where}; to compare them with the "
            f"{sizes[level]:,} codes of level {level} takes "
            f"{items * sizes[level] * 8 / 2**30:,.0f} GiB; choose fewer codes on that level and "
            "more levels, or collisions 'append'"
        )


def _costs(
    codes: np.ndarray, level: int, rows: np.ndarray, quantizer: Quantizer, vectors: np.ndarray
) -> np.ndarray:
    return quantizer.level_distances(vectors[rows], codes[rows, :level])


def _split(rows: np.ndarray, group: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each group; rows keep their order within it."""
    order = np.argsort(group, kind="stable")
    cuts = np.flatnonzero(np.diff(group[order])) + 1
    yield from (part for part in np.split(rows[order], cuts) if len(part))


def _blocks(groups: list[np.ndarray], limit: int) -> Iterator[list[np.ndarray]]:
    """Consecutive groups with at most `limit` rows together, but at least one group."""
    block: list[np.ndarray] = []
    size = 0
    for members in groups:
        if block and size + len(members) > limit:
            yield block
            block, size = [], 0
        block.append(members)
        size += len(members)
    if block:
        yield block


def rank_within(group: np.ndarray) -> np.ndarray:
    """For each position, how many earlier positions hold the same group."""
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - starts[group[order]]
    return rank
