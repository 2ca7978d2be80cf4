"""From what was read to a dataset folder: one numbering of items and users, one order of events."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.data.arrays import write_arrays
from genrec.data.catalog import Catalog
from genrec.data.dataset import Dataset
from genrec.data.histories import Histories, ranges
from genrec.data.tencentgr.indexer import Indexer
from genrec.data.tencentgr.sequences import ACTIONS
from genrec.data.tencentgr.stage import Stage, Unit, load
from genrec.data.tencentgr.submission import SILENT
from genrec.errors import DataError

_STRANGE = 0.1  # share of events of unknown items from which files do not belong together


@dataclass
class Items:
    """The catalog: items of training by number, then those that only have a raw id.

    Attributes:
        raw: int64 `[N]`, raw ids.
        number: int32 `[N]`, re-numbered ids, 0 for items that training did not have.
        row: int32 `[numbers]`, row of each re-numbered id, -1 where there is none.
        names: of the features.
        features: int32 `[F, N]`, 0 where unknown.
        retrieval: int32 `[N]`, place among the candidates, -1 outside.
        counts: for `dataset.json`.
        rows_read: of each table.
    """

    raw: np.ndarray
    number: np.ndarray
    row: np.ndarray
    names: list[str]
    features: np.ndarray
    retrieval: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)
    rows_read: dict[str, int] = field(default_factory=dict)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Row of each id as histories have it, re-numbered or raw; int32, -1 where unknown."""
        known = ids < len(self.row)
        found = self.row[np.where(known, ids, 0)]
        trained = int((self.number > 0).sum())
        cold = self.raw[trained:]
        if not known.all():
            place = np.minimum(np.searchsorted(cold, ids), max(len(cold) - 1, 0))
            there = (cold[place] == ids) if len(cold) else np.zeros(len(ids), dtype=bool)
            found = np.where(known, found, np.where(there, trained + place, -1))
        return found.astype(np.int32)


def build_items(
    indexer: Indexer, items: Sequence[Path], pool: Sequence[Path], sequences: Sequence[Path]
) -> Items:
    """Number the items and join their features.

    A candidate's own values come before those of the item table.

    Args:
        indexer: raw and re-numbered ids.
        items: units of features.
        pool: units of candidates.
        sequences: units of histories.

    Raises:
        DataError: if an item has two rows or no raw id, there are files of candidates without a
            candidate, or their places have gaps or repeats.
    """
    parts = [load(path) for path in items]
    numbers = np.concatenate([part["items"] for part in parts])
    values = np.concatenate([part["features"] for part in parts])
    names = [str(name) for name in parts[0]["names"]]
    size = len(indexer.item_names)
    outside = numbers[numbers >= size]
    if len(outside):
        raise DataError(
            f"item_feat: item {int(outside[0])} has no raw id in indexer.pkl, whose largest number "
            f"is {size - 1}; the files are of different downloads"
        )
    counts = np.bincount(numbers, minlength=size)
    if counts.max(initial=0) > 1:
        raise DataError(
            f"item_feat: item {int(np.argmax(counts > 1))} has more than one row; fetch it again"
        )
    wanted = counts > 0
    cold = [np.zeros(0, dtype=np.int64)]
    cold_values: list[tuple[np.ndarray, np.ndarray]] = []
    for path in sequences:
        with np.load(path) as part:
            seen = part["items"]
            wanted[seen[seen < size]] = True
            if "cold" in part:
                cold.append(part["cold"])
                cold_values.append((part["cold"], part["cold_features"]))
    candidates = [load(path) for path in pool]
    for part in candidates:
        known = indexer.items(part["raw"])
        wanted[known] = True
        cold.append(part["raw"][known == 0])
    wanted[0] = False
    trained = np.flatnonzero(wanted)
    nameless = trained[indexer.item_names[trained] < 0]
    if len(nameless):
        raise DataError(
            f"item {int(nameless[0])} has no raw id in indexer.pkl ({len(nameless)} such items); "
            "the files are of different downloads"
        )
    new = np.unique(np.concatenate(cold))
    row = np.full(size, -1, dtype=np.int32)
    row[trained] = np.arange(len(trained))
    made = Items(
        raw=np.concatenate([indexer.item_names[trained], new]),
        number=np.concatenate([trained, np.zeros(len(new))]).astype(np.int32),
        row=row,
        names=names,
        features=np.zeros((len(names), len(trained) + len(new)), dtype=np.int32),
        retrieval=np.full(len(trained) + len(new), -1, dtype=np.int32),
    )
    made.features[:, row[numbers]] = values.T
    for ids, rows in cold_values:
        made.features[:, made.rows(ids)] = rows.T
    made.counts = {
        "items_without_features": int(len(trained) - len(numbers)),
        "items_not_in_training": len(new),
    }
    made.rows_read = {"item_feat": len(numbers)}
    _join_pool(made, candidates, indexer)
    return made


