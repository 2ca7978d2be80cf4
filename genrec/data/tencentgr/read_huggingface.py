"""Reading the Hugging Face layout: `seq/`, `user_feat/`, `item_feat/`, `candidate/`, `mm_emb/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.tencentgr.feature_names import SINGLE
from genrec.data.tencentgr.parquet import (
    LARGEST,
    batches,
    feature_columns,
    is_listed,
    lists,
    open_part,
    parts_of,
    plain,
    require,
    row_group_units,
    whole_numbers,
)
from genrec.data.tencentgr.sequences import ACTIONS, LATEST, in_time_order
from genrec.data.tencentgr.stage import Unit
from genrec.errors import DataError

TABLES = ("seq", "user_feat", "item_feat", "candidate")
_BATCH_NUMBERS = 1 << 22


def units(root: Path) -> dict[str, list[Unit]]:
    """The work of each table, in the order of its files."""
    work = {"seq": read_seq, "user_feat": read_users, "item_feat": read_items}
    found: dict[str, list[Unit]] = {}
    for table in TABLES:
        found[table] = []
        for number, path in enumerate(parts_of(root / table)):
            if table == "candidate":
                size = path.stat().st_size
                open_part(path)
                found[table].append(Unit(f"candidate-{number:05d}", read_pool, (path,), size))
                continue
            for piece, (groups, first, size) in enumerate(row_group_units(path)):
                name = f"{table}-{number:05d}-{piece:05d}"
                found[table].append(Unit(name, work[table], (path, groups, first), size))
    _same_features(root / "item_feat", parts_of(root / "item_feat"))
    _same_features(root / "user_feat", parts_of(root / "user_feat"))
    return found


def _same_features(folder: Path, parts: list[Path]) -> None:
    names = [feature_columns(path, open_part(path).schema_arrow) for path in parts]
    for path, mine in zip(parts, names, strict=True):
        if mine != names[0]:
            other = sorted(set(mine) ^ set(names[0]))
            raise DataError(
                f"{path}: has the feature columns {mine}, {parts[0].name} has {names[0]} "
                f"(not in both: {', '.join(other)}); fetch {folder.name}/ again"
            )


def read_seq(path: Path, groups: list[int], first: int) -> dict[str, np.ndarray]:
    """Histories of some users: `users` and `lengths` [n]; `items`, `times`, `actions` [T]."""
    found: list[tuple[np.ndarray, ...]] = []
    for row, table in batches(path, groups, first, ["user_id", "seq"]):
        users = whole_numbers(table.column("user_id"), path, "user_id", row, low=1)
        flat, lengths, rows = lists(table.column("seq"), path, "seq")
        if len(flat) == 0:
            found.append((users, lengths, *(np.zeros(0, t) for t in (np.int64, np.int64, np.int8))))
            continue
        fields = ("item_id", "action_type", "timestamp")
        if not pa.types.is_struct(flat.type) or set(fields) - {f.name for f in flat.type}:
            raise DataError(
                f"{path}: column 'seq' holds lists of {flat.type}; expected lists of structs with "
                f"{', '.join(fields)}"
            )
        if flat.null_count:
            bad = int(rows[int(np.argmax(np.asarray(flat.is_null())))])
            raise DataError(f"{path}: column 'seq' row {row + bad + 1} holds a null event")

        def field(
            name: str, flat: pa.Array = flat, rows: np.ndarray = rows, row: int = row, **how: Any
        ) -> np.ndarray:
            return whole_numbers(
                pc.struct_field(flat, name), path, f"seq.{name}", row, rows=rows, **how
            )

        items = field("item_id", high=2**62)
        times = field("timestamp", high=LATEST)
        actions = 1 + field("action_type", null=-1, high=len(ACTIONS) - 1)
        items, times, actions = in_time_order(lengths, items, times, actions.astype(np.int8))
        found.append((users, lengths, items, times, actions))
    names = ("users", "lengths", "items", "times", "actions")
    return {
        name: np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        for name, parts in zip(names, zip(*found, strict=True) if found else [()] * 5, strict=True)
    }


def read_items(path: Path, groups: list[int], first: int) -> dict[str, np.ndarray]:
    """Features of some items: `items` [n], `features` int32 [n, F], `names` [F]."""
    names = feature_columns(path, open_part(path).schema_arrow)
    ids, rows = [np.zeros(0, np.int64)], [np.zeros((0, len(names)), np.int32)]
    for row, table in batches(path, groups, first, ["item_id", *names]):
        ids.append(whole_numbers(table.column("item_id"), path, "item_id", row, low=1))
        columns = [whole_numbers(table.column(n), path, n, row, null=0) for n in names]
        rows.append(_stacked(columns, len(table)))
    return {
        "items": np.concatenate(ids),
        "features": np.concatenate(rows),
        "names": np.array(names, dtype="U"),
    }


def _stacked(columns: list[np.ndarray], rows: int) -> np.ndarray:
    if not columns:
        return np.zeros((rows, 0), dtype=np.int32)
    return np.stack(columns, axis=1).astype(np.int32)


def read_users(path: Path, groups: list[int], first: int) -> dict[str, np.ndarray]:
    """Features of some users.

    `users` [n]; a single feature `103` is int32 [n]. A list `106`, and any feature that the paper
    does not have, is the flat values `106` and `106.counts` [n].
    """
    schema = open_part(path).schema_arrow
    names = feature_columns(path, schema)
    # A part may be without a row, as Spark writes them; its columns are there all the same.
    parts: dict[str, list[np.ndarray]] = {"users": [np.zeros(0, np.int64)]}
    for name in names:
        parts[name] = [np.zeros(0, np.int32)]
        if name not in SINGLE:
            parts[f"{name}.counts"] = [np.zeros(0, np.int64)]
    for row, table in batches(path, groups, first, ["user_id", *names]):
        users = whole_numbers(table.column("user_id"), path, "user_id", row, low=1)
        parts["users"].append(users)
        for name in names:
            values, counts = _user_values(table.column(name), path, name, row)
            if name in SINGLE:
                starts = np.cumsum(counts) - counts
                first_of = np.zeros(len(users), dtype=np.int64)
                first_of[counts > 0] = values[starts[counts > 0]]
                values = first_of
            else:
                parts[f"{name}.counts"].append(counts)
            parts[name].append(values.astype(np.int32))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _user_values(
    column: pa.ChunkedArray, path: Path, name: str, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Values of a feature of users, flat, and how many each has; a null is no value."""
    if is_listed(plain(column, path, name).type):
        flat, counts, rows = lists(column, path, name)
        return whole_numbers(flat, path, name, first, null=0, rows=rows), counts
    values = whole_numbers(column, path, name, first, null=-1)
    known = values >= 0
    return values[known], known.astype(np.int64)


