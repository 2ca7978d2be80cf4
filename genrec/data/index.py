"""The `index/` folder: a dataset's tables as Arrow files that are memory-mapped, never read whole.

    index/items.arrow      the items table
    index/users.arrow      user_id [U], and the columns of users.parquet
    index/offsets.arrow    offset [U+1]
    index/events.arrow     item, timestamp, action [T]
    index/index.json       fingerprint, action names; size, time and digest of these files and of
                           the tables they stand for

It is made by `genrec prepare`, or when a folder that a user wrote with pandas is first loaded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.artefacts import file_sha256, read_json, write_json
from genrec.data.catalog import Catalog
from genrec.data.columns import one_array
from genrec.data.fingerprints import dataset_fingerprint
from genrec.data.histories import Histories
from genrec.errors import DataError

INDEX = "index"
TABLES = ("items.parquet", "interactions.parquet")
USERS = "users.parquet"  # what is known of each user; a folder may be without it
_FILES = ("items", "users", "offsets", "events")
_FORMAT = 2


def write_index(
    folder: Path, catalog: Catalog, histories: Histories, users: pa.Table | None = None
) -> None:
    """Write `folder`/index for the tables that stand in `folder`; whole or not at all.

    Args:
        folder: of the dataset.
        catalog: its items.
        histories: its events.
        users: `user_id` and other columns, a row for each user in their order.

    Raises:
        DataError: if a column of the items has a type that cannot be memory-mapped.
        OSError: if it cannot be written.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f".{INDEX}-", dir=folder))
    temporary.chmod(0o755)
    try:
        events = {"item": pa.array(histories.items)}
        if histories.timestamps is not None:
            events["timestamp"] = pa.array(histories.timestamps)
        if histories.actions is not None:
            events["action"] = pa.array(histories.actions)
        _write_arrow(temporary / "items.arrow", _mappable(catalog))
        of_users = pa.table({"user_id": histories.user_ids}) if users is None else users
        _write_arrow(temporary / "users.arrow", of_users)
        _write_arrow(temporary / "offsets.arrow", pa.table({"offset": pa.array(histories.offsets)}))
        _write_arrow(temporary / "events.arrow", pa.table(events))
        write_json(
            temporary / "index.json",
            {
                "format": _FORMAT,
                "fingerprint": dataset_fingerprint(catalog, histories, users),
                "action_names": histories.action_names,
                "tables": {name: _stamp(folder / name) for name in tables_of(folder)},
                "files": {f"{n}.arrow": _stamp(temporary / f"{n}.arrow") for n in _FILES},
            },
        )
        shutil.rmtree(folder / INDEX, ignore_errors=True)
        try:
            temporary.rename(folder / INDEX)
        except OSError:
            # Another process finished the same index meanwhile; then its copy stays.
            if not (folder / INDEX / "index.json").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def tables_of(folder: Path) -> list[str]:
    """Names of the tables that a dataset folder has."""
    return [name for name in (*TABLES, USERS) if name in TABLES or (folder / name).is_file()]


def open_users(folder: Path) -> pa.Table | None:
    """Memory-map what is known of each user; None if that is nothing."""
    table = _map_arrow(folder / INDEX / "users.arrow")
    return table if table.num_columns > 1 else None


def open_index(folder: Path) -> tuple[Catalog, Histories, str]:
    """Memory-map `folder`/index -> (catalog, histories, fingerprint); milliseconds at any size.

    Raises:
        DataError: if a file is missing or truncated.
    """
    index = folder / INDEX
    about = read_json(index / "index.json")
    for name, stamp in about["files"].items():
        size = stamp["size"] if isinstance(stamp, dict) else stamp  # all that format 1 knew
        if not (index / name).is_file() or _size(index / name) != size:
            raise DataError(
                f"{index / name}: is missing or truncated; delete {index} and load the folder "
                "again, or prepare it again"
            )
    catalog = Catalog(_map_arrow(index / "items.arrow"), name=f"{folder}/items", checked=True)
    return catalog, open_histories(index, about["action_names"]), about["fingerprint"]