def _join_pool(made: Items, candidates: list[dict[str, np.ndarray]], indexer: Indexer) -> None:
    """Note places and features of the candidates; one that comes twice keeps what it has first."""
    total = sum(len(part["raw"]) for part in candidates)
    if candidates and not total:
        raise DataError(
            "candidates: the files hold not a single one; fetch candidate/ or predict_set.jsonl "
            "again"
        )
    taken = np.concatenate([np.zeros(0, np.int64), *(part["retrieval"] for part in candidates)])
    if total and (taken.max() != total - 1 or len(np.unique(taken)) != total):
        raise DataError(
            "candidates: retrieval_id does not run from 0 without gaps or repeats; fetch them again"
        )
    differing = 0
    for part in candidates:
        names = [str(name) for name in part["names"]]
        missing = [name for name in names if name not in made.names]
        if missing:
            raise DataError(f"candidates have the feature {missing[0]}, which the items lack")
        known = indexer.items(part["raw"])
        rows = made.rows(np.where(known > 0, known, part["raw"]))
        first = np.sort(np.unique(rows, return_index=True)[1])
        first = first[made.retrieval[rows[first]] < 0]
        rows, known, values = rows[first], known[first], part["features"][first].T
        cells = np.ix_(np.array([made.names.index(name) for name in names], dtype=int), rows)
        differing += int(((made.features[cells] != values) & (known > 0)).any(axis=0).sum())
        made.features[cells] = values
        made.retrieval[rows] = part["retrieval"][first]
    pool = made.retrieval >= 0
    if candidates:
        made.rows_read["candidate"] = total
    made.counts["candidates"] = int(pool.sum())
    made.counts["candidates_repeated"] = total - int(pool.sum())
    made.counts["candidates_not_in_training"] = int((made.number[pool] == 0).sum())
    made.counts["candidates_with_other_features"] = differing


@dataclass
class Sequences:
    """Histories of all users in the order of the files, and who they are.

    Attributes:
        numbers: int64 `[U]`, re-numbered users, 0 for users that training did not have.
        names: large_string `[U]`, raw ids.
        histories: the events, memory-mapped.
        counts: for `dataset.json`.
        rows_read: of each table.
        kept: per unit, which of its users have events, bool.
        silent: large_string `[S]`, raw ids of the users without an event.
    """

    numbers: np.ndarray
    names: pa.Array
    histories: Histories
    counts: dict[str, int]
    rows_read: dict[str, int]
    kept: list[np.ndarray]
    silent: pa.Array


