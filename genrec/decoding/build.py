"""The arrays of a trie from the codes of its items: one sort, then a pass for each level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from genrec.decoding.codes import (
    blocks,
    default_items_by_tie,
    pack_tokens,
    sort_keys,
    sort_numbers,
)

_WORD = 62  # bits of a sort key
_Codes = Callable[[int, np.ndarray], np.ndarray]
_Reader = Callable[[slice], tuple[list[np.ndarray], _Codes]]


def built(codes: np.ndarray, sizes: tuple[int, ...], tie: np.ndarray | None) -> dict[str, Any]:
    """The parts of the trie of these items; see `PrefixTrie.from_codes`.

    Args:
        codes: integers ``[N, L]``, checked.
        sizes: codes per level.
        tie: int64 ``[N]``, a permutation, checked; None is the default one.
    """
    num_items, levels = codes.shape
    if tie is None:
        by_tie = default_items_by_tie(num_items)
        tie = np.empty(num_items, dtype=np.int64)
        tie[by_tie] = np.arange(num_items, dtype=np.int32)
    else:
        by_tie = np.empty(num_items, dtype=np.int32)
        by_tie[tie] = np.arange(num_items, dtype=np.int32)
    order, ranks, read = _sorted(codes, sizes, tie, by_tie)
    position, leaf = np.empty(num_items, dtype=np.int32), np.empty(num_items, dtype=np.int32)
    tokens, pointers, starts = ([list[np.ndarray]() for _ in sizes] for _ in range(3))
    ties = []
    nodes = np.zeros(levels, dtype=np.int64)  # of each depth below the root, in the blocks before
    for part in blocks(num_items):
        new, code_at = read(part)
        for level in range(levels):
            begins = np.flatnonzero(new[level])
            starts[level].append((begins + part.start).astype(np.int32))
            # the first children are those with which their parents begin
            first = new[level - 1].take(begins) if level else begins + part.start == 0
            pointers[level].append((np.flatnonzero(first) + nodes[level]).astype(np.int32))
            tokens[level].append(pack_tokens(code_at(level, begins), sizes[level]))
            nodes[level] += len(begins)
        ties.append(ranks[part].take(begins))
        items = order[part]
        position[items] = np.arange(part.start, part.stop, dtype=np.int32)
        before = np.int32(nodes[-1] - len(begins) - 1)
        leaf[items] = np.cumsum(new[-1], dtype=np.int32) + before
    bounds = [_bounds(parts, end) for parts, end in zip(pointers, nodes.tolist(), strict=True)]
    begun = [np.array([0, num_items], dtype=np.int32)]
    begun += [_bounds(parts, num_items) for parts in starts]
    return {
        "codebook_sizes": sizes,
        "max_branch": tuple(int(np.diff(bound).max()) for bound in bounds),
        "tokens": [torch.from_numpy(np.concatenate(parts)) for parts in tokens],
        "pointers": [torch.from_numpy(bound) for bound in bounds],
        "item_starts": [torch.from_numpy(bound) for bound in begun],
        "leaf_items": torch.from_numpy(order),
        "item_position": torch.from_numpy(position),
        "item_leaf": torch.from_numpy(leaf),
        "leaf_tie": torch.from_numpy(np.concatenate(ties)),
        "tie_order": torch.from_numpy(tie),
    }


def _bounds(starts: list[np.ndarray], end: int) -> np.ndarray:
    """``starts`` in one and ``end``, int32."""
    return np.concatenate([*starts, np.array([end], dtype=np.int32)])


def _sorted(
    codes: np.ndarray, sizes: tuple[int, ...], tie: np.ndarray, by_tie: np.ndarray
) -> tuple[np.ndarray, np.ndarray, _Reader]:
    """Items by (codes, tie rank).

    Returns:
        The items, int32 ``[N]``, in sorted order; their tie ranks, int32; and what reads a block
        of them: for each level, bool ``[n]``, whether a node of the next depth begins with the
        item, and what gives the codes of a level at places in the block.
    """
    count = len(tie)
    bits = [(size - 1).bit_length() for size in sizes]
    low = (count - 1).bit_length()
    if sum(bits) + low > _WORD:
        order = np.lexsort((tie, *reversed(sort_keys(codes, sizes)))).astype(np.int32)

        def read_rows(part: slice) -> tuple[list[np.ndarray], _Codes]:
            near = codes[order[max(0, part.start - 1) : part.stop]]
            rows = near[-(part.stop - part.start) :]
            changes = np.ones(rows.shape, dtype=bool)
            changes[len(rows) - len(near) + 1 :] = near[1:] != near[:-1]
            new = np.logical_or.accumulate(changes, axis=1)
            return list(new.T), lambda level, places: rows[places, level]

        return order, tie.take(order).astype(np.int32), read_rows
    # codes and tie rank fit into one number: sorting it needs no indirection
    packed = np.empty(count, dtype=np.int64)
    shifts = [low + sum(bits[level + 1 :]) for level in range(len(sizes))]
    for part in blocks(count):
        numbers = tie[part].copy()
        for level, shift in enumerate(shifts):
            numbers |= np.left_shift(codes[part, level], shift, dtype=np.int64)
        packed[part] = numbers
    packed = sort_numbers(packed.view(np.uint64), 0, low + sum(bits)).view(np.int64)
    order, ranks = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.int32)
    for part in blocks(count):
        ranks[part] = packed[part] & ((1 << low) - 1)
        order[part] = by_tie.take(ranks[part])

    def read(part: slice) -> tuple[list[np.ndarray], _Codes]:
        own = packed[part]
        changes = np.full(len(own), 1 << _WORD)
        near = packed[max(0, part.start - 1) : part.stop]
        np.bitwise_xor(near[1:], near[:-1], out=changes[len(own) - len(near) + 1 :])

        def code_at(level: int, places: np.ndarray) -> np.ndarray:
            found: np.ndarray = (own.take(places) >> shifts[level]) & ((1 << bits[level]) - 1)
            return found

        return [changes >= 1 << shift for shift in shifts], code_at

    return order, ranks, read
