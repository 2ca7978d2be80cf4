"""The tie order: a fixed pseudo-random rank of the items that decides equal scores.

Item numbers are given by first appearance in many datasets, so breaking ties by number leaks the
test item. The rank here depends on an item's id and the seed only: not on its number, not on the
other items and not on the order of the table (the rank counts how many ids hash lower).
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.errors import DataError


def as_item_ids(item_ids: Any) -> np.ndarray:
    """Item ids as `int64 [N]` or as `object [N]` of `str`.

    Args:
        item_ids: arrow array, numpy array or sequence of strings or integers.

    Raises:
        DataError: if an id is null, or the ids are neither all integers nor all strings.
    """
    if isinstance(item_ids, np.ndarray) and item_ids.ndim != 1:
        raise DataError(f"item_id: has shape {item_ids.shape}; expected one column of ids")
    if isinstance(item_ids, np.ndarray) and item_ids.dtype.kind in "iu":
        return item_ids.astype(np.int64)
    arrow = isinstance(item_ids, (pa.Array, pa.ChunkedArray))
    values = item_ids.to_pylist() if arrow else list(item_ids)
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    kinds = set(map(type, values))
    if kinds <= {int}:
        return np.asarray(values, dtype=np.int64)
    if kinds == {str}:
        return np.asarray(values, dtype=object)
    expected = int if type(values[0]) is int else str
    row = next(row for row, value in enumerate(values) if type(value) is not expected)
    raise DataError(
        f"item_id, row {row}: is {values[row]!r}; expected every id to be a string, "
        "or every id to be an integer"
    )


def make_tie_order(item_ids: Sequence[Any] | np.ndarray | pa.Array, seed: int = 0) -> np.ndarray:
    """Rank of every item by a keyed BLAKE2b hash of its id; the smaller rank wins a tie.

    Args:
        item_ids: ids of N items, strings or integers (5 and "5" hash alike).
        seed: key of the hash.

    Returns:
        `int64 [N]`, a permutation of 0..N-1.
    """
    ids = as_item_ids(item_ids)
    texts = [str(item) for item in ids.tolist()]
    digest = _digest(seed)
    hashes = np.frombuffer(b"".join(map(digest, texts)), dtype=">u8").astype(np.uint64)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.asarray(sorted(range(len(texts)), key=lambda i: (hashes[i], texts[i])))
    rank = np.empty(len(texts), dtype=np.int64)
    rank[order] = np.arange(len(texts))
    return rank


def extend_tie_order(item_ids: np.ndarray, ranks: np.ndarray, seed: int = 0) -> np.ndarray:
    """`make_tie_order(item_ids, seed)` where the order of most items is known already.

    New ids are placed by binary search, so that `n log N` ids are hashed and not all of them.

    Args:
        item_ids: ids of N items, as `as_item_ids` returns them.
        ranks: `int64 [N]`, ranks of the items in an earlier tie order with this seed, not
            necessarily without gaps; -1 for new items.
        seed: key of the hash.
    """
    new = np.flatnonzero(ranks < 0)
    if len(new) * len(ranks).bit_length() > len(ranks):
        return make_tie_order(item_ids, seed)
    digest = _digest(seed)

    def key(item: int) -> tuple[bytes, str]:
        text = str(item_ids.item(item))
        return digest(text), text

    slots = np.full(int(ranks.max(initial=-1)) + 1, -1, dtype=np.int64)
    slots[ranks[ranks >= 0]] = np.flatnonzero(ranks >= 0)
    ordered = slots[slots >= 0]
    coming = sorted((key(item), item) for item in new.tolist())
    places = [bisect.bisect_left(ordered, place, key=key) for place, _ in coming]
    rank = np.empty(len(ranks), dtype=np.int64)
    rank[np.insert(ordered, places, [item for _, item in coming])] = np.arange(len(ranks))
    return rank


def _digest(seed: int) -> Callable[[str], bytes]:
    """The keyed hash of a text; bytes in their order are the numbers in theirs."""
    keyed = hashlib.blake2b(digest_size=8, key=str(seed).encode())

    def digest(text: str) -> bytes:
        state = keyed.copy()
        state.update(text.encode("utf-8", "surrogatepass"))
        return state.digest()

    return digest
