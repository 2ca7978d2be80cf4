"""The contest's score: 0.31 hit rate + 0.69 NDCG at 10, in the two readings of its second round.

The second round weighs a target by its action: exposure 0, click 1, conversion 2.5. With one target
per user, which is what the contest has, the weights cancel in the formula as it is written: that is
the *literal* reading. In the *user-weighted* reading users count by the weight of their target.
Both are named, because the contest's own code is not public.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrec.errors import ConfigError
from genrec.evaluation.metrics import FloatArray, IntArray
from genrec.evaluation.results import Evaluation

HIT_SHARE, NDCG_SHARE = 0.31, 0.69
#: Weight of each action type.
WEIGHTS = {0: 0.0, 1: 1.0, 2: 2.5}


def combined(hit_rate: float, ndcg: float) -> float:
    """The score of a hit rate and an NDCG: `0.31 * hit_rate + 0.69 * ndcg`."""
    return HIT_SHARE * hit_rate + NDCG_SHARE * ndcg


@dataclass(frozen=True)
class Score:
    """A score and what it is made of.

    Attributes:
        hit_rate: at k.
        ndcg: at k.
        score: of both.
        users: over how many users the means go.
    """

    hit_rate: float
    ndcg: float
    score: float
    users: int


def score_lists(
    lists: IntArray,
    target_rows: IntArray,
    targets: IntArray,
    weights: FloatArray | None = None,
    *,
    user_weights: FloatArray | None = None,
) -> Score:
    """Score recommended lists as the contest's formulas are written.

    `w-HR(u) = sum of w(i) over targets i of u in the list / sum of w(i) over all targets of u`;
    `w-NDCG(u)` is the discounted sum of the weights in the list over that of the best order. Users
    whose weights sum to 0 are left out.

    Args:
        lists: int64 `[n, k]`, items best first; negative where a list ends early.
        target_rows: int64 `[m]`, the list that each target belongs to.
        targets: int64 `[m]`, items; those of one list are different.
        weights: float64 `[m]`, at least 0; 1 by default.
        user_weights: float64 `[n]`, how much each list counts in the means; the same by default.

    Raises:
        ConfigError: if shapes differ, or no weight is above 0.
    """
    lists = np.asarray(lists)
    rows, items = np.asarray(target_rows), np.asarray(targets)
    worth = np.ones(len(items)) if weights is None else np.asarray(weights, dtype=np.float64)
    if lists.ndim != 2 or not len(rows) == len(items) == len(worth) or (worth < 0).any():
        raise ConfigError(
            f"score: lists {lists.shape}, {len(rows)} rows, {len(items)} targets, {len(worth)} "
            "weights of at least 0; expected [n, k] and one row and weight per target"
        )
    n, k = lists.shape
    gains = 1.0 / np.log2(np.arange(2, k + 2))
    found = lists[rows] == items[:, None]
    total = np.bincount(rows, worth, minlength=n)
    hit = np.bincount(rows, worth * found.any(axis=1), minlength=n)
    gained = np.bincount(rows, worth * (found @ gains), minlength=n)
    # The best order puts the heaviest targets first; only k of them fit.
    order = np.lexsort((-worth, rows))
    counts = np.bincount(rows, minlength=n)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    ideal = np.where(place < k, 1.0 / np.log2(place + 2), 0.0) * worth[order]
    best = np.bincount(rows[order], ideal, minlength=n)
    counted = total > 0
    share = np.ones(n) if user_weights is None else np.asarray(user_weights, dtype=np.float64)
    share = np.where(counted, share, 0.0)
    if share.sum() <= 0:
        raise ConfigError("score: no list has a target of a weight above 0")
    hit_rate = float((share[counted] * (hit / np.where(counted, total, 1))[counted]).sum())
    ndcg = float((share[counted] * (gained / np.where(counted, best, 1))[counted]).sum())
    hit_rate, ndcg = hit_rate / float(share.sum()), ndcg / float(share.sum())
    return Score(hit_rate, ndcg, combined(hit_rate, ndcg), int((share > 0).sum()))


def score_literal(lists: IntArray, targets: IntArray, actions: IntArray) -> Score:
    """The literal reading: one target per list `[n]`, with its action type `[n]`."""
    return score_lists(lists, np.arange(len(targets)), targets, action_weights(actions))


def score_user_weighted(lists: IntArray, targets: IntArray, actions: IntArray) -> Score:
    """The user-weighted reading: a list counts by the weight of its target."""
    weights = action_weights(actions)
    return score_lists(lists, np.arange(len(targets)), targets, weights, user_weights=weights)


def action_weights(actions: IntArray) -> FloatArray:
    """The weight of each action type, float64, same shape.

    Raises:
        ConfigError: for a type that the contest does not have.
    """
    actions = np.asarray(actions)
    unknown = ~np.isin(actions, list(WEIGHTS))
    if unknown.any():
        raise ConfigError(
            f"score: action type {actions[unknown].flat[0]}; expected one of {list(WEIGHTS)}"
        )
    table = np.array([WEIGHTS[action] for action in sorted(WEIGHTS)])
    return table[actions]


def evaluation_scores(
    evaluation: Evaluation, actions: IntArray | None = None
) -> dict[str, dict[str, Score]]:
    """The contest's score of an evaluation under each mask, by expectation over ties.

    Args:
        evaluation: with lists of ten among its lengths.
        actions: int64 `[n]`, action type of each user's target; clicks by default.

    Returns:
        mask -> `literal` and `user-weighted`. Without conversions they are equal.
    """
    kinds = np.ones(len(evaluation), dtype=np.int64) if actions is None else np.asarray(actions)
    weights = action_weights(kinds)
    if weights.sum() <= 0:
        raise ConfigError("score: no target has a weight above 0")
    result: dict[str, dict[str, Score]] = {}
    for mask in evaluation.searches:
        hits, gains = (evaluation.per_user(mask, f"{name}@10") for name in ("recall", "ndcg"))
        result[mask] = {}
        for name, share in (("literal", (weights > 0).astype(float)), ("user-weighted", weights)):
            hit_rate, ndcg = (float((share * one).sum() / share.sum()) for one in (hits, gains))
            users = int((share > 0).sum())
            result[mask][name] = Score(hit_rate, ndcg, combined(hit_rate, ndcg), users)
    return result
