"""Entries put between others against a list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding.slots import FILL, SEGMENT, Slots, ranges, roomy, spread


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_entries_stand_in_the_order_of_a_list(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    count = data.draw(st.sampled_from([0, 1, 31, 32, 33, 300, 2100]))
    slots = Slots(count, None if data.draw(st.booleans()) else max(1, count))
    expected, number = list(range(count)), count
    for _ in range(data.draw(st.integers(1, 10))):
        new = int(rng.integers(1, 60))
        crowded = data.draw(st.booleans())  # all in one place
        place = np.sort(rng.integers(0, len(expected) + 1, 1 if crowded else new))
        place = np.repeat(place, new) if crowded else place
        held = np.full(len(slots), -1)
        held[slots.taken] = expected
        size, taken = len(slots), np.flatnonzero(slots.taken)
        move = slots.insert(np.append(taken, size)[place])
        assert move.grown == (len(slots) > size)
        entries = move.carried(held, np.arange(number, number + new))
        after = np.full(len(slots), -1) if move.grown else held.copy()
        after[move.slots] = -1
        after[move.target] = entries
        assert (move.target[move.owner] <= move.slots).all()
        assert (slots.taken == (after >= 0)).all()
        assert (after[move.now(taken)] == expected).all()
        expected = np.insert(expected, place, np.arange(number, number + new)).tolist()
        number += new
        assert after[slots.taken].tolist() == expected
        if data.draw(st.booleans()):
            gone = np.sort(rng.permutation(len(expected))[: len(expected) // 3])
            slots.free(np.flatnonzero(slots.taken)[gone])
            expected = np.delete(expected, gone).tolist()
        taken = np.flatnonzero(slots.taken)
        assert slots.count == len(expected) == len(taken)
        ranks = np.arange(len(taken) + 1)
        assert slots.select(ranks).tolist() == [*taken.tolist(), len(slots)]


def test_one_entry_moves_few_others_however_long_the_row():
    rng = np.random.default_rng(0)
    for count in (1000, 100_000, 1_000_000):
        slots = Slots(count)
        moved = [
            len(slots.insert(np.array([rng.integers(0, len(slots))])).slots) for _ in range(99)
        ]
        assert np.mean(moved) <= 2 * SEGMENT


def test_a_crowd_in_one_place_moves_few_others_each():
    """The worst case: every entry goes before the one before it."""
    slots, moved = Slots(100_000), 0
    at = np.array([0])
    for _ in range(2000):
        move = slots.insert(at)
        moved += len(move.slots)
        at = move.target[move.new]
    assert moved / 2000 < 2 * np.log2(100_000) ** 2


@pytest.mark.parametrize("count", [0, 1, 5, 64, 1000])
def test_rows_are_laid_out_evenly(count):
    size = roomy(count)
    assert size % 64 == 0
    assert count <= size <= count / FILL + 64
    target = spread(count, size)
    assert len(set(target.tolist())) == count
    assert count == 0 or (target[0] == 0 and target[-1] < size)
    assert ranges(np.array([2, 9, 4]), np.array([4, 9, 7])).tolist() == [2, 3, 4, 5, 6]
