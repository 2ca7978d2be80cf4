"""`indexer.pkl`: raw ids -> re-numbered ids, read without `pickle` and written in blocks.

    {"u": {"user_1109670": 1, ...}, "i": {30012345678: 1, ...}, "f": {"101": {raw: 1, ...}, ...},
     "a": {0: 1, ...}}

Numbers start at 1; 0 is padding and everything unknown.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.plain_pickle import PairColumns, read_plain_pickle
from genrec.errors import DataError

_BATCH = 1000  # pairs between two marks, as the pickle module writes them


@dataclass(frozen=True)
class Indexer:
    """The id spaces of one download.

    Attributes:
        user_names: large_string `[U + 1]`, the raw id of each re-numbered user, null at 0 and where
            a number is not given.
        item_names: int64 `[N + 1]`, the raw id (creative id) of each re-numbered item, -1 likewise.
    """

    user_names: pa.Array
    item_names: np.ndarray
    _order: np.ndarray = field(init=False, repr=False, compare=False)
    _sorted: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        order = np.argsort(self.item_names, kind="stable")
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_sorted", self.item_names[order])

    def item_twice(self) -> int | None:
        """A raw id that two items have."""
        twice = (self._sorted[1:] == self._sorted[:-1]) & (self._sorted[1:] >= 0)
        return int(self._sorted[np.argmax(twice)]) if twice.any() else None

    def items(self, names: np.ndarray) -> np.ndarray:
        """Re-numbered items of raw ids int64 `[n]`; 0 where the index has none."""
        ordered = self._sorted
        place = np.minimum(np.searchsorted(ordered, names), len(ordered) - 1)
        found = (ordered[place] == names) & (np.asarray(names) >= 0)
        return np.where(found, self._order[place], 0)


def read_indexer(path: str | os.PathLike[str]) -> Indexer:
    """Read `indexer.pkl`; about two seconds per million ids, and 55 MB of them while it works.

    Only `u` and `i` are read. The raw values of features, which may be anything, are not needed:
    the tables hold re-numbered ones.

    Raises:
        DataError: if the file is missing, truncated, holds anything but plain data, or is no index:
            says which part.
    """
    path = Path(path)
    found = read_plain_pickle(path, mapping=PairColumns)
    if not isinstance(found, PairColumns) or not {"u", "i"} <= set(found.parts):
        raise DataError(f"{path}: expected a dict with 'u' and 'i' (raw ids to numbers)")
    found.parts = {part: found.parts[part] for part in ("u", "i")}
    users, numbers = _pairs(path, found, "u")
    names = pa.nulls(int(numbers.max(initial=0)) + 1, pa.large_string())
    if len(numbers):
        where = np.full(len(names), -1, dtype=np.int64)
        where[numbers] = np.arange(len(numbers))
        names = users.cast(pa.large_string()).take(pa.array(where, mask=where < 0))
    items, numbers = _pairs(path, found, "i")
    try:
        raw = items.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: 'i' has a key that is no whole number ({error})") from error
    if len(raw) and int(raw.min()) < 0:
        raise DataError(f"{path}: 'i' has the raw id {int(raw.min())}; expected 0 or more")
    by_number = np.full(int(numbers.max(initial=0)) + 1, -1, dtype=np.int64)
    by_number[numbers] = raw
    index = Indexer(names, by_number)
    if (twice := index.item_twice()) is not None:
        raise DataError(f"{path}: 'i' has the raw id {twice} twice; fetch it again")
    return index


def _pairs(path: Path, found: PairColumns, part: str) -> tuple[pa.Array, np.ndarray]:
    table = found.parts.pop(part)
    if not isinstance(table, PairColumns) or table.parts:
        raise DataError(f"{path}: {part!r} is no dict of raw ids to numbers")
    try:
        keys, numbers = table.columns()
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {part!r}: {error}; fetch it again") from error
    if len(numbers) and int(numbers.min()) < 1:
        raise DataError(f"{path}: {part!r} has the number {int(numbers.min())}; expected 1 or more")
    twice = np.flatnonzero(np.bincount(numbers) > 1) if numbers.max(initial=0) < 2**31 else [2**31]
    if len(twice):
        raise DataError(f"{path}: {part!r} gives the number {int(twice[0])} twice or it is too big")
    return keys, numbers


def write_indexer(
    path: str | os.PathLike[str],
    *,
    users: Iterable[tuple[pa.Array, np.ndarray]],
    items: Iterable[tuple[np.ndarray, np.ndarray]],
    features: dict[str, Iterable[tuple[np.ndarray, np.ndarray]]],
    actions: dict[int, int],
) -> None:
    """Write an index in blocks of pairs, so that none is ever whole in memory.

    Args:
        path: file to write.
        users: blocks of names and numbers; the names of one block have one length.
        items: blocks of raw ids (below 2**39) and numbers.
        features: the same for each feature.
        actions: action type to number.
    """

    def put(file: BinaryIO, name: str, blocks: Iterator[bytes]) -> None:
        file.write(_text(name) + b"}")
        for block in blocks:
            file.write(block)

    with Path(path).open("wb") as file:
        file.write(b"\x80\x04}(")
        put(file, "u", (_block(_text_keys(names), numbers) for names, numbers in users))
        put(file, "i", (_block(_int_keys(raw), numbers) for raw, numbers in items))
        file.write(_text("f") + b"}(")
        for name, blocks in features.items():
            put(file, name, (_block(_int_keys(raw), numbers) for raw, numbers in blocks))
        file.write(b"u")
        keys, values = np.array(list(actions)), np.array(list(actions.values()))
        put(file, "a", iter([_block(_int_keys(keys), values)]))
        file.write(b"u.")


def _text(word: str) -> bytes:
    return b"\x8c" + struct.pack("B", len(word)) + word.encode()


def _text_keys(names: pa.Array) -> np.ndarray:
    length = int(pc.binary_length(names[:1])[0].as_py()) if len(names) else 0
    text = np.array(names.to_pylist(), dtype=f"S{max(length, 1)}")
    keys = np.empty(len(names), dtype=[("op", "u1"), ("length", "u1"), ("text", text.dtype)])
    keys["op"], keys["length"], keys["text"] = 0x8C, length, text
    return keys


def _int_keys(raw: np.ndarray) -> np.ndarray:
    keys = np.empty(len(raw), dtype=[("op", "u1"), ("length", "u1"), ("value", "u1", (5,))])
    keys["op"], keys["length"] = 0x8A, 5
    keys["value"] = np.asarray(raw).astype("<i8").view("u1").reshape(-1, 8)[:, :5]
    return keys


def _block(keys: np.ndarray, numbers: np.ndarray) -> bytes:
    """The instructions that put pairs into the dict on top of the stack."""
    pairs = np.empty(len(keys), dtype=[("key", keys.dtype), ("op", "u1"), ("value", "<i4")])
    pairs["key"], pairs["op"], pairs["value"] = keys, 0x4A, numbers
    parts = (pairs[low : low + _BATCH].tobytes() for low in range(0, len(pairs), _BATCH))
    return b"".join(b"(" + part + b"u" for part in parts)
