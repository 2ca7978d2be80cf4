from __future__ import annotations

import dataclasses
import pickle
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import (
    Dataset,
    Histories,
    TrainingSequences,
    batch,
    evaluation_batches,
    leave_one_out,
    training_batch,
    training_windows,
)
from genrec.errors import ConfigError, DataError

EVENT = st.tuples(st.integers(0, 9), st.integers(1, 50), st.integers(0, 3))
USERS = st.lists(st.lists(EVENT, min_size=1, max_size=12), min_size=1, max_size=7)


def build(users: list[list[tuple[int, int, int]]]) -> Histories:
    users = [sorted(row, key=lambda event: event[1]) for row in users]
    items, times, actions = ([[e[i] for e in row] for row in users] for i in range(3))
    return Histories.from_lists(items, times, actions)


def reference_batch(
    histories: Histories, start: list[int], end: list[int], max_length: int, query: list[int]
) -> dict[str, list[list[int]]]:
    """One sample after another, one position after another."""
    slices = [list(range(max(a, b - max_length), b)) for a, b in zip(start, end, strict=True)]
    width = max(1, *map(len, slices))
    fields: dict[str, list[list[int]]] = {
        name: [] for name in ("items", "mask", "event_time", "query_time", "action")
    }
    for events, asked in zip(slices, query, strict=True):
        gap = [0] * (width - len(events))
        times = [int(histories.timestamps[i]) for i in events]
        fields["items"].append([int(histories.items[i]) for i in events] + gap)
        fields["mask"].append([True] * len(events) + [False] * len(gap))
        fields["event_time"].append(times + gap)
        fields["query_time"].append(([*times[1:], asked] if events else []) + gap)
        fields["action"].append([int(histories.actions[i]) for i in events] + gap)
    return fields


@pytest.mark.parametrize(("users", "parts"), [(23, 2), (23, 3), (4, 5)])
def test_parts_of_the_evaluation_batches_are_all_of_them(users: int, parts: int) -> None:
    histories = build([[(item, 1, 0) for item in range(3 + user % 5)] for user in range(users)])
    questions = leave_one_out(histories).test
    whole = list(evaluation_batches(histories, questions, max_length=4, batch_size=5))
    split = [
        list(
            evaluation_batches(
                histories, questions, max_length=4, batch_size=5, part=(number, parts)
            )
        )
        for number in range(parts)
    ]
    for number, (rows, inputs) in enumerate(whole):
        own_rows, own_inputs = split[number % parts][number // parts]
        assert own_rows.tolist() == rows.tolist()
        assert torch.equal(own_inputs["items"], inputs["items"])
    assert sum(map(len, split)) == len(whole)


@settings(max_examples=80, deadline=None)
@given(USERS, st.integers(1, 6), st.data())
def test_batch_equals_a_loop(users: list, max_length: int, data: st.DataObject) -> None:
    histories = build(users)
    chosen = data.draw(st.lists(st.integers(0, len(users) - 1), min_size=1, max_size=6))
    start, end = [], []
    for user in chosen:
        low, high = int(histories.offsets[user]), int(histories.offsets[user + 1])
        start.append(data.draw(st.integers(low, high)))
        end.append(data.draw(st.integers(start[-1], high)))
    asked = list(range(100, 100 + len(chosen)))
    made = batch(
        histories,
        np.array(start),
        np.array(end),
        max_length=max_length,
        targets=np.array(chosen),
        query_time=np.array(asked),
    )
    expected = reference_batch(histories, start, end, max_length, asked)
    for name, values in expected.items():
        assert made[name].tolist() == values, name
        assert made[name].dtype == (torch.bool if name == "mask" else torch.int64)
    assert made["targets"].tolist() == chosen


def test_query_time_is_the_last_event_unless_asked() -> None:
    histories = Histories.from_lists([[1, 2, 3]], [[10, 20, 30]])
    made = batch(histories, np.array([0]), np.array([2]), max_length=5)
    assert made["query_time"].tolist() == [[20, 20]]
    assert "action" not in made
    untimed = batch(Histories.from_lists([[1]]), np.array([0]), np.array([1]), max_length=5)
    assert set(untimed) == {"items", "mask"}
    with pytest.raises(ConfigError, match="max_length is 0"):
        batch(histories, np.array([0]), np.array([1]), max_length=0)


@settings(max_examples=80, deadline=None)
@given(USERS, st.integers(1, 5))
def test_every_event_but_the_first_is_a_label_once(users: list, max_length: int) -> None:
    histories = build(users)
    low, high = histories.offsets[:-1], histories.offsets[1:]
    start, end = training_windows(low, high, max_length=max_length)
    assert ((end - start) <= max_length + 1).all() and ((end - start) >= 2).all()
    labels = [i for a, b in zip(start, end, strict=True) for i in range(a + 1, b)]
    first = set(low.tolist())
    assert sorted(labels) == [i for i in range(histories.num_events) if i not in first]
    newest = training_windows(low, high, max_length=max_length, last_only=True)
    expected = [
        (max(a, b - max_length - 1), b) for a, b in zip(low, high, strict=True) if b - a > 1
    ]
    assert list(zip(*(part.tolist() for part in newest), strict=True)) == expected
    if len(start):
        made = training_batch(histories, start, end, max_length=max_length)
        for row, (a, b) in enumerate(zip(start, end, strict=True)):
            n = b - a - 1
            assert made["items"][row, :n].tolist() == histories.items[a : b - 1].tolist()
            assert made["labels"][row].tolist() == histories.items[a + 1 : b].tolist() + [-100] * (
                made["labels"].shape[1] - n
            )
            assert histories.timestamps is not None
            assert made["query_time"][row, :n].tolist() == histories.timestamps[a + 1 : b].tolist()
            assert made["mask"][row].sum() == n


def test_sequences_go_through_a_loader() -> None:
    histories = Histories.from_lists([[0, 1, 2, 3, 4], [5, 6, 7], [8, 9]])
    split = leave_one_out(histories)
    sequences = TrainingSequences(histories, split, max_length=4)
    assert len(sequences) == 2
    assert sequences.lengths.tolist() == [2, 1]
    loader = torch.utils.data.DataLoader(sequences, batch_size=2, collate_fn=lambda rows: rows)
    (made,) = list(loader)
    assert made["items"].tolist() == [[0, 1], [8, 0]]
    assert made["labels"].tolist() == [[1, 2], [9, -100]]
    assert sequences[1]["items"].tolist() == [[8]]


def test_nothing_to_learn_from_is_said() -> None:
    histories = Histories.from_lists([[0, 1, 2], [3, 4, 5]])
    with pytest.raises(DataError, match="two training events"):
        TrainingSequences(histories, leave_one_out(histories), max_length=4)


@pytest.mark.parametrize("by_length", [True, False])
def test_evaluation_asks_every_question_once(by_length: bool) -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 9, size=n).tolist() for n in rng.integers(3, 20, size=37)]
    histories = Histories.from_lists(lists, [list(range(len(row))) for row in lists])
    questions = leave_one_out(histories).test
    rows_seen = []
    for rows, made in evaluation_batches(
        histories, questions, max_length=8, batch_size=10, by_length=by_length
    ):
        rows_seen += rows.tolist()
        for row, items, mask, target, query in zip(
            rows, made["items"], made["mask"], made["targets"], made["query_time"], strict=True
        ):
            history = lists[questions.users[row]]
            assert items[mask].tolist() == history[:-1][-8:]
            assert target == history[-1]
            assert query[mask][-1] == len(history) - 1
    assert sorted(rows_seen) == list(range(37))


