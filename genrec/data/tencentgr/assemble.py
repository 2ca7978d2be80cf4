"""From what was read to a dataset folder: one numbering of items and users, one order of events."""

from __future__ import annotations

import os
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
from genrec.data.tencentgr import vectors as vector_files
from genrec.data.tencentgr.indexer import Indexer
from genrec.data.tencentgr.sequences import ACTIONS
from genrec.data.tencentgr.stage import Stage, Unit, load
from genrec.data.tencentgr.submission import SILENT
from genrec.errors import DataError


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
    """

    raw: np.ndarray
    number: np.ndarray
    row: np.ndarray
    names: list[str]
    features: np.ndarray
    retrieval: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)

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
        DataError: if an item has two rows, has no raw id, or a candidate's place is taken twice.
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
    _join_pool(made, candidates, indexer)
    return made


def _join_pool(made: Items, candidates: list[dict[str, np.ndarray]], indexer: Indexer) -> None:
    differing = 0
    for part in candidates:
        known = indexer.items(part["raw"])
        rows = made.rows(np.where(known > 0, known, part["raw"]))
        names = [str(name) for name in part["names"]]
        missing = [name for name in names if name not in made.names]
        if missing:
            raise DataError(f"candidates have the feature {missing[0]}, which the items lack")
        places = [made.names.index(name) for name in names]
        cells = np.ix_(np.array(places), rows)
        before = made.features[cells]
        differing += int(((before != part["features"].T) & (known > 0)).any(axis=0).sum())
        made.features[cells] = part["features"].T
        made.retrieval[rows] = part["retrieval"]
    taken = made.retrieval[made.retrieval >= 0]
    total = sum(len(part["raw"]) for part in candidates)
    if len(taken) != total:
        raise DataError(
            f"candidates: {total} rows are {len(taken)} different items; fetch them again"
        )
    if len(taken) and (taken.max() != len(taken) - 1 or len(np.unique(taken)) != len(taken)):
        raise DataError(
            "candidates: retrieval_id does not run from 0 without gaps or repeats; fetch them again"
        )
    made.counts["candidates"] = total
    made.counts["candidates_not_in_training"] = int((made.number[made.retrieval >= 0] == 0).sum())
    made.counts["candidates_with_other_features"] = differing


@dataclass
class Sequences:
    """Histories of all users in the order of the files, and who they are.

    Attributes:
        numbers: int64 `[U]`, re-numbered users, 0 for users that training did not have.
        names: large_string `[U]`, raw ids.
        histories: the events, memory-mapped.
        counts: for `dataset.json`.
        kept: per unit, which of its users have events, bool.
        silent: large_string `[S]`, raw ids of the users without an event.
    """

    numbers: np.ndarray
    names: pa.Array
    histories: Histories
    counts: dict[str, int]
    kept: list[np.ndarray]
    silent: pa.Array


def build_sequences(
    stage: Stage, units: Sequence[Unit], items: Items, indexer: Indexer
) -> Sequences:
    """Join the units into flat arrays on disk.

    Events of item 0 (padding, unknown) are left out and counted, and users without an event too,
    whose names are kept.

    Raises:
        DataError: naming file, row and id, if an item or user is not known, or a user has two
            histories.
    """
    lengths, numbers, names, kept = [], [], [], []
    silent = [pa.array([], pa.large_string())]
    unknown = empty = 0
    for unit in units:
        with np.load(stage.path(unit)) as part:
            ids, per_user, users = part["items"], part["lengths"], part["users"]
            raw = part["names"] if "names" in part else np.zeros(len(users), dtype="U1")
        rows = items.rows(ids)
        known = (rows >= 0) & (ids > 0)
        strange = (rows < 0) & (ids > 0)
        if strange.any():
            at = int(np.argmax(strange))
            user = int(np.searchsorted(np.cumsum(per_user), at, side="right"))
            raise DataError(
                f"{_file(unit)}: the history of user {users[user]} has item {ids[at]}, which "
                "neither indexer.pkl nor its features know; the files are of different downloads"
            )
        unknown += int((~known).sum())
        left = np.bincount(np.repeat(np.arange(len(users)), per_user)[known], minlength=len(users))
        keep = left > 0
        empty += int((~keep).sum())
        every = _user_names(unit, users, raw, indexer)
        names.append(every.filter(pa.array(keep)))
        silent.append(every.filter(pa.array(~keep)))
        lengths.append(left[keep])
        numbers.append(users[keep])
        kept.append(keep)
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
    codes, present = _action_codes(stage, units)
    for unit in units:
        with np.load(stage.path(unit)) as part:
            ids = part["items"]
            known = ids > 0
            end = at + int(known.sum())
            arrays["items"][at:end] = items.rows(ids[known])
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
            "events_of_unknown_items_dropped": unknown,
            "users_without_events_dropped": empty,
            "events_without_action": int((arrays["actions"] == 0).sum()),
            "users_not_in_training": int((np.concatenate(numbers) == 0).sum()),
        },
        kept=kept,
        silent=pa.concat_arrays(silent),
    )


def _action_codes(stage: Stage, units: Sequence[Unit]) -> tuple[np.ndarray, list[int]]:
    """The code of each action as units store it, and the actions that occur."""
    counts = np.zeros(1 + len(ACTIONS), dtype=np.int64)
    for unit in units:
        with np.load(stage.path(unit)) as part:
            known = part["actions"][part["items"] > 0]
            counts += np.bincount(known, minlength=len(counts))
    occurs = counts[1:] > 0
    codes = np.concatenate([[0], np.where(occurs, np.cumsum(occurs), 0)]).astype(np.int16)
    return codes, [action for action, there in zip(ACTIONS, occurs, strict=True) if there]


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
    return pa.table(columns | _aligned(found, row[sequences.numbers]) | extra)


def profile_table(
    sequences: Sequences, stage: Stage, units: Sequence[Unit], extra: dict[str, Any]
) -> pa.Table:
    """Features of users where their histories carry them."""
    found = []
    for unit in units:
        with np.load(stage.path(unit)) as part:
            of_users = [n for n in part.files if n.split(".")[0].isdigit()]
            found.append({name: part[name] for name in of_users})
    columns: dict[str, Any] = {
        "user_id": sequences.names,
        "reid": pa.array(sequences.numbers.astype(np.int32)),
    }
    rows = np.flatnonzero(np.concatenate(sequences.kept))
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


def item_table(stage: Stage, items: Items, sets: list[vector_files.VectorSet]) -> pa.Table:
    """The items with their features and vectors; vectors stay on disk.

    A vector that is missing is zeros, and its `mm_81_known` false.
    """
    columns: dict[str, Any] = {
        "item_id": pa.array(items.raw),
        "reid": pa.array(items.number),
        "retrieval_id": pa.array(items.retrieval),
    }
    for name, values in zip(items.names, items.features, strict=True):
        columns[name] = pa.array(values)
    if not sets:
        return pa.table(columns)
    raw = stage.folder / "raw.npy"
    np.save(raw, items.raw)
    for one in sets:
        matrix = stage.folder / f"vectors-{one.number}.npy"
        if not matrix.is_file():
            _empty_matrix(matrix, len(items.raw), one.width)
        known = np.zeros(len(items.raw), dtype=bool)
        strangers = nulls = 0
        for path in stage.run(f"vectors {one.number}", vector_files.units(one, matrix, raw)):
            part = load(path)
            twice = known[part["rows"]]
            rows, counts = np.unique(part["rows"], return_counts=True)
            if twice.any() or counts.max(initial=0) > 1:
                row = part["rows"][np.argmax(twice)] if twice.any() else rows[np.argmax(counts > 1)]
                raise DataError(
                    f"vectors {one.number}: creative {int(items.raw[row])} has more than one; "
                    "fetch the folder again"
                )
            known[part["rows"]] = True
            strangers += int(part["lost"][0])
            nulls += int(part["lost"][1])
        items.counts[f"vectors_{one.number}_missing"] = int((~known).sum())
        items.counts[f"vectors_{one.number}_null"] = nulls
        items.counts[f"vectors_{one.number}_of_unknown_items"] = strangers
        flat = np.load(matrix, mmap_mode="r").reshape(-1)
        values = pa.Array.from_buffers(pa.float32(), len(flat), [None, pa.py_buffer(flat)])
        columns[f"mm_{one.number}"] = pa.FixedSizeListArray.from_arrays(values, one.width)
        columns[f"mm_{one.number}_known"] = pa.array(known)
    return pa.table(columns)


def _empty_matrix(path: Path, rows: int, width: int) -> None:
    """A matrix of zeros that takes no room on disk until it is written to."""
    temporary = path.with_suffix(".tmp")
    np.lib.format.open_memmap(temporary, "w+", np.float32, (rows, width)).flush()
    os.replace(temporary, path)


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
