"""Histories: every user's events in time order, as flat arrays with offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.data.columns import find_ids, to_ids
from genrec.errors import DataError

_BLOCK = 1 << 20


class Histories:
    """The events of all users, one user after the other, oldest first.

    Opened from a dataset folder the arrays are views of memory-mapped Arrow: opening costs no
    memory, and what is touched costs 4 bytes an event for items, 8 for timestamps and 2 for
    actions (14 bytes an event), and 8 bytes plus the id for each user. No Python object exists per
    user or event.

    Args:
        offsets: int64 [U+1]; user u owns events offsets[u] to offsets[u+1].
        items: int32 [T], item numbers of the catalog.
        timestamps: int64 [T], Unix seconds, not decreasing within a user; None if unknown.
        actions: int16 [T], 0 = unknown, a >= 1 = action_names[a-1]; None if there are none.
        user_ids: the U ids, int64 or string Arrow array; None numbers the users.
        action_names: what the action codes mean.

    Raises:
        DataError: if the arrays do not fit together.
    """

    def __init__(
        self,
        offsets: np.ndarray,
        items: np.ndarray,
        timestamps: np.ndarray | None = None,
        actions: np.ndarray | None = None,
        user_ids: Any = None,
        action_names: Sequence[Any] = (),
    ) -> None:
        self.offsets = np.asarray(offsets, dtype=np.int64)
        self.items = np.asarray(items, dtype=np.int32)
        self.timestamps = None if timestamps is None else np.asarray(timestamps, dtype=np.int64)
        self.actions = None if actions is None else np.asarray(actions, dtype=np.int16)
        users = len(self.offsets) - 1
        self.user_ids = to_ids(np.arange(users, dtype=np.int64) if user_ids is None else user_ids)
        self.action_names = list(action_names)
        if users < 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise DataError(
                f"histories: offsets must run from 0 to the number of events ({len(self.items)})"
            )
        for label, array in (("timestamps", self.timestamps), ("actions", self.actions)):
            if array is not None and len(array) != len(self.items):
                raise DataError(
                    f"histories: {len(array)} {label} for {len(self.items)} items; one per event"
                )
        if len(self.user_ids) != users:
            raise DataError(f"histories: {len(self.user_ids)} user ids for {users} users")

    @classmethod
    def from_lists(
        cls,
        items: Sequence[Sequence[int]],
        timestamps: Sequence[Sequence[int]] | None = None,
        actions: Sequence[Sequence[int]] | None = None,
        user_ids: Any = None,
    ) -> Histories:
        """Histories from one list of item numbers per user (for small data and examples)."""

        def flat(rows: Sequence[Sequence[int]] | None, dtype: Any) -> np.ndarray | None:
            return None if rows is None else np.array([x for row in rows for x in row], dtype=dtype)

        offsets = np.concatenate([[0], np.cumsum([len(row) for row in items], dtype=np.int64)])
        flat_items = np.array([x for row in items for x in row], dtype=np.int32)
        names = [] if actions is None else range(1, 1 + max(map(max, filter(len, actions))))
        return cls(
            offsets,
            flat_items,
            flat(timestamps, np.int64),
            flat(actions, np.int16),
            user_ids,
            names,
        )

    def __len__(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"Histories({len(self):,} users, {self.num_events:,} events)"

    @property
    def num_events(self) -> int:
        """Number of events of all users together."""
        return len(self.items)

    @property
    def lengths(self) -> np.ndarray:
        """Events of each user, int64 [U]."""
        return np.diff(self.offsets)

    def history(self, user: int) -> np.ndarray:
        """Item numbers of one user, oldest first, int32 [n]."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def index(self, user_ids: Any) -> np.ndarray:
        """User number of each id, int64 [n], -1 where unknown; vectorised."""
        return find_ids(self.user_ids, user_ids)

    def counts(
        self, num_items: int, start: np.ndarray | None = None, end: np.ndarray | None = None
    ) -> np.ndarray:
        """How often each item occurs, int64 [num_items], in all events or in the slices given.

        Args:
            num_items: size of the catalog.
            start: int64 [n], first flat event of each slice.
            end: int64 [n], one past the last flat event of each slice.
        """
        if start is None or end is None:
            return np.bincount(self.items, minlength=num_items)
        total = np.zeros(num_items, dtype=np.int64)
        # In blocks of slices, so that 900 million events do not need as many 8-byte indices.
        for low in range(0, len(start), _BLOCK):
            events = ranges(start[low : low + _BLOCK], end[low : low + _BLOCK])
            total += np.bincount(self.items[events], minlength=num_items)
        return total

    def interactions(self, item_ids: pa.Array) -> pa.Table:
        """The events as a table with the columns of `interactions.parquet`."""
        users = pa.array(np.repeat(np.arange(len(self)), self.lengths))
        columns = {
            "user_id": self.user_ids.take(users),
            "item_id": item_ids.take(pa.array(self.items)),
        }
        if self.timestamps is not None:
            columns["timestamp"] = pa.array(self.timestamps)
        else:
            position = ranges(np.zeros(len(self), dtype=np.int64), self.lengths)
            columns["position"] = pa.array(position)
        if self.actions is not None:
            codes = pa.array(self.actions.astype(np.int64) - 1, mask=self.actions == 0)
            columns["action"] = pa.array(self.action_names).take(codes)
        return pa.table(columns)


def ranges(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The integers of [start[0], end[0]), then of [start[1], end[1]) ..., int64."""
    start = np.asarray(start, dtype=np.int64)
    lengths = np.maximum(np.asarray(end, dtype=np.int64) - start, 0)
    before = np.cumsum(lengths) - lengths
    return np.repeat(start - before, lengths) + np.arange(int(lengths.sum()), dtype=np.int64)
