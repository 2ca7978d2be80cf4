from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec.data import Dataset, Split
from genrec.decoding import PrefixTrie
from genrec.errors import ArtefactError, ConfigError, DataError
from genrec.evaluation import (
    Evaluation,
    ModelRanker,
    PopularityRanker,
    beam_study,
    by_history_length,
    collect_examples,
    evaluate,
    history_matrix,
)
from genrec.evaluation.metrics import ndcg_at, recall_at
from genrec.evaluation.ranks import ranks_from_scores
from genrec.models import Recommender


@pytest.fixture(scope="module")
def popular(dataset: Dataset, split: Split, train_counts: np.ndarray) -> Evaluation:
    ranker = PopularityRanker(train_counts, np.arange(len(train_counts)))
    return evaluate(ranker, dataset, split.test, split="test", bootstrap=200, batch_size=17)


def test_popularity_equals_a_loop_over_users(
    popular: Evaluation, dataset: Dataset, split: Split, train_counts: np.ndarray
) -> None:
    scores = torch.from_numpy(train_counts).float()[None]
    for row, user in enumerate(split.test.users):
        history = dataset.histories.history(user)
        target, seen = history[-1], np.unique(history[:-1])
        for mask, exclude in (("unmasked", None), ("masked", torch.tensor(seen)[None].long())):
            ranks = ranks_from_scores(scores, torch.tensor([int(target)]), exclude=exclude)
            for k in (5, 20):
                for name, function in (("recall", recall_at), ("ndcg", ndcg_at)):
                    expected = function(ranks.before, ranks.ties, k)
                    assert popular.per_user(mask, f"{name}@{k}")[row] == pytest.approx(expected[0])
        assert popular.history_lengths[row] == len(history) - 1


def test_targets_in_the_history_are_misses_when_masked_and_counted(
    popular: Evaluation, dataset: Dataset, split: Split
) -> None:
    repeated = np.array(
        [
            dataset.histories.history(user)[-1] in dataset.histories.history(user)[:-1]
            for user in split.test.users
        ]
    )
    assert repeated.any() and not repeated.all()
    assert popular.facts["targets_in_history"] == pytest.approx(repeated.mean())
    assert np.array_equal(popular.searches["masked"].target_excluded, repeated)
    assert not popular.searches["masked"].ranks.found[repeated].any()
    assert popular.per_user("unmasked", "recall@20")[repeated].any()


@pytest.mark.parametrize("name", ["popularity", "item"])
def test_a_pool_of_candidates_is_ranked_alone(
    name: str, item_model: Recommender, dataset: Dataset, split: Split, train_counts: np.ndarray
) -> None:
    pool = np.arange(0, 60, 3)
    ranker: PopularityRanker | ModelRanker = PopularityRanker(train_counts, np.arange(60))
    if name == "item":
        ranker = ModelRanker(item_model)
    found = evaluate(
        ranker, dataset, split.test, split="test", candidates=pool, max_length=8, bootstrap=0
    )
    outside = ~np.isin(split.test.targets, pool)
    assert 0 < outside.mean() < 1
    assert found.facts["candidates"] == 20 and found.facts["items"] == 60
    assert found.facts["targets_outside_candidates"] == pytest.approx(outside.mean())
    hidden = torch.ones(60, dtype=torch.bool)
    hidden[pool] = False
    for row, user in enumerate(split.test.users):
        history = dataset.histories.history(user)
        seen = torch.tensor(np.unique(history[:-1]))[None].long()
        scores = torch.from_numpy(train_counts).float()[None]
        if name == "item":
            items = torch.tensor(history[:-1][-8:]).long()[None]
            state = item_model.eval().encode(items, torch.ones_like(items, dtype=torch.bool))
            scores = item_model.head.scores(state, item_model.head.candidates()).detach()
        scores = scores.masked_fill(hidden, -torch.inf)
        for mask, exclude in (("unmasked", None), ("masked", seen)):
            ranks = ranks_from_scores(scores, torch.tensor([int(history[-1])]), exclude=exclude)
            expected = ndcg_at(ranks.before, ranks.ties, 20)
            assert found.per_user(mask, "ndcg@20")[row] == pytest.approx(expected[0])


