from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

from genrec.artefacts import read_json
from genrec.data import Dataset, batch
from genrec.embedding import ItemVectors
from genrec.errors import ArtefactError, ConfigError
from genrec.pipeline import Run, SplitConfig, evaluate, train
from genrec.pipeline.runs import record_fingerprint
from genrec.training import TrainingConfig

QUICK = {"bootstrap": 50, "progress": False}


@pytest.fixture(scope="module")
def evaluated(shop, tmp_path_factory):
    """A copy of the shop with a report on both runs and popularity."""
    root = tmp_path_factory.mktemp("evaluated") / "shop"
    shutil.copytree(shop, root)
    found = evaluate(
        f"{root / 'sid'},{root / 'ids'}", str(root / "report"), beams=[2, 150], **QUICK
    )
    return root, found


def test_every_ranker_is_there_under_one_protocol(evaluated):
    root, found = evaluated
    assert list(found) == ["sid", "ids", "popularity"]
    _, parts = SplitConfig().apply(Dataset.load(root / "dataset"))
    for evaluation in found.values():
        assert np.array_equal(evaluation.users, parts.test.users)
        assert np.array_equal(evaluation.targets, parts.test.targets)


def test_a_pool_of_candidates_is_named_everywhere(evaluated, capsys):
    root, found = evaluated
    catalog = Dataset.load(root / "dataset").catalog
    ids = catalog.item_ids.to_pylist()[::2]
    (root / "pool.txt").write_text("\n".join([*ids, "gone"]))
    before = {name: (root / name / "metrics.json").read_bytes() for name in ("sid", "ids")}
    inside = evaluate(
        [str(root / "sid"), str(root / "ids")],
        str(root / "within"),
        candidates=str(root / "pool.txt"),
        beams=[150],
        bootstrap=10,
    )
    captured = capsys.readouterr()
    assert "pool.txt: skipped 1 item that the catalog does not know: gone" in captured.err
    assert "ranking within a pool of 75 items" in " ".join(captured.out.split())
    page = (root / "within" / "report.html").read_text()
    assert "only a given pool of 75 items of 150" in page
    assert "ranking within a pool of 75 items" in page and "full ranking" not in page
    for name in ("sid", "ids", "popularity"):
        record = json.loads((root / "within" / name / "metrics.json").read_text())
        assert record["candidates"] == 75 and 0 < record["targets_outside_candidates"] < 1
        lost = inside[name].targets % 2 == 1
        assert record["targets_outside_candidates"] == pytest.approx(lost.mean())
        assert (inside[name].per_user("unmasked", "recall@20")[lost] == 0).all()
        # in a smaller pool nothing stands in the way that did not stand there before
        wide = found[name].per_user("unmasked", "recall@20")[~lost]
        assert (inside[name].per_user("unmasked", "recall@20")[~lost] >= wide - 1e-9).all()
    rows = json.loads((root / "within" / "sid" / "metrics.json").read_text())["beams"]["rows"]
    exact = inside["sid"].per_user("unmasked", "recall@10").mean()
    assert rows[-1]["recall"] == pytest.approx(exact, abs=0.01)
    for name, content in before.items():
        assert (root / name / "metrics.json").read_bytes() == content


def test_metrics_json_keeps_the_contract(evaluated):
    root, found = evaluated
    for name, folder in (("sid", "sid"), ("ids", "ids"), ("popularity", "report/popularity")):
        record = json.loads((root / folder / "metrics.json").read_text())
        for mask in ("unmasked", "masked"):
            for metric in ("recall@5", "recall@10", "recall@20", "ndcg@10", "mrr@20"):
                entry = record[f"test/{mask}/{metric}"]
                assert set(entry) == {"value", "low", "high"}
                assert entry["low"] <= entry["value"] <= entry["high"]
                assert entry["value"] == pytest.approx(found[name].value(mask, metric))
        assert record["test/users"] == 200
        assert record["day_order"] == "file"
        assert record["seconds"] >= 0
        assert {"parameters", "certificate_rate", "exact"} <= record.keys()
        assert ("peak_memory_mb" in record) == (name != "popularity")
        for cut in ("popularity", "history_length"):
            parts = record["slices"][cut]
            assert sum(part["users"] for part in parts) == 200
            whole = sum(part["users"] * part["masked/ndcg@10"]["value"] for part in parts) / 200
            assert whole == pytest.approx(found[name].value("masked", "ndcg@10"))
    run = Run.open(root / "sid").config
    record = json.loads((root / "sid" / "metrics.json").read_text())
    assert record["seed"] == run["training"]["seed"]
    assert record["parameters"] == run["parameters"]
    assert record["beam_width"] == 50
    assert record["fingerprints"] == {
        "dataset": run["dataset_fingerprint"],
        "vocabulary": run["vocabulary_fingerprint"],
        "tie_order": run["tie_order_fingerprint"],
        "model": run["model_fingerprint"],
    }
    assert record["fitted_items_without_training"] == 0
    assert "beams" not in json.loads((root / "ids" / "metrics.json").read_text())


