"""The vector sets of both layouts, read in batches and put at the rows of their items."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.plain_pickle import read_plain_pickle
from genrec.data.tencentgr.lines import parsed_lines, pieces
from genrec.data.tencentgr.parquet import batches, lists, row_group_units
from genrec.data.tencentgr.read_huggingface import raw_ids
from genrec.data.tencentgr.schema import vector_set
from genrec.data.tencentgr.stage import Unit
from genrec.errors import ConfigError, DataError

_NUMBERS = 1 << 22  # of vectors held at once

Batch = tuple[int, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class VectorSet:
    """The files of one set.

    Attributes:
        number: of the set, `81`.
        width: numbers in each vector.
        files: parquet parts, files of json lines, or one pickle.
    """

    number: str
    width: int
    files: tuple[Path, ...]


def find_sets(root: Path, wanted: list[str]) -> list[VectorSet]:
    """The vector sets of a download.

    Args:
        root: its folder; sets are in it, in `mm_emb/` or in `creative_emb/`.
        wanted: numbers of sets.

    Raises:
        ConfigError: if one is not there; names those that are.
        DataError: if it holds no file.
    """
    found: dict[str, VectorSet] = {}
    for place in (root / "mm_emb", root / "creative_emb", root):
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            about = vector_set(path.name)
            if about is None or about[0] in found:
                continue
            number, width = about
            files = (path,) if path.is_file() else tuple(sorted(_files(path)))
            if not files:
                raise DataError(f"{path}: holds no file of vectors; fetch the folder again")
            found[number] = VectorSet(number, width, files)
    for number in wanted:
        if number not in found:
            there = ", ".join(found) or "none"
            raise ConfigError(
                f"vectors={number}: {root} has no folder emb_{number}_*; the sets that are there: "
                f"{there}"
            )
    return [found[number] for number in wanted]


def _files(folder: Path) -> list[Path]:
    parquet = list(folder.glob("*.parquet"))
    return parquet or [p for p in folder.iterdir() if p.name.startswith("part-") or _json(p)]


def _json(path: Path) -> bool:
    return path.suffix in (".json", ".jsonl")


def units(of: VectorSet, matrix: Path, raw: Path) -> list[Unit]:
    """The work of one set.

    Args:
        of: the set.
        matrix: npy file float32 `[N, width]` that the vectors go into.
        raw: npy file int64 `[N]`, raw id of each item.
    """
    found = []
    for number, path in enumerate(of.files):
        if path.suffix == ".parquet":
            places: list[tuple[Any, int]] = [
                ((groups, first), size) for groups, first, size in row_group_units(path)
            ]
        elif path.suffix == ".pkl":
            places = [(None, path.stat().st_size)]
        else:
            places = [((low, high), high - low) for low, high in pieces(path)]
        for piece, (place, size) in enumerate(places):
            name = f"vectors-{of.number}-{number:05d}-{piece:05d}"
            arguments = (path, place, of.width, matrix, raw)
            found.append(Unit(name, place_vectors, arguments, size))
    return found


def place_vectors(
    path: Path, place: Any, width: int, matrix: Path, raw: Path
) -> dict[str, np.ndarray]:
    """Write the vectors of one piece into the rows of their items.

    Returns:
        `rows` int64, the items that have a vector now; `lost` int64 [2], vectors of no item and
        vectors that are null.
    """
    names = np.load(raw)
    order = np.argsort(names, kind="stable")
    names = names[order]
    vectors = np.lib.format.open_memmap(matrix, mode="r+")
    rows, strangers, nulls = [np.zeros(0, dtype=np.int64)], 0, 0
    for _, ids, found, known in _batches(path, place, width):
        at = np.minimum(np.searchsorted(names, ids), max(len(names) - 1, 0))
        mine = (names[at] == ids) if len(names) else np.zeros(len(ids), dtype=bool)
        strangers += int((~mine).sum())
        nulls += int((mine & ~known).sum())
        mine &= known
        vectors[order[at[mine]]] = found[mine]
        rows.append(order[at[mine]])
    # Not flushed: writing all pages out after each piece would cost more than all the rest.
    return {"rows": np.concatenate(rows), "lost": np.array([strangers, nulls])}


def _batches(path: Path, place: Any, width: int) -> Iterator[Batch]:
    rows = max(1, _NUMBERS // width)
    if path.suffix == ".parquet":
        groups, first = place
        yield from _of_parquet(path, groups, first, width, rows)
    elif path.suffix == ".pkl":
        table = _Vectors(path, width)
        found = read_plain_pickle(path, mapping=lambda: table, floats=True)
        if found is not table:
            raise DataError(f"{path}: expected a dict of creative ids to lists of numbers")
        yield from table.batches
    else:
        low, high = place
        yield from _of_lines(path, low, high, width)


def _of_parquet(
    path: Path, groups: list[int], first: int, width: int, rows: int
) -> Iterator[Batch]:
    columns = ["anonymous_cid", "emb"]
    for row, table in batches(path, groups, first, columns, rows=rows):
        ids = raw_ids(table.column("anonymous_cid"), path, "anonymous_cid", row)
        column = table.column("emb")
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            found = [_parsed(path, row, n, text) for n, text in enumerate(column.to_pylist())]
            yield _checked(path, row, ids, found, width)
            continue
        flat, counts, _ = lists(column, path, "emb")
        if len(flat) and not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
            raise DataError(f"{path}: column 'emb' holds lists of {flat.type}; expected numbers")
        known = np.asarray(column.combine_chunks().is_valid())
        wrong = known & (counts != width)
        if wrong.any():
            bad = int(np.argmax(wrong))
            raise DataError(
                f"{path}: column 'emb' row {row + bad + 1} has {counts[bad]} numbers; expected "
                f"{width}"
            )
        numbers = np.asarray(pc.fill_null(flat, np.nan)) if flat.null_count else np.asarray(flat)
        vectors = np.zeros((len(ids), width), dtype=np.float32)
        vectors[known] = numbers.reshape(-1, width)
        yield _finite(path, row, ids, vectors, known)


def _parsed(path: Path, first: int, place: int, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{path}: column 'emb' row {first + place + 1} is no JSON list ({error})"
        ) from error


def _of_lines(path: Path, low: int, high: int, width: int) -> Iterator[Batch]:
    ids: list[int] = []
    vectors: list[Any] = []
    first = 0
    for line, record in parsed_lines(path, low, high):
        first = first or line
        try:
            ids.append(int(record["anonymous_cid"]))
            vectors.append(record["emb"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: line {line}: expected an object with anonymous_cid (a whole number) and "
                f"emb, got {str(record)[:80]}"
            ) from error
        if len(ids) * width >= _NUMBERS:
            yield _checked(path, first - 1, np.array(ids), vectors, width, "line")
            ids, vectors, first = [], [], 0
    if ids:
        yield _checked(path, first - 1, np.array(ids), vectors, width, "line")


def _checked(
    path: Path, first: int, ids: np.ndarray, found: list[Any], width: int, what: str = "row"
) -> Batch:
    """Python lists as a batch."""
    known = np.array([one is not None for one in found], dtype=bool)
    vectors = np.zeros((len(found), width), dtype=np.float32)
    for row, one in enumerate(found):
        if one is None:
            continue
        if not isinstance(one, (list, tuple)) or len(one) != width:
            raise DataError(
                f"{path}: {what} {first + row + 1}: 'emb' is {str(one)[:60]}; expected a list of "
                f"{width} numbers"
            )
        try:
            vectors[row] = one
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: {what} {first + row + 1}: 'emb' ({error})") from error
    return _finite(path, first, ids, vectors, known, what)


def _finite(
    path: Path,
    first: int,
    ids: np.ndarray,
    vectors: np.ndarray,
    known: np.ndarray,
    what: str = "row",
) -> Batch:
    right = np.isfinite(vectors).all(axis=1)
    if not right.all():
        bad = int(np.argmin(right))
        raise DataError(
            f"{path}: {what} {first + bad + 1}: the vector of {ids[bad]} holds NaN, infinity or "
            "null; fetch the file again"
        )
    return first, ids, vectors, known


class _Vectors:
    """A dict of lists of numbers in a pickle, taken as float32 a batch of pairs at a time."""

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.width = path, width
        self.batches: list[Batch] = []
        self._count = 0

    def put(self, keys: list[Any], values: list[Any]) -> None:
        """See `genrec.data.plain_pickle.Mapping`."""
        try:
            ids = np.array([int(key) for key in keys], dtype=np.int64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: has a key that is no creative id ({error})") from error
        self.batches.append(_checked(self.path, self._count, ids, values, self.width, "entry"))
        self._count += len(keys)
        for value in values:
            if isinstance(value, list):
                value.clear()  # the machine remembers every list until the end
