"""The arrays of a trie from the codes of its items: one sort, then a pass for each level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from genrec.decoding.codes import default_items_by_tie, pack_tokens, sort_keys

_WORD = 62  # bits of a sort key


def built(codes: np.ndarray, sizes: tuple[int, ...], tie: np.ndarray | None) -> dict[str, Any]:
    """The parts of the trie of these items; see `PrefixTrie.from_codes`.

    Args:
        codes: integers ``[N, L]``, checked.
        sizes: codes per level.
        tie: int64 ``[N]``, a permutation, checked; None is the default one.
    """
    num_items, levels = codes.shape
    numbers = np.arange(num_items, dtype=np.int32)
    if tie is None:
        by_tie = default_items_by_tie(num_items)
        tie = np.empty(num_items, dtype=np.int64)
        tie[by_tie] = numbers
    else:
        by_tie = np.empty(num_items, dtype=np.int64)
        by_tie[tie] = numbers
    order, ranks, new, code_at = _sorted(codes, sizes, tie, by_tie)
    starts = [np.zeros(1, dtype=np.int64), *map(np.flatnonzero, new)]
    tokens, pointers, branch = [], [], []
    for level in range(levels):
        below = starts[level + 1]
        # the first children are those with which their parents begin
        first = np.flatnonzero(new[level - 1].take(below)) if level else starts[0]
        pointer = _bounds(first, len(below))
        branch.append(int(np.diff(pointer).max()))
        pointers.append(torch.from_numpy(pointer))
        tokens.append(torch.from_numpy(pack_tokens(code_at(level, below), sizes[level])))
    position = np.empty(num_items, dtype=np.int32)
    position[order] = numbers
    leaf = np.empty(num_items, dtype=np.int32)
    leaf[order] = np.cumsum(new[-1], dtype=np.int32) - 1
    return {
        "codebook_sizes": sizes,
        "max_branch": tuple(branch),
        "tokens": tokens,
        "pointers": pointers,
        "item_starts": [torch.from_numpy(_bounds(start, num_items)) for start in starts],
        "leaf_items": torch.from_numpy(order.astype(np.int32, copy=False)),
        "item_position": torch.from_numpy(position),
        "item_leaf": torch.from_numpy(leaf),
        "leaf_tie": torch.from_numpy(ranks.take(starts[-1]).astype(np.int32)),
        "tie_order": torch.from_numpy(tie),
    }


def _bounds(starts: np.ndarray, end: int) -> np.ndarray:
    """``starts`` and ``end`` as int32."""
    bounds = np.empty(len(starts) + 1, dtype=np.int32)
    bounds[:-1], bounds[-1] = starts, end
    return bounds


def _sorted(
    codes: np.ndarray, sizes: tuple[int, ...], tie: np.ndarray, by_tie: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], Callable[[int, np.ndarray], np.ndarray]]:
    """Items by (codes, tie rank).

    Returns:
        The items ``[N]`` in sorted order; their tie ranks; for each level, bool ``[N]``, whether a
        node of the next depth begins with the item; and what gives the codes of a level at sorted
        positions.
    """
    bits = [(size - 1).bit_length() for size in sizes]
    low = (len(tie) - 1).bit_length()
    if sum(bits) + low > _WORD:
        order = np.lexsort((tie, *reversed(sort_keys(codes, sizes))))
        new, begins = [], np.zeros(len(tie), dtype=bool)
        begins[0] = True
        for level in range(len(sizes)):
            column = codes[order, level]
            begins = begins.copy()
            begins[1:] |= column[1:] != column[:-1]
            new.append(begins)
        return order, tie[order], new, lambda level, places: codes[order[places], level]
    # codes and tie rank fit into one number: sorting it needs no indirection
    packed = tie.copy()
    shifts = [low + sum(bits[level + 1 :]) for level in range(len(sizes))]
    for level, shift in enumerate(shifts):
        packed |= np.left_shift(codes[:, level], shift, dtype=np.int64)
    packed.sort()
    ranks = packed & ((1 << low) - 1)
    changes = np.empty_like(packed)
    changes[0] = 1 << _WORD
    np.bitwise_xor(packed[1:], packed[:-1], out=changes[1:])
    new = [changes >= 1 << shift for shift in shifts]

    def code_at(level: int, places: np.ndarray) -> np.ndarray:
        found: np.ndarray = (packed.take(places) >> shifts[level]) & ((1 << bits[level]) - 1)
        return found

    return by_tie.take(ranks), ranks, new, code_at
