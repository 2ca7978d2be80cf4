from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.data import Dataset, Split
from genrec.decoding import PrefixTrie, SearchResult
from genrec.errors import ConfigError
from genrec.evaluation import BeamStudy, ModelRanker, beam_study, evaluate
from genrec.evaluation.beams import exact_items_found
from genrec.models import Recommender


@pytest.fixture(scope="module")
def ranker(sid_model: Recommender, trie: PrefixTrie) -> ModelRanker:
    return ModelRanker(sid_model, trie, beam_width=7, name="sid")


@pytest.fixture(scope="module", params=[False, True])
def study(
    request: pytest.FixtureRequest, ranker: ModelRanker, dataset: Dataset, split: Split
) -> BeamStudy:
    return beam_study(
        ranker,
        dataset,
        split.test,
        widths=(1, 3, 60),
        k=5,
        batch_size=32,
        max_length=8,
        masked=request.param,
    )


def test_rows(study: BeamStudy) -> None:
    assert [row.name for row in study.rows] == ["beam 1", "beam 3", "beam 60", "exact"]
    assert study.rows[0].list_recall < 1 and study.rows[1].list_recall < 1
    # A beam as wide as the trie is exact search, and says so.
    assert study.rows[2].list_recall == study.rows[3].list_recall == 1
    assert study.rows[2].certificate_rate == study.rows[3].certificate_rate == 1
    assert study.rows[2].ndcg == study.rows[3].ndcg
    assert study.rows[0].certificate_rate < 1
    assert all(row.false_certificates == 0 for row in study.rows)
    assert study.as_dict()["rows"][0]["beam_width"] == 1


def test_metrics_equal_the_protocol(
    study: BeamStudy, ranker: ModelRanker, dataset: Dataset, split: Split
) -> None:
    found = evaluate(
        ranker.replace(beam_width=3),
        dataset,
        split.test,
        split="test",
        ks=(5,),
        max_length=8,
        bootstrap=0,
    )
    mask = "masked" if study.masked else "unmasked"
    assert study.rows[1].recall == pytest.approx(found.value(mask, "recall@5"))
    assert study.rows[1].ndcg == pytest.approx(found.value(mask, "ndcg@5"))
    assert study.rows[1].certificate_rate == found.value(mask, "certificate_rate")


def test_list_recall_equals_a_loop(ranker: ModelRanker, dataset: Dataset, split: Split) -> None:
    from genrec.data import batch

    inputs = batch(dataset.histories, split.test.start, split.test.end, max_length=8)
    narrow = ranker.replace(beam_width=2).search(inputs, k=5)
    exact = ranker.replace(exact=True).search(inputs, k=5)
    expected = []
    for row in range(len(split.test)):
        last = exact.scores[row, -1].item()
        expected.append(
            sum(
                item in exact.items[row].tolist() or score >= last - 1e-5 * max(1.0, abs(last))
                for item, score in zip(
                    narrow.items[row].tolist(), narrow.scores[row].tolist(), strict=True
                )
            )
        )
    found, listed = exact_items_found(narrow, exact)
    assert listed.tolist() == [5] * len(split.test)
    assert found.tolist() == expected


def result(items: list[int], scores: list[float]) -> SearchResult:
    rows = torch.zeros(1)
    return SearchResult(
        items=torch.tensor([items]),
        scores=torch.tensor([scores]),
        leaves=torch.tensor([items]),
        leaf_scores=torch.tensor([scores]),
        leaf_sizes=torch.ones(1, len(items), dtype=torch.int64),
        certified=rows == 0,
        best_dropped=rows,
        leaked=rows,
        evaluations=rows.long(),
    )


def test_a_tie_for_the_last_place_is_no_loss_and_padding_no_item() -> None:
    exact = result([4, 2, 9], [-1.0, -2.0, -3.0])
    assert exact_items_found(result([4, 2, 7], [-1.0, -2.0, -3.0]), exact)[0].tolist() == [3]
    assert exact_items_found(result([4, 2, 7], [-1.0, -2.0, -3.1]), exact)[0].tolist() == [2]
    short = result([4, 2, -1], [-1.0, -2.0, -np.inf])
    assert [n.tolist() for n in exact_items_found(short, short)] == [[2], [2]]


def test_a_sample(ranker: ModelRanker, dataset: Dataset, split: Split) -> None:
    options = {"widths": (2,), "k": 5, "max_length": 8, "sample": 20}
    first = beam_study(ranker, dataset, split.test, seed=1, **options)  # type: ignore[arg-type]
    again = beam_study(ranker, dataset, split.test, seed=1, **options)  # type: ignore[arg-type]
    assert first.users == 20
    assert first.rows[0].list_recall == again.rows[0].list_recall
    with pytest.raises(ConfigError, match="at least 1"):
        beam_study(ranker, dataset, split.test, widths=(0,))
    with pytest.raises(ConfigError, match="at least one user"):
        beam_study(ranker, dataset, split.test.take(np.zeros(0, dtype=np.int64)))
