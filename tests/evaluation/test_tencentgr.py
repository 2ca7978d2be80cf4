"""The contest's score: published figures, a slow reading of the formulas, both readings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import ConfigError
from genrec.evaluation.tencentgr import (
    action_weights,
    combined,
    evaluation_scores,
    score_lists,
    score_literal,
    score_user_weighted,
)


def test_published_scores():
    # To the digits that were published; the first pair is itself rounded.
    assert combined(0.186332, 0.104463) == pytest.approx(0.129843, abs=1e-6)
    assert round(combined(0.168271, 0.0935916), 6) == 0.116742


def slow(lists, rows, targets, weights):
    """The formulas of section 6 of arXiv 2604.04976, one user at a time."""
    hits, gains = [], []
    for user, shown in enumerate(lists):
        wanted = {
            int(t): float(w) for r, t, w in zip(rows, targets, weights, strict=True) if r == user
        }
        if sum(wanted.values()) == 0:
            continue
        worth = [wanted.get(int(item), 0.0) for item in shown]
        best = sorted(wanted.values(), reverse=True)[: len(shown)]
        discount = [1 / math.log2(place + 2) for place in range(len(shown))]
        hits.append(sum(worth) / sum(wanted.values()))
        gains.append(
            sum(w * d for w, d in zip(worth, discount, strict=True))
            / sum(w * d for w, d in zip(best, discount, strict=False))
        )
    return np.mean(hits), np.mean(gains), len(hits)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), users=st.integers(1, 12), k=st.integers(1, 10))
def test_equals_the_formulas(seed: int, users: int, k: int):
    rng = np.random.default_rng(seed)
    lists = np.stack([rng.permutation(20)[:k] for _ in range(users)])
    counts = rng.integers(1, 13, users)
    rows = np.repeat(np.arange(users), counts)
    targets = np.concatenate([rng.permutation(20)[:n] for n in counts])
    weights = rng.choice([0.0, 1.0, 2.5], size=len(rows))
    weights[0] = 1.0
    order = rng.permutation(len(rows))
    found = score_lists(lists, rows[order], targets[order], weights[order])
    hit_rate, ndcg, counted = slow(lists, rows, targets, weights)
    assert (found.hit_rate, found.ndcg) == (pytest.approx(hit_rate), pytest.approx(ndcg))
    assert found.score == pytest.approx(0.31 * hit_rate + 0.69 * ndcg)
    assert found.users == counted


LISTS = np.array([[5, 6, 7], [1, 2, 3], [9, 8, 7], [4, 5, 6]])
TARGETS = np.array([6, 9, 9, 4])
ACTIONS = np.array([2, 1, 1, 0])


def test_the_two_readings():
    literal = score_literal(LISTS, TARGETS, ACTIONS)
    # Three users count; weights cancel, so a conversion is worth a click.
    assert literal.users == 3
    assert literal.hit_rate == pytest.approx(2 / 3)
    assert literal.ndcg == pytest.approx((1 / math.log2(3) + 1) / 3)
    weighted = score_user_weighted(LISTS, TARGETS, ACTIONS)
    assert weighted.hit_rate == pytest.approx((2.5 + 1) / 4.5)
    assert weighted.ndcg == pytest.approx((2.5 / math.log2(3) + 1) / 4.5)
    same = [f(LISTS, TARGETS, np.ones(4, int)) for f in (score_literal, score_user_weighted)]
    assert same[0] == same[1]


def test_what_cannot_be_scored():
    with pytest.raises(ConfigError, match="action type 7"):
        action_weights(np.array([0, 7]))
    with pytest.raises(ConfigError, match="no list has a target of a weight above 0"):
        score_literal(LISTS, TARGETS, np.zeros(4, dtype=int))
    with pytest.raises(ConfigError, match=r"expected \[n, k\]"):
        score_lists(LISTS[0], np.arange(4), TARGETS)
    with pytest.raises(ConfigError, match="one row and weight per target"):
        score_lists(LISTS, np.arange(3), TARGETS)


class Stored:
    """Per-user metrics as an evaluation holds them."""

    searches = ("masked",)

    def __len__(self) -> int:
        return 4

    def per_user(self, mask: str, name: str) -> np.ndarray:
        hit = np.array([1.0, 0.0, 1.0, 1.0])
        gain = np.array([1 / math.log2(3), 0.0, 1.0, 1.0])
        return {"recall@10": hit, "ndcg@10": gain}[name]


def test_scores_of_an_evaluation_equal_those_of_its_lists():
    found = evaluation_scores(Stored(), ACTIONS)["masked"]  # type: ignore[arg-type]
    for name, reading in (("literal", score_literal), ("user-weighted", score_user_weighted)):
        want = reading(LISTS, TARGETS, ACTIONS)
        assert found[name].score == pytest.approx(want.score) and found[name].users == want.users
    clicks = evaluation_scores(Stored())["masked"]  # type: ignore[arg-type]
    assert clicks["literal"] == clicks["user-weighted"] and clicks["literal"].users == 4
