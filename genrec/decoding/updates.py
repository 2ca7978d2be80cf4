"""New items merged into a trie, and removed ones taken out, without sorting the catalog again.

The sorted arrays of a trie are a sorted run. A second, small run is spliced in: a walk down the
trie finds before which node each new node goes, and every array is copied once with the new entries
in between. All arrays here are numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genrec.decoding.codes import (
    checked_codes,
    checked_ranks,
    default_tie_ranks,
    pack_tokens,
    sort_keys,
)
from genrec.errors import DataError

if TYPE_CHECKING:
    from genrec.decoding.trie import PrefixTrie


def merged(trie: PrefixTrie, codes: Any, tie_ranks: Any) -> dict[str, Any]:
    """The parts of ``trie`` (on the CPU, nothing removed) with more items; see `PrefixTrie.add`."""
    sizes, levels, old = trie.codebook_sizes, trie.num_levels, trie.num_items
    table = checked_codes(codes, sizes)
    count = len(table)
    total = old + count
    if total >= 2**31:
        raise DataError(f"{total} items: a trie holds fewer than {2**31}")
    if tie_ranks is None:
        ranks = default_tie_ranks(old, count)
    else:
        ranks = checked_ranks(tie_ranks, count, total, "tie_ranks")
    order = np.lexsort((ranks, *reversed(sort_keys(table, sizes))))
    table, ranks = table[order], ranks[order]
    items = old + order
    left = np.ones(total, dtype=bool)
    left[ranks] = False
    kept_ranks = np.flatnonzero(left)  # the new rank of each old one

    # Of every new item, at the depth reached: the old node it meets (if found) or goes before.
    spot = np.zeros(count, dtype=np.int64)
    found = np.ones(count, dtype=bool)
    first = np.zeros(count, dtype=bool)  # of the new items that share a prefix
    first[0] = True
    number = spot  # its node in the merged numbering
    places = np.empty(0, dtype=np.int64)  # before which old nodes the new nodes of the depth go
    tokens, pointers, branch = [], [], []
    starts = [np.array([0, trie.num_positions + count], dtype=np.int32)]
    for level in range(levels):
        above, places_above = number, places
        spot, found = _walk(trie, level, spot, found, table[:, level])
        first[1:] |= table[1:, level] != table[:-1, level]
        fresh = first & ~found
        places = spot[fresh]
        number = spot + np.where(
            found, np.searchsorted(places, spot, side="right"), np.cumsum(fresh) - 1
        )
        new_tokens = pack_tokens(table[fresh, level], sizes[level])
        tokens.append(
            torch.from_numpy(np.insert(trie.level(level).listed().numpy(), places, new_tokens))
        )
        pointer = _spliced(trie.pointers[level].numpy(), places_above, above[fresh])
        branch.append(int(np.diff(pointer).max()))
        pointers.append(torch.from_numpy(pointer))
        starts.append(_spliced(trie.item_starts[level + 1].numpy(), places, number))

    position = _item_places(trie, spot, found, ranks, kept_ranks)
    leaf_items = np.insert(trie.leaf_items.numpy(), position, items.astype(np.int32))
    leaf_tie = kept_ranks[trie.leaf_tie.numpy()].astype(np.int32)
    leaf_tie = np.insert(leaf_tie, places, np.int32(total))
    np.minimum.at(leaf_tie, number, ranks.astype(np.int32))
    tie_order = np.empty(total, dtype=np.int64)
    tie_order[:old] = kept_ranks[trie.tie_order.numpy()]
    tie_order[items] = ranks
    return {
        "codebook_sizes": sizes,
        "max_branch": tuple(branch),
        "tokens": tokens,
        "pointers": pointers,
        "item_starts": [torch.from_numpy(start) for start in starts],
        **_item_parts(leaf_items, starts[-1], total),
        "leaf_tie": torch.from_numpy(leaf_tie),
        "tie_order": torch.from_numpy(tie_order),
    }


def compacted(trie: PrefixTrie) -> dict[str, Any]:
    """The parts of ``trie`` (on the CPU) without removed items; without any, only the root."""
    assert trie.live is not None
    keep = trie.live.mask()[0].numpy()
    kept_before = np.concatenate(([0], np.cumsum(keep, dtype=np.int32)))
    starts: list[np.ndarray] = []
    alive: list[np.ndarray] = []
    for start in trie.item_starts:
        bound = kept_before[start.numpy()]
        held = np.diff(bound) > 0
        if not starts:
            held[:] = True  # the root stays
        alive.append(held)
        starts.append(np.append(bound[:-1][held], bound[-1]).astype(np.int32))
    tokens, pointers, branch = [], [], []
    for level in range(trie.num_levels):
        children = np.concatenate(([0], np.cumsum(alive[level + 1], dtype=np.int32)))
        bound = children[trie.pointers[level].numpy()]
        pointer = np.append(bound[:-1][alive[level]], bound[-1]).astype(np.int32)
        branch.append(int(np.diff(pointer).max(initial=0)))
        pointers.append(torch.from_numpy(pointer))
        tokens.append(torch.from_numpy(trie.level(level).listed().numpy()[alive[level + 1]]))
    return {
        "codebook_sizes": trie.codebook_sizes,
        "max_branch": tuple(branch),
        "tokens": tokens,
        "pointers": pointers,
        "item_starts": [torch.from_numpy(start) for start in starts],
        **_item_parts(trie.leaf_items.numpy()[keep], starts[-1], trie.num_items),
        "leaf_tie": torch.from_numpy(trie.leaf_tie.numpy()[alive[-1]]),
        "tie_order": trie.tie_order,
    }


def renumbered(trie: PrefixTrie, order: np.ndarray) -> dict[str, Any]:
    """The parts of ``trie`` (on the CPU, nothing removed); see `PrefixTrie.renumber`."""
    held = trie.leaf_items.numpy()
    count = len(held)
    number = np.full(trie.num_items, -1, dtype=np.int32)
    known = (order >= 0) & (order < trie.num_items)
    number[order[known]] = np.flatnonzero(known)
    leaf_items = number[held]
    if order.shape != (count,) or not known.all() or (leaf_items < 0).any():
        absent = held[leaf_items < 0]
        problem = f"item {int(absent[0])} is not among them" if len(absent) else "others are"
        raise DataError(
            f"items of shape {order.shape}: expected each of the {count} items of the trie once; "
            f"{problem}"
        )
    ties = trie.tie_order.numpy()
    kept = np.zeros(trie.num_items, dtype=bool)
    kept[ties[order]] = True
    rank = np.cumsum(kept) - 1  # of each old rank, among those that are left
    return {
        "codebook_sizes": trie.codebook_sizes,
        "max_branch": trie.max_branch,
        "tokens": trie.tokens,
        "pointers": trie.pointers,
        "item_starts": trie.item_starts,
        **_item_parts(leaf_items, trie.item_starts[-1].numpy(), count),
        "leaf_tie": torch.from_numpy(rank[trie.leaf_tie.numpy()].astype(np.int32)),
        "tie_order": torch.from_numpy(rank[ties[order]]),
    }


def _walk(
    trie: PrefixTrie, level: int, spot: np.ndarray, found: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One level down: the children with these codes, or before which node they would go.

    The child of a node that does not exist goes before the first child of the node before which
    its parent goes.
    """
    first = trie.pointers[level].numpy()[spot].astype(np.int64)
    if trie.num_nodes[level + 1] == 0:
        return first, np.zeros_like(found)
    nodes, wanted = torch.from_numpy(spot[found]), torch.from_numpy(codes[found].astype(np.int64))
    low, end = trie.level(level).lower_bound(nodes, wanted)
    there = trie.level(level).codes(low.clamp_max(trie.num_nodes[level + 1] - 1)) == wanted
    first[found] = low.numpy()
    exists = found.copy()
    exists[found] = (there & (low < end)).numpy()
    return first, exists