def open_histories(index: str | os.PathLike[str], action_names: list[Any]) -> Histories:
    """Memory-map the histories of an index folder; they pickle as its path, not as their events."""
    index = Path(index)
    events = _map_arrow(index / "events.arrow")
    names = events.column_names
    histories = _MappedHistories(
        _view(_map_arrow(index / "offsets.arrow"), "offset"),
        _view(events, "item"),
        _view(events, "timestamp") if "timestamp" in names else None,
        _view(events, "action") if "action" in names else None,
        _map_arrow(index / "users.arrow").column("user_id"),
        action_names,
    )
    histories.source = index
    return histories


class _MappedHistories(Histories):
    """Histories of an index folder, which another process opens anew instead of receiving."""

    source: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return open_histories, (str(self.source), self.action_names)


def is_current(folder: Path) -> bool:
    """Whether `folder`/index is as it was written, and for the tables that are there now."""
    path = folder / INDEX / "index.json"
    if not path.is_file():
        return False
    about = read_json(path)
    if about.get("format") != _FORMAT or set(about["tables"]) != set(tables_of(folder)):
        return False
    for name, stamp in about["tables"].items():
        if _size(folder / name) != stamp["size"]:
            return False
        if _edited(folder / name, stamp):
            return False
    # Files that are truncated or gone are named by `open_index`.
    return not any(_edited(folder / INDEX / name, stamp) for name, stamp in about["files"].items())


def untouched(folder: Path, name: str) -> bool:
    """Whether `name` still has the size and the time of writing that the index recorded."""
    about = read_json(folder / INDEX / "index.json")
    files = {f"{INDEX}/{file}": stamp for file, stamp in about["files"].items()}
    stamp = {**files, **about["tables"]}.get(name)
    if not isinstance(stamp, dict):
        return False
    stat = (folder / name).stat()
    return bool(stat.st_size == stamp["size"] and stat.st_mtime_ns == stamp["mtime_ns"])


def try_write_index(
    folder: Path, catalog: Catalog, histories: Histories, users: pa.Table | None = None
) -> bool:
    """Write the index of a user's folder if the folder may be written; warn otherwise."""
    try:
        write_index(folder, catalog, histories, users)
    except OSError as error:
        warnings.warn(
            f"{folder}: the index cannot be written ({error.strerror or error}), so it is built "
            "again at every load; copy the folder to a place you may write to",
            stacklevel=4,
        )
        return False
    return True


def _stamp(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": file_sha256(path)}


def _edited(path: Path, stamp: dict[str, Any]) -> bool:
    """Whether a file of the recorded size has another time and another content."""
    if _size(path) != stamp["size"] or path.stat().st_mtime_ns == stamp["mtime_ns"]:
        return False
    return file_sha256(path) != stamp["sha256"]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _mappable(catalog: Catalog) -> pa.Table:
    from datasets import Features

    for field in catalog.table.schema:
        try:
            Features.from_arrow_schema(pa.schema([field]))
        except (ValueError, NotImplementedError) as error:  # `datasets` raises either
            raise DataError(
                f"items: column {field.name!r} holds {field.type}, which cannot be stored; "
                "remove it or turn it into text"
            ) from error
    place = catalog.table.column_names.index("item_id")
    return catalog.table.set_column(place, "item_id", catalog.item_ids)


def _write_arrow(path: Path, table: pa.Table) -> None:
    # One record batch: each column is then one contiguous piece of the file.
    columns = [one_array(table.column(i)) for i in range(table.num_columns)]
    batch = pa.RecordBatch.from_arrays(columns, schema=table.schema)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_batch(batch)


def _map_arrow(path: Path) -> pa.Table:
    # `datasets` takes half a second to import; verbs that open no dataset need not wait for it.
    from datasets import Dataset

    return Dataset.from_file(str(path)).data.table


def _view(table: pa.Table, column: str) -> np.ndarray:
    chunks = table.column(column).chunks
    if not chunks:
        return np.zeros(0, dtype=table.schema.field(column).type.to_pandas_dtype())
    return np.asarray(chunks[0].to_numpy(zero_copy_only=True))
