from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from genrec.data import Dataset, Split
from genrec.decoding import PrefixTrie
from genrec.errors import ArtefactError, ConfigError
from genrec.evaluation import (
    BeamStudy,
    Evaluation,
    Example,
    Interval,
    ModelRanker,
    PopularityRanker,
    Recommended,
    beam_study,
    by_history_length,
    by_popularity,
    collect_examples,
    evaluate,
    headline_metric,
    print_comparison,
    print_examples,
    read_metrics,
    write_metrics,
    write_report,
)
from genrec.evaluation.report import comparison, number
from genrec.models import Recommender


@pytest.fixture(scope="module")
def rankers(
    sid_model: Recommender, trie: PrefixTrie, train_counts: np.ndarray, tie_order: np.ndarray
) -> list[ModelRanker | PopularityRanker]:
    return [
        ModelRanker(sid_model, trie, beam_width=5, name="sid <b>"),
        PopularityRanker(train_counts, tie_order),
    ]


@pytest.fixture(scope="module")
def evaluations(
    rankers: list[ModelRanker | PopularityRanker], dataset: Dataset, split: Split
) -> list[Evaluation]:
    return [
        evaluate(ranker, dataset, split.test, split="test", max_length=8, bootstrap=100)
        for ranker in rankers
    ]


@pytest.fixture(scope="module")
def examples(
    rankers: list[ModelRanker | PopularityRanker], dataset: Dataset, split: Split
) -> list[Example]:
    reads = {ranker.name: 8 for ranker in rankers}
    return collect_examples(rankers, dataset, split.test, count=4, k=6, max_lengths=reads, seed=3)


@pytest.fixture(scope="module")
def study(rankers: list[ModelRanker], dataset: Dataset, split: Split) -> BeamStudy:
    return beam_study(rankers[0], dataset, split.test, widths=(2, 10), k=5, max_length=8)


def test_metrics_json_follows_the_run_folder_contract(
    evaluations: list[Evaluation], study: BeamStudy, tmp_path: Path
) -> None:
    path = write_metrics(
        tmp_path / "run",
        evaluations[:1],
        seed=3,
        day_order="shuffled-day",
        fingerprints={"dataset": "ab", "vocabulary": "cd"},
        beams=study.as_dict(),
    )
    record = json.loads(path.read_text())
    entry = record["test/unmasked/ndcg@10"]
    assert set(entry) == {"value", "low", "high"}
    assert entry["value"] == pytest.approx(evaluations[0].value("unmasked", "ndcg@10"))
    assert {"test/masked/recall@20", "test/masked/tuple_recall@10"} <= set(record)
    assert record["seed"] == 3 and record["day_order"] == "shuffled-day"
    assert record["beam_width"] == 5 and record["exact"] is False
    assert record["parameters"] > 0 and record["seconds"] > 0 and record["test/users"] == 90
    assert 0 < record["certificate_rate"] <= 1
    assert record["fingerprints"]["vocabulary"] == "cd"
    assert 0 < record["test/targets_in_history"] < 1
    assert record["beams"]["rows"][0]["beam_width"] == 2
    found = read_metrics(path)
    assert isinstance(found["test/unmasked/ndcg@10"], Interval)
    saved = Evaluation.load(tmp_path / "run" / "ranks" / "test.parquet")
    assert saved.metrics == evaluations[0].metrics


def test_metrics_json_refuses_nonsense(evaluations: list[Evaluation], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="about one ranker"):
        write_metrics(tmp_path, evaluations)
    with pytest.raises(ConfigError, match="no evaluation"):
        write_metrics(tmp_path, [])
    with pytest.raises(ConfigError, match="shuffled-day"):
        write_metrics(tmp_path, evaluations[:1], day_order="random")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="writing failed"):
        write_metrics(tmp_path / "file", evaluations[:1])
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ArtefactError, match=r"list\.json"):
        read_metrics(tmp_path / "list.json")


def test_the_comparison_is_ordered_by_result(evaluations: list[Evaluation]) -> None:
    rows = comparison(evaluations, "masked")
    values = [evaluation.value("masked", "ndcg@10") for evaluation, _ in rows]
    assert values == sorted(values, reverse=True)
    assert rows[0][1] is None
    assert rows[1][1] is not None and rows[1][1].value == pytest.approx(values[1] - values[0])
    assert headline_metric(evaluations[0]) == "ndcg@10"


@pytest.mark.parametrize("width", [80, 140])
def test_the_printed_table_fits_and_names_everything(
    width: int, evaluations: list[Evaluation]
) -> None:
    out = io.StringIO()
    print_comparison(evaluations, console=Console(file=out, width=width))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert text.count("popularity") == 2 and text.count("sid <b>") == 2
    assert number(evaluations[0].value("masked", "ndcg@10")) in text
    assert ("R@20" in text) == (width == 140)
    assert "…" not in text


def test_who_was_told_more_is_marked(evaluations: list[Evaluation], tmp_path: Path) -> None:
    facts = {**evaluations[0].facts, "knows_request_time": True, "knows_request_action": True}
    told = [dataclasses.replace(evaluations[0], facts=facts), evaluations[1]]
    out = io.StringIO()
    print_comparison(told, console=Console(file=out, width=100))
    assert out.getvalue().count("* sid <b>") == 2
    assert "which the others did not: sid <b> (time, action)" in " ".join(out.getvalue().split())
    write_report(tmp_path / "told.html", told, title="A")
    write_report(tmp_path / "plain.html", evaluations, title="A")
    page = (tmp_path / "told.html").read_text()
    assert page.count("<th>told</th>") == 2
    assert page.count("<td>time, action</td>") == 2
    assert "<th>told</th>" not in (tmp_path / "plain.html").read_text()


