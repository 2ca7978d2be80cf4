from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import Histories
from genrec.data.histories import ranges
from genrec.errors import DataError

LISTS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(LISTS, st.data())
def test_counts_of_slices_equal_a_loop(lists: list[list[int]], data: st.DataObject) -> None:
    histories = Histories.from_lists(lists)
    start = np.array([data.draw(st.integers(0, len(row))) for row in lists])
    end = np.array(
        [data.draw(st.integers(low, len(row))) for low, row in zip(start, lists, strict=True)]
    )
    expected = np.zeros(7, dtype=np.int64)
    for low, high, row in zip(start, end, lists, strict=True):
        for item in row[low:high]:
            expected[item] += 1
    first = histories.offsets[:-1]
    np.testing.assert_array_equal(histories.counts(7, first + start, first + end), expected)
    assert histories.counts(7).sum() == histories.num_events == sum(map(len, lists))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(-3, 6)), max_size=8))
def test_ranges_equal_a_loop(pairs: list[tuple[int, int]]) -> None:
    start = np.array([a for a, _ in pairs], dtype=np.int64)
    end = np.array([a + n for a, n in pairs], dtype=np.int64)
    expected = [i for a, b in zip(start, end, strict=True) for i in range(a, b)]
    assert ranges(start, end).tolist() == expected


def test_users_are_found_by_id_of_either_type() -> None:
    numbers = Histories.from_lists([[0], [1], [2]], user_ids=[10, 7, 30])
    assert numbers.index(["7", "30", "x", "007"]).tolist() == [1, 2, -1, -1]
    assert numbers.index(np.array([30, 11])).tolist() == [2, -1]
    names = Histories.from_lists([[0], [1]], user_ids=["a", "12"])
    assert names.index([12, 13]).tolist() == [1, -1]
    assert names.index(pa.chunked_array([["a"], ["b"]])).tolist() == [0, -1]
    assert names.index([]).tolist() == []


def test_parts_and_sizes() -> None:
    histories = Histories.from_lists([[3, 1], [2]], [[10, 20], [5]], [[1, 0], [2]])
    assert len(histories) == 2
    assert histories.lengths.tolist() == [2, 1]
    assert histories.history(0).tolist() == [3, 1]
    assert histories.items.dtype == np.int32
    assert histories.timestamps is not None and histories.timestamps.dtype == np.int64
    assert histories.actions is not None and histories.actions.dtype == np.int16
    assert "2 users, 3 events" in repr(histories)


def test_interactions_table_has_the_columns_of_the_folder() -> None:
    histories = Histories.from_lists([[1, 0], [1]], [[10, 20], [5]], [[1, 0], [2]], ["u", "v"])
    table = histories.interactions(pa.array(["a", "b"]))
    assert table.to_pydict() == {
        "user_id": ["u", "u", "v"],
        "item_id": ["b", "a", "b"],
        "timestamp": [10, 20, 5],
        "action": [1, None, 2],
    }
    untimed = Histories.from_lists([[1, 0], [1]]).interactions(pa.array(["a", "b"]))
    assert untimed.column("position").to_pylist() == [0, 1, 0]


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="offsets must run from 0"):
        Histories(np.array([0, 3]), np.array([1, 2]))
    with pytest.raises(DataError, match="3 timestamps for 2 items"):
        Histories(np.array([0, 2]), np.array([1, 2]), np.array([1, 2, 3]))
    with pytest.raises(DataError, match="1 user ids for 2 users"):
        Histories(np.array([0, 1, 2]), np.array([1, 2]), user_ids=["a"])
