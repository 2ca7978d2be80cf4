"""The dataset folder: written by `genrec prepare` or by a user with pandas.

    items.parquet          item_id, any text columns, any fixed-size vector columns
    interactions.parquet   user_id, item_id, timestamp, optional action, position and others
    users.parquet          optional: user_id and any columns about each user
    dataset.json           name, source, licence, counts, order ("file" or "shuffled-day")
    index/                 the same as memory-mapped Arrow, made when it is not there

The two parquet files are all that a user's own folder needs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec.artefacts import (
    MANIFEST,
    atomic_folder,
    check_folder,
    check_target,
    file_sha256,
    no_folder,
    read_json,
    read_manifest,
    write_json,
)
from genrec.data.catalog import Catalog, catalog_of_ids
from genrec.data.columns import as_table, find_ids, id_column, like_ids, require_columns
from genrec.data.events import Events, describe, interactions_in_order, read_events
from genrec.data.fingerprints import dataset_fingerprint
from genrec.data.histories import Histories
from genrec.data.index import (
    INDEX,
    TABLES,
    USERS,
    is_current,
    open_index,
    open_users,
    try_write_index,
    untouched,
    write_index,
)
from genrec.data.splits import shuffle_within_day
from genrec.errors import ArtefactError, DataError

KIND = "dataset"
_SMALL = 1 << 20


class Dataset:
    """A catalog, the histories over it, and what `dataset.json` says about them.

    Loaded from a folder everything is memory-mapped: see `Histories` for the bytes per event.
    """

    def __init__(
        self,
        catalog: Catalog,
        histories: Histories,
        info: Mapping[str, Any] | None = None,
        *,
        fingerprint: str | None = None,
        folder: Path | None = None,
        users: pa.Table | None = None,
    ) -> None:
        self.catalog = catalog
        self.histories = histories
        #: What is known of each user, a row each in the order of `histories`; None if nothing is.
        self.users = users
        self.info: dict[str, Any] = {"order": "file", **(info or {})}
        self.folder = folder
        self._fingerprint = fingerprint
        # An index was checked when it was written; asking again would read every event.
        known = fingerprint is not None
        if not known and histories.items.max(initial=-1) >= len(catalog):
            raise DataError(
                f"histories use item {int(histories.items.max())}, the catalog has "
                f"{len(catalog)} items; build both from the same tables"
            )

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {self.catalog!r}, {self.histories!r})"

    @property
    def name(self) -> str:
        """The name in `dataset.json`."""
        return str(self.info.get("name", "dataset"))

    @property
    def fingerprint(self) -> str:
        """What the tables say, as 16 hexadecimal digits; equal data have equal fingerprints."""
        if self._fingerprint is None:
            self._fingerprint = dataset_fingerprint(self.catalog, self.histories, self.users)
        return self._fingerprint

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Dataset:
        """Open a dataset folder, one that genrec wrote or one that a user wrote with pandas.

        A folder that genrec wrote is checked against its manifest: small files by digest, large
        ones by size and time of writing, and by digest where these differ.

        Raises:
            ArtefactError: if a file of a prepared folder is missing, truncated or edited.
            DataError: if a user's tables do not hold what they should.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(no_folder(folder, "a dataset folder"))
        if (folder / MANIFEST).is_file():
            _check_prepared(folder)
        else:
            for name in TABLES:
                if not (folder / name).is_file():
                    raise DataError(
                        f"{folder / name}: no such file; a dataset folder holds "
                        f"{' and '.join(TABLES)}"
                    )
            if not is_current(folder):
                return cls._load_tables(folder)
        catalog, histories, fingerprint = open_index(folder)
        info = _read_info(folder)
        return cls(
            catalog,
            histories,
            info,
            fingerprint=fingerprint,
            folder=folder,
            users=open_users(folder),
        )

    @classmethod
    def _load_tables(cls, folder: Path) -> Dataset:
        """Build the index of a user's folder from its tables, and keep it there if possible."""
        items, interactions = (_read_parquet(folder / name) for name in TABLES)
        catalog = Catalog(items, name=str(folder / TABLES[0]))
        events = read_events(interactions, catalog, name=str(folder / TABLES[1]))
        info = _read_info(folder)
        users = None
        if (folder / USERS).is_file():
            about = _read_parquet(folder / USERS)
            users = align_users(about, events.histories, name=str(folder / USERS))
        if try_write_index(folder, catalog, events.histories, users):
            catalog, histories, fingerprint = open_index(folder)
            users = open_users(folder)
            return cls(
                catalog, histories, info, fingerprint=fingerprint, folder=folder, users=users
            )
        return cls(catalog, events.histories, info, folder=folder, users=users)

    def save(self, folder: str | os.PathLike[str]) -> Dataset:
        """Write the dataset as a folder and return it as loaded from there."""
        events = self.histories.interactions(self.catalog.item_ids)
        return write_dataset(folder, self.catalog.table, events, self.info, users=self.users)

    def shuffled_within_day(self, seed: int) -> Dataset:
        """The same dataset with every user's events of one UTC day in a seeded random order.

        Costs a copy of the events (14 bytes each) in memory; the catalog is shared.
        """
        return Dataset(
            self.catalog,
            shuffle_within_day(self.histories, seed),
            {**self.info, "order": "shuffled-day", "order_seed": seed},
            folder=self.folder,
            users=self.users,
        )


