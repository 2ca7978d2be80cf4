"""The vector sets of both layouts, read in batches and put at the rows of their items."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.pickled_arrays import PickledArray
from genrec.data.plain_pickle import read_plain_pickle
from genrec.data.tencentgr.lines import line_in_file, parsed_lines, pieces, raw_id
from genrec.data.tencentgr.parquet import batches, lists, plain, row_group_units
from genrec.data.tencentgr.read_huggingface import raw_ids
from genrec.data.tencentgr.schema import vector_set
from genrec.data.tencentgr.stage import Unit
from genrec.errors import ConfigError, DataError

_NUMBERS = 1 << 22  # of vectors held at once

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids, vectors, which are known


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


def write_ids(path: Path, raw: np.ndarray) -> None:
    """Write raw ids in order, and the row of each, for `place_vectors` to search in.

    Sorted once and memory-mapped: of millions of items each piece would sort them again, and each
    process hold them.

    Args:
        path: npy file to write, int64 `[2, N]`.
        raw: int64 `[N]`, raw id of each item.
    """
    ids = np.lib.format.open_memmap(path, "w+", np.int64, (2, len(raw)))
    ids[1] = np.argsort(raw, kind="stable")
    ids[0] = raw[ids[1]]


def units(of: VectorSet, matrix: Path, ids: Path) -> list[Unit]:
    """The work of one set.

    Args:
        of: the set.
        matrix: npy file float32 `[N, width]` that the vectors go into.
        ids: npy file of `write_ids`.
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
            arguments = (path, place, of.width, matrix, ids)
            found.append(Unit(name, place_vectors, arguments, size))
    return found


def place_vectors(
    path: Path, place: Any, width: int, matrix: Path, ids: Path
) -> dict[str, np.ndarray]:
    """Write the vectors of one piece into the rows of their items.

    Returns:
        `rows` int64, the items that have a vector now, and `sums` uint64, by which vectors of one
        item are compared; `lost` int64 [3], vectors of no item, vectors that are null, all read.
    """
    names, order = np.load(ids, mmap_mode="r")
    vectors = np.lib.format.open_memmap(matrix, mode="r+")
    rows = [np.zeros(0, dtype=np.int64)]
    sums = [np.zeros(0, dtype=np.uint64)]
    lost = np.zeros(3, dtype=np.int64)
    factors = np.random.default_rng(0).integers(1, 2**63, width, dtype=np.uint64)

    def put(batch: Batch) -> None:
        wanted, found, known = batch
        at = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
        mine = names[at] == wanted
        lost[:] += (int((~mine).sum()), int((~known).sum()), len(wanted))
        mine &= known
        found = found[mine]
        vectors[order[at[mine]]] = found
        rows.append(order[at[mine]])
        sums.append(found.view(np.uint32).astype(np.uint64) @ factors)  # modulo 2**64

    if path.suffix == ".pkl":
        _of_pickle(path, width, put)
    else:
        for batch in _batches(path, place, width):
            put(batch)
    # Not flushed: writing all pages out after each piece would cost more than all the rest.
    return {"rows": np.concatenate(rows), "sums": np.concatenate(sums), "lost": lost}