def test_the_beam_study_is_of_runs_that_search_by_beams(evaluated):
    root, _ = evaluated
    study = json.loads((root / "sid" / "metrics.json").read_text())["beams"]
    assert [row["beam_width"] for row in study["rows"]] == [2, 150, None]
    assert study["users"] == 200
    assert [row["false_certificates"] for row in study["rows"]] == [0, 0, 0]
    assert study["rows"][1]["list_recall"] == 1


def test_the_report_is_one_page_that_needs_nothing_else(evaluated):
    root, _ = evaluated
    page = (root / "report" / "report.html").read_text()
    assert "<html" in page
    for word in ("sid", "ids", "popularity", "Certificate", "codes"):
        assert word.lower() in page.lower()
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "url(http" not in page
    assert [p.name for p in (root / "report").iterdir() if p.name.startswith(".")] == []


@pytest.fixture(scope="module")
def clearer(shop, tmp_path_factory):
    """A run trained long enough that its scores differ clearly."""
    return train(
        str(shop / "dataset"),
        str(tmp_path_factory.mktemp("clearer") / "run"),
        vocabulary=str(shop / "vocabulary"),
        d_model=16,
        max_history=12,
        backbone={"type": "transformer", "layers": 1},
        training=TrainingConfig(epochs=25, batch_size=32, learning_rate=1e-2, eval_epochs=5),
        progress=False,
    )


def test_runs_that_read_histories_of_different_lengths_share_a_report(shop, tmp_path):
    for name, length in (("short", 3), ("long", 30)):
        train(
            str(shop / "dataset"),
            str(tmp_path / name),
            item_encoder={"type": "id"},
            head={"type": "dense"},
            d_model=8,
            max_history=length,
            training=TrainingConfig(epochs=1),
            progress=False,
        )
    evaluate([str(tmp_path / "short"), str(tmp_path / "long")], str(tmp_path / "report"))
    found = read_json(tmp_path / "long" / "metrics.json")
    assert found["max_length"] == 30
    assert found["day_order"] == "file"
    assert set(found["fingerprints"]) == {"dataset", "tie_order", "model"}
    before = (tmp_path / "long" / "metrics.json").read_bytes()
    evaluate(
        [str(tmp_path / "long")], str(tmp_path / "validation"), split="validation", progress=False
    )
    assert (tmp_path / "long" / "metrics.json").read_bytes() == before
    assert "validation/masked/ndcg@10" in read_json(tmp_path / "validation" / "long/metrics.json")


def test_where_a_beam_certifies_it_equals_exact_search_for_every_test_user(clearer):
    data, parts = clearer.data
    trie = clearer.vocabulary.trie()
    questions = parts.test
    inputs = batch(data.histories, questions.start, questions.end, max_length=12)
    exact = clearer.model.search(inputs, k=10, trie=trie, exact=True)
    assert exact.certified.all()
    rates = []
    for width in (1, 5, 10, 20, 50):
        found = clearer.model.search(inputs, k=10, trie=trie, beam_width=width)
        sure = found.certified
        rates.append(sure.float().mean().item())
        assert torch.equal(found.items[sure], exact.items[sure])
        torch.testing.assert_close(found.scores[sure], exact.scores[sure])
    assert rates == sorted(rates)
    assert rates[-1] > 0
    assert rates[0] < 1


def test_exact_search_is_the_brute_force_ranking_of_the_catalogue(clearer):
    data, parts = clearer.data
    questions = parts.test
    inputs = batch(data.histories, questions.start, questions.end, max_length=12)
    everything = clearer.model.search(
        inputs, k=150, trie=clearer.vocabulary.trie(), beam_width=150, exact=True
    )
    best = clearer.model.search(inputs, k=10, trie=clearer.vocabulary.trie(), exact=True)
    assert torch.equal(everything.items[:, :10], best.items)
    assert (everything.items.sort(dim=1).values == torch.arange(150)).all()


