"""Tuples of codes as sorted integer keys: numbering the distinct ones and finding them again."""

from __future__ import annotations

import numpy as np


class TupleKeys:
    """The distinct rows of `codes`, numbered 0..U-1 in lexicographic order.

    Levels are packed into 64-bit keys, as many at a time as fit; a further key starts with the
    number of the prefix so far. Three levels of 256 codes take one key and one binary search,
    and any number of levels works.

    Args:
        codes: `int [N, L]`, each below the size of its level.
        sizes: codes per level, L of them (no level: all rows are one empty tuple).

    Attributes:
        row: `int64 [N]`, number of the tuple of each row.
        num_tuples: U.
    """

    def __init__(self, codes: np.ndarray, sizes: tuple[int, ...]):
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._runs = _runs(sizes, 2**62 // max(len(codes), 1))
        self._tables: list[np.ndarray] = []
        node = np.zeros(len(codes), dtype=np.int64)
        self.num_tuples = min(len(codes), 1)
        for start, end in self._runs:
            table, node = np.unique(self._pack(node, codes, start, end), return_inverse=True)
            self._tables.append(table)
            self.num_tuples = len(table)
        self.row = node.reshape(-1)

    def lookup(self, codes: np.ndarray) -> np.ndarray:
        """Numbers of the rows of `codes` (`int [n, L]`), -1 for a tuple that does not exist."""
        codes = codes.astype(np.int64, copy=False)
        found = np.all((codes >= 0) & (codes < self._sizes), axis=1)
        codes = np.where(found[:, None], codes, 0)
        node = np.zeros(len(codes), dtype=np.int64)
        for (start, end), table in zip(self._runs, self._tables, strict=True):
            key = self._pack(node, codes, start, end)
            node = np.minimum(np.searchsorted(table, key), len(table) - 1)
            found &= table[node] == key
        return np.where(found, node, -1)

    def _pack(self, node: np.ndarray, codes: np.ndarray, start: int, end: int) -> np.ndarray:
        key = node
        for level in range(start, end):
            key = key * self._sizes[level] + codes[:, level]
        return key


def _runs(sizes: tuple[int, ...], limit: int) -> list[tuple[int, int]]:
    """Cut the levels into runs whose number of combinations stays within `limit`."""
    runs: list[tuple[int, int]] = []
    start, product = 0, 1
    for level, size in enumerate(sizes):
        if level > start and product * size > limit:
            runs.append((start, level))
            start, product = level, 1
        product *= size
    if sizes:
        runs.append((start, len(sizes)))
    return runs
