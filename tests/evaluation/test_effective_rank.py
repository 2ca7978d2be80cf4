from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from genrec.data import Dataset, Split
from genrec.evaluation import ModelRanker, evaluate
from genrec.evaluation.effective_rank import EffectiveRank
from genrec.models import Recommender


def reference(states: np.ndarray) -> float:
    """From the singular values of all states at once."""
    singular = np.linalg.svd(states - states.mean(0), compute_uv=False)
    share = singular / singular.sum()
    return math.exp(-sum(p * math.log(p) for p in share if p > 0))


@pytest.mark.parametrize("batches", [1, 7])
def test_batches_give_the_rank_of_all_states(batches: int) -> None:
    generator = np.random.default_rng(0)
    states = generator.normal(size=(210, 12)) * np.logspace(0, -3, 12) + 5
    found = EffectiveRank()
    for part in np.array_split(states, batches):
        found.add(torch.from_numpy(part).float())
    assert found.value() == pytest.approx(reference(states.astype(np.float32)), rel=1e-5)


def test_even_directions_count_one_each() -> None:
    found = EffectiveRank()
    found.add(torch.cat([torch.eye(6), -torch.eye(6)]))
    assert found.value() == pytest.approx(6)


def test_states_on_a_line_have_rank_one_and_equal_ones_none() -> None:
    line, point, nothing = EffectiveRank(), EffectiveRank(), EffectiveRank()
    line.add(torch.linspace(-1, 1, 50)[:, None] * torch.arange(1.0, 9.0) + 3)
    point.add(torch.full((50, 8), 2.5))
    assert line.value() == pytest.approx(1, abs=1e-3)
    assert point.value() == 0
    assert nothing.value() is None


def test_an_evaluation_reports_that_of_its_users(
    dataset: Dataset, split: Split, item_model: Recommender
) -> None:
    found = evaluate(ModelRanker(item_model), dataset, split.test, split="test", batch_size=16)
    ranker = ModelRanker(item_model)
    states = []
    for row in range(len(split.test)):
        question = split.test.take(np.array([row]))
        items = dataset.histories.items[question.start[0] : question.end[0]]
        tensor = torch.from_numpy(np.asarray(items, dtype=np.int64))[None]
        states.append(
            ranker.prepare({"items": tensor, "mask": torch.ones_like(tensor, dtype=torch.bool)})
        )
    expected = reference(torch.cat([state["hidden"] for state in states]).numpy())
    assert found.facts["effective_rank"] == pytest.approx(expected, rel=1e-3)
