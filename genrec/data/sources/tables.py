"""A user's own tables: interactions, and items if there are any, as parquet, csv, tsv or jsonl.

prepare("tables", "data/shop", "exports/", user_column="customer", time_column="bought_at")
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrec.data.columns import as_table, id_column, integers_if_canonical, require_columns
from genrec.data.dataset import Dataset, check_dataset_target, write_dataset
from genrec.data.sources.readers import SUFFIXES, read_table, suffix
from genrec.data.sources.registry import register
from genrec.errors import DataError

# What a dataset folder calls a column, and the option that names it in the user's table.
OPTIONS = {
    "user_id": "user_column",
    "item_id": "item_column",
    "timestamp": "time_column",
    "position": "position_column",
    "action": "action_column",
}


@register("tables")
def prepare_tables(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    interactions: str | None = None,
    items: str | None = None,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str | None = None,
    position_column: str | None = None,
    action_column: str | None = None,
    items_id_column: str | None = None,
    timestamp_unit: str = "auto",
    delimiter: str | None = None,
    drop_unknown: bool = False,
    name: str | None = None,
    source: str | None = None,
    licence: str | None = None,
) -> Dataset:
    """Write a dataset folder from tables of a user's own.

    Events are sorted by time within a user. Ties keep the order of `position`, or of the file. A
    `position` column (0 = oldest) may stand in for timestamps, or place the events without one.

    Example:
        genrec prepare tables data/shop exports/ --user_column customer --time_column bought_at

    Args:
        folder: dataset folder to write.
        path: folder that holds `interactions.*` and perhaps `items.*`, or the file with the
            interactions. Formats: .parquet, .csv, .tsv, .jsonl, each also with .gz.
        interactions: file with the interactions, relative to `path`.
        items: file with the items, relative to `path`; without one, the catalog is the ids seen.
        user_column: who.
        item_column: what.
        time_column: when: Unix seconds or milliseconds, datetimes or ISO 8601 strings;
            `timestamp` if there is such a column.
        position_column: order within a user; `position` if there is such a column.
        action_column: kind of event; `action` if there is such a column.
        items_id_column: id in the items table; `item_column` or `item_id` by default.
        timestamp_unit: `auto`, `s`, `ms`, `us` or `ns`, for numeric timestamps.
        delimiter: of csv files; comma by default, tab for .tsv.
        drop_unknown: leave out events of items that the items table does not have.
        name: of the dataset; the folder's name by default.
        source: where the data are from, for `dataset.json`.
        licence: under which terms, for `dataset.json`.

    Raises:
        DataError: naming file, column and row of what is wrong.
        ArtefactError: if the folder cannot be written.
    """
    check_dataset_target(folder)
    events_file, items_file = _find(Path(path), interactions, items)
    optional = {
        "timestamp": time_column,
        "position": position_column,
        "action": action_column,
    }
    text = [user_column, item_column, time_column or "timestamp"]
    events = as_table(
        read_table(events_file, text_columns=text, delimiter=delimiter), str(events_file)
    )
    wanted: dict[str, str | None] = {"user_id": user_column, "item_id": item_column, **optional}
    events = rename_columns(events, wanted, str(events_file), OPTIONS)
    if not {"timestamp", "position"} & set(events.column_names):
        raise DataError(
            f"{events_file}: column 'timestamp' is missing; it has {events.column_names}; say "
            "which one holds the time of an event with --time_column, or its place in the user's "
            "history (0, 1, 2 ..., oldest first) with --position_column"
        )
    if suffix(events_file) not in (".parquet", ".parquet.gz"):
        events = _plain_ids(events, ["user_id", "item_id"], str(events_file))

    content = None
    if items_file is not None:
        text = [items_id_column or item_column, "item_id"]
        content = read_table(items_file, text_columns=text, delimiter=delimiter)
        column = items_id_column
        if column is None:
            column = item_column if item_column in content.column_names else "item_id"
        content = rename_columns(
            as_table(content, str(items_file)),
            {"item_id": column},
            str(items_file),
            {"item_id": "items_id_column"},
        )
        if suffix(items_file) not in (".parquet", ".parquet.gz"):
            content = _plain_ids(content, ["item_id"], str(items_file))
    info: dict[str, Any] = {"name": name or Path(folder).name, "order": "file"}
    info["source"] = source or f"tables: {events_file.name}" + (
        f", {items_file.name}" if items_file else ""
    )
    if licence:
        info["licence"] = licence
    try:
        return write_dataset(
            folder,
            content,
            events,
            info,
            drop_unknown=drop_unknown,
            timestamp_unit=timestamp_unit,
            items_name=str(items_file),
            interactions_name=str(events_file),
        )
    except DataError as error:
        told = [
            f"{target!r} is its column {column!r}"
            for target, column in wanted.items()
            if column not in (None, target) and f"column {target!r}" in str(error)
        ]
        if not told or str(events_file) not in str(error):
            raise
        raise DataError(f"{error} (in {events_file.name}, {', '.join(told)})") from error


def _find(path: Path, interactions: str | None, items: str | None) -> tuple[Path, Path | None]:
    """The interactions file and the items file, if there is one."""
    if path.is_file():
        items_file = None if items is None else path.parent / items
        return path, items_file
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; expected the tables to read")
    events_file = path / interactions if interactions else _guess(path, "interactions")
    if events_file is None:
        raise DataError(
            f"{path}: holds no interactions file; expected interactions{SUFFIXES[0]}, "
            f"interactions.csv, ... or say which file it is; it holds "
            f"{sorted(p.name for p in path.iterdir())[:10]}"
        )
    return events_file, path / items if items else _guess(path, "items")


def _guess(path: Path, stem: str) -> Path | None:
    found = [path / f"{stem}{s}" for s in SUFFIXES if (path / f"{stem}{s}").is_file()]
    if len(found) > 1:
        raise DataError(f"{path}: holds {found[0].name} and {found[1].name}; say which one to read")
    return found[0] if found else None


def rename_columns(
    table: pa.Table, wanted: Mapping[str, str | None], name: str, options: Mapping[str, str]
) -> pa.Table:
    """Give columns the names of a dataset folder; a column chosen by name must exist."""
    chosen = {column: target for target, column in wanted.items() if column is not None}
    by_column = {column: options[target] for column, target in chosen.items()}
    require_columns(table, list(chosen), name, by_column)
    # A column that only happens to have the name another one is given makes room for it.
    shadowed = [t for c, t in chosen.items() if c != t and t in table.column_names]
    table = table.drop_columns([t for t in shadowed if t not in chosen])
    return table.rename_columns([chosen.get(c, c) for c in table.column_names])


def _plain_ids(table: pa.Table, columns: list[str], name: str) -> pa.Table:
    """Text ids that are integers become integers; those with leading zeros stay text."""
    for column in columns:
        ids = integers_if_canonical(id_column(table, column, name))
        table = table.set_column(table.column_names.index(column), column, ids)
    return table
