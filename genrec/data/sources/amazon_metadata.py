"""Titles, brands, categories and texts of Amazon products, from the three generations of files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrec.data.sources.json_lines import is_literal, parse_record, read_blocks
from genrec.errors import DataError

COLUMNS = ("title", "brand", "category", "price", "description", "features")
# An id as the value of its key, in JSON or in a literal. It may also stand in a nested record; a
# line is passed over only if none of its ids is wanted.
_ID = re.compile(rb"""["'](?:parent_)?asin["']\s*:\s*["']([^"'\\]+)["']""")
_PRICE = re.compile(r"\d[\d,]*(?:\.\d+)?")
_LONGEST_PRICE = 40  # longer values are pieces of a web page


def read_metadata(
    path: Path, item_ids: pa.Array, *, skip_broken: bool = False
) -> tuple[pa.Table, dict[str, int]]:
    """Read the content of the wanted items from a metadata file, plain or .gz.

    Lines of other items are passed over unparsed, so memory and most of the time go with the
    wanted items. Of several records of one item the first one counts.

    Args:
        path: metadata as JSON lines (2018, 2023) or Python literals (2014).
        item_ids: the wanted items `[N]`.
        skip_broken: leave out lines that cannot be read and count them.

    Returns:
        Table with `item_id` in the given order and the string columns `title`, `brand`, `category`
        (path joined by " > "), `description`, `features` and the float column `price`, null where
        unknown; columns that are null throughout are left out. And counts: items without metadata,
        repeated records, broken lines.

    Raises:
        DataError: naming file and line of a record that is broken.
    """
    names = item_ids.to_pylist()
    wanted = {name: number for number, name in enumerate(names)}
    encoded = {name.encode() for name in names}
    rows: dict[int, tuple[Any, ...]] = {}
    repeated = broken = 0
    for first_line, block in read_blocks(path):
        for number, line in enumerate(block.split(b"\n"), first_line):
            found = _ID.findall(line)
            if not line.strip() or (found and encoded.isdisjoint(found)):
                continue
            try:
                record = parse_record(line, is_literal(line))
            except ValueError as error:
                if not skip_broken:
                    raise DataError(
                        f"{path}: line {number} {error}; repair it, or set skip_broken to leave "
                        "out and count such lines"
                    ) from error
                broken += 1
                continue
            item = wanted.get(str(record.get("parent_asin") or record.get("asin")))
            if item is None:
                continue
            if item in rows:
                repeated += 1
            else:
                rows[item] = content(record)
    if not rows:
        raise DataError(
            f"{path}: describes none of the {len(names):,} items; is it the metadata of the same "
            "category?"
        )
    table: dict[str, Any] = {"item_id": item_ids}
    for place, column in enumerate(COLUMNS):
        values = [rows[n][place] if n in rows else None for n in range(len(names))]
        kind = pa.float64() if column == "price" else pa.large_string()
        array = pa.array(values, kind)
        if array.null_count < len(array):
            table[column] = array
    counts = {
        "items_without_metadata": len(names) - len(rows),
        "repeated_metadata": repeated,
        "broken_metadata_lines": broken,
    }
    return pa.table(table), counts


def content(record: dict[str, Any]) -> tuple[Any, ...]:
    """The values of `COLUMNS` for one record of any version."""
    title = _text(record.get("title"))
    if title is not None and "getTime" in title:  # script of a page that the crawl misread (2018)
        title = None
    path = _category(record.get("categories") or record.get("category"))
    return (
        title,
        _text(record.get("brand") or record.get("store")),
        path or _text(record.get("main_category")),
        _price(record.get("price")),
        _text(record.get("description")),
        _text(record.get("features") or record.get("feature")),
    )


def _text(value: Any) -> str | None:
    """A string, or the strings of a list in one; None if nothing is left."""
    parts = value if isinstance(value, list) else [value]
    words = (part.strip() for part in parts if isinstance(part, str))
    return " ".join(word for word in words if word) or None


def _category(value: Any) -> str | None:
    """The path of a list, or the longest of several paths."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = max(value, key=len)
    if isinstance(value, list):
        steps = [step.strip() for step in value if isinstance(step, str) and step.strip()]
        return " > ".join(steps) or None
    return _text(value)


def _price(value: Any) -> float | None:
    """A number, or the first number of a text such as "$5.99 - $9.99"."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str) and len(value) <= _LONGEST_PRICE and (found := _PRICE.search(value)):
        return float(found[0].replace(",", ""))
    return None
