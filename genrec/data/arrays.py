"""A dataset folder from arrays that are in order already, written block by block.

`write_dataset` checks and sorts tables in memory, at about 80 bytes an event. A source that reads
its files in order, into arrays that may be memory-mapped, ends here instead: nothing is copied
whole, so the peak is a block and what the system keeps of the mapped pages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artefacts import atomic_folder, write_json
from genrec.data.catalog import Catalog
from genrec.data.dataset import KIND, Dataset
from genrec.data.events import describe
from genrec.data.histories import Histories
from genrec.data.index import TABLES, USERS, write_index
from genrec.errors import DataError

_EVENTS = 1 << 21  # of a block
_ROWS = 1 << 17
_NUMBERS = 1 << 23  # of vectors in a row group


def write_arrays(
    folder: str | os.PathLike[str],
    catalog: Catalog,
    histories: Histories,
    info: Mapping[str, Any] | None = None,
    *,
    users: pa.Table | None = None,
    extra: Mapping[str, pa.Table] | None = None,
) -> Dataset:
    """Write a catalog and histories as a dataset folder.

    Args:
        folder: where to write; whole or not at all.
        catalog: the items.
        histories: their events, each user's in time order, at least one each.
        info: goes into `dataset.json`; counts are added.
        users: `user_id` and any columns about users, a row each in the order of `histories`.
        extra: other tables for the folder, by name without `.parquet`.

    Returns:
        The dataset, opened from the folder.

    Raises:
        DataError: if a user has no event, times fall, or an item is not in the catalog.
        ArtefactError: if the folder cannot be written.
    """
    _check(catalog, histories, users)
    given = dict(info or {})
    counts = {**describe(histories, catalog), **given.pop("counts", {})}
    full = {"name": Path(folder).name, "order": "file", **given, "counts": counts}
    if histories.action_names:
        full["actions"] = histories.action_names
    with atomic_folder(folder, kind=KIND) as temporary:
        vectors = set(catalog.vector_columns)
        pq.write_table(
            catalog.table,
            temporary / TABLES[0],
            row_group_size=_rows_of_a_group(catalog),
            use_dictionary=[c for c in catalog.columns if c not in vectors],
        )
        _write_interactions(temporary / TABLES[1], catalog, histories)
        if users is not None:
            pq.write_table(users, temporary / USERS, row_group_size=_ROWS)
        for name, table in (extra or {}).items():
            pq.write_table(table, temporary / f"{name}.parquet")
        write_json(temporary / "dataset.json", full)
        write_index(temporary, catalog, histories, users)
    return Dataset.load(folder)


def _rows_of_a_group(catalog: Catalog) -> int:
    """Rows of items that a writer holds at once: fewer of wide vectors."""
    kinds = [catalog.table.schema.field(name).type for name in catalog.vector_columns]
    width = sum(kind.list_size for kind in kinds if pa.types.is_fixed_size_list(kind))
    return max(1, min(_ROWS, _NUMBERS // max(1, width)))


def _check(catalog: Catalog, histories: Histories, users: pa.Table | None) -> None:
    if histories.num_events == 0:
        raise DataError("there is no event; a dataset needs at least one")
    if int(histories.lengths.min()) < 1:
        user = int(np.argmin(histories.lengths))
        raise DataError(f"user {histories.user_ids[user].as_py()!r} has no event; leave them out")
    if users is not None and len(users) != len(histories):
        raise DataError(f"users has {len(users)} rows for {len(histories)} users; one each")
    for low, high in user_blocks(histories):
        part = slice(int(histories.offsets[low]), int(histories.offsets[high]))
        items = histories.items[part]
        if items.min() < 0 or items.max() >= len(catalog):
            raise DataError(f"item {items.max()} is not in the catalog of {len(catalog)} items")
        if histories.timestamps is not None:
            falls = np.diff(histories.timestamps[part]) < 0
            falls[histories.offsets[low + 1 : high] - histories.offsets[low] - 1] = False
            if falls.any():
                at = part.start + int(np.argmax(falls))
                user = int(np.searchsorted(histories.offsets, at, side="right")) - 1
                raise DataError(
                    f"the times of user {histories.user_ids[user].as_py()!r} fall; sort the events"
                )


def user_blocks(histories: Histories, events: int = _EVENTS) -> list[tuple[int, int]]:
    """Ranges of users with about `events` events each."""
    offsets = histories.offsets
    marks = np.arange(events, offsets[-1] + events, events)
    ends = np.unique(np.minimum(np.searchsorted(offsets, marks), len(histories)))
    ends = ends[ends > 0]
    return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))


def _write_interactions(path: Path, catalog: Catalog, histories: Histories) -> None:
    writer = None
    try:
        for low, high in user_blocks(histories):
            start, stop = int(histories.offsets[low]), int(histories.offsets[high])
            part = Histories(
                histories.offsets[low : high + 1] - start,
                histories.items[start:stop],
                None if histories.timestamps is None else histories.timestamps[start:stop],
                None if histories.actions is None else histories.actions[start:stop],
                histories.user_ids[low:high],
                histories.action_names,
            )
            table = part.interactions(catalog.item_ids)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
