"""Parquet parts read in batches and checked column by column; errors name file, column and row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec.data.tencentgr.feature_names import check_number, in_order
from genrec.errors import DataError

LARGEST = 2**31 - 1
_ROWS = 20_000  # users of a batch: about two million events
_UNIT_ROWS = 100_000
_TEXT = (
    pa.types.is_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
)
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def parts_of(folder: Path) -> list[Path]:
    """The parquet files of a table, in order.

    Raises:
        DataError: if there is none.
    """
    found = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    if not found:
        raise DataError(f"{folder}: holds no parquet file; fetch the folder again")
    return found


def open_part(path: Path) -> pq.ParquetFile:
    """A parquet file.

    Raises:
        DataError: if it is truncated or no parquet.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataError:
    """The error about a file that is truncated or damaged."""
    return DataError(
        f"{path}: cannot be read as parquet ({error}); it is truncated or damaged, fetch it again"
    )


def row_group_units(path: Path) -> list[tuple[list[int], int, int]]:
    """(row groups, first row, bytes) of pieces of about a hundred thousand rows."""
    metadata = open_part(path).metadata
    units: list[tuple[list[int], int, int]] = []
    groups: list[int] = []
    rows = first = size = 0
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        groups.append(group)
        rows += about.num_rows
        size += about.total_byte_size
        if rows >= _UNIT_ROWS or group + 1 == metadata.num_row_groups:
            units.append((groups, first, size))
            first, rows, size, groups = first + rows, 0, 0, []
    return units


def batches(
    path: Path, groups: list[int], first: int, columns: list[str], rows: int = _ROWS
) -> Iterator[tuple[int, pa.Table]]:
    """(row of the file, table) of some row groups, a batch at a time."""
    with open_part(path) as file:
        require(path, file.schema_arrow, columns)
        try:
            for batch in file.iter_batches(rows, row_groups=groups, columns=columns):
                yield first, pa.Table.from_batches([batch])
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise unreadable(path, error) from error


def require(path: Path, schema: pa.Schema, columns: list[str]) -> None:
    """Raise DataError for the first of `columns` that is missing, or there twice."""
    for column in columns:
        if schema.names.count(column) > 1:
            raise DataError(
                f"{path}: column {column!r} is there {schema.names.count(column)} times; expected "
                "one; fetch it again"
            )
        if column not in schema.names:
            raise DataError(
                f"{path}: column {column!r} is missing; it has {schema.names}; fetch it again"
            )


def feature_columns(path: Path, schema: pa.Schema) -> list[str]:
    """The columns named by digits, in order of their numbers."""
    names = in_order(schema.names)
    check_number(path, names)
    return names


def plain(values: pa.Array | pa.ChunkedArray, path: Path, column: str) -> pa.Array:
    """A column in one piece and without encodings: no dictionary, runs, views of text or bytes.

    Writers differ in these (pandas, polars, Spark), the values do not. Lists keep their kind, which
    `lists` resolves; what is in them is a column of its own.

    Args:
        values: the column.
        path: file, for the message.
        column: its name, for the message.

    Raises:
        DataError: if bytes are no text, or this version of pyarrow cannot resolve the encoding.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    kind = values.type
    try:
        if isinstance(kind, pa.BaseExtensionType):
            return plain(values.storage, path, column)
        if pa.types.is_dictionary(kind):
            return plain(values.dictionary_decode(), path, column)
        if pa.types.is_run_end_encoded(kind):
            return plain(pc.run_end_decode(values), path, column)
        if any(is_text(kind) for is_text in _TEXT):
            return values.cast(pa.large_string())
    except pa.ArrowException as error:
        raise DataError(
            f"{path}: column {column!r} holds {kind} that cannot be read ({error}); write it as "
            "plain text or numbers"
        ) from error
    return values


def whole_numbers(
    values: pa.Array | pa.ChunkedArray,
    path: Path,
    column: str,
    first: int,
    *,
    null: int | None = None,
    low: int = 0,
    high: int = LARGEST,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """A column of integers as int64; floating point numbers that are whole are taken too.

    Args:
        values: the column. NaN is null in it: pandas makes one of a null among integers.
        path: file, for the message.
        column: its name, for the message.
        first: row of the file that the first value stands in.
        null: what a null becomes; an error by default.
        low: least value.
        high: largest value.
        rows: int64 [n], row of each value counted from `first`, where values are nested.

    Raises:
        DataError: at another type, a null and a value out of range; names the row.
    """
    kind = values.type
    values = plain(values, path, column)

    def row(place: int) -> int:
        return first + 1 + (place if rows is None else int(rows[place]))

    if pa.types.is_null(values.type):
        values = values.cast(pa.int64())
    if pa.types.is_floating(values.type):
        values, broken = _whole(values)
        if broken is not None:
            place, value = broken
            raise DataError(
                f"{path}: column {column!r} row {row(place)} is {value}; expected a whole number, "
                "small enough for a float of this width to be exact"
            )
    if not pa.types.is_integer(values.type):
        raise DataError(f"{path}: column {column!r} holds {kind}; expected whole numbers (int64)")
    if values.null_count and null is None:
        place = int(np.argmax(np.asarray(values.is_null())))
        raise DataError(f"{path}: column {column!r} row {row(place)} is null; expected a number")
    if pa.types.is_uint64(values.type):
        values = values.cast(pa.int64(), safe=False)
    found = np.asarray(pc.fill_null(values.cast(pa.int64()), -1 if null is None else null))
    wrong = (found < low) | (found > high)
    if null is not None:
        wrong &= np.asarray(values.is_valid())
    if wrong.any():
        place = int(np.argmax(wrong))
        raise DataError(
            f"{path}: column {column!r} row {row(place)} is {found[place]}; expected a number "
            f"from {low} to {high}"
        )
    return found


def _whole(values: pa.Array) -> tuple[pa.Array, tuple[int, float] | None]:
    """Floats as int64, NaN as null; or place and value of the first that is no whole number."""
    exact = 2.0 ** (1 + np.finfo(values.type.to_pandas_dtype()).nmant)
    numbers = np.asarray(values.cast(pa.float64()).fill_null(np.nan))
    known = ~np.isnan(numbers)
    wrong = known & ~((np.abs(numbers) < exact) & (np.floor(numbers) == numbers))
    if wrong.any():
        place = int(np.argmax(wrong))
        return values, (place, float(numbers[place]))
    return pa.array(np.where(known, numbers, 0).astype(np.int64), mask=~known), None


def is_listed(kind: pa.DataType) -> bool:
    """Whether a column holds lists."""
    return any(is_list(kind) for is_list in _LISTS)


def lists(
    values: pa.Array | pa.ChunkedArray, path: Path, column: str
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Flat elements of a column of lists, how many each row has, and the row of each element."""
    array = plain(values, path, column)
    if pa.types.is_null(array.type):
        counts = np.zeros(len(array), dtype=np.int64)
        return pa.array([], pa.int64()), counts, counts[:0]
    if not is_listed(array.type):
        raise DataError(f"{path}: column {column!r} holds {array.type}; expected lists")
    counts = np.asarray(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)
    flat = plain(pc.list_flatten(array), path, column)
    return flat, counts, np.repeat(np.arange(len(counts)), counts)