def _spliced(starts: np.ndarray, places: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Range starts, int32, after new nodes went before ``places`` and ``owners`` grew by one each.

    Args:
        starts: int32 ``[n + 1]``, where the range of each old node starts.
        places: sorted, before which old nodes the new ones go.
        owners: nodes in the merged numbering, once for each new entry of their range.
    """
    sizes = np.insert(np.diff(starts), places, 0)
    sizes += np.bincount(owners, minlength=len(sizes)).astype(np.int32)
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)


def _item_places(
    trie: PrefixTrie,
    spot: np.ndarray,
    found: np.ndarray,
    ranks: np.ndarray,
    kept_ranks: np.ndarray,
) -> np.ndarray:
    """Before which old position each new item goes: in its bucket by tie rank, else its leaf's."""
    starts = trie.item_starts[-1].numpy().astype(np.int64)
    low = starts[spot]
    if not found.any():
        return low
    high = low.copy()
    high[found] = starts[spot[found] + 1]
    items, ties = trie.leaf_items.numpy(), trie.tie_order.numpy()
    last = trie.num_positions - 1
    for _ in range(int((high - low).max()).bit_length()):
        middle = (low + high) // 2
        below = kept_ranks[ties[items[np.minimum(middle, last)]]] < ranks
        right = (low < high) & below
        low, high = np.where(right, middle + 1, low), np.where(right, high, middle)
    return low


def _item_parts(leaf_items: np.ndarray, starts: np.ndarray, num_items: int) -> dict[str, Any]:
    """What is kept per item, from the sorted items and the starts of the leaves."""
    position = np.full(num_items, -1, dtype=np.int32)
    position[leaf_items] = np.arange(len(leaf_items), dtype=np.int32)
    leaf = np.full(num_items, -1, dtype=np.int32)
    leaf[leaf_items] = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    return {
        "leaf_items": torch.from_numpy(leaf_items),
        "item_position": torch.from_numpy(position),
        "item_leaf": torch.from_numpy(leaf),
    }
