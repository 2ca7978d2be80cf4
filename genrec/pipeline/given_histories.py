"""Histories that `recommend` is given, as events of the items and actions that a model knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data import Dataset, Histories
from genrec.data.columns import require_columns
from genrec.data.events import read_events
from genrec.data.tencentgr.submission import silent_users
from genrec.pipeline.notes import note, plural

USED = ("user_id", "item_id", "timestamp", "position", "action")


def known_histories(table: pa.Table, place: str, data: Dataset) -> Histories:
    """Histories of the known items in time order; unknown items are reported and skipped.

    Raises:
        DataError: naming file and column of what is missing, or if no item is known.
    """
    require_columns(table, ["user_id", "item_id"], place)
    catalog = data.catalog
    table = table.select([c for c in USED if c in table.column_names])
    if not {"timestamp", "position"} & set(table.column_names):
        table = table.append_column("position", pa.array(np.arange(len(table))))
    ids = pc.unique(table["item_id"])
    strange = ids.filter(pa.array(catalog.index(ids) < 0))
    lost = int(pc.sum(pc.is_in(table["item_id"], value_set=strange)).as_py() or 0)
    if 0 < lost < len(table):
        some = ", ".join(map(str, strange[:5].to_pylist()))
        note(
            f"skipped {plural(lost, 'event')} with items that the catalog does not know: {some}",
            "yellow",
        )
    found = read_events(table, catalog, name=place, drop_unknown=True).histories
    gone = pc.count_distinct(table["user_id"]).as_py() - len(found)
    if gone:
        note(f"skipped {plural(gone, 'user')} without a known item", "yellow")
    return _with_codes_of(data.histories, found)


def _with_codes_of(trained: Histories, found: Histories) -> Histories:
    """The same events with the action codes the model was trained with; 0 for actions unknown."""
    actions = None
    if trained.actions is not None:
        code = {str(name): number for number, name in enumerate(trained.action_names, start=1)}
        codes = np.array([0, *(code.get(str(name), 0) for name in found.action_names)])
        actions = np.zeros(found.num_events) if found.actions is None else codes[found.actions]
    return Histories(
        found.offsets,
        found.items,
        found.timestamps,
        actions,
        found.user_ids,
        trained.action_names,
    )


def folder_histories(folder: str | Path, data: Dataset) -> Histories:
    """Histories of a dataset folder in the item numbers of another one.

    Events of items that the other does not know are left out, which is said; users may be left
    without an event, and those that the folder lists as such are added at the end.

    Args:
        folder: dataset folder whose users are asked about.
        data: that the model was trained on.

    Memory: nothing where both have one catalog, for events are mapped from the folder; else at
    most 15 bytes an event and 8 an item.
    """
    given = Dataset.load(folder)
    of = given.histories
    offsets, items, times, actions = of.offsets, of.items, of.timestamps, of.actions
    ids, known_ids = given.catalog.item_ids, data.catalog.item_ids
    if not ids.equals(known_ids):
        items = data.catalog.index(ids).astype(np.int32)[items]
        known = items >= 0
        lost = len(known) - int(np.count_nonzero(known))
        if lost:
            note(
                f"{folder}: skipped {plural(lost, 'event')} with items that the catalog does not "
                "know",
                "yellow",
            )
            before = np.concatenate([[0], np.cumsum(known)])
            offsets, items = before[offsets], items[known]
            times = None if times is None else times[known]
            actions = None if actions is None else actions[known]
    users = of.user_ids
    silent = silent_users(folder)
    if silent:
        users = pa.concat_arrays([users, pa.array(silent).cast(users.type)])
        offsets = np.concatenate([offsets, np.full(len(silent), offsets[-1])])
    found = Histories(offsets, items, times, actions, users, of.action_names)
    return _with_codes_of(data.histories, found)
