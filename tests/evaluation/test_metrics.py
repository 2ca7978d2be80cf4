from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from genrec.evaluation.metrics import mrr_at, ndcg_at, recall_at


def interval(*pairs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    before, ties = zip(*pairs, strict=True)
    return np.array(before, dtype=np.int64), np.array(ties, dtype=np.int64)


def test_without_ties_by_hand() -> None:
    before, ties = interval((0, 1), (4, 1), (5, 1), (-1, 0))
    assert recall_at(before, ties, 5).tolist() == [1, 1, 0, 0]
    assert ndcg_at(before, ties, 5) == pytest.approx([1, 1 / math.log2(6), 0, 0])
    assert mrr_at(before, ties, 5) == pytest.approx([1, 1 / 5, 0, 0])


def test_a_bucket_counts_by_expectation_by_hand() -> None:
    # Three items before, a bucket of four: ranks 4 to 7, two of which are within the first five.
    before, ties = interval((3, 4))
    assert recall_at(before, ties, 5) == pytest.approx([2 / 4])
    assert ndcg_at(before, ties, 5) == pytest.approx([(1 / math.log2(5) + 1 / math.log2(6)) / 4])
    assert mrr_at(before, ties, 5) == pytest.approx([(1 / 4 + 1 / 5) / 4])
    assert recall_at(before, ties, 3).tolist() == [0]
    assert recall_at(before, ties, 7).tolist() == [1]


def test_everything_tied_is_chance() -> None:
    before, ties = interval((0, 1000))
    assert recall_at(before, ties, 10) == pytest.approx([10 / 1000])


def test_empty_tie_group_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        recall_at(*interval((2, 0)), 5)


def slow(before: int, ties: int, k: int, gain: object) -> float:
    """The definition: average over every rank the target may have."""
    if before < 0:
        return 0.0
    ranks = range(before + 1, before + ties + 1)
    return sum(gain(rank) if rank <= k else 0.0 for rank in ranks) / ties  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 30), st.integers(1, 40)), min_size=1, max_size=20),
    st.integers(1, 25),
)
def test_equals_the_definition(pairs: list[tuple[int, int]], k: int) -> None:
    before, ties = interval(*pairs)
    gains = {
        recall_at: lambda rank: 1.0,
        ndcg_at: lambda rank: 1 / math.log2(rank + 1),
        mrr_at: lambda rank: 1 / rank,
    }
    for function, gain in gains.items():
        expected = [slow(b, t, k, gain) for b, t in pairs]
        assert function(before, ties, k) == pytest.approx(expected, abs=1e-12)


def test_equals_a_simulation_of_random_orders() -> None:
    generator = np.random.default_rng(0)
    scores = np.array([5.0, 4, 4, 3, 3, 3, 3, 2, 1, 1])
    target, k, trials = 4, 5, 20_000
    noise = generator.random((trials, len(scores)))
    order = np.lexsort((noise, np.broadcast_to(-scores, noise.shape)), axis=1)
    rank = 1 + np.argmax(order == target, axis=1)
    within = rank <= k
    before, ties = interval((3, 4))
    assert recall_at(before, ties, k)[0] == pytest.approx(within.mean(), abs=0.02)
    assert ndcg_at(before, ties, k)[0] == pytest.approx(
        (within / np.log2(rank + 1)).mean(), abs=0.02
    )
    assert mrr_at(before, ties, k)[0] == pytest.approx((within / rank).mean(), abs=0.02)


@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize("tied", [False, True])
def test_equals_scikit_learn(k: int, tied: bool) -> None:
    # scikit-learn also averages the gain over ties, with code and formulas of its own.
    generator = np.random.default_rng(k)
    users, items = 64, 30
    scores = generator.normal(size=(users, items))
    if tied:
        scores = np.round(scores)
    targets = generator.integers(items, size=users)
    relevance = np.zeros((users, items))
    relevance[np.arange(users), targets] = 1
    own = scores[np.arange(users), targets][:, None]
    before, ties = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    assert ndcg_at(before, ties, k).mean() == pytest.approx(ndcg_score(relevance, scores, k=k))
    if not tied:
        expected = top_k_accuracy_score(targets, scores, k=k, labels=np.arange(items))
        assert recall_at(before, ties, k).mean() == pytest.approx(expected)
