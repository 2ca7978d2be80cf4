"""The tie order: a fixed pseudo-random rank of the items that decides equal scores.

Item numbers are given by first appearance in many datasets, so breaking ties by number leaks the
test item. The rank here depends on an item's id and the seed only: not on its number, not on the
other items and not on the order of the table (the rank counts how many ids hash lower).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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
    keyed = hashlib.blake2b(digest_size=8, key=str(seed).encode())

    def digest(text: str) -> bytes:
        state = keyed.copy()
        state.update(text.encode("utf-8", "surrogatepass"))
        return state.digest()

    hashes = np.frombuffer(b"".join(map(digest, texts)), dtype=">u8").astype(np.uint64)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.asarray(sorted(range(len(texts)), key=lambda i: (hashes[i], texts[i])))
    rank = np.empty(len(texts), dtype=np.int64)
    rank[order] = np.arange(len(texts))
    return rank
