"""From the rows of an interactions table to flat histories: numbering, time order, checks.

Needs about 80 bytes an event at its peak (sort orders and copies of the columns).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.data.catalog import Catalog
from genrec.data.columns import (
    MICROSECONDS,
    action_codes,
    find_ids,
    id_column,
    like_ids,
    parse_timestamps,
    require_columns,
)
from genrec.data.histories import Histories
from genrec.errors import DataError


@dataclass(frozen=True)
class Events:
    """Histories and where they came from.

    Attributes:
        histories: the events in time order.
        rows: int64 [T], the row of the interactions table behind each event.
        missing: bool [T], True where the table has no timestamp.
        counts: what was dropped, filled or missing (for `dataset.json`).
    """

    histories: Histories
    rows: np.ndarray
    missing: np.ndarray
    counts: dict[str, int]


def read_events(
    interactions: pa.Table,
    catalog: Catalog,
    *,
    name: str = "interactions",
    drop_unknown: bool = False,
    timestamp_unit: str = "auto",
) -> Events:
    """Number users and items and put each user's events in time order.

    Users are numbered by first appearance. Events are sorted by time; ties, and events whose
    timestamp is missing, follow the `position` column if there is one, and the order of the rows
    otherwise. A missing timestamp takes the value of the event before it (of the one after it at
    the start of a history). A user without any gets one day per event, ending the day before the
    earliest time of the table: their order is known, so no day of theirs may look like a tie.

    Args:
        interactions: `user_id`, `item_id`, `timestamp` or `position` or both, optional `action`.
        catalog: the items.
        name: what error messages call the table.
        drop_unknown: leave out events whose item is not in the catalog instead of raising.
        timestamp_unit: `auto`, `s`, `ms`, `us` or `ns`, for numeric timestamps.

    Raises:
        DataError: at a missing column, an empty table, null ids, unknown items, timestamps that do
            not parse; names table, column and row.
    """
    require_columns(interactions, ["user_id", "item_id"], name)
    columns = interactions.column_names
    if "timestamp" not in columns and "position" not in columns:
        raise DataError(
            f"{name}: column 'timestamp' is missing; it has {columns}: name the column with the "
            "time of an event, or add 'position' (0, 1, 2 ... within a user, oldest first)"
        )
    items = _item_numbers(interactions, catalog, name, drop_unknown)
    kept = np.flatnonzero(items >= 0)
    dropped = len(items) - len(kept)
    if len(kept) == 0:
        raise DataError(
            f"{name}: no event has an item of the catalog; do both tables use the same item ids?"
        )
    user_ids = id_column(interactions, "user_id", name)
    micros, missing = None, np.zeros(len(items), dtype=bool)
    if "timestamp" in columns:
        column = interactions.column("timestamp")
        micros, missing = parse_timestamps(column, name, "timestamp", timestamp_unit)
    actions: np.ndarray | None = None
    action_names: list[Any] = []
    if "action" in columns:
        actions, action_names = action_codes(interactions.column("action"), name)
    position = _positions(interactions, name) if "position" in columns else None
    if dropped:
        pick = pa.array(kept)
        items, user_ids, missing = items[kept], user_ids.take(pick), missing[kept]
        micros, actions, position = (
            None if a is None else a[kept] for a in (micros, actions, position)
        )
    if micros is not None and missing.all():
        if position is None:
            raise DataError(
                f"{name}: column 'timestamp' is empty in every row; fill it or add 'position' "
                "(0, 1, 2 ... within a user, oldest first)"
            )
        micros = None
    if micros is None:
        missing = np.ones(len(items), dtype=bool)

    encoded = user_ids.dictionary_encode()
    users = encoded.indices.to_numpy()
    offsets = np.zeros(len(encoded.dictionary) + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=len(encoded.dictionary)), out=offsets[1:])
    silent = 0
    if micros is None:
        order, silent = _order(users, position), len(offsets) - 1
    elif position is None and not missing.any():
        order = _order(users, micros)
        (micros,) = _take(order, micros)
    else:
        # Missing times are filled from their neighbours, so the rows are put in order first.
        before = _order(users, position)
        users, micros, missing = _take(before, users, micros, missing)
        micros, silent = _fill(micros, missing, offsets)
        after = _order(users, micros)
        micros, missing = _take(after, micros, missing)
        order = before if after is None else after if before is None else before[after]
    items, rows = _take(order, items, kept)
    histories = Histories(
        offsets,
        items,
        None if micros is None else micros // MICROSECONDS,
        None if actions is None else _take(order, actions)[0],
        encoded.dictionary,
        action_names,
    )
    return Events(
        histories,
        rows,
        missing,
        {
            "events_of_unknown_items_dropped": dropped,
            "events_without_timestamp": int(missing.sum()),
            "users_without_timestamp": silent,
        },
    )


def _item_numbers(
    interactions: pa.Table, catalog: Catalog, name: str, drop_unknown: bool
) -> np.ndarray:
    asked, known = like_ids(id_column(interactions, "item_id", name), catalog.item_ids)
    numbers = find_ids(known, asked).astype(np.int32)
    unknown = numbers < 0
    if unknown.any() and not drop_unknown:
        row = int(np.argmax(unknown))
        raise DataError(
            f"{name}: column 'item_id' row {row + 1} is {asked[row].as_py()!r}, which is not among "
            f"the {len(catalog):,} items ({int(unknown.sum()):,} such rows); add the items or set "
            "drop_unknown"
        )
    return numbers


def _positions(interactions: pa.Table, name: str) -> np.ndarray:
    column = interactions.column("position")
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    bad = np.asarray(column.is_null(nan_is_null=True)) if numeric else np.ones(1, dtype=bool)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{name}: column 'position' row {row + 1} is {column[row].as_py()!r}; "
            "expected a number in every row"
        )
    return np.asarray(column.to_numpy())


def _order(users: np.ndarray, key: np.ndarray | None) -> np.ndarray | None:
    """Stable order by (user, key); None where the rows already stand in it."""
    same = users[1:] == users[:-1]
    sorted_users = bool((users[1:] >= users[:-1]).all())
    if key is None:
        return None if sorted_users else np.argsort(users, kind="stable")
    if sorted_users and not (same & (key[1:] < key[:-1])).any():
        return None
    return np.lexsort((key, users))


def _take(order: np.ndarray | None, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return arrays if order is None else tuple(array[order] for array in arrays)


def _fill(micros: np.ndarray, missing: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, int]:
    """Times with the missing ones filled from their neighbours, and the users without any."""
    if not missing.any():
        return micros, 0
    lengths = np.diff(offsets)
    events = np.arange(len(micros))
    start, end = np.repeat(offsets[:-1], lengths), np.repeat(offsets[1:], lengths)
    before = np.maximum.accumulate(np.where(missing, -1, events))
    after = np.minimum.accumulate(np.where(missing, len(micros), events)[::-1])[::-1]
    source = np.where(before >= start, before, after)
    found = (source >= start) & (source < end)
    made_up = micros[~missing].min() - (end - events) * (86_400 * MICROSECONDS)
    filled = np.where(found, micros[np.minimum(source, len(micros) - 1)], made_up)
    return filled, int((~found)[offsets[:-1]].sum())


def describe(histories: Histories, catalog: Catalog) -> dict[str, Any]:
    """Counts of a dataset for `dataset.json`."""
    result: dict[str, Any] = {
        "users": len(histories),
        "items": len(catalog),
        "events": histories.num_events,
    }
    if histories.timestamps is not None:
        days = histories.timestamps // 86_400
        last = histories.offsets[1:] - 1
        two = histories.lengths >= 2
        result["users_whose_last_two_share_a_day"] = int(
            (days[last[two]] == days[last[two] - 1]).sum()
        )
    return result


def interactions_in_order(interactions: pa.Table, events: Events) -> pa.Table:
    """The rows of the kept events in their order, ids and seconds as they are stored."""
    rows = events.rows
    if len(rows) != interactions.num_rows or (rows != np.arange(len(rows))).any():
        interactions = interactions.take(pa.array(rows))
    if "timestamp" in interactions.column_names:
        seconds = events.histories.timestamps
        if seconds is None:
            seconds = np.zeros(len(rows), dtype=np.int64)
        place = interactions.column_names.index("timestamp")
        stored = pa.array(seconds, pa.int64(), mask=events.missing)
        interactions = interactions.set_column(place, "timestamp", stored)
    return interactions
