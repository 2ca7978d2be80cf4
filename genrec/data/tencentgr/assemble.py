"""From what was read to a dataset folder: one numbering of items and users, one order of events."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.data.arrays import write_arrays
from genrec.data.catalog import Catalog
from genrec.data.dataset import Dataset
from genrec.data.histories import Histories
from genrec.data.tencentgr.feature_names import ITEM_NAMES, in_order
from genrec.data.tencentgr.indexer import Indexer
from genrec.data.tencentgr.sequences import ACTIONS
from genrec.data.tencentgr.stage import Stage, Unit, load, load_one, names_of
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

    def cells(self, names: Iterable[str], rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """The index of these features of some rows in `features`, which is then `[F, n]`."""
        columns = np.array([self.names.index(str(name)) for name in names], dtype=np.int64)
        return np.ix_(columns, rows)


def build_items(
    indexer: Indexer, items: Sequence[Path], pool: Sequence[Path], sequences: Sequence[Path]
) -> Items:
    """Number the items and join their features.

    A candidate's own values come before those of the item table. Features are all that any of the
    files has, 0 where a row lacks one.

    Args:
        indexer: raw and re-numbered ids.
        items: units of features.
        pool: units of candidates.
        sequences: units of histories.

    Raises:
        DataError: if an item has two rows or no raw id, there are files of candidates without a
            candidate, or their places have gaps or repeats.
    """
    size = len(indexer.item_names)
    wanted = np.zeros(size, dtype=bool)
    total = 0
    for path in items:
        numbers = load_one(path, "items")
        _note_numbers(wanted, numbers)
        total += len(numbers)
    cold = [np.zeros(0, dtype=np.int64)]
    names = [load_one(path, "names").tolist() for path in (*items, *pool)]
    for path in sequences:
        seen = load_one(path, "items")
        wanted[seen[seen < size]] = True
        if "cold" in names_of(path):
            cold.append(load_one(path, "cold"))
            names.append(load_one(path, "cold_names").tolist())
    for path in pool:
        raw = load_one(path, "raw")
        known = indexer.items(raw)
        wanted[known] = True
        cold.append(raw[known == 0])
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
    row[trained] = np.arange(len(trained), dtype=np.int32)
    features = in_order(itertools.chain.from_iterable(names))
    made = Items(
        raw=np.concatenate([indexer.item_names[trained], new]),
        number=np.concatenate([trained, np.zeros(len(new), np.int64)]).astype(np.int32),
        row=row,
        names=features,
        features=np.zeros((len(features), len(trained) + len(new)), dtype=np.int32),
        retrieval=np.full(len(trained) + len(new), -1, dtype=np.int32),
    )
    # A part at a time: parts, what they are together and the table would each be as large.
    for path in items:
        part = load(path)
        made.features[made.cells(part["names"], row[part["items"]])] = part["features"].T
    for path in sequences:
        if "cold" in names_of(path):
            rows = made.rows(load_one(path, "cold"))
            cells = made.cells(load_one(path, "cold_names"), rows)
            made.features[cells] = load_one(path, "cold_features").T
    made.counts = {
        "items_without_features": len(trained) - total,
        "items_not_in_training": len(new),
        "item_features_not_published": len(set(features) - set(ITEM_NAMES)),
    }
    made.rows_read = {"item_feat": total}
    _join_pool(made, pool, indexer)
    return made


def _note_numbers(seen: np.ndarray, numbers: np.ndarray) -> None:
    """Mark re-numbered items as seen; an error where one has been already, or is unknown."""
    outside = numbers[numbers >= len(seen)]
    if len(outside):
        raise DataError(
            f"item_feat: item {int(outside[0])} has no raw id in indexer.pkl, whose largest number "
            f"is {len(seen) - 1}; the files are of different downloads"
        )
    if (twice := _mark(seen, numbers)) is not None:
        raise DataError(f"item_feat: item {twice} has more than one row; fetch it again")


def _mark(seen: np.ndarray, numbers: np.ndarray) -> int | None:
    """Mark numbers as seen; the first that was seen before or comes twice."""
    ordered = np.sort(numbers)
    again = np.concatenate([numbers[seen[numbers]], ordered[1:][ordered[1:] == ordered[:-1]]])
    seen[numbers] = True
    return int(again[0]) if len(again) else None


def _join_pool(made: Items, pool: Sequence[Path], indexer: Indexer) -> None:
    """Note places and features of the candidates; one that comes twice keeps what it has first."""
    taken = np.concatenate([np.zeros(0, np.int64), *(load_one(path, "retrieval") for path in pool)])
    total = len(taken)
    if pool and not total:
        raise DataError(
            "candidates: the files hold not a single one; fetch candidate/ or predict_set.jsonl "
            "again"
        )
    if total and (taken.max() != total - 1 or len(np.unique(taken)) != total):
        raise DataError(
            "candidates: retrieval_id does not run from 0 without gaps or repeats; fetch them again"
        )
    differing = 0
    for path in pool:
        part = load(path)
        known = indexer.items(part["raw"])
        rows = made.rows(np.where(known > 0, known, part["raw"]))
        first = np.sort(np.unique(rows, return_index=True)[1])
        first = first[made.retrieval[rows[first]] < 0]
        rows, known, values = rows[first], known[first], part["features"][first].T
        cells = made.cells(part["names"], rows)
        differing += int(((made.features[cells] != values) & (known > 0)).any(axis=0).sum())
        made.features[cells] = values
        made.retrieval[rows] = part["retrieval"][first]
    inside = made.retrieval >= 0
    if pool:
        made.rows_read["candidate"] = total
    made.counts["candidates"] = int(inside.sum())
    made.counts["candidates_repeated"] = total - int(inside.sum())
    made.counts["candidates_not_in_training"] = int((made.number[inside] == 0).sum())
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
    met = np.zeros(len(indexer.user_names), dtype=bool)
    padding = empty = unnumbered = 0
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
        unnumbered += int((users == 0).sum())
        every = _user_names(unit, users, raw, indexer)
        if (twice := _mark(met, users[users > 0])) is not None:
            raise _two_histories(indexer.user_names[twice].as_py())
        names.append(every.filter(pa.array(keep)))
        silent.append(every.filter(pa.array(~keep)))
        lengths.append(left[keep])
        numbers.append(users[keep])
        kept.append(keep)
    strangers.check()
    all_names = pa.concat_arrays(names) if names else pa.array([], pa.large_string())
    if len(all_names) == 0:
        raise DataError("no history has an event of a known item; is this the right folder?")
    if unnumbered:  # then only names tell users apart
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
        raise _two_histories(name)


def _two_histories(name: str) -> DataError:
    return DataError(f"seq: user {name!r} has more than one history; fetch it again")


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
