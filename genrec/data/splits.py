"""Splits: which events train, and which histories are asked for which item.

A split holds positions in the flat arrays of `Histories` (8 bytes each), never copies of events.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrec.data.histories import Histories
from genrec.errors import ConfigError, DataError

DAY = 86_400


@dataclass(frozen=True)
class EvalSet:
    """Questions: which item follows each of these inputs?

    Attributes:
        users: int64 [n], user number.
        start: int64 [n], first flat event of the input.
        end: int64 [n], one past the last flat event of the input.
        targets: int64 [n], item number of the answer.
        times: int64 [n], Unix seconds of the answer's event; None if unknown.
        actions: int64 [n], code of the answer's action as in `Histories`, 0 unknown; None without
            actions.
    """

    users: np.ndarray
    start: np.ndarray
    end: np.ndarray
    targets: np.ndarray
    times: np.ndarray | None = None
    actions: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.users)

    def take(self, rows: np.ndarray) -> EvalSet:
        """The questions of `rows` (indices or booleans)."""
        times, actions = (None if a is None else a[rows] for a in (self.times, self.actions))
        return EvalSet(
            self.users[rows], self.start[rows], self.end[rows], self.targets[rows], times, actions
        )

    def sample(self, n: int, seed: int) -> EvalSet:
        """At most n questions drawn without replacement, in their original order."""
        if n >= len(self):
            return self
        rows = np.random.default_rng(seed).choice(len(self), size=n, replace=False)
        return self.take(np.sort(rows))


@dataclass(frozen=True)
class Split:
    """What trains, what validates, what tests.

    Attributes:
        name: `leave-one-out`, `temporal` or that of another protocol.
        train_start: int64 [U], first flat training event of each user.
        train_end: int64 [U], one past the last flat training event of each user.
        validation: questions that choose a model.
        test: questions that are asked once.
        info: counts and settings, JSON-able.
        candidates: int64 [n], the items that the protocol ranks; None is the whole catalogue.
    """

    name: str
    train_start: np.ndarray
    train_end: np.ndarray
    validation: EvalSet
    test: EvalSet
    info: dict[str, Any] = field(default_factory=dict)
    candidates: np.ndarray | None = None

    def train_counts(self, histories: Histories, num_items: int) -> np.ndarray:
        """How often each item occurs in training events, int64 [num_items]."""
        return histories.counts(num_items, self.train_start, self.train_end)


def leave_one_out(histories: Histories) -> Split:
    """The last event of each user is the test target, the last but one the validation target.

    The test input is everything before its target, the validation item included. Users with fewer
    than three events only train (`info["users_train_only"]`).

    Raises:
        DataError: if no user has three events.
    """
    first, last = histories.offsets[:-1], histories.offsets[1:]
    users = np.flatnonzero(last - first >= 3)
    if len(users) == 0:
        longest = int((last - first).max()) if len(first) else 0
        raise DataError(
            f"no user has the 3 events that leave-one-out needs (the longest of {len(first)} "
            f"histories has {longest}); use longer histories or a temporal split"
        )
    train_end = last.copy()
    train_end[users] -= 2
    return Split(
        "leave-one-out",
        first.copy(),
        train_end,
        _questions(histories, users, last[users] - 2),
        _questions(histories, users, last[users] - 1),
        {"protocol": "leave-one-out", "users_train_only": len(first) - len(users)},
    )


def temporal_split(
    histories: Histories,
    validation_from: int | str | datetime.datetime,
    test_from: int | str | datetime.datetime,
) -> Split:
    """Two moments for all users: before the first trains, between them validates, after tests.

    A user's target is their first event of the window, the input all their events before it (for
    the test: those of the validation window included). Who has no earlier event is not asked.

    Args:
        histories: with timestamps.
        validation_from: Unix seconds, ISO 8601 (UTC unless it names a zone) or datetime.
        test_from: the same, later.

    Raises:
        ConfigError: if a moment does not parse or they are not in order.
        DataError: without timestamps, or if nothing trains or nobody is asked.
    """
    if histories.timestamps is None:
        raise DataError(
            "a temporal split needs timestamps and these histories have none; use leave-one-out"
        )
    low, high = parse_moment(validation_from), parse_moment(test_from)
    if low >= high:
        raise ConfigError(
            f"validation_from ({validation_from}) must be before test_from ({test_from})"
        )
    first, last = histories.offsets[:-1], histories.offsets[1:]
    validation_at = first + _count_before(histories, low)
    test_at = first + _count_before(histories, high)
    validated = np.flatnonzero((validation_at > first) & (validation_at < test_at))
    tested = np.flatnonzero((test_at > first) & (test_at < last))
    trained = int((validation_at - first).sum())
    if trained == 0 or len(validated) == 0 or len(tested) == 0:
        begin, end = int(histories.timestamps.min()), int(histories.timestamps.max())
        raise DataError(
            f"temporal split at {validation_from} and {test_from}: {trained} training events, "
            f"{len(validated)} users to validate, {len(tested)} to test; the data run from "
            f"{_iso(begin)} to {_iso(end)}: choose moments inside"
        )
    return Split(
        "temporal",
        first.copy(),
        validation_at,
        _questions(histories, validated, validation_at[validated]),
        _questions(histories, tested, test_at[tested]),
        {
            "protocol": "temporal",
            "validation_from": _iso(low),
            "test_from": _iso(high),
            "users_without_training": int((validation_at == first).sum()),
        },
    )


def shuffle_within_day(histories: Histories, seed: int) -> Histories:
    """Each user's events of one UTC day in a seeded random order; days stay in order.

    Whoever calls the order inside a day unknown must not know the time of day either: timestamps
    become the day's midnight. Costs a sort, 24 bytes an event while it runs.

    Raises:
        DataError: if there are no timestamps.
    """
    if histories.timestamps is None:
        raise DataError("shuffling within the day needs timestamps; these histories have none")
    days = histories.timestamps // DAY
    new_group = np.ones(histories.num_events, dtype=bool)
    new_group[1:] = days[1:] != days[:-1]
    new_group[histories.offsets[:-1][histories.lengths > 0]] = True
    group = np.cumsum(new_group)
    key = np.random.default_rng(seed).random(histories.num_events)
    order = np.lexsort((key, group))
    return Histories(
        histories.offsets,
        histories.items[order],
        days * DAY,
        None if histories.actions is None else histories.actions[order],
        histories.user_ids,
        histories.action_names,
    )


def _questions(histories: Histories, users: np.ndarray, at: np.ndarray) -> EvalSet:
    """One question per user whose answer is the flat event `at`."""
    return EvalSet(
        users.astype(np.int64),
        histories.offsets[users],
        at.astype(np.int64),
        histories.items[at].astype(np.int64),
        None if histories.timestamps is None else histories.timestamps[at],
        None if histories.actions is None else histories.actions[at].astype(np.int64),
    )


def _count_before(histories: Histories, moment: int) -> np.ndarray:
    """Events of each user before `moment`, int64 [U]."""
    assert histories.timestamps is not None
    before = np.zeros(histories.num_events + 1, dtype=np.int64)
    np.cumsum(histories.timestamps < moment, out=before[1:])
    return before[histories.offsets[1:]] - before[histories.offsets[:-1]]


def parse_moment(value: int | str | datetime.datetime) -> int:
    """Unix seconds of a moment: such seconds, ISO 8601 (UTC unless it names a zone) or datetime.

    Raises:
        ConfigError: if it does not parse, or lies outside the years 1 to 9999.
    """
    if isinstance(value, str):
        if value.lstrip("-").isdigit():
            return parse_moment(int(value))
        try:
            value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError as error:
            raise ConfigError(
                f"{value!r} is no moment; expected Unix seconds or ISO 8601 such as 2014-03-01"
            ) from error
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.timezone.utc)
        return int(value.timestamp())
    try:
        _iso(value)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(
            f"{value} is no moment: as Unix seconds it lies outside the years 1 to 9999"
        ) from error
    return int(value)


def _iso(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat()
