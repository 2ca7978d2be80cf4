"""Item-level metrics over rank intervals, by expectation over ties.

A user's result is an interval of ranks: `before` items stand strictly before the target's tie
group and the group holds `ties` items, the target included. Inside the group the order is uniformly
random, so the target's rank (from 1) is uniform on `before + 1 .. before + ties`. Items of one
semantic ID share a score, so a collision is such a group: a bucket of four items that reaches the
list counts as a quarter of a hit for each place it fills, never as a whole one. Every function
returns the exact expectation for each user, computed from prefix sums.

With one relevant item per user, recall@k is the hit rate at k, and NDCG@k is `1 / log2(1 + rank)`
within the first k (the ideal gain is 1). Tuple-level metrics are the same functions on ranks among
tuples, with `ties` of 1: they count every item of a tuple as a hit, and are labelled so.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NOT_FOUND = -1


def recall_at(before: IntArray, ties: IntArray, k: int) -> FloatArray:
    """Expected recall@k (equal to the hit rate, one target per user).

    Args:
        before: int64 [n], items ranked strictly before the tie group; negative where not found.
        ties: int64 [n], size of the tie group with the target, at least 1 where found.
        k: length of the list.

    Returns:
        float64 [n], in [0, 1].
    """
    return _expected_gain(before, ties, k, np.ones(k))


def ndcg_at(before: IntArray, ties: IntArray, k: int) -> FloatArray:
    """Expected NDCG@k with one relevant item; arguments and shape as `recall_at`."""
    return _expected_gain(before, ties, k, 1.0 / np.log2(np.arange(2, k + 2)))


def mrr_at(before: IntArray, ties: IntArray, k: int) -> FloatArray:
    """Expected reciprocal rank, 0 beyond rank k; arguments and shape as `recall_at`."""
    return _expected_gain(before, ties, k, 1.0 / np.arange(1, k + 1))


def _expected_gain(before: IntArray, ties: IntArray, k: int, gains: FloatArray) -> FloatArray:
    """Mean of `gains[rank - 1]` over the ranks of each interval; gains are 0 beyond k."""
    before = np.asarray(before, dtype=np.int64)
    ties = np.asarray(ties, dtype=np.int64)
    found = before >= 0
    if np.any(ties[found] < 1):
        raise ValueError("a tie group holds its target: ties must be at least 1 where found")
    cumulated = np.concatenate([[0.0], np.cumsum(gains)])
    first = np.minimum(np.where(found, before, k), k)
    last = np.minimum(np.where(found, before + ties, k), k)
    return (cumulated[last] - cumulated[first]) / np.maximum(ties, 1)