def _batches(path: Path, place: Any, width: int) -> Iterator[Batch]:
    rows = max(1, _NUMBERS // width)
    if path.suffix == ".parquet":
        groups, first = place
        yield from _of_parquet(path, groups, first, width, rows)
    else:
        low, high = place
        yield from _of_lines(path, low, high, width)


def _of_parquet(
    path: Path, groups: list[int], first: int, width: int, rows: int
) -> Iterator[Batch]:
    columns = ["anonymous_cid", "emb"]
    for row, table in batches(path, groups, first, columns, rows=rows):
        ids = raw_ids(table.column("anonymous_cid"), path, "anonymous_cid", row)
        column = plain(table.column("emb"), path, "emb")
        if pa.types.is_large_string(column.type):
            found = [_parsed(path, row, n, text) for n, text in enumerate(column.to_pylist())]
            yield _checked(path, ids, found, width, _row_of(row))
            continue
        flat, counts, _ = lists(column, path, "emb")
        if len(flat) and not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
            raise DataError(f"{path}: column 'emb' holds lists of {flat.type}; expected numbers")
        known = counts > 0
        wrong = known & (counts != width)
        if wrong.any():
            bad = int(np.argmax(wrong))
            raise DataError(
                f"{path}: column 'emb' row {row + bad + 1} has {counts[bad]} numbers; expected "
                f"{width}"
            )
        numbers = np.asarray(pc.fill_null(flat, np.nan)) if flat.null_count else np.asarray(flat)
        vectors = np.zeros((len(ids), width), dtype=np.float32)
        with np.errstate(over="ignore"):  # what becomes infinite is named below
            vectors[known] = numbers.reshape(-1, width)
        yield _finite(path, ids, vectors, known, _row_of(row))


def _row_of(first: int) -> Callable[[int], str]:
    return lambda row: f"row {first + row + 1}"


def _parsed(path: Path, first: int, place: int, text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: column 'emb' row {first + place + 1} is no JSON list ({error})"
        ) from error


def _of_lines(path: Path, low: int, high: int, width: int) -> Iterator[Batch]:
    ids: list[int] = []
    vectors: list[Any] = []
    numbers: list[int] = []

    def where(row: int) -> str:
        return f"line {line_in_file(path, low, numbers[row])}"

    for line, record in parsed_lines(path, low, high):
        try:
            ids.append(raw_id(record["anonymous_cid"]))
            vectors.append(record.get("emb"))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: line {line_in_file(path, low, line)}: expected an object with "
                f"anonymous_cid (a whole number) and emb, got {reprlib.repr(record)}"
            ) from error
        numbers.append(line)
        if len(ids) * width >= _NUMBERS:
            yield _checked(path, np.array(ids), vectors, width, where)
            ids, vectors, numbers = [], [], []
    if ids:
        yield _checked(path, np.array(ids), vectors, width, where)


def _of_pickle(path: Path, width: int, put: Callable[[Batch], None]) -> None:
    table = _Vectors(path, width, put)
    if read_plain_pickle(path, mapping=lambda: table, arrays=True) is not table:
        raise DataError(
            f"{path}: expected a dict of creative ids to lists or arrays of {width} numbers"
        )


def _checked(
    path: Path, ids: np.ndarray, found: list[Any], width: int, where: Callable[[int], str]
) -> Batch:
    """Python lists, and arrays of a pickle, as a batch; those that are empty are missing."""
    found = [None if _empty(one) else one for one in found]
    known = np.array([one is not None for one in found], dtype=bool)
    vectors = np.zeros((len(found), width), dtype=np.float32)
    for row, one in enumerate(found):
        if one is None:
            continue
        if isinstance(one, PickledArray):
            right = one.numbers is not None and one.numbers.shape == (width,)
            one = one.numbers if right else f"an array of {_shape(one)}"
        else:
            right = isinstance(one, (list, tuple)) and len(one) == width
            right = right and not set(map(type, one)) - {int, float}
        if not right:
            raise DataError(
                f"{path}: {where(row)}: 'emb' is {reprlib.repr(one)}; expected a list of {width} "
                "numbers"
            )
        try:
            with np.errstate(over="ignore"):  # what becomes infinite is named below
                vectors[row] = one
        except OverflowError as error:
            raise DataError(f"{path}: {where(row)}: 'emb' ({error})") from error
    return _finite(path, ids, vectors, known, where)


def _empty(one: Any) -> bool:
    if isinstance(one, PickledArray):
        return one.numbers is not None and one.numbers.shape == (0,)
    return isinstance(one, (list, tuple, str)) and not one


def _shape(array: PickledArray) -> str:
    return "nothing" if array.numbers is None else f"shape {array.numbers.shape}"


def _finite(
    path: Path,
    ids: np.ndarray,
    vectors: np.ndarray,
    known: np.ndarray,
    where: Callable[[int], str],
) -> Batch:
    right = np.isfinite(vectors).all(axis=1)
    if not right.all():
        bad = int(np.argmin(right))
        raise DataError(
            f"{path}: {where(bad)}: the vector of {ids[bad]} holds NaN, infinity or null; fetch "
            "the file again"
        )
    return ids, vectors, known


class _Vectors:
    """A dict of vectors in a pickle, passed on as float32 a batch of pairs at a time."""

    def __init__(self, path: Path, width: int, put: Callable[[Batch], None]) -> None:
        self._path, self._width, self._put = path, width, put
        self._count = 0

    def put(self, keys: list[Any], values: list[Any]) -> None:
        """See `genrec.data.plain_pickle.Mapping`."""
        try:
            ids = np.array([raw_id(key) for key in keys], dtype=np.int64)
        except ValueError as error:
            raise DataError(f"{self._path}: has a key that is no creative id: {error}") from error
        first = self._count
        rows = _checked(
            self._path, ids, values, self._width, lambda row: f"entry {first + row + 1}"
        )
        self._count += len(keys)
        self._put(rows)
