"""Catalog: the items of one dataset and their content."""

from __future__ import annotations

import html
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.columns import (
    as_table,
    find_ids,
    id_column,
    integers_if_canonical,
    one_array,
    require_columns,
)
from genrec.errors import ConfigError, DataError


class Catalog:
    """Items 0..N-1 in the order of their table; a number is a name and nothing else.

    Opened from a dataset folder the table is memory-mapped Arrow, so text and vectors stay on disk
    until a column is read.

    Args:
        table: Arrow table or pandas frame with `item_id` (strings or integers) and any other
            columns: texts, lists of texts, fixed-size vectors.
        name: what error messages call the table.
        checked: trust that the ids are distinct (an index that genrec wrote).

    Raises:
        DataError: if `item_id` is missing, null, or holds an id twice.
    """

    def __init__(self, table: Any, *, name: str = "items", checked: bool = False) -> None:
        self.table: pa.Table
        self.item_ids: pa.Array
        if checked:
            self.table, self.item_ids = table, one_array(table.column("item_id"))
            return
        self.table = as_table(table, name)
        require_columns(self.table, ["item_id"], name)
        self.item_ids = id_column(self.table, "item_id", name)
        if pc.count_distinct(self.item_ids).as_py() != len(self.item_ids):
            counts = pc.value_counts(self.item_ids)
            twice = counts.filter(pc.greater(counts.field("counts"), 1))
            first = twice[0]["values"].as_py()
            rows = np.flatnonzero(np.asarray(pc.equal(self.item_ids, first)))[:2] + 1
            raise DataError(
                f"{name}: column 'item_id' has {len(twice)} ids more than once, the first is "
                f"{first!r} in rows {rows[0]} and {rows[1]}; keep one row per item"
            )

    @classmethod
    def from_ids(cls, ids: Any) -> Catalog:
        """A catalog that knows nothing but ids."""
        return cls(pa.table({"item_id": ids}))

    def __len__(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    def __repr__(self) -> str:
        return f"Catalog({len(self):,} items, columns {self.columns})"

    @property
    def columns(self) -> list[str]:
        """All columns of the table, `item_id` among them."""
        return list(self.table.column_names)

    @property
    def text_columns(self) -> list[str]:
        """Columns that hold text or (nested) lists of text, without `item_id`."""
        return [f.name for f in self.table.schema if f.name != "item_id" and _is_text(f.type)]

    @property
    def vector_columns(self) -> list[str]:
        """Columns that hold one vector of floats per item."""
        return [f.name for f in self.table.schema if _is_vector(f.type)]

    def index(self, ids: Any) -> np.ndarray:
        """Item number of each id, int64 [n], -1 where unknown; vectorised.

        Integers and strings are understood either way: "7" finds item 7.
        """
        return find_ids(self.item_ids, ids)

    def text(self, columns: Sequence[str] | None = None, template: str | None = None) -> list[str]:
        """One text per item, HTML entities unescaped and white space collapsed, N strings.

        Lists become "a, b"; nulls are skipped.

        Args:
            columns: columns to join with ". "; all text columns by default.
            template: instead, a text such as "{title}. Made by {brand}"; a null column is left out
                together with the words between it and the column before.

        Raises:
            ConfigError: if a column does not exist.
        """
        if template is None:
            names = list(columns) if columns is not None else self.text_columns
            parts = [("", name) for name in names]
            tail, separator = "", ". "
        else:
            parts, tail = _parse_template(template)
            separator = ""
        if not parts:
            raise ConfigError(
                f"no text column to read; the items have {self.columns}: name columns or a template"
            )
        for _, name in parts:
            if name not in self.columns:
                raise ConfigError(
                    f"items have no column {name!r}; expected one of {', '.join(self.columns)}"
                )
        cells = [[_as_text(v) for v in self.table.column(name).to_pylist()] for _, name in parts]
        words = [word for word, _ in parts]
        return [_fill(words, row, tail, separator) for row in zip(*cells, strict=True)]

    def titles(self, items: np.ndarray, column: str = "title") -> list[str]:
        """Titles of some items (`int [n]`), HTML entities unescaped; the id where there is none."""
        rows = pa.array(np.asarray(items, dtype=np.int64))
        ids = self.item_ids.take(rows).to_pylist()
        if column not in self.columns:
            return [str(name) for name in ids]
        found = self.table.column(column).take(rows).to_pylist()
        return [
            html.unescape(str(title)).strip() if title else str(name)
            for title, name in zip(found, ids, strict=True)
        ]

    def vectors(self, column: str) -> np.ndarray:
        """The vectors of `column` as float32 [N, d].

        Raises:
            ConfigError: if there is no such column.
            DataError: naming the item whose vector is null, of another length, NaN or infinite.
        """
        if column not in self.columns:
            raise ConfigError(f"items have no column {column!r}; vectors: {self.vector_columns}")
        kind = self.table.schema.field(column).type
        if not _is_vector(kind):
            raise ConfigError(f"items column {column!r} holds {kind}, not vectors of floats")
        values = self.table.column(column)
        lengths = pc.fill_null(pc.list_value_length(values), -1).to_numpy()
        wrong = lengths != lengths.max()
        if lengths.max() < 1 or wrong.any():
            row = int(np.argmax(wrong))
            found = "null" if lengths[row] < 0 else f"of length {lengths[row]}"
            raise DataError(
                f"items: column {column!r} of item {self.item_ids[row].as_py()!r} is {found}; "
                f"expected a vector of length {lengths.max()} for every item"
            )
        flat = pc.list_flatten(values).to_numpy()
        result = np.ascontiguousarray(flat, dtype=np.float32).reshape(len(self), -1)
        finite = np.isfinite(result).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise DataError(
                f"items: column {column!r} of item {self.item_ids[row].as_py()!r} (row {row + 1}) "
                "holds NaN or infinity; repair or remove the vector"
            )
        return result


def catalog_of_ids(ids: pa.Array) -> pa.Table:
    """Items table of the distinct ids, sorted, so that it does not depend on the events' order."""
    distinct = integers_if_canonical(pc.unique(ids))
    return pa.table({"item_id": distinct.take(pc.sort_indices(distinct))})


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_vector(kind: pa.DataType) -> bool:
    if pa.types.is_fixed_size_list(kind):
        return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(is_list and pa.types.is_floating(kind.value_type))


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        seen = dict.fromkeys(text for text in map(_as_text, value) if text)
        return ", ".join(seen)
    text = str(value)
    return " ".join((html.unescape(text) if "&" in text else text).split())


def _parse_template(template: str) -> tuple[list[tuple[str, str]], str]:
    """Split into [(words before, column)], and the words after the last column."""
    parts: list[tuple[str, str]] = []
    tail = ""
    try:
        for words, field, spec, conversion in string.Formatter().parse(template):
            if field is None:
                tail = words
            elif not field or spec or conversion:
                raise ValueError("use plain {column}")
            else:
                parts.append((words, field))
    except ValueError as error:
        raise ConfigError(f"template {template!r} cannot be read: {error}") from error
    return parts, tail


def _fill(words: list[str], cells: Sequence[str], tail: str, separator: str) -> str:
    text = ""
    for word, cell in zip(words, cells, strict=True):
        if cell:
            # The separator of a column that is left out goes with it; a first text needs none.
            joint = word or (separator if text else "")
            text += (joint if text else joint.lstrip(" .,;:|-\n")) + cell
    return (text + tail).strip() if text else ""
