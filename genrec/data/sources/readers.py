"""Read one table from parquet, csv, tsv or jsonl, each also as .gz; errors name the line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from genrec.errors import DataError

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl")
SUFFIXES = tuple(f + gz for f in FORMATS for gz in ("", ".gz"))
_BLOCK = 64 << 20


def read_table(
    path: Path, *, text_columns: Sequence[str] = (), delimiter: str | None = None
) -> pa.Table:
    """Read `path` by its suffix.

    Args:
        path: a .parquet, .csv, .tsv or .jsonl file, or one of these with .gz behind.
        text_columns: columns of a csv file that stay text: ids keep their leading zeros, and
            timestamps are parsed where their row can be named.
        delimiter: of a csv file; comma (tab for .tsv) by default.

    Raises:
        DataError: if the file is missing, of another format, truncated, not UTF-8 or malformed.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file{_beside(path)}")
    kind = suffix(path)
    if kind is None:
        raise DataError(f"{path}: unknown format; expected one of {', '.join(SUFFIXES)}")
    try:
        if kind.startswith(".parquet"):
            return _read_parquet(path, kind)
        if kind.startswith(".jsonl"):
            return _read_jsonl(path)
        separator = delimiter or ("\t" if kind.startswith(".tsv") else ",")
        return _read_csv(path, text_columns, separator)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); it may be truncated: fetch or write it again"
        ) from error


def _beside(path: Path) -> str:
    """The tables beside a path that is none of them, for an error."""
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent}"
    try:
        tables = sorted(one.name for one in path.parent.iterdir() if suffix(one) is not None)
    except OSError as error:
        return f"; {path.parent.resolve()} cannot be listed ({error.strerror})"
    shown = ", ".join(tables[:10]) + (", ..." if len(tables) > 10 else "")
    return f"; {path.parent.resolve()} has {shown or 'no table'}"


def suffix(path: Path) -> str | None:
    """The known suffix of a file name, `.csv.gz` for example, or None."""
    return next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)


def _read_parquet(path: Path, kind: str) -> pa.Table:
    try:
        if kind.endswith(".gz"):
            with gzip.open(path) as file:
                return pq.read_table(pa.BufferReader(file.read()))
        return pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: is not parquet or truncated ({error}); write it again") from error


def _read_csv(path: Path, text_columns: Sequence[str], delimiter: str) -> pa.Table:
    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    read = pa_csv.ReadOptions(block_size=_BLOCK)
    convert = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(text_columns, pa.large_string()),
        strings_can_be_null=True,
        null_values=[""],
        quoted_strings_can_be_null=True,
    )
    try:
        return _in_utf8(pa_csv.read_csv(path, read, parse, convert), path)
    except pa.ArrowInvalid as error:
        if "empty" in str(error).lower():
            raise DataError(f"{path}: the table is empty; expected a header and rows") from error
    # A column that looks numeric at first and holds text later is text. One thread, so that the
    # error names the row.
    try:
        with pa_csv.open_csv(path, read, parse) as stream:
            names = stream.schema.names
    except pa.ArrowInvalid:
        names = list(text_columns)
    convert.column_types = dict.fromkeys(names, pa.large_string())
    try:
        slow = pa_csv.ReadOptions(block_size=_BLOCK, use_threads=False)
        return pa_csv.read_csv(path, slow, parse, convert)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path}: is not a table of {delimiter!r}-separated UTF-8 text ({error}); "
            "repair that row or say which delimiter it has"
        ) from error


def _in_utf8(table: pa.Table, path: Path) -> pa.Table:
    """The table, unless Arrow took a column of it for bytes: text that is not UTF-8.

    Raises:
        DataError: naming the first such column and row.
    """
    for field in table.schema:
        if not (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)):
            continue
        for row, value in enumerate(table[field.name].to_pylist(), start=1):
            try:
                (value or b"").decode()
            except UnicodeDecodeError:
                raise DataError(
                    f"{path}: column {field.name!r} row {row} is {value!r}, which is not UTF-8; "
                    "save the file as UTF-8 text"
                ) from None
    return table


def _read_jsonl(path: Path) -> pa.Table:
    compression = "gzip" if path.name.lower().endswith(".gz") else None
    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            return pa_json.read_json(stream, pa_json.ReadOptions(block_size=_BLOCK))
    except pa.ArrowInvalid as error:
        if "empty" in str(error).lower():
            raise DataError(f"{path}: the table is empty; expected one object a line") from error
    return _read_jsonl_lines(path)


def _read_jsonl_lines(path: Path) -> pa.Table:
    """Line by line: finds the line that is broken, and reads what Arrow's inference cannot."""
    rows = []
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(
                    f"{path}: line {number} is not JSON ({error}); expected one object a line"
                ) from error
            if not isinstance(row, dict):
                raise DataError(f"{path}: line {number} is no JSON object; expected {{...}}")
            rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except OverflowError as error:
            raise DataError(
                f"{path}: column {name!r} holds an integer of more than 64 bits; store it as text"
            ) from error
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"{path}: column {name!r} mixes types ({error}); make it one type in every line"
            ) from error
    return pa.table(columns)