def test_two_evaluations_are_identical(evaluated, tmp_path):
    root, found = evaluated
    again = evaluate(str(root / "sid"), str(tmp_path / "report"), beams=[], **QUICK)
    for key, interval in again["sid"].metrics.items():
        assert interval == found["sid"].metrics[key]


def test_validation_can_be_reported_and_is_named_so(evaluated, tmp_path):
    root, _ = evaluated
    found = evaluate(
        str(root / "ids"), str(tmp_path / "r"), split="validation", beams=[], examples=0, **QUICK
    )
    assert all(key.startswith("validation/") for key in found["ids"].metrics)


def test_runs_on_other_data_or_another_split_are_refused(shop, own_shop, tmp_path):
    other = own_shop / "other"
    train(
        str(own_shop / "dataset"),
        str(other),
        item_encoder={"type": "id"},
        head={"type": "dense"},
        d_model=16,
        split=SplitConfig(order="shuffled-day"),
        training=TrainingConfig(epochs=1),
        progress=False,
    )
    with pytest.raises(ConfigError, match=r"other: has another split than .*ids"):
        evaluate([str(own_shop / "ids"), str(other)], str(tmp_path / "r"), **QUICK)
    path = other / "run.json"
    config = json.loads(path.read_text())
    del config["fingerprint"]
    config.update(dataset_fingerprint="0" * 16, split=Run.open(own_shop / "ids").config["split"])
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="has another dataset_fingerprint"):
        evaluate([str(own_shop / "ids"), str(other)], str(tmp_path / "r"), **QUICK)
    with pytest.raises(ArtefactError, match=r"was trained on 0000000000000000"):
        evaluate(str(other), str(tmp_path / "r"), **QUICK)
    assert not (tmp_path / "r").exists()


def test_the_report_says_how_each_ranker_came_about(evaluated):
    root, found = evaluated
    page = (root / "report" / "report.html").read_text()
    rows = page.partition("<h2>Rankers</h2>")[2].partition("</section>")[0].split("<tr")
    for name in ("sid", "ids"):
        run = Run.open(root / name).config
        (row,) = [row for row in rows if f"<td>{name}</td>" in row]
        assert run["model_fingerprint"] in row
        assert run["dataset_fingerprint"] in row
        assert f"<td>{run['parameters']:,}</td>" in row
        assert f"<td>{found[name].facts['peak_memory_mb']:,.4g}</td>" in row
    (row,) = [row for row in rows if "<td>popularity</td>" in row]
    assert Run.open(root / "sid").config["tie_order_fingerprint"] in row
    for heading in ("seed", "training seconds", "fitted items without training", "device"):
        assert f"<th>{heading}</th>" in rows[1]
    protocol = page.partition("<h2>Protocol</h2>")[2].partition("</section>")[0]
    assert "<span>split</span><span>test</span>" in protocol
    assert "<span>split by</span><span>leave-one-out</span>" in protocol


def test_runs_of_different_tie_orders_are_compared_with_a_note(own_shop, tmp_path, capsys):
    path = own_shop / "ids" / "run.json"
    config = json.loads(path.read_text())
    del config["fingerprint"]
    runs = [str(own_shop / "sid"), str(own_shop / "ids")]
    options = {"beams": [], "examples": 0, "bootstrap": 0}
    for order, noted in (("0" * 16, True), (None, False), (config["tie_order_fingerprint"], False)):
        changed = {**config, "tie_order_fingerprint": order}
        path.write_text(json.dumps({k: v for k, v in changed.items() if v is not None}))
        capsys.readouterr()
        assert list(evaluate(runs, str(tmp_path / "r"), **options)) == ["sid", "ids", "popularity"]
        assert ("break ties by different orders" in capsys.readouterr().err) == noted


def test_the_neighbours_of_the_last_item_are_a_baseline(own_shop, tmp_path, capsys):
    found = evaluate(
        str(own_shop / "ids"),
        str(tmp_path / "r"),
        neighbours=str(own_shop / "vectors"),
        beams=[],
        bootstrap=10,
    )
    assert list(found) == ["ids", "popularity", "last-item"]
    assert "last-item" in capsys.readouterr().out
    record = read_json(tmp_path / "r/last-item/metrics.json")
    vectors = ItemVectors.from_pretrained(own_shop / "vectors")
    assert record["vectors"] == "vectors"
    assert record["fingerprints"]["vectors"] == vectors.fingerprint
    data = Dataset.load(own_shop / "dataset")
    _, parts = SplitConfig().apply(data)
    unit = vectors.aligned_to(data.catalog).vectors
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    last = data.histories.items[parts.test.end - 1]
    scores = np.einsum("ud,nd->un", unit[last], unit)
    target = scores[np.arange(len(last)), parts.test.targets][:, None]
    # Between those that are nearer and those that are as near, as far as rounding tells.
    sure = (scores >= target - 1e-5).sum(1) <= 10
    maybe = (scores > target + 1e-5).sum(1) < 10
    assert sure.mean() - 1e-9 <= record["test/unmasked/recall@10"]["value"] <= maybe.mean() + 1e-9


