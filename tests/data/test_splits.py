from __future__ import annotations

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import Histories, leave_one_out, shuffle_within_day, temporal_split
from genrec.errors import ConfigError, DataError

DAY = 86_400
EVENTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=1, max_size=10)
USERS = st.lists(EVENTS, min_size=1, max_size=8)


def build(users: list[list[tuple[int, int]]], unit: int = 1) -> Histories:
    users = [sorted(row, key=lambda event: event[1]) for row in users]
    return Histories.from_lists(
        [[item for item, _ in row] for row in users], [[t * unit for _, t in row] for row in users]
    )


@settings(max_examples=80, deadline=None)
@given(USERS)
def test_leave_one_out_equals_a_loop(users: list[list[tuple[int, int]]]) -> None:
    histories = build(users)
    long = [u for u, row in enumerate(users) if len(row) >= 3]
    if not long:
        with pytest.raises(DataError, match="no user has the 3 events"):
            leave_one_out(histories)
        return
    split = leave_one_out(histories)
    assert split.test.users.tolist() == split.validation.users.tolist() == long
    assert split.info["users_train_only"] == len(users) - len(long)
    for row, user in enumerate(long):
        history = histories.history(user).tolist()
        test = slice(split.test.start[row], split.test.end[row])
        valid = slice(split.validation.start[row], split.validation.end[row])
        train = slice(split.train_start[user], split.train_end[user])
        assert histories.items[test].tolist() == history[:-1]
        assert histories.items[valid].tolist() == history[:-2]
        assert histories.items[train].tolist() == history[:-2]
        assert split.test.targets[row] == history[-1]
        assert split.validation.targets[row] == history[-2]
    for user in set(range(len(users))) - set(long):
        train = slice(split.train_start[user], split.train_end[user])
        assert histories.items[train].tolist() == histories.history(user).tolist()


@settings(max_examples=80, deadline=None)
@given(USERS, st.integers(1, 29), st.integers(1, 10))
def test_temporal_equals_a_loop(users: list[list[tuple[int, int]]], low: int, gap: int) -> None:
    histories = build(users)
    times = histories.timestamps
    assert times is not None
    expected: dict[str, dict[int, tuple[list[int], int]]] = {"validation": {}, "test": {}}
    train = []
    for user in range(len(users)):
        flat = range(histories.offsets[user], histories.offsets[user + 1])
        train += [int(histories.items[i]) for i in flat if times[i] < low]
        windows = {"validation": (low, low + gap), "test": (low + gap, 10**9)}
        for name, (begin, end) in windows.items():
            inside = [i for i in flat if begin <= times[i] < end]
            before = [int(histories.items[i]) for i in flat if times[i] < begin]
            if inside and before:
                expected[name][user] = (before, int(histories.items[inside[0]]))
    if not (train and expected["validation"] and expected["test"]):
        with pytest.raises(DataError, match="the data run from"):
            temporal_split(histories, low, low + gap)
        return
    split = temporal_split(histories, low, low + gap)
    for name, questions in (("validation", split.validation), ("test", split.test)):
        found = {}
        for row, user in enumerate(questions.users.tolist()):
            inputs = histories.items[questions.start[row] : questions.end[row]].tolist()
            found[user] = (inputs, int(questions.targets[row]))
            assert questions.times is not None
            assert times[questions.end[row]] == questions.times[row]
        assert found == expected[name]
    counts = split.train_counts(histories, 10)
    np.testing.assert_array_equal(counts, np.bincount(train, minlength=10))


def test_temporal_reads_dates_and_refuses_nonsense() -> None:
    histories = build([[(0, 0), (1, 10), (2, 20)]], DAY)
    split = temporal_split(histories, "1970-01-11", "1970-01-21T00:00:00Z")
    moment = datetime.datetime(1970, 1, 11)
    same = temporal_split(histories, moment, str(20 * DAY))
    assert split.info == same.info
    assert split.validation.targets.tolist() == [1] and split.test.targets.tolist() == [2]
    with pytest.raises(ConfigError, match="must be before"):
        temporal_split(histories, 20, 10)
    with pytest.raises(ConfigError, match="'soon' is no moment"):
        temporal_split(histories, "soon", 10)
    with pytest.raises(DataError, match="needs timestamps"):
        temporal_split(Histories.from_lists([[1, 2, 3]]), 1, 2)


def test_a_sample_is_seeded_and_in_order() -> None:
    histories = Histories.from_lists([[0, 1, 2]] * 50)
    test = leave_one_out(histories).test
    sample = test.sample(10, seed=3)
    assert len(sample) == 10 and (np.diff(sample.users) > 0).all()
    np.testing.assert_array_equal(sample.users, test.sample(10, seed=3).users)
    assert sample.users.tolist() != test.sample(10, seed=4).users.tolist()
    assert test.sample(99, seed=0) is test


@settings(max_examples=50, deadline=None)
@given(USERS, st.integers(0, 5))
def test_shuffle_keeps_users_days_and_events(users: list[list[tuple[int, int]]], seed: int) -> None:
    histories = build(users, DAY // 4)
    shuffled = shuffle_within_day(histories, seed)
    np.testing.assert_array_equal(shuffled.offsets, histories.offsets)
    assert histories.timestamps is not None and shuffled.timestamps is not None
    np.testing.assert_array_equal(shuffled.timestamps, histories.timestamps // DAY * DAY)
    for user in range(len(histories)):
        span = slice(histories.offsets[user], histories.offsets[user + 1])
        before = sorted(zip(histories.timestamps[span] // DAY, histories.items[span], strict=True))
        after = sorted(zip(shuffled.timestamps[span] // DAY, shuffled.items[span], strict=True))
        assert before == after
    again = shuffle_within_day(histories, seed)
    np.testing.assert_array_equal(again.items, shuffled.items)


def test_shuffle_is_uniform_within_the_day() -> None:
    histories = Histories.from_lists([[0, 1, 2]] * 6000, [[0, 5, 9]] * 6000)
    items = shuffle_within_day(histories, 0).items.reshape(-1, 3)
    for place in range(3):
        share = np.bincount(items[:, place], minlength=3) / 6000
        assert abs(share - 1 / 3).max() < 0.025
    with pytest.raises(DataError, match="needs timestamps"):
        shuffle_within_day(Histories.from_lists([[1, 2]]), 0)


def test_actions_move_with_their_items() -> None:
    histories = Histories.from_lists([[1, 2, 3, 4]], [[0, 0, 0, 0]], [[1, 2, 3, 4]])
    shuffled = shuffle_within_day(histories, 1)
    assert shuffled.actions is not None
    np.testing.assert_array_equal(shuffled.items, shuffled.actions)
    assert shuffled.items.tolist() != [1, 2, 3, 4]
