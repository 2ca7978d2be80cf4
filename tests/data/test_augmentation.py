from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import Augmentation, Histories, TrainingSequences, leave_one_out
from genrec.data.augmentation import uniforms
from genrec.errors import ConfigError

LENGTHS = st.lists(st.integers(2, 30), min_size=1, max_size=20)
SHARE = st.floats(0.05, 1)


def bounds(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    end = np.cumsum(lengths)
    return end - lengths, end


def test_uniforms_are_uniform_and_independent() -> None:
    drawn = uniforms(3, 1, np.arange(4000), 5)
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = np.histogram(drawn, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 2000).max() < 5 * 2000**0.5
    others = (uniforms(4, 1, np.arange(4000), 5), uniforms(3, 2, np.arange(4000), 5))
    for other in (*others, np.roll(drawn, 1, 0), np.roll(drawn, 1, 1)):
        assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 0.04


@settings(max_examples=60, deadline=None)
@given(LENGTHS, SHARE, SHARE, st.integers(0, 5))
def test_a_window_is_changed_as_its_own_draws_say(
    lengths: list[int], crop: float, shuffle: float, epoch: int
) -> None:
    """One window after another, one event after another."""
    chosen = Augmentation(crop=0.7, crop_share=crop, shuffle=0.7, shuffle_share=shuffle, seed=9)
    start, end = bounds(lengths)
    windows = np.arange(len(lengths)) * 3
    found = chosen.cropped(start, end, epoch=epoch, windows=windows)
    order = chosen.order(found[1] - found[0], epoch=epoch, windows=windows)
    assert order is not None
    for row, (length, window) in enumerate(zip(lengths, windows, strict=True)):
        draws = uniforms(9, epoch, np.array([window]), 50)[0]
        events = list(range(start[row], end[row]))
        if draws[0] < 0.7:
            least = min(max(int(np.ceil(crop * length)), 2), length)
            kept = least + int(draws[1] * (length - least + 1))
            first = int(draws[2] * (length - kept + 1))
            events = events[first : first + kept]
        assert list(range(found[0][row], found[1][row])) == events
        places = list(range(len(events)))
        if draws[3] < 0.7:
            most = min(max(int(shuffle * len(events)), 2), len(events))
            count = min(2 + int(draws[4] * (most - 1)), most)
            first = int(draws[5] * (len(events) - count + 1))
            part = places[first : first + count]
            part.sort(key=lambda place: draws[6 + place])
            places[first : first + count] = part
        assert order[row, : len(events)].tolist() == places
        assert order[row, len(events) :].tolist() == list(range(len(events), order.shape[1]))


def test_crops_keep_their_share_and_reach_every_place() -> None:
    chosen = Augmentation(crop=1.0, crop_share=0.5)
    start, end = np.zeros(5000, int), np.full(5000, 10)
    first, last = chosen.cropped(start, end, epoch=0, windows=np.arange(5000))
    assert set((last - first).tolist()) == {5, 6, 7, 8, 9, 10}
    assert set(first.tolist()) == {0, 1, 2, 3, 4, 5}
    assert abs(np.mean(last - first) - 7.5) < 0.1


def test_no_chance_changes_nothing() -> None:
    start, end = bounds([3, 8, 2])
    nothing = Augmentation()
    assert not nothing
    assert nothing.cropped(start, end, epoch=0, windows=np.arange(3)) == (start, end)
    assert nothing.order(end - start, epoch=0, windows=np.arange(3)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 1.5}, "crop=1.5; expected a chance"),
        ({"shuffle": -0.1}, "shuffle=-0.1; expected a chance"),
        ({"crop_share": 0.0}, "crop_share=0.0; expected a share"),
        ({"shuffle_share": 2}, "shuffle_share=2; expected a share"),
    ],
)
def test_chances_and_shares_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**options)


@pytest.fixture
def histories() -> Histories:
    generator = np.random.default_rng(0)
    rows = [generator.permutation(100)[: generator.integers(4, 20)] for _ in range(40)]
    times = [np.sort(generator.integers(1, 999, len(row))) for row in rows]
    actions = [(row % 4).tolist() for row in rows]
    return Histories.from_lists([r.tolist() for r in rows], [t.tolist() for t in times], actions)


def sequences(histories: Histories, **options: float) -> TrainingSequences:
    return TrainingSequences(
        histories,
        leave_one_out(histories),
        max_length=30,
        augmentation=Augmentation(seed=2, **options),
    )


def test_sequences_are_parts_of_the_history_in_its_order(histories: Histories) -> None:
    made = sequences(histories, crop=1.0, crop_share=0.3)
    whole = sequences(histories)
    shorter = 0
    for epoch in range(3):
        for window in range(len(made)):
            cut, full = made[epoch * len(made) + window], whole[window]
            items = [*cut["items"][0].tolist(), int(cut["labels"][0, -1])]
            history = [*full["items"][0].tolist(), int(full["labels"][0, -1])]
            at = history.index(items[0])
            assert history[at : at + len(items)] == items
            assert cut["labels"][0].tolist() == items[1:]
            shorter += len(items) < len(history)
    assert shorter > len(made)


def test_shuffled_events_keep_the_times_in_order(histories: Histories) -> None:
    made, whole = sequences(histories, shuffle=1.0), sequences(histories)
    moved = 0
    for window in range(len(made)):
        mixed, full = made[window], whole[window]
        items = [*mixed["items"][0].tolist(), int(mixed["labels"][0, -1])]
        history = [*full["items"][0].tolist(), int(full["labels"][0, -1])]
        assert sorted(items) == sorted(history)
        assert mixed["labels"][0].tolist() == items[1:]
        for name in ("event_time", "query_time", "mask"):
            assert mixed[name].tolist() == full[name].tolist()
        assert mixed["action"][0].tolist() == [item % 4 for item in items[:-1]]
        assert mixed["query_action"][0].tolist() == [item % 4 for item in items[1:]]
        moved += items != history
    assert moved > len(made) // 2


def test_a_window_does_not_depend_on_its_batch_but_on_its_epoch(histories: Histories) -> None:
    made = sequences(histories, crop=0.8, shuffle=0.8)
    size = len(made)
    together = made.__getitems__(list(range(size, 2 * size)))
    changed = 0
    for window in range(size):
        alone = made[size + window]
        width = alone["mask"].shape[1]
        for name in ("items", "labels", "event_time"):
            assert together[name][window, :width].tolist() == alone[name][0].tolist()
        other = made[window]
        changed += other["items"].tolist() != alone["items"].tolist()
    assert changed > size // 2
