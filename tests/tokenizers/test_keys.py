from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.tokenizers.keys import TupleKeys


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(3,), (1, 1), (4, 3, 5), (256,) * 32, (65_535,) * 5, (2,) * 64]),
    st.integers(1, 40),
    st.integers(0, 1000),
)
def test_numbers_are_those_of_the_sorted_distinct_tuples(sizes, num_rows, seed):
    rng = np.random.default_rng(seed)
    some = np.column_stack([rng.choice(size, 3) for size in sizes])
    codes = some[rng.integers(0, 3, (num_rows, len(sizes))), np.arange(len(sizes))]
    numbers = {row: number for number, row in enumerate(sorted(set(map(tuple, codes.tolist()))))}

    keys = TupleKeys(codes, sizes)

    assert keys.num_tuples == len(numbers)
    assert keys.row.tolist() == [numbers[row] for row in map(tuple, codes.tolist())]
    queries = some[rng.integers(0, 3, (50, len(sizes))), np.arange(len(sizes))]
    queries[::5, -1] = sizes[-1]
    queries[1::5, 0] = -1
    expected = [numbers.get(row, -1) for row in map(tuple, queries.tolist())]
    assert keys.lookup(queries).tolist() == expected


def test_no_levels_is_one_empty_tuple():
    keys = TupleKeys(np.zeros((4, 0), dtype=int), ())
    assert keys.num_tuples == 1
    assert keys.row.tolist() == [0, 0, 0, 0]


def test_no_rows():
    keys = TupleKeys(np.zeros((0, 2), dtype=int), (3, 3))
    assert keys.num_tuples == 0
    assert keys.row.tolist() == []