def read_pool(path: Path) -> dict[str, np.ndarray]:
    """The candidates: `raw` and `retrieval` int64 [n], `features` int32 [n, F], `names` [F]."""
    file = open_part(path)
    schema = file.schema_arrow
    id_column = "creative_id" if "creative_id" in schema.names else "item_id"
    require(path, schema, [id_column])
    names = feature_columns(path, schema)
    extra = ["retrieval_id"] if "retrieval_id" in schema.names else []
    everything = list(range(file.num_row_groups))
    raw, place, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], []
    for row, table in batches(path, everything, 0, [id_column, *extra, *names], rows=50_000):
        raw.append(raw_ids(table.column(id_column), path, id_column, row))
        if extra:
            place.append(whole_numbers(table.column("retrieval_id"), path, "retrieval_id", row))
        else:
            place.append(np.arange(row, row + len(table)))
        columns = [_flagged(table.column(name), path, name, row) for name in names]
        rows.append(_stacked(columns, len(table)))
    return {
        "raw": np.concatenate(raw),
        "retrieval": np.concatenate(place),
        "features": np.concatenate(rows) if rows else np.zeros((0, len(names)), np.int32),
        "names": np.array(names, dtype="U"),
    }


def raw_ids(column: pa.ChunkedArray, path: Path, name: str, first: int) -> np.ndarray:
    """Raw ids, integers or decimal text, as int64."""
    values = plain(column, path, name)
    if pa.types.is_large_string(values.type):
        values = _decimal(values, path, name, first, "a whole number")
    return whole_numbers(values, path, name, first, high=2**62)


def _decimal(values: pa.Array, path: Path, name: str, first: int, expected: str) -> pa.Array:
    """Text as int64; null stays null."""
    right = np.asarray(pc.fill_null(pc.match_substring_regex(values, "^[0-9]{1,18}$"), True))
    if not right.all():
        place = int(np.argmin(right))
        raise DataError(
            f"{path}: column {name!r} row {first + place + 1} is {values[place].as_py()!r}; "
            f"expected {expected}"
        )
    return values.cast(pa.int64())


def _flagged(column: pa.ChunkedArray, path: Path, name: str, first: int) -> np.ndarray:
    """Values of a candidate's feature: 0 where unknown, or not seen in training."""
    values = plain(column, path, name)
    if pa.types.is_null(values.type):
        return np.zeros(len(values), dtype=np.int64)
    fields = {f.name for f in values.type} if pa.types.is_struct(values.type) else set()
    flag = next((f for f in ("cold_start", "is_str") if f in fields), None)
    if flag is None or "feature_value" not in fields:
        raise DataError(
            f"{path}: column {name!r} holds {values.type}; expected a struct of feature_value and "
            "cold_start (or is_str)"
        )
    # `struct_field` of a null struct is null too.
    flags = plain(pc.struct_field(values, flag), path, f"{name}.{flag}")
    if pa.types.is_boolean(flags.type):
        flags = flags.cast(pa.int64())
    cold = whole_numbers(flags, path, f"{name}.{flag}", first, null=1, low=-LARGEST) != 0
    seen = plain(pc.struct_field(values, "feature_value"), path, f"{name}.feature_value")
    seen = pc.if_else(pa.array(cold), pa.scalar(None, seen.type), seen)
    if pa.types.is_large_string(seen.type):
        seen = _decimal(seen, path, f"{name}.feature_value", first, "a number where not cold")
    return whole_numbers(seen, path, f"{name}.feature_value", first, null=0)
