"""Parallel and dense search, the ranking they share, and their errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import (
    PrefixTrie,
    SearchResult,
    dense_search,
    exact_parallel_search,
)
from genrec.decoding.ranking import DEAD, key_scores, key_ties, node_ties, rank_keys, top_keys
from genrec.errors import ConfigError, GenrecError

numbers = st.floats(width=32, allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(numbers, st.sampled_from([0.0, -0.0, 1.5])), min_size=1, max_size=40))
def test_keys_sort_by_score_then_tie_and_give_both_back(values):
    scores = torch.tensor([values], dtype=torch.float32)
    ties = torch.from_numpy(np.random.default_rng(0).permutation(len(values)))[None]
    keys = rank_keys(scores, ties)
    order = sorted(range(len(values)), key=lambda i: (-float(scores[0, i]), int(ties[0, i])))
    assert keys[0].argsort(descending=True).tolist() == order
    assert torch.equal(key_scores(keys), scores + 0.0)
    assert torch.equal(key_ties(keys), ties)
    assert (keys > DEAD).all()


def test_dead_keys_have_no_score():
    assert key_scores(torch.tensor([DEAD])).tolist() == [-math.inf]


def test_ties_of_nodes_are_all_different():
    nodes = torch.arange(2**20)
    assert len(torch.unique(node_ties(nodes) & 0xFFFFFFFF)) == len(nodes)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500), st.integers(1, 30), st.integers(0, 2**32 - 1), st.booleans())
def test_top_keys_equals_topk(n, k, seed, some_dead):
    rng = np.random.default_rng(seed)
    k = min(k, n)
    keys = torch.from_numpy(np.stack([rng.permutation(n) for _ in range(3)])) * 7919 - 1000
    if some_dead:
        keys[torch.from_numpy(rng.random(keys.shape) < 0.9)] = DEAD
    values, columns = top_keys(keys, k)
    assert torch.equal(values, keys.topk(k, dim=1).values)
    assert torch.equal(keys.gather(1, columns), values)


def parallel_setting(items=3000, levels=4, size=8, batch=5):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, size, (items, levels))
    logits = [torch.from_numpy(rng.normal(size=(batch, size))).float() for _ in range(levels)]
    return [torch.log_softmax(level, -1) for level in logits], PrefixTrie.from_codes(
        codes, [size] * levels
    )


@pytest.mark.parametrize("block", [1, 7, 100, 10_000])
def test_blocks_change_nothing_in_parallel_search(block):
    levels, trie = parallel_setting(items=300)
    exclude = torch.randint(-1, 300, (5, 40), generator=torch.Generator().manual_seed(0))
    whole = exact_parallel_search(levels, trie, k=20, exclude=exclude)
    cut = exact_parallel_search(levels, trie, k=20, exclude=exclude, block=block)
    for name, value in vars(whole).items():
        assert torch.allclose(value, getattr(cut, name)), name


def test_leaked_mass_of_parallel_search_is_that_of_missing_tuples():
    levels, trie = parallel_setting()
    tuples = trie.leaf_codes(torch.arange(trie.num_leaves))
    scores = sum(level[:, tuples[:, i]] for i, level in enumerate(levels))
    result = exact_parallel_search(levels, trie, k=3)
    assert torch.allclose(result.leaked, 1 - scores.exp().sum(dim=1), atol=1e-5)
    assert (result.evaluations == trie.num_leaves).all()


def test_scores_of_parallel_search_may_be_any_numbers():
    levels, trie = parallel_setting()
    shifted = [level + 100 for level in levels]
    result = exact_parallel_search(shifted, trie, k=5)
    assert torch.allclose(
        result.scores, exact_parallel_search(levels, trie, k=5).scores + 400, atol=1e-3
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sums_at_the_end_of_float32_are_ranked_and_come_back(data):
    """The lowest number is a score above -inf, which a sum below it becomes."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    lowest = torch.finfo(torch.float32).min
    values = torch.tensor([0.0, -1.0, lowest / 2, lowest, -torch.inf])
    count, sizes = data.draw(st.integers(1, 40)), (4, 5)
    codes = np.stack([rng.integers(0, size, count) for size in sizes], axis=1)
    levels = [values[torch.from_numpy(rng.integers(0, len(values), (3, size)))] for size in sizes]
    trie = PrefixTrie.from_codes(codes, sizes, rng.permutation(count))
    exclude = torch.from_numpy(rng.integers(-1, count, (3, data.draw(st.integers(0, count)))))
    k, block = data.draw(st.integers(1, count + 1)), data.draw(st.integers(1, 50))
    found = exact_parallel_search(levels, trie, k=k, exclude=exclude, block=block)
    leaves = trie.item_leaf.tolist()
    for user in range(3):
        scores = (levels[0][user, codes[:, 0]] + levels[1][user, codes[:, 1]]).tolist()
        left = set(range(count)) - set(exclude[user].tolist())
        order = sorted(
            left, key=lambda i: (-scores[i], trie.leaf_tie[leaves[i]], trie.tie_order[i])
        )[:k]
        padding = k - len(order)
        assert found.items[user].tolist() == order + [-1] * padding
        expected = [scores[i] for i in order] + [-math.inf] * padding
        assert found.scores[user].tolist() == expected


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf])
def test_nan_and_infinity_are_errors(value):
    levels, trie = parallel_setting(items=50)
    levels[2][3, 1] = value
    with pytest.raises(GenrecError, match="row 3"):
        exact_parallel_search(levels, trie, k=5)