def build_sequences(
    stage: Stage, units: Sequence[Unit], items: Items, indexer: Indexer
) -> Sequences:
    """Join the units into flat arrays on disk.

    Events of item 0 (padding, unknown) and of items that nothing else in the files knows are left
    out, and users without an event, whose names are kept; all are counted.

    Raises:
        DataError: naming file, row and id, if a user is not known or has two histories, or a tenth
            of the events is of items that nothing knows.
    """
    lengths, numbers, names, kept = [], [], [], []
    silent = [pa.array([], pa.large_string())]
    padding = empty = 0
    strangers = _Strangers()
    actions = np.zeros(1 + len(ACTIONS), dtype=np.int64)
    for unit in units:
        with np.load(stage.path(unit)) as part:
            ids, per_user, users = part["items"], part["lengths"], part["users"]
            of_events = part["actions"]
            raw = part["names"] if "names" in part else np.zeros(len(users), dtype="U1")
        rows = items.rows(ids)
        known = rows >= 0
        padding += int((ids == 0).sum())
        strangers.note(unit, ids, rows, per_user, users)
        actions += np.bincount(of_events[known], minlength=len(actions))
        left = np.bincount(np.repeat(np.arange(len(users)), per_user)[known], minlength=len(users))
        keep = left > 0
        empty += int((~keep).sum())
        every = _user_names(unit, users, raw, indexer)
        names.append(every.filter(pa.array(keep)))
        silent.append(every.filter(pa.array(~keep)))
        lengths.append(left[keep])
        numbers.append(users[keep])
        kept.append(keep)
    strangers.check()
    all_names = pa.concat_arrays(names) if names else pa.array([], pa.large_string())
    if len(all_names) == 0:
        raise DataError("no history has an event of a known item; is this the right folder?")
    _check_distinct(pa.concat_arrays([all_names, *silent]))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    total = int(offsets[-1])
    arrays = {
        name: np.lib.format.open_memmap(stage.folder / f"{name}.npy", "w+", kind, (total,))
        for name, kind in (("items", np.int32), ("times", np.int64), ("actions", np.int16))
    }
    at = 0
    codes, present = _action_codes(actions)
    for unit in units:
        with np.load(stage.path(unit)) as part:
            rows = items.rows(part["items"])
            known = rows >= 0
            end = at + int(known.sum())
            arrays["items"][at:end] = rows[known]
            arrays["times"][at:end] = part["times"][known]
            arrays["actions"][at:end] = codes[part["actions"][known]]
            at = end
    histories = Histories(
        offsets,
        arrays["items"],
        arrays["times"],
        arrays["actions"],
        all_names,
        present,
    )
    return Sequences(
        numbers=np.concatenate(numbers),
        names=all_names,
        histories=histories,
        counts={
            "events_of_unknown_items_dropped": padding + strangers.events,
            "events_of_items_without_raw_id": strangers.events,
            "users_without_events_dropped": empty,
            "events_without_action": int((arrays["actions"] == 0).sum()),
            "users_not_in_training": int((np.concatenate(numbers) == 0).sum()),
        },
        rows_read={"seq": sum(map(len, kept))},
        kept=kept,
        silent=pa.concat_arrays(silent),
    )


