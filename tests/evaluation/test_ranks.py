from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import SearchResult
from genrec.evaluation.metrics import ndcg_at, recall_at
from genrec.evaluation.ranks import (
    Ranks,
    is_excluded,
    ranks_from_scores,
    ranks_from_search,
)


def search_result(leaves: list[list[int]], sizes: list[list[int]]) -> SearchResult:
    rows, m = len(leaves), len(leaves[0])
    return SearchResult(
        items=torch.full((rows, 1), -1),
        scores=torch.zeros(rows, 1),
        leaves=torch.tensor(leaves),
        leaf_scores=-torch.arange(m, dtype=torch.float32).expand(rows, m),
        leaf_sizes=torch.tensor(sizes),
        certified=torch.ones(rows, dtype=torch.bool),
        best_dropped=torch.full((rows,), float("-inf")),
        leaked=torch.zeros(rows),
        evaluations=torch.zeros(rows, dtype=torch.int64),
    )


def test_a_bucket_is_one_interval() -> None:
    result = search_result([[7, 3, 9], [7, 3, -1]], [[2, 4, 1], [2, 4, 0]])
    ranks = ranks_from_search(result, torch.tensor([3, 9]))
    assert ranks.before.tolist() == [2, -1]
    assert ranks.ties.tolist() == [4, 0]
    assert ranks.tuple_rank.tolist() == [1, -1]
    assert ranks.found.tolist() == [True, False]


def test_padding_is_never_a_hit() -> None:
    ranks = ranks_from_search(search_result([[5, -1]], [[1, 0]]), torch.tensor([-1]))
    assert ranks.found.tolist() == [False]


def test_an_excluded_target_is_a_miss_though_its_tuple_is_listed() -> None:
    result = search_result([[7, 3], [7, 3]], [[2, 3], [2, 3]])
    targets, leaves = torch.tensor([11, 12]), torch.tensor([3, 3])
    exclude = torch.tensor([[11, 4], [-1, -1]])
    ranks = ranks_from_search(result, leaves, excluded=is_excluded(targets, exclude))
    assert ranks.before.tolist() == [-1, 2]


def test_tuples_without_allowed_items_take_no_place() -> None:
    ranks = ranks_from_search(search_result([[7, 3, 9]], [[0, 2, 1]]), torch.tensor([9]))
    assert (ranks.before[0], ranks.ties[0], ranks.tuple_rank[0]) == (2, 1, 1)
    assert not ranks_from_search(
        search_result([[7, 3, 9]], [[0, 2, 1]]), torch.tensor([7])
    ).found.any()


def test_tuple_level_flatters() -> None:
    ranks = ranks_from_search(search_result([[7, 3]], [[4, 8]]), torch.tensor([3]))
    item_level = recall_at(ranks.before, ranks.ties, 5)
    tuple_level = recall_at(ranks.tuple_rank, np.ones_like(ranks.ties), 5)
    assert item_level == pytest.approx([1 / 8])
    assert tuple_level == pytest.approx([1.0])
    assert ndcg_at(ranks.before, ranks.ties, 5) < ndcg_at(
        ranks.tuple_rank, np.ones_like(ranks.ties), 5
    )


def slow_ranks(scores: list[float], target: int, excluded: set[int]) -> tuple[int, int]:
    if target in excluded:
        return -1, 0
    allowed = [score for item, score in enumerate(scores) if item not in excluded]
    own = scores[target]
    return sum(score > own for score in allowed), sum(score == own for score in allowed)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_dense_scores_equal_the_definition(data: st.DataObject) -> None:
    items = data.draw(st.integers(1, 12))
    rows = data.draw(st.integers(1, 5))
    number = st.integers(-3, 3).map(float)
    scores = data.draw(
        st.lists(st.lists(number, min_size=items, max_size=items), min_size=rows, max_size=rows)
    )
    item = st.integers(0, items - 1)
    targets = data.draw(st.lists(item, min_size=rows, max_size=rows))
    padded = st.lists(st.integers(-1, items - 1), min_size=3, max_size=3)
    exclude = data.draw(st.lists(padded, min_size=rows, max_size=rows))
    before_the_call = torch.tensor(scores)
    given_scores = before_the_call.clone()
    ranks = ranks_from_scores(given_scores, torch.tensor(targets), exclude=torch.tensor(exclude))
    assert torch.equal(given_scores, before_the_call)
    for row in range(rows):
        expected = slow_ranks(scores[row], targets[row], set(exclude[row]) - {-1})
        assert (ranks.before[row], ranks.ties[row]) == expected


def test_nan_has_no_rank() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ranks_from_scores(torch.tensor([[0.0, float("nan")]]), torch.tensor([0]))


def test_take_and_concatenate() -> None:
    one = ranks_from_scores(torch.tensor([[3.0, 2, 1]]), torch.tensor([1]))
    two = ranks_from_scores(torch.tensor([[3.0, 2, 1]]), torch.tensor([2]))
    both = Ranks.concatenate([one, two])
    assert both.before.tolist() == [1, 2]
    assert both.take(np.array([1, 0])).before.tolist() == [2, 1]
    with pytest.raises(ValueError, match="one value per user"):
        Ranks(np.zeros(2, int), np.zeros(3, int), np.zeros(2, int))
