from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import ConfigError
from genrec.tokenizers import make_tie_order, resolve_collisions
from genrec.tokenizers.collisions import colliding_items


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 999))
def test_append_numbers_the_items_of_a_bucket_in_tie_order(num_items, sizes, seed):
    codes = np.random.default_rng(seed).integers(0, sizes, (num_items, len(sizes)))
    tie_order = make_tie_order(np.arange(num_items), seed)
    seen: Counter = Counter()
    expected = np.zeros(num_items, dtype=int)
    for item in np.argsort(tie_order):
        expected[item] = seen[tuple(codes[item])]
        seen[tuple(codes[item])] += 1

    resolved = resolve_collisions("append", codes, tuple(sizes), tie_order)

    assert (resolved.codes[:, :-1] == codes).all()
    assert resolved.codes[:, -1].tolist() == expected.tolist()
    assert resolved.codebook_sizes == (*sizes, max(seen.values()))
    assert len(set(map(tuple, resolved.codes.tolist()))) == num_items
    assert resolved.report["colliding_items_after"] == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 4), st.integers(0, 999))
def test_append_takes_the_smallest_free_numbers(num_items, num_taken, size, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, size, (num_items, 2))
    taken = np.unique(rng.integers(0, [size, size, 12], (num_taken, 3)), axis=0).reshape(-1, 3)
    tie_order = rng.permutation(num_items)
    used = set(map(tuple, taken.tolist()))
    expected = np.zeros(num_items, dtype=int)
    for item in np.argsort(tie_order):
        while (*codes[item].tolist(), expected[item]) in used:
            expected[item] += 1
        used.add((*codes[item].tolist(), expected[item]))

    resolved = resolve_collisions("append", codes, (size, size), tie_order, taken=taken)

    assert resolved.codes[:, -1].tolist() == expected.tolist()
    assert resolved.codebook_sizes[-1] == max(row[-1] for row in used) + 1
    assert resolved.report["colliding_items_after"] == 0


def test_allow_changes_nothing_and_counts():
    codes = np.array([[0, 1], [0, 1], [1, 1], [0, 1]])
    resolved = resolve_collisions("allow", codes, (2, 2), np.arange(4))
    assert (resolved.codes == codes).all() and resolved.codebook_sizes == (2, 2)
    assert resolved.report == {
        "policy": "allow",
        "colliding_items_before": 3,
        "colliding_items_after": 3,
    }


def test_colliding_items_with_many_levels():
    codes = np.random.default_rng(0).integers(0, 256, (100, 32))
    codes[7] = codes[8]
    assert colliding_items(codes, (256,) * 32) == 2


def test_errors():
    codes = np.zeros((2, 1), dtype=int)
    with pytest.raises(
        ConfigError, match="'reasign' is no collision policy; choose one of 'allow'"
    ):
        resolve_collisions("reasign", codes, (2,), np.arange(2))
    for policy in ("reassign", "sinkhorn"):
        with pytest.raises(ConfigError, match=f"'{policy}' needs the quantizer and the vectors"):
            resolve_collisions(policy, codes, (2,), np.arange(2))
