"""Who reviewed what and when, from the review files of Amazon 2014, 2018 and 2023."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from genrec.data.sources.json_lines import is_literal, parse_record, read_blocks
from genrec.errors import DataError


@dataclass(frozen=True)
class Layout:
    """Names of the keys of a review, and how many units of its time are a second."""

    user: str
    item: str
    rating: str
    time: str
    per_second: int


OLD = Layout("reviewerID", "asin", "overall", "unixReviewTime", 1)
NEW = Layout("user_id", "parent_asin", "rating", "timestamp", 1000)


@dataclass(frozen=True)
class Reviews:
    """The reviews of a file, in its order.

    Attributes:
        users: int32 `[n]`, numbers into `user_ids`.
        items: int32 `[n]`, numbers into `item_ids`.
        ratings: float32 `[n]`, NaN where there is none.
        times: int64 `[n]`, in the file's own unit.
        user_ids: string array.
        item_ids: string array.
        layout: the keys, and the unit of time.
        version: `2014`, `2018` or `2023`.
        broken: lines left out because they could not be read.
    """

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    times: np.ndarray
    user_ids: pa.Array
    item_ids: pa.Array
    layout: Layout
    version: str
    broken: int

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> Reviews:
        """Some of the reviews, in the given order; numbers of users and items stay."""
        return Reviews(
            self.users[rows],
            self.items[rows],
            self.ratings[rows],
            self.times[rows],
            self.user_ids,
            self.item_ids,
            self.layout,
            self.version,
            self.broken,
        )


def read_reviews(path: Path, *, skip_broken: bool = False) -> Reviews:
    """Read a file of reviews, JSON lines or Python literals, plain or .gz.

    Blocks go through Arrow's JSON reader, which parses only the four keys; a block that it cannot
    take is read line by line, so that a broken line can be named. Ids are kept as numbers, so
    memory is about 20 bytes a review besides the ids themselves.

    Args:
        path: the file.
        skip_broken: leave out lines that cannot be read and count them.

    Raises:
        DataError: naming file and line of a record that is broken or lacks a key, if the layout is
            unknown, or if the file holds no review.
    """
    layout, version, literal = None, "", False
    tables: list[pa.Table] = []
    broken = 0
    for first_line, block in read_blocks(path):
        if layout is None:
            layout, version, literal = detect_layout(path, first_line, block)
        table = None if literal else _read_fast(block, layout)
        if table is None:
            table, skipped = _read_slow(path, first_line, block, layout, literal, skip_broken)
            broken += skipped
        for key in (layout.user, layout.item):
            place = table.column_names.index(key)
            table = table.set_column(place, key, table.column(key).dictionary_encode())
        tables.append(table)
    if layout is None or not any(len(table) for table in tables):
        raise DataError(f"{path}: holds no review; expected one a line")
    table = pa.concat_tables(tables).unify_dictionaries()
    user, item = (_one_chunk(table.column(n)) for n in (0, 1))
    return Reviews(
        user.indices.to_numpy(),
        item.indices.to_numpy(),
        table.column(2).to_numpy(),
        table.column(3).to_numpy(),
        user.dictionary,
        item.dictionary,
        layout,
        version,
        broken,
    )


def detect_layout(path: Path, first_line: int, block: bytes) -> tuple[Layout, str, bool]:
    """Layout, version and notation (literal or not), from the first record that can be read.

    Raises:
        DataError: if no record in the block can be read or its keys are those of no version.
    """
    reason = "holds no record"
    for number, line in enumerate(block.splitlines(), first_line):
        if not line.strip():
            continue
        literal = is_literal(line)
        try:
            record = parse_record(line, literal)
        except ValueError as error:
            reason = reason if number > first_line else f"line {number} {error}"
            continue
        for layout in (OLD, NEW):
            if layout.user in record and layout.item in record:
                old = "2018" if "verified" in record else "2014"
                return layout, old if layout is OLD else "2023", literal
        raise DataError(
            f"{path}: line {number} has the keys {sorted(record)[:12]}; a review has "
            f"{OLD.user!r} and {OLD.item!r} (2014, 2018) or {NEW.user!r} and {NEW.item!r} (2023)"
        )
    raise DataError(f"{path}: {reason}; expected reviews, one JSON object a line")


def _one_chunk(column: pa.ChunkedArray) -> pa.DictionaryArray:
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _schema(layout: Layout) -> pa.Schema:
    return pa.schema(
        [
            (layout.user, pa.large_string()),
            (layout.item, pa.large_string()),
            (layout.rating, pa.float32()),
            (layout.time, pa.int64()),
        ]
    )


def _read_fast(block: bytes, layout: Layout) -> pa.Table | None:
    """The reviews of a block, or None if one of them is not quite as it should be."""
    schema = _schema(layout)
    options = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    read = pa_json.ReadOptions(block_size=max(len(block), 1))
    try:
        table = pa_json.read_json(pa.BufferReader(block), read, options).select(schema.names)
        table.validate(full=True)  # ids that are not UTF-8
    except pa.ArrowInvalid:
        return None
    keys = (layout.user, layout.item, layout.time)
    if any(table.column(key).null_count for key in keys):
        return None
    if any(pc.any(pc.equal(table.column(key), "")).as_py() for key in keys[:2]):
        return None
    return table


def _read_slow(
    path: Path, first_line: int, block: bytes, layout: Layout, literal: bool, skip_broken: bool
) -> tuple[pa.Table, int]:
    """The reviews of a block, line by line, and how many lines were left out."""
    columns: tuple[list[Any], ...] = ([], [], [], [])
    broken = 0
    for number, line in enumerate(block.split(b"\n"), first_line):
        if not line.strip():
            continue
        try:
            values = _values(parse_record(line, literal), layout)
        except ValueError as error:
            if not skip_broken:
                raise DataError(
                    f"{path}: line {number} {error}; repair it, or set skip_broken to leave out "
                    "and count such lines"
                ) from error
            broken += 1
            continue
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return pa.table(list(columns), schema=_schema(layout)), broken


def _values(record: dict[str, Any], layout: Layout) -> tuple[str, str, float | None, int]:
    """User, item, rating and time of a review; ValueError says which of them is wrong."""
    for key in (layout.user, layout.item, layout.time):
        if record.get(key) in (None, ""):
            raise ValueError(f"has no {key!r}")
    rating, time = record.get(layout.rating), record[layout.time]
    try:
        seconds = int(time)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"has {layout.time!r} {time!r}, expected a Unix time") from error
    try:
        value = None if rating is None else float(rating)
    except (ValueError, TypeError) as error:
        raise ValueError(f"has {layout.rating!r} {rating!r}, expected a number") from error
    return str(record[layout.user]), str(record[layout.item]), value, seconds