def test_the_action_asked_for_is_that_of_the_next_event() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 12, size=30)
    lists = [rng.integers(0, 9, size=n).tolist() for n in lengths]
    acts = [rng.integers(0, 4, size=n).tolist() for n in lengths]
    histories = Histories.from_lists(lists, actions=acts)
    split = leave_one_out(histories)
    sequences = TrainingSequences(histories, split, max_length=5)
    made = sequences.__getitems__(list(range(len(sequences))))
    for row in range(len(sequences)):
        start, end = int(sequences.start[row]), int(sequences.end[row])
        user = int(made["user"][row, 0])
        assert histories.offsets[user] <= start < histories.offsets[user + 1]
        assert set(made["user"][row].tolist()) == {user}
        mask = made["mask"][row]
        window = histories.actions[start:end].tolist()
        assert made["action"][row][mask].tolist() == window[:-1][-5:]
        assert made["query_action"][row][mask].tolist() == window[1:][-5:]
        assert (made["query_action"][row][~mask] == 0).all()
    questions = split.test
    for told in (questions, dataclasses.replace(questions, actions=None)):
        for rows, made in evaluation_batches(histories, told, max_length=4):
            for row, at in enumerate(rows):
                user = int(questions.users[at])
                mask = made["mask"][row]
                asked = made["query_action"][row][mask].tolist()
                want = acts[user][1:-1][-4:] if told.actions is None else acts[user][1:][-4:]
                assert asked[-1] == (0 if told.actions is None else acts[user][-1])
                assert asked[:-1] == acts[user][1:-1][-(len(asked) - 1) :] or len(asked) == 1
                assert told.actions is None or asked == want
                assert made["user"][row].tolist() == [user] * mask.shape[0]


def test_histories_of_a_folder_travel_as_their_path(small: Dataset) -> None:
    data = pickle.dumps(small.histories)
    assert len(data) < 1000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.items, small.histories.items)
    assert again.user_ids.to_pylist() == small.histories.user_ids.to_pylist()


def test_a_hundred_thousand_histories_a_second() -> None:
    """Batches of 256 from 50,000 users, lengths as on Amazon; ten times slack for a busy machine.

    On one free core the rate is about a million a second.
    """
    rng = np.random.default_rng(0)
    lengths = 5 + rng.geometric(0.25, size=50_000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, 12_000, size=offsets[-1], dtype=np.int32)
    histories = Histories(offsets, items, np.sort(rng.integers(0, 10**9, size=offsets[-1])))
    split = leave_one_out(histories)
    sequences = TrainingSequences(histories, split, max_length=20)
    batches = [rng.integers(0, len(sequences), size=256).tolist() for _ in range(40)]
    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        for rows in batches:
            sequences.__getitems__(rows)
        best = max(best, 40 * 256 / (time.perf_counter() - started))
    assert best > 100_000