@pytest.mark.parametrize("pool", [None, np.arange(0, 60, 3)])
@pytest.mark.parametrize("name", ["item", "sid"])
def test_users_without_a_history_are_answered_by_the_fallback(
    name: str,
    pool: np.ndarray | None,
    item_model: Recommender,
    sid_model: Recommender,
    trie: PrefixTrie,
    dataset: Dataset,
    split: Split,
    train_counts: np.ndarray,
) -> None:
    ranker = ModelRanker(item_model) if name == "item" else ModelRanker(sid_model, trie)
    popular = PopularityRanker(train_counts, np.arange(60))
    strange = np.arange(len(split.test)) % 3 == 0
    end = np.where(strange, split.test.start, split.test.end)
    asked = replace(split.test, end=end)
    options: dict[str, Any] = {"split": "test", "max_length": 8, "bootstrap": 0, "candidates": pool}
    found = evaluate(ranker, dataset, asked, fallback=popular, batch_size=7, **options)
    known = evaluate(ranker, dataset, split.test.take(~strange), **options)
    simple = evaluate(popular, dataset, split.test.take(strange), masks=["unmasked"], **options)
    missed = evaluate(ranker, dataset, asked, **options)
    for mask in ("unmasked", "masked"):
        for metric in ("recall@10", "ndcg@20"):
            values = found.per_user(mask, metric)
            np.testing.assert_allclose(values[~strange], known.per_user(mask, metric), atol=1e-6)
            # Nothing was seen, so nothing is left out.
            np.testing.assert_array_equal(values[strange], simple.per_user("unmasked", metric))
            assert not missed.per_user(mask, metric)[strange].any()
    assert simple.per_user("unmasked", "recall@20").any()
    assert found.facts["users_without_history"] == strange.sum()
    assert found.facts["without_history"] == "popularity"
    assert missed.facts["without_history"] == "nobody"
    assert "without_history" not in known.facts
    np.testing.assert_array_equal(found.history_lengths == 0, strange)
    lengths = {cut.name: cut.users for cut in by_history_length(found)}
    assert next(iter(lengths)) == "0-2" and sum(lengths.values()) == len(asked)
    if pool is not None:
        outside = ~np.isin(asked.targets, pool)
        assert found.facts["targets_outside_candidates"] == pytest.approx(outside.mean())
    # Who has no history is in no study of beams and no example.
    names = dataset.histories.user_ids.take(asked.users[strange]).to_pylist()
    shown = collect_examples([ranker], dataset, asked, count=len(asked), max_lengths={})
    assert len(shown) == (~strange).sum()
    assert not {one.user for one in shown} & set(map(str, names))
    if name == "sid":
        study = beam_study(ranker, dataset, asked, widths=[5], max_length=8)
        assert study.users == (~strange).sum()


def test_flat_keys(popular: Evaluation) -> None:
    keys = set(popular.metrics)
    assert {"test/unmasked/ndcg@10", "test/masked/recall@5", "test/masked/mrr@20"} <= keys
    assert {"test/unmasked/certificate_rate", "test/unmasked/leaked_mass"} <= keys
    assert not any("tuple" in key for key in keys)
    found = popular.metrics["test/unmasked/ndcg@10"]
    assert found.low <= found.value <= found.high
    assert popular.facts["items"] == 60 and "peak_memory_mb" not in popular.facts


@pytest.fixture(scope="module")
def beam(sid_model: Recommender, trie: PrefixTrie, dataset: Dataset, split: Split) -> Evaluation:
    ranker = ModelRanker(sid_model, trie, beam_width=4, name="sid")
    return evaluate(
        ranker, dataset, split.test, split="test", max_length=8, ks=(3, 10), bootstrap=50
    )


def test_a_sid_model_reports_tuples_and_certificates(beam: Evaluation) -> None:
    for mask in ("unmasked", "masked"):
        item_level = beam.per_user(mask, "recall@10")
        tuple_level = beam.per_user(mask, "tuple_recall@10")
        assert (tuple_level >= item_level - 1e-12).all()
        assert tuple_level.sum() > item_level.sum()
    assert "test/masked/tuple_ndcg@3" in beam.metrics
    assert 0 < beam.value("unmasked", "leaked_mass") < 1
    assert beam.facts["beam_width"] == 4 and beam.facts["exact"] is False
    assert (beam.searches["unmasked"].evaluations > 0).all()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_does_not_matter(
    batch_size: int,
    beam: Evaluation,
    sid_model: Recommender,
    trie: PrefixTrie,
    dataset: Dataset,
    split: Split,
) -> None:
    ranker = ModelRanker(sid_model, trie, beam_width=4, name="sid")
    other = evaluate(
        ranker,
        dataset,
        split.test,
        split="test",
        max_length=8,
        ks=(3, 10),
        bootstrap=50,
        batch_size=batch_size,
    )
    for mask, record in beam.searches.items():
        assert np.array_equal(record.ranks.before, other.searches[mask].ranks.before)
        assert np.array_equal(record.ranks.ties, other.searches[mask].ranks.ties)
    assert {k: v for k, v in beam.metrics.items() if "leaked" not in k} == {
        k: v for k, v in other.metrics.items() if "leaked" not in k
    }


def test_exact_search_is_certified_everywhere(
    sid_model: Recommender, trie: PrefixTrie, dataset: Dataset, split: Split
) -> None:
    ranker = ModelRanker(sid_model, trie, beam_width=4, exact=True)
    found = evaluate(ranker, dataset, split.test, split="test", max_length=8, bootstrap=0)
    assert found.value("unmasked", "certificate_rate") == 1
    assert found.value("masked", "certificate_rate") == 1