def test_log_probs_of_another_vocabulary_are_an_error():
    levels, trie = parallel_setting(items=50)
    for wrong in (levels[:3], [*levels[:3], levels[3][:, :5]], [], [levels[0][0]] * 4):
        with pytest.raises(ConfigError, match="another SID vocabulary"):
            exact_parallel_search(wrong, trie, k=5)
    for bad in ({"k": 0}, {"k": 1, "block": 0}):
        with pytest.raises(ConfigError, match="expected at least 1"):
            exact_parallel_search(levels, trie, **bad)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_dense_search_equals_sorting(data):
    n, batch = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 3))
    k, block = data.draw(st.integers(1, n + 2)), data.draw(st.integers(1, 70))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    scores = torch.from_numpy(rng.integers(-3, 3, (batch, n))).float()
    scores[torch.from_numpy(rng.random((batch, n)) < 0.1)] = -torch.inf
    tie = rng.permutation(n)
    exclude = torch.from_numpy(rng.integers(-1, n, (batch, data.draw(st.integers(0, n + 1)))))
    result = dense_search(scores, k=k, tie_order=tie, exclude=exclude, block=block)
    for user in range(batch):
        allowed = set(range(n)) - set(exclude[user].tolist())
        order = sorted(allowed, key=lambda i: (-float(scores[user, i]), tie[i]))[:k]
        padding = k - len(order)
        assert result.items[user].tolist() == order + [-1] * padding
        expected = scores[user, order].tolist() + [-math.inf] * padding
        assert result.scores[user].tolist() == expected
        assert result.leaf_sizes[user].tolist() == [1] * len(order) + [0] * padding
    assert torch.equal(result.items, result.leaves)
    assert result.certified.all()


def test_dense_search_errors():
    tie = torch.arange(4)
    scores = torch.zeros(2, 4)
    with pytest.raises(ConfigError, match=r"expected \[B, 4\]"):
        dense_search(torch.zeros(2, 5), k=1, tie_order=tie)
    with pytest.raises(ConfigError, match=r"items 2 to 3: expected \[B, 2\]"):
        dense_search(lambda a, b: scores[:, : 2 if a == 0 else 1], k=1, tie_order=tie, block=2)
    with pytest.raises(ConfigError, match="one rank per item"):
        dense_search(scores, k=1, tie_order=tie[:0])
    for bad, message in (
        ({"k": 0}, "k=0: expected at least 1"),
        ({"k": 1.0}, "k=1.0: expected an integer"),
        ({"k": 1, "block": 0}, "block=0: expected at least 1"),
        ({"k": 1, "block": "all"}, "block='all': expected an integer"),
    ):
        with pytest.raises(ConfigError, match=message):
            dense_search(scores, tie_order=tie, **bad)
    few = dense_search(scores, k=np.int64(2), tie_order=tie, block=np.int32(3))
    assert few.items.shape == (2, 2)
    with pytest.raises(ConfigError, match="row 1: item 4"):
        dense_search(scores, k=1, tie_order=tie, exclude=torch.tensor([[0], [4]]))
    scores[1, 2] = torch.nan
    with pytest.raises(GenrecError, match="row 1"):
        dense_search(scores, k=1, tie_order=tie)


def test_results_join_select_and_move():
    scores = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    whole = dense_search(scores, k=3, tie_order=torch.arange(9))
    parts = [dense_search(part, k=3, tie_order=torch.arange(9)) for part in scores.split(3)]
    joined = SearchResult.concatenate(parts)
    assert len(joined) == 4
    rows = torch.tensor([2, 0])
    for name, value in vars(joined.to("cpu")).items():
        assert torch.equal(value, getattr(whole, name)), name
        assert torch.equal(getattr(whole.select(rows), name), value[rows]), name