def test_neighbours_by_vectors_that_know_the_test_are_refused(own_shop, tmp_path):
    vectors = ItemVectors.from_pretrained(own_shop / "vectors")
    seen = {"training_events": {"dataset_fingerprint": "another", "split": {}}}
    ItemVectors(vectors.vectors, vectors.item_ids, seen).save_pretrained(tmp_path / "seen")
    with pytest.raises(ArtefactError, match="may know events that are tested here"):
        evaluate(
            str(own_shop / "ids"), str(tmp_path / "r"), neighbours=str(tmp_path / "seen"), **QUICK
        )


def test_two_rankers_of_one_name_are_refused(shop, own_shop, tmp_path):
    with pytest.raises(ConfigError, match=r"is called 'ids', as is .*ids; train with another"):
        evaluate([str(own_shop / "ids"), str(shop / "ids")], str(tmp_path / "r"), **QUICK)
    path = own_shop / "ids" / "run.json"
    for baseline in ("popularity", "last-item"):
        config = {**json.loads(path.read_text()), "name": baseline}
        path.write_text(json.dumps({**config, "fingerprint": record_fingerprint(config)}))
        with pytest.raises(ConfigError, match=f"is called '{baseline}', as is the baseline"):
            evaluate(str(own_shop / "ids"), str(tmp_path / "r"), **QUICK)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"runs": []}, "at least one run"),
        ({"split": "train"}, "expected 'test' or 'validation'"),
        ({"bootstrap": -1}, "bootstrap=-1; expected at least 0"),
        ({"ks": [0]}, "ks=.0.; expected numbers of at least 1"),
        ({"beams": [10, 0]}, "beams="),
        ({"masks": ["both"]}, "masks="),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_options_that_make_no_sense(shop, tmp_path, options, expected):
    with pytest.raises(ConfigError, match=expected):
        evaluate(
            **{"runs": str(shop / "ids"), "out": str(tmp_path / "r"), "beams": [], **QUICK}
            | options
        )
    assert not (tmp_path / "r").exists()


def test_a_moved_run_is_evaluated_where_its_parts_are_named(shop, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(shop / "sid", moved)
    found = evaluate(
        str(moved),
        str(tmp_path / "r"),
        dataset=str(shop / "dataset"),
        vocabulary=str(shop / "vocabulary"),
        beams=[],
        examples=0,
        **QUICK,
    )
    assert list(found) == ["sid", "popularity"]


@pytest.mark.parametrize("order", ["file", "shuffled-day"])
def test_a_temporal_split_in_both_orders(shop, tmp_path, order):
    times = Dataset.load(shop / "dataset").histories.timestamps
    middle, late = (int(q) for q in np.quantile(times, [0.6, 0.8]))
    split = SplitConfig(
        type="temporal", order=order, seed=3, validation_from=middle, test_from=late
    )
    run = train(
        str(shop / "dataset"),
        str(tmp_path / "run"),
        item_encoder={"type": "id"},
        head={"type": "dense"},
        d_model=16,
        split=split,
        training=TrainingConfig(epochs=1),
        progress=False,
    )
    assert run.split_config == split
    data, parts = run.data
    asked = data.histories.timestamps[parts.test.end]
    assert (asked >= late - (86_400 if order == "shuffled-day" else 0)).all()
    evaluate(str(run.folder), str(tmp_path / "r"), beams=[], examples=0, **QUICK)
    record = json.loads((run.folder / "metrics.json").read_text())
    assert record["day_order"] == order
    assert order in (tmp_path / "r" / "report.html").read_text()


def test_lists_shorter_than_ten(own_shop, tmp_path):
    found = evaluate(str(own_shop / "ids"), str(tmp_path / "r"), ks=[5], **QUICK)
    record = json.loads((own_shop / "ids" / "metrics.json").read_text())
    assert all("unmasked/ndcg@5" in part for part in record["slices"]["popularity"])
    assert found["ids"].ks == (5,)