def _action_codes(counts: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The code of each action as units store it, and the actions that occur."""
    occurs = counts[1:] > 0
    codes = np.concatenate([[0], np.where(occurs, np.cumsum(occurs), 0)]).astype(np.int16)
    return codes, [action for action, there in zip(ACTIONS, occurs, strict=True) if there]


class _Strangers:
    """Events of items that neither the index nor the features know.

    The contest's own reader takes such an item for unknown. Here its event is left out, unless so
    many are of this kind that the files are of different downloads.
    """

    def __init__(self) -> None:
        self.events = self.all = 0
        self._first = ""

    def note(
        self, unit: Unit, ids: np.ndarray, rows: np.ndarray, lengths: np.ndarray, users: np.ndarray
    ) -> None:
        """Count those of one unit."""
        strange = (rows < 0) & (ids > 0)
        self.all += len(ids)
        self.events += int(strange.sum())
        if strange.any() and not self._first:
            at = int(np.argmax(strange))
            user = users[np.searchsorted(np.cumsum(lengths), at, side="right")]
            self._first = f"{_file(unit)}: the history of user {user} has item {ids[at]}"

    def check(self) -> None:
        """Raise DataError where they are too many, and warn where there are any."""
        if not self.events:
            return
        told = (
            f"{self._first}, which neither indexer.pkl nor its features know, as "
            f"{self.events:,} of {self.all:,} events"
        )
        if self.events > _STRANGE * self.all:
            raise DataError(f"{told}; the files are of different downloads")
        warnings.warn(f"{told}; they are left out", stacklevel=4)


def _file(unit: Unit) -> Path:
    return Path(unit.arguments[0])


def _user_names(unit: Unit, users: np.ndarray, raw: np.ndarray, indexer: Indexer) -> pa.Array:
    known = indexer.user_names
    outside = users >= len(known)
    if outside.any():
        raise DataError(
            f"{_file(unit)}: user {int(users[np.argmax(outside)])} has no raw id in indexer.pkl, "
            f"whose largest number is {len(known) - 1}; the files are of different downloads"
        )
    found = known.take(pa.array(users))
    new = users == 0
    if new.any():
        rows = np.where(new, len(found) + np.arange(len(users)), np.arange(len(users)))
        found = pa.concat_arrays([found, pa.array(raw.tolist(), pa.large_string())]).take(
            pa.array(rows)
        )
    if found.null_count:
        user = int(users[int(np.argmax(np.asarray(found.is_null())))])
        raise DataError(f"{_file(unit)}: user {user} has no raw id in indexer.pkl")
    return found


def _check_distinct(names: pa.Array) -> None:
    codes = names.dictionary_encode()
    counts = np.bincount(np.asarray(codes.indices))
    if counts.max(initial=0) > 1:
        name = codes.dictionary[int(np.argmax(counts > 1))].as_py()
        raise DataError(f"seq: user {name!r} has more than one history; fetch it again")


def user_table(
    sequences: Sequences, parts: Iterator[dict[str, np.ndarray]], extra: dict[str, Any]
) -> pa.Table:
    """Features of users in the order of their histories.

    Args:
        sequences: the histories.
        parts: arrays as `read_huggingface.read_users` returns them.
        extra: columns to add.

    Raises:
        DataError: if a user has two rows.
    """
    found = list(parts)
    columns: dict[str, Any] = {
        "user_id": sequences.names,
        "reid": pa.array(sequences.numbers.astype(np.int32)),
    }
    users = np.concatenate([part["users"] for part in found]) if found else np.zeros(0, np.int64)
    row = np.full(int(max(users.max(initial=0), sequences.numbers.max())) + 1, -1, dtype=np.int64)
    if len(users) and np.bincount(users).max() > 1:
        raise DataError(
            f"user_feat: user {int(np.argmax(np.bincount(users) > 1))} has more than one row"
        )
    row[users] = np.arange(len(users))
    rows = row[sequences.numbers]
    sequences.rows_read["user_feat"] = len(users)
    sequences.counts["users_without_features"] = int((rows < 0).sum())
    return pa.table(columns | _aligned(found, rows) | extra)


def profile_table(
    sequences: Sequences, stage: Stage, units: Sequence[Unit], extra: dict[str, Any]
) -> pa.Table:
    """Features of users where their histories carry them."""
    found, profiled = [], []
    for unit in units:
        with np.load(stage.path(unit)) as part:
            profiled.append(part["profiled"])
            of_users = [n for n in part.files if n.split(".")[0].isdigit()]
            found.append({name: part[name] for name in of_users})
    columns: dict[str, Any] = {
        "user_id": sequences.names,
        "reid": pa.array(sequences.numbers.astype(np.int32)),
    }
    rows = np.flatnonzero(np.concatenate(sequences.kept))
    sequences.counts["users_without_features"] = int((~np.concatenate(profiled)[rows]).sum())
    return pa.table(columns | _aligned(found, rows) | extra)


def _aligned(parts: list[dict[str, np.ndarray]], rows: np.ndarray) -> dict[str, pa.Array]:
    """Columns of the rows asked for, unknown where that is -1."""
    columns: dict[str, pa.Array] = {}
    names = sorted({n for part in parts for n in part if n.isdigit()}, key=int)
    known = rows >= 0
    for name in names:
        values = np.concatenate([part[name] for part in parts])
        if f"{name}.counts" not in parts[0]:
            wanted = np.where(known, values[np.maximum(rows, 0)], 0) if len(values) else rows * 0
            columns[name] = pa.array(wanted.astype(np.int32))
            continue
        counts = np.concatenate([part[f"{name}.counts"] for part in parts])
        ends = np.concatenate([[0], np.cumsum(counts)])
        low = np.where(known, ends[np.maximum(rows, 0)], 0)
        high = np.where(known, ends[np.maximum(rows, 0) + 1], 0) if len(counts) else low
        offsets = np.concatenate([[0], np.cumsum(high - low)]).astype(np.int32)
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values[ranges(low, high)]))
    return columns


def write(
    folder: str, table: pa.Table, sequences: Sequences, users: pa.Table, info: dict[str, Any]
) -> Dataset:
    """Write the dataset folder, and in it the candidates as a table of their own.

    Users without an event, whom a dataset has no room for, are another, if there are any.
    """
    catalog = Catalog(table, name="items", checked=True)
    place = np.asarray(table.column("retrieval_id"))
    rows = np.flatnonzero(place >= 0)
    rows = rows[np.argsort(place[rows])]
    pool = table.select(["item_id", "retrieval_id"]).take(pa.array(rows))
    extra = {"candidates": pool}
    if len(sequences.silent):
        extra[SILENT] = pa.table({"user_id": sequences.silent})
    return write_arrays(folder, catalog, sequences.histories, info, users=users, extra=extra)
