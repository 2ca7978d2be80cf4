"""The table of users: names, numbers and features, in the order of their histories."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.data.histories import ranges
from genrec.data.tencentgr.assemble import Sequences
from genrec.data.tencentgr.feature_names import SINGLE, USER_NAMES, in_order
from genrec.data.tencentgr.stage import load_one, names_of
from genrec.errors import DataError


def user_table(sequences: Sequences, parts: Sequence[Path], extra: dict[str, Any]) -> pa.Table:
    """Features of users in the order of their histories.

    Args:
        sequences: the histories.
        parts: units of features, as `read_huggingface.read_users` returns them.
        extra: columns to add.

    Raises:
        DataError: if a user has two rows.
    """
    users = np.concatenate([np.zeros(0, np.int64), *(load_one(path, "users") for path in parts)])
    row = np.full(int(max(users.max(initial=0), sequences.numbers.max())) + 1, -1, dtype=np.int64)
    if len(users) and np.bincount(users).max() > 1:
        raise DataError(
            f"user_feat: user {int(np.argmax(np.bincount(users) > 1))} has more than one row"
        )
    row[users] = np.arange(len(users))
    rows = row[sequences.numbers]
    sequences.rows_read["user_feat"] = len(users)
    sequences.counts["users_without_features"] = int((rows < 0).sum())
    return _table_of_users(sequences, parts, rows, extra)


def profile_table(sequences: Sequences, parts: Sequence[Path], extra: dict[str, Any]) -> pa.Table:
    """Features of users where their histories, the units `parts`, carry them."""
    profiled = np.concatenate([load_one(path, "profiled") for path in parts])
    rows = np.flatnonzero(np.concatenate(sequences.kept))
    sequences.counts["users_without_features"] = int((~profiled[rows]).sum())
    return _table_of_users(sequences, parts, rows, extra)


def _table_of_users(
    sequences: Sequences, parts: Sequence[Path], rows: np.ndarray, extra: dict[str, Any]
) -> pa.Table:
    """A table with the features that any part has; users without row, -1, are unknown."""
    columns: dict[str, Any] = {
        "user_id": sequences.names,
        "reid": pa.array(sequences.numbers.astype(np.int32)),
    }
    names = in_order(itertools.chain.from_iterable(map(names_of, parts)))
    sequences.counts["user_features_not_published"] = len(set(names) - set(USER_NAMES))
    for name in names:
        columns[name] = _aligned(parts, name, rows)
    return pa.table(columns | extra)


def _aligned(parts: Sequence[Path], name: str, rows: np.ndarray) -> pa.Array:
    """One feature of the rows asked for, unknown where that is -1.

    It is a list if the paper says so, or if it has no say and a user has several values.
    """
    values, counts = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int64)]
    for path in parts:
        there = names_of(path)
        users = len(load_one(path, "users"))
        if name in there:
            values.append(load_one(path, name))
        if f"{name}.counts" in there:
            counts.append(load_one(path, f"{name}.counts"))
        else:
            counts.append(np.full(users, name in there, dtype=np.int64))
    flat, each = np.concatenate(values), np.concatenate(counts)
    ends = np.concatenate([[0], np.cumsum(each)])
    known = rows >= 0
    low = np.where(known, ends[np.maximum(rows, 0)], 0)
    high = np.where(known, ends[np.maximum(rows, 0) + 1], 0) if len(each) else low
    if name in SINGLE or (name not in USER_NAMES and each.max(initial=0) <= 1):
        found = np.zeros(len(rows), dtype=np.int32)
        found[high > low] = flat[low[high > low]]
        return pa.array(found)
    offsets = np.concatenate([[0], np.cumsum(high - low)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(flat[ranges(low, high)]))
