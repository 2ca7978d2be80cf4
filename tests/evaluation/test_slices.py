from __future__ import annotations

import numpy as np
import pytest

from genrec.data import Dataset, Split
from genrec.errors import ConfigError
from genrec.evaluation import (
    Evaluation,
    PopularityRanker,
    by_history_length,
    by_popularity,
    evaluate,
    slice_users,
)
from genrec.evaluation.slices import bin_integers


@pytest.fixture(scope="module")
def found(dataset: Dataset, split: Split, train_counts: np.ndarray) -> Evaluation:
    ranker = PopularityRanker(train_counts, np.arange(60))
    return evaluate(ranker, dataset, split.test, split="test", bootstrap=100)


def test_bins() -> None:
    labels, names = bin_integers(np.array([0, 1, 4, 5, 19, 20, 500]), [1, 5, 10, 20])
    assert names == ["0", "1-4", "5-9", "10-19", "20+"]
    assert labels.tolist() == [0, 1, 1, 2, 3, 4, 4]
    assert bin_integers(np.array([3]), [3, 4], lowest=1)[1] == ["1-2", "3", "4+"]


def test_by_popularity_equals_a_loop(found: Evaluation, train_counts: np.ndarray) -> None:
    counts = train_counts[found.targets]
    slices = by_popularity(found, train_counts)
    expected = {
        "cold (0)": counts == 0,
        "1-4": (counts >= 1) & (counts < 5),
        "5-9": (counts >= 5) & (counts < 10),
        "10-19": (counts >= 10) & (counts < 20),
        "20+": counts >= 20,
    }
    assert [part.name for part in slices] == [name for name, rows in expected.items() if rows.any()]
    for part in slices:
        rows = expected[part.name]
        assert part.users == rows.sum()
        for mask in ("unmasked", "masked"):
            interval = part.metrics[f"{mask}/ndcg@10"]
            assert interval.value == pytest.approx(found.per_user(mask, "ndcg@10")[rows].mean())
            assert interval.low <= interval.value <= interval.high
    assert sum(part.users for part in slices) == len(found)


def test_by_history_length_covers_everyone(found: Evaluation) -> None:
    slices = by_history_length(found, metrics=["recall@5"])
    assert sum(part.users for part in slices) == len(found)
    total = sum(part.users * part.metrics["masked/recall@5"].value for part in slices)
    assert total / len(found) == pytest.approx(found.value("masked", "recall@5"))


def test_labels_must_cover_the_users(found: Evaluation) -> None:
    with pytest.raises(ConfigError, match="3 labels for 90 users"):
        slice_users(found, np.zeros(3, dtype=np.int64), ["all"])