def check_dataset_target(folder: str | os.PathLike[str]) -> Path:
    """Check that a dataset may be written at `folder`, and warn if it takes another's place.

    Sources call it first, before anything is fetched or read.

    Args:
        folder: to create or to replace.

    Raises:
        ArtefactError: as `check_target`.
    """
    target = check_target(folder, kind=KIND)
    if (target / MANIFEST).is_file():
        warnings.warn(
            f"{folder}: exists, and is replaced, with all that is in it, once the new dataset is "
            "whole; vectors, vocabularies and models of the old one need that one",
            stacklevel=3,
        )
    return target


def write_dataset(
    folder: str | os.PathLike[str],
    items: Any,
    interactions: Any,
    info: Mapping[str, Any] | None = None,
    *,
    users: Any = None,
    drop_unknown: bool = False,
    timestamp_unit: str = "auto",
    items_name: str = "items",
    interactions_name: str = "interactions",
) -> Dataset:
    """Check two tables and write them as a dataset folder; every source ends here.

    Args:
        folder: where to write; whole or not at all.
        items: Arrow table or pandas frame with `item_id` and any content columns; None makes a
            catalog of the ids that the interactions mention (sorted).
        interactions: `user_id`, `item_id`, `timestamp` (Unix seconds or milliseconds, datetimes
            or ISO strings; null where unknown) or `position` or both, optional `action`, and any
            other columns, which are kept in the parquet file.
        info: goes into `dataset.json`: name, source, licence ...; counts are added.
        users: Arrow table or pandas frame with `user_id` and any columns about users; who is not in
            it has nulls, and who has no event is left out.
        drop_unknown: leave out events of items that are not in `items` instead of raising.
        timestamp_unit: `auto`, `s`, `ms`, `us` or `ns` for numeric timestamps.
        items_name: what errors call the items table, for example the file it came from.
        interactions_name: the same for the interactions.

    Returns:
        The dataset, opened from the folder.

    Raises:
        DataError: missing column, empty table, null or duplicate ids, unknown items, timestamps
            that do not parse; names table, column, row and id.
        ArtefactError: if the folder cannot be written.
    """
    event_table = as_table(interactions, interactions_name)
    require_columns(event_table, ["user_id", "item_id"], interactions_name)
    if items is None:
        items = catalog_of_ids(id_column(event_table, "item_id", interactions_name))
        items_name = interactions_name
    catalog = Catalog(items, name=items_name)
    events = read_events(
        event_table,
        catalog,
        name=interactions_name,
        drop_unknown=drop_unknown,
        timestamp_unit=timestamp_unit,
    )
    counts = {**describe(events.histories, catalog), **events.counts}
    full = {"name": Path(folder).name, "order": "file", **(info or {}), "counts": counts}
    if events.histories.action_names:
        full["actions"] = events.histories.action_names
    if users is not None:
        users = align_users(as_table(users, "users"), events.histories)
    with atomic_folder(folder, kind=KIND) as temporary:
        _write_tables(temporary, catalog, event_table, events)
        if users is not None:
            pq.write_table(users, temporary / USERS)
        write_json(temporary / "dataset.json", full)
        write_index(temporary, catalog, events.histories, users)
    return Dataset.load(folder)


def align_users(users: pa.Table, histories: Histories, *, name: str = "users") -> pa.Table:
    """The rows of a table about users in the order of their histories; null where it has none.

    Raises:
        DataError: if `user_id` is missing, null, or holds an id twice.
    """
    require_columns(users, ["user_id"], name)
    ids, known = like_ids(id_column(users, "user_id", name), histories.user_ids)
    rows = find_ids(ids, known)
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise DataError(
            f"{name}: column 'user_id' has {twice[0]['values'].as_py()!r} more than once; keep one "
            "row per user"
        )
    others = [column for column in users.column_names if column != "user_id"]
    found = users.select(others).take(pa.array(rows, mask=rows < 0))
    return pa.table({"user_id": histories.user_ids, **{n: found.column(n) for n in others}})


def _write_tables(folder: Path, catalog: Catalog, table: pa.Table, events: Events) -> None:
    place = catalog.table.column_names.index("item_id")
    items = catalog.table.set_column(place, "item_id", catalog.item_ids)
    pq.write_table(items, folder / TABLES[0])
    for column in ("user_id", "item_id"):
        ids = id_column(table, column, "interactions")
        if column == "item_id":
            ids = like_ids(ids, catalog.item_ids)[0]
        table = table.set_column(table.column_names.index(column), column, ids)
    pq.write_table(interactions_in_order(table, events), folder / TABLES[1])


def _check_prepared(folder: Path) -> None:
    check_folder(folder, kind=KIND, deep=False)
    if not (folder / INDEX / "index.json").is_file():
        raise ArtefactError(f"{folder / INDEX}: is missing; prepare the dataset again")
    for name, digest in read_manifest(folder)["files"].items():
        path = folder / name
        if path.stat().st_size > _SMALL and untouched(folder, name):
            continue
        if file_sha256(path) != digest:
            raise ArtefactError(
                f"{path}: was changed or truncated after it was written; prepare the dataset "
                f"again, or delete {MANIFEST} and {INDEX}/ to use the tables as they are now"
            )


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    info = read_json(path) if path.is_file() else {}
    if not isinstance(info, dict):
        raise DataError(f"{path}: expected a JSON object with name, source, licence")
    return {"name": folder.resolve().name, "order": "file", **info}


def _read_parquet(path: Path) -> pa.Table:
    try:
        return as_table(pq.read_table(path), str(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet ({error}); write it again") from error
