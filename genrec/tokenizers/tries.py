"""The trie of a vocabulary whose items changed, made from the trie it had instead of from nothing.

A vocabulary numbers its items without gaps, a trie never gives a number again. So items are taken
out, the rest is numbered anew, items come in, and where they do not come last all are numbered once
more. Only what changes is sorted; everything else is copied.
"""

from __future__ import annotations

import numpy as np

from genrec.decoding import PrefixTrie


def changed_trie(
    trie: PrefixTrie, codes: np.ndarray, tie_order: np.ndarray, before: np.ndarray
) -> PrefixTrie:
    """The trie of `codes` and `tie_order`, from the trie of the items that keep their codes.

    Equal, array by array, to `PrefixTrie.from_codes` of them.

    Args:
        trie: of the items there were, on the CPU.
        codes: `int32 [N, L]` of all items there are now, of the same codebook sizes.
        tie_order: `int64 [N]`, in which the items that stay stand in the order they had.
        before: `int64 [N]`, number of each item in `trie`; -1 for items that are new or have other
            codes now, which are put in.
    """
    kept = np.flatnonzero(before >= 0)
    if len(kept) == 0:
        return PrefixTrie.from_codes(codes, trie.codebook_sizes, tie_order)
    gone = np.ones(trie.num_items, dtype=bool)
    gone[before[kept]] = False
    if gone.any():
        trie = trie.remove(np.flatnonzero(gone))
    placed = np.flatnonzero(before < 0)
    trie = trie.renumber(before[kept])
    if len(placed) == 0:
        return trie
    trie = trie.add(codes[placed], tie_order[placed])
    number = np.empty(len(codes), dtype=np.int64)  # what the trie calls each item
    number[kept], number[placed] = np.arange(len(kept)), len(kept) + np.arange(len(placed))
    return trie.renumber(number)
