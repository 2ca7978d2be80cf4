"""What compiled steps read of a filter: which nodes hold an allowed item, a bit a node.

A node's children, or a leaf's items, are a range of what stands one depth below, so a node's bit is
the `or` of a range of bits. `genrec.decoding.filter_kernel` finds them by words of 64: one row of a
million items takes a tenth of a millisecond a depth. Where ranges end is found once for a trie.

Needs numba (`pip install genrec[fast]`), as the steps that read these bits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.bits import BitRank
from genrec.decoding.filter_kernel import marks_by_node, marks_by_word, ordered_bits, range_ends
from genrec.decoding.trie import PrefixTrie


def sorted_words(trie: PrefixTrie, allowed: Tensor) -> Tensor:
    """The bits of ``allowed``, bool ``[R, num_items]``, in the order of the trie's positions.

    Returns:
        int64 ``[R, num_positions // 64 + 1]``, as `genrec.decoding.bits.BitRank` keeps them.
    """
    bits = BitRank.from_mask(allowed).words.numpy().view(np.uint32)
    return torch.from_numpy(ordered_bits(bits, trie.leaf_items.numpy()))


def node_marks(trie: PrefixTrie, words: Tensor) -> list[np.ndarray]:
    """The nodes that hold one of some items, of each depth but the root's.

    Args:
        trie: on the CPU.
        words: int64 ``[R, num_positions // 64 + 1]``, the items as `genrec.decoding.bits.BitRank`
            keeps them.

    Returns:
        For depth ``d``, at ``d - 1``, int64 ``[R, num_nodes[d] // 64 + 1]``: bit ``v % 64`` of word
        ``v // 64`` is node ``v``. Where each leaf is one item, the last are ``words`` themselves.
    """
    found = [words.contiguous().numpy()]
    for depth in range(trie.num_levels, 0, -1):
        found.append(_marked(trie, depth, found[-1]))
    return found[:0:-1]


def _marked(trie: PrefixTrie, depth: int, below: np.ndarray) -> np.ndarray:
    """The bits of the nodes of ``depth`` from those of the next depth, or of the items."""
    leaves = depth == trie.num_levels
    starts = (trie.item_starts[depth] if leaves else trie.pointers[depth]).numpy()
    name = f"ends {depth}"
    if name not in trie.derived:
        trie.derived[name] = range_ends(starts, below.shape[1])
    ends, filled = trie.derived[name]
    count = len(starts) - 1
    if filled < count:  # some are free slots
        marks: np.ndarray = marks_by_node(below, ends, starts)
    elif count == (trie.num_positions if leaves else trie.num_nodes[depth + 1]):
        marks = below  # each range is one position
    else:
        marks = marks_by_word(below, ends, count)
    return marks