def test_numbers() -> None:
    assert number(0.04567) == ".0457"
    assert number(-0.0012) == "-.0012"
    assert number(1.0) == "1.0000"
    assert number(0.0) == ".0000"


def test_examples(examples: list[Example], dataset: Dataset, split: Split) -> None:
    assert len(examples) == 4
    for example in examples:
        user = int(example.user[1:])
        history = dataset.histories.history(user)
        expected = dataset.catalog.titles(history)
        assert example.history == expected[:-1] and example.target == expected[-1]
        assert list(example.lists) == ["sid <b>", "popularity"]
        for items in example.lists.values():
            assert len(items) == 6
            assert not {item.title for item in items} & set(example.history)
            assert [item.hit for item in items] == [i.title == example.target for i in items]


def test_titles_fall_back_to_ids(dataset: Dataset) -> None:
    assert dataset.catalog.titles(np.array([3, 7, 3])) == [
        "Item & title 3",
        "i7",
        "Item & title 3",
    ]
    assert dataset.catalog.titles(np.array([5]), "name") == ["i5"]


def test_no_example_asks_no_model(dataset: Dataset, split: Split) -> None:
    assert collect_examples([None], dataset, split.test, count=0, k=6, max_lengths={}) == []


def test_printed_examples_take_markup_literally() -> None:
    example = Example(
        "u1", ["[red]old[/red]"], "new", {"a": [Recommended("[x] new", True)], "b": []}
    )
    out = io.StringIO()
    print_examples([example], console=Console(file=out, width=80))
    text = out.getvalue()
    assert "[red]old[/red]" in text and "* [x] new" in text and "took next: new" in text


@pytest.fixture(scope="module")
def page(
    evaluations: list[Evaluation],
    train_counts: np.ndarray,
    study: BeamStudy,
    examples: list[Example],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    path = write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        evaluations,
        title="toy & <more>",
        slices={
            "training popularity": {e.ranker: by_popularity(e, train_counts) for e in evaluations},
            "length of the history": {e.ranker: by_history_length(e) for e in evaluations},
        },
        beams={"sid <b>": study},
        facts={"dataset": "toy", "order within a day": "file"},
        vocabularies={
            "sid": {
                "collision_share": 0.25,
                "largest_bucket": {"size": 4},
                "levels": [{"used": 4, "trie_nodes": 9}, {"used": 5, "trie_nodes": 12}],
            }
        },
        examples=examples,
        rankers={"sid <b>": {"seed": 3, "fingerprints": {"model": "abc<def"}}},
    )
    return path.read_text()


def test_the_page_stands_alone(page: str) -> None:
    assert re.search(r'(?:src|href)="(?!data:)', page) is None
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "<script" not in page and "@import" not in page
    assert page.count('<img src="data:image/svg+xml;base64,') == 4


def test_tables_of_slices_say_what_they_are_cut_by(page: str) -> None:
    assert re.findall(r"<table><caption>(.*?)</caption>", page) == [
        "By training popularity (masked)",
        "By length of the history (masked)",
    ]


def test_the_page_holds_everything(page: str, evaluations: list[Evaluation]) -> None:
    for heading in (
        "Results, unmasked",
        "Results, masked",
        "Metrics with intervals",
        "Slices",
        "Beam width against recall and time",
        "Protocol",
        "Rankers",
        "SID vocabulary of sid",
        "What was recommended",
    ):
        assert f"<h2>{heading}" in page
    for evaluation in evaluations:
        assert number(evaluation.value("masked", "ndcg@10")) in page
    assert "<td>sid &lt;b&gt;</td><td>3</td><td>model abc&lt;def</td>" in page
    assert "<td>popularity</td><td>-</td><td>-</td>" in page
    assert "<th>trie nodes</th>" in page and "collision share" in page
    assert "tuple-level recall" in page and "order within a day" in page
    best = max(evaluations, key=lambda e: e.value("masked", "ndcg@10"))
    cards = page.partition('<div class="cards">')[2].partition("<section")[0]
    assert "Best ranker" in cards and best.ranker in cards and "sid" not in cards
    assert f"by NDCG@10, {next(iter(best.searches))}" in cards
    assert page.count("not proven, not wrong") == 3  # both masks, and the beam widths
    assert best is evaluations[1] and "<b>popularity</b> beats <b>sid &lt;b&gt;</b>" in page


def test_the_page_escapes_what_it_is_given(page: str) -> None:
    assert "toy &amp; &lt;more&gt;" in page and "<more>" not in page
    assert "sid &lt;b&gt;" in page and "sid <b>" not in page
    assert "Item &amp; title" in page


def test_the_page_is_deterministic(evaluations: list[Evaluation], tmp_path: Path) -> None:
    first = write_report(tmp_path / "a.html", evaluations, title="x").read_bytes()
    assert first == write_report(tmp_path / "b.html", evaluations, title="x").read_bytes()


def test_the_page_refuses_to_mix_protocols(
    evaluations: list[Evaluation], dataset: Dataset, split: Split, tmp_path: Path
) -> None:
    ranker = PopularityRanker(np.zeros(60, dtype=int), np.arange(60), name="other")
    other = evaluate(ranker, dataset, split.validation, split="validation", bootstrap=0)
    with pytest.raises(ConfigError, match="one protocol"):
        write_report(tmp_path / "x.html", [evaluations[0], other], title="x")
    with pytest.raises(ConfigError, match="no evaluation"):
        write_report(tmp_path / "x.html", [], title="x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="writing failed"):
        write_report(tmp_path / "file" / "x.html", evaluations, title="x")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
