"""The challenge's score stands beside the metrics of its protocol, and nowhere else."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from genrec.data import Dataset, Split
from genrec.data.sources import prepare
from genrec.data.tencentgr import generate_tencentgr
from genrec.data.tencentgr.protocol import last_click_split
from genrec.evaluation import Evaluation, PopularityRanker
from genrec.evaluation import evaluate as evaluate_ranker
from genrec.pipeline.contest import contest_scores, print_scores


@pytest.fixture(scope="module")
def ads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Split]:
    """Files with conversions, asked for the last click or conversion."""
    root = tmp_path_factory.mktemp("ads")
    files = generate_tencentgr(
        root / "files", users=400, items=300, max_length=30, actions="10M", vectors=()
    )
    data = prepare("tencentgr", root / "out", files, progress=False, vectors=[])
    return data, last_click_split(data, share=0.5, actions=(1, 2))


def evaluated(data: Dataset, split: Split, **options: Any) -> Evaluation:
    counts = split.train_counts(data.histories, len(data.catalog))
    return evaluate_ranker(
        PopularityRanker(counts, np.arange(len(data.catalog))),
        data,
        split.test,
        split="test",
        candidates=split.candidates,
        max_length=1,
        bootstrap=10,
        progress=False,
        **{"ks": [10], **options},
    )


def test_equals_one_user_at_a_time(ads: tuple[Dataset, Split]):
    data, split = ads
    evaluation = evaluated(data, split)
    found = contest_scores(evaluation, data, split)
    assert set(found) == {"unmasked", "masked"}
    assert split.test.actions is not None
    kinds = [[None, *data.histories.action_names][code] for code in split.test.actions]
    assert set(kinds) == {1, 2}
    for mask, readings in found.items():
        hits, gains = (evaluation.per_user(mask, f"{name}@10") for name in ("recall", "ndcg"))
        each = [0.31 * hit + 0.69 * gain for hit, gain in zip(hits, gains, strict=True)]
        worth = [2.5 if kind == 2 else 1.0 for kind in kinds]
        weighted = sum(w * e for w, e in zip(worth, each, strict=True)) / sum(worth)
        assert readings["literal"]["score"] == pytest.approx(sum(each) / len(each))
        assert readings["user-weighted"]["score"] == pytest.approx(weighted)
        assert readings["literal"]["users"] == len(kinds) > 20
    assert found["unmasked"]["literal"]["score"] > 0


def test_other_protocols_have_none(ads: tuple[Dataset, Split]):
    data, split = ads
    evaluation = evaluated(data, split)
    assert contest_scores(evaluation, data, replace(split, name="leave-one-out")) == {}
    assert contest_scores(evaluated(data, split, ks=[5]), data, split) == {}
    exposures = replace(split.test, actions=np.ones(len(split.test), dtype=np.int64))
    assert contest_scores(evaluation, data, replace(split, test=exposures)) == {}
    nameless = replace(split, test=replace(split.test, actions=None))
    assert contest_scores(evaluation, data, nameless) == {}


def printed(found: dict[str, Any]) -> str:
    out = io.StringIO()
    print_scores(found, console=Console(file=out, width=120))
    return out.getvalue()


def test_what_is_printed(ads: tuple[Dataset, Split]):
    data, split = ads
    evaluation = evaluated(data, split)
    scores = contest_scores(evaluation, data, split)
    better = {
        mask: {reading: {**score, "score": 0.9} for reading, score in readings.items()}
        for mask, readings in scores.items()
    }
    text = printed({"popularity": scores, "best": better})
    lines = [line for line in text.splitlines() if "popularity" in line or "best" in line]
    order = [(line.split()[1], line.split()[3]) for line in lines]
    assert order[:4] == [("best", "unmasked")] * 2 + [("popularity", "unmasked")] * 2
    assert len(lines) == 8 and "user-weighted" in text
    shown = f"{scores['masked']['literal']['score']:.4f}"
    assert any("masked" in line and "literal" in line and shown in line for line in lines)
    same = {mask: dict.fromkeys(one, one["literal"]) for mask, one in scores.items()}
    text = printed({"popularity": same})
    assert "user-weighted" not in text and "the same without conversions" in text
    assert printed({"popularity": {}}) == ""
