from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import DataError
from genrec.tokenizers import make_tie_order
from genrec.tokenizers.ties import extend_tie_order


def test_known_answer_so_that_saved_orders_stay_comparable():
    assert make_tie_order(["a", "b", "c", "d", "e"], seed=0).tolist() == [0, 4, 1, 3, 2]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(max_size=8), min_size=1, max_size=30, unique=True), st.randoms(), st.integers()
)
def test_a_rank_depends_on_the_ids_and_not_on_their_order(ids, random, seed):
    order = make_tie_order(ids, seed)
    assert sorted(order.tolist()) == list(range(len(ids)))
    shuffled = random.sample(ids, len(ids))
    again = dict(zip(shuffled, make_tie_order(shuffled, seed).tolist(), strict=True))
    assert [again[item] for item in ids] == order.tolist()


def test_adding_an_item_keeps_the_order_of_the_others():
    ids = [f"i{number}" for number in range(50)]
    before = np.argsort(make_tie_order(ids))
    after = np.argsort(make_tie_order([*ids, "new"]))
    assert [i for i in after if i < 50] == before.tolist()


def test_integers_and_their_strings_have_one_order_and_arrow_numpy_and_lists_agree():
    numbers = np.arange(40)
    expected = make_tie_order(numbers, 3).tolist()
    texts = [str(number) for number in numbers]
    for ids in (
        texts,
        np.array(texts),
        pa.array(texts),
        pa.chunked_array([texts]),
        pa.array(numbers),
    ):
        assert make_tie_order(ids, 3).tolist() == expected


def test_seeds_give_different_orders_and_none_follows_the_numbers():
    ids = np.arange(2000)
    first, second = make_tie_order(ids, 0), make_tie_order(ids, 1)
    assert abs(np.corrcoef(first, ids)[0, 1]) < 0.1
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (pa.array(["a", None]), "row 1: is None"),
        (["a", 5], "row 1: is 5"),
        ([5, "a"], "row 1: is 'a'"),
        (["a", None], "row 1: is None"),
        ([1.5, 2.5], "row 0: is 1.5"),
        (np.zeros((2, 2), dtype=int), "one column of ids"),
    ],
)
def test_bad_ids(ids, message):
    with pytest.raises(DataError, match=message):
        make_tie_order(ids)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(0, 3), st.booleans(), st.integers(0, 10_000))
def test_extending_an_order_is_making_it(known, new, numbers, seed):
    rng = np.random.default_rng(seed)
    every = rng.permutation(5 * known)[: known + 5]
    earlier = np.array([f"i{n}" for n in every], dtype=object) if not numbers else every
    ranks = make_tie_order(earlier, seed)
    kept = rng.permutation(len(earlier))[:known]
    fresh = 10**6 + np.arange(new)
    ids = np.concatenate([earlier[kept], fresh if numbers else np.array(fresh.astype(str), object)])
    before = np.concatenate([ranks[kept], np.full(new, -1)])
    shuffle = rng.permutation(len(ids))
    found = extend_tie_order(ids[shuffle], before[shuffle], seed)
    assert found.tolist() == make_tie_order(ids[shuffle], seed).tolist()
    assert found.dtype == np.int64