def test_paired_differences_need_the_same_users(
    popular: Evaluation, beam: Evaluation, dataset: Dataset, split: Split
) -> None:
    found = popular.minus(beam, "masked", "ndcg@10")
    expected = popular.value("masked", "ndcg@10") - beam.value("masked", "ndcg@10")
    assert found.value == pytest.approx(expected)
    ranker = PopularityRanker(np.zeros(60, dtype=int), np.arange(60))
    other = evaluate(ranker, dataset, split.validation, split="validation", bootstrap=0)
    with pytest.raises(ConfigError, match="different users"):
        popular.minus(other, "masked", "ndcg@10")


def test_one_mask_only(dataset: Dataset, split: Split) -> None:
    ranker = PopularityRanker(np.zeros(60, dtype=int), np.arange(60))
    found = evaluate(ranker, dataset, split.test, split="test", masks=("masked",), bootstrap=0)
    assert list(found.searches) == ["masked"]
    seen = [set(dataset.histories.history(user)[:-1].tolist()) for user in split.test.users]
    chance = [
        0.0 if target in items else 10 / (60 - len(items))
        for items, target in zip(seen, split.test.targets.tolist(), strict=True)
    ]
    assert found.per_user("masked", "recall@10") == pytest.approx(chance)
    with pytest.raises(ConfigError, match="not evaluated"):
        found.per_user("unmasked", "recall@10")
    with pytest.raises(ConfigError, match="unknown or longer"):
        found.per_user("masked", "recall@21")
    with pytest.raises(ConfigError, match="unknown or longer"):
        found.per_user("masked", "precision@10")


def test_bad_arguments(dataset: Dataset, split: Split) -> None:
    ranker = PopularityRanker(np.zeros(60, dtype=int), np.arange(60))
    nobody = split.test.take(np.zeros(0, dtype=np.int64))
    with pytest.raises(DataError, match="'test' has no user"):
        evaluate(ranker, dataset, nobody, split="test")
    for bad in ({"ks": ()}, {"ks": (0, 5)}, {"masks": ("seen",)}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match=r"expected|at least"):
            evaluate(ranker, dataset, split.test, split="test", **bad)  # type: ignore[arg-type]


def test_save_and_load(beam: Evaluation, tmp_path: Path) -> None:
    beam.save(tmp_path / "test.parquet")
    again = Evaluation.load(tmp_path / "test.parquet")
    assert again.metrics == beam.metrics
    assert again.names == beam.names and again.facts == beam.facts
    assert again.searches["masked"].seconds == beam.searches["masked"].seconds
    assert beam.minus(again, "masked", "ndcg@10").value == 0
    assert [p.name for p in tmp_path.iterdir()] == ["test.parquet"]


def test_load_refuses_what_is_not_an_evaluation(tmp_path: Path, dataset: Dataset) -> None:
    import pyarrow.parquet as pq

    (tmp_path / "cut.parquet").write_bytes(b"PAR1 cut off")
    pq.write_table(dataset.catalog.table, tmp_path / "items.parquet")
    for name in ("cut.parquet", "missing.parquet", "items.parquet"):
        with pytest.raises(ArtefactError, match=name):
            Evaluation.load(tmp_path / name)


def test_history_matrix() -> None:
    items = np.array([5, 6, 7, 8, 9], dtype=np.int32)
    found = history_matrix(items, np.array([0, 3, 4]), np.array([3, 5, 4]))
    assert found.tolist() == [[5, 6, 7], [8, 9, -1], [-1, -1, -1]]
    assert found.dtype == np.int64
    assert history_matrix(items, np.array([1]), np.array([1])).shape == (1, 0)


def test_request_time_is_a_choice_and_recorded(dataset: Dataset, split: Split) -> None:
    seen: list[torch.Tensor] = []

    class Watching(PopularityRanker):
        asks = frozenset({"time"})

        def prepare(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            last = batch["mask"].sum(dim=1) - 1
            seen.append(batch["query_time"].gather(1, last[:, None]).squeeze(1))
            return batch

    ranker = Watching(np.zeros(60, dtype=int), np.arange(60))
    options: dict[str, Any] = {"split": "test", "batch_size": 1000, "bootstrap": 0}
    known = evaluate(ranker, dataset, split.test, **options)
    hidden = evaluate(ranker, dataset, split.test, request_time=False, **options)
    assert known.told == "time" and hidden.told == ""
    assert known.facts["knows_request_time"] and not hidden.facts["knows_request_time"]
    # Who reads no time knows none, whatever is told.
    plain = PopularityRanker(np.zeros(60, dtype=int), np.arange(60))
    assert not evaluate(plain, dataset, split.test, **options).facts["knows_request_time"]
    assert (seen[0] >= seen[1]).all() and (seen[0] > seen[1]).any()
