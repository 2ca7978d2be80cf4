from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.kcore import k_core
from genrec.errors import ConfigError


def slow_core(pairs, user_min, item_min):
    """Remove one user or item at a time until nothing changes."""
    left = list(range(len(pairs)))
    while True:
        for side, minimum in ((0, user_min), (1, item_min)):
            counts: dict[int, int] = {}
            for n in left:
                counts[pairs[n][side]] = counts.get(pairs[n][side], 0) + 1
            poor = [key for key, count in sorted(counts.items()) if count < minimum]
            if poor:
                left = [n for n in left if pairs[n][side] != poor[0]]
                break
        else:
            return left


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=70),
    user_min=st.integers(0, 5),
    item_min=st.integers(0, 5),
)
def test_equals_slow_reference(pairs, user_min, item_min):
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    mask = k_core(array[:, 0], array[:, 1], user_min=user_min, item_min=item_min)
    assert np.flatnonzero(mask).tolist() == slow_core(pairs, user_min, item_min)


def test_removal_cascades():
    # A square of two users and two items stays; the tail goes from its end, one link a round.
    users = np.array([0, 0, 1, 1, 1, 2, 2, 3])
    items = np.array([0, 1, 0, 1, 2, 2, 3, 3])
    mask = k_core(users, items, user_min=2, item_min=2)
    assert mask.tolist() == [True] * 4 + [False] * 4


def test_bad_arguments():
    with pytest.raises(ConfigError, match=">= 0"):
        k_core(np.zeros(1, int), np.zeros(1, int), user_min=-1)
    with pytest.raises(ConfigError, match="lengths differ"):
        k_core(np.zeros(1, int), np.zeros(2, int))
