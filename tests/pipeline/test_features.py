"""Columns of a dataset become tables of a model, and a model of them is trained, kept and used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from genrec.artefacts import read_json
from genrec.data import Catalog, Dataset, Histories
from genrec.data.sources import prepare
from genrec.data.split_checks import check_split
from genrec.data.tencentgr import generate_tencentgr
from genrec.data.tencentgr.protocol import candidates
from genrec.errors import ArtefactError, ConfigError, DataError
from genrec.evaluation.tencentgr import evaluation_scores
from genrec.pipeline import evaluate, recommend, train
from genrec.pipeline.features import feature_tables, sparse_matrix
from genrec.pipeline.recipe import Recipe
from genrec.pipeline.settings import SplitConfig
from genrec.training import TrainingConfig

PARTS: dict[str, Any] = {
    "item": {
        "type": "features",
        "columns": ["reid", 101, 102, "121"],
        "vectors": ["mm_81"],
        "max_rows": 200,
    },
    "user": {"type": "user", "columns": ["103", "106"]},
    "action": {"type": "action", "num_actions": 2},
    "asked": {"type": "next-action", "num_actions": 2},
    "gap": {"type": "time-gap"},
    "hour": {"type": "calendar"},
}


@pytest.fixture(scope="module")
def ads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ads")
    files = generate_tencentgr(
        root / "files", users=400, items=480, max_length=30, vectors=("emb_81_4",)
    )
    prepare("tencentgr", root / "dataset", files, progress=False)
    return root


def test_a_model_of_all_features_is_trained_and_used(
    ads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    dataset, out = str(ads / "dataset"), str(tmp_path / "run")
    made = train(
        dataset,
        out,
        item_encoder={"type": "sum", "parts": PARTS},
        head={
            "type": "dense",
            "loss": "infonce",
            "similarity": "cosine",
            "temperature": 0.1,
            "negatives": 50,
            "in_batch": 50,
        },
        backbone={"type": "transformer", "layers": 1},
        d_model=16,
        max_history=10,
        training=TrainingConfig(epochs=2, batch_size=32, learning_rate=0.01),
        split=SplitConfig(type="last-click"),
        progress=False,
    )
    assert made.model.tables.features.shape == (len(Dataset.load(dataset).catalog), 4)
    losses = [entry["loss"] for entry in read_json(Path(out, "log.json")) if "loss" in entry]
    assert losses[-1] < losses[0]
    found = {
        told: evaluate(
            out,
            str(tmp_path / f"report-{told}"),
            request_action=told,
            ks=[10],
            bootstrap=10,
            examples=0,
            progress=told,
        )
        for told in (False, True)
    }
    for told, evaluations in found.items():
        facts = evaluations["run"].facts
        assert facts["knows_request_action"] is told and facts["targets_outside_candidates"] == 0
        assert facts["candidates"] == 66
        scores = evaluation_scores(evaluations["run"])
        assert 0 <= scores["masked"]["literal"].score <= 1
    record = read_json(Path(out, "metrics.json"))["contest_score"]
    assert record["masked"]["literal"]["score"] == scores["masked"]["literal"].score
    assert record["unmasked"]["user-weighted"]["users"] == len(found[True]["run"])
    assert "score of the challenge: .31 HR@10 + .69 NDCG@10" in capsys.readouterr().out
    users = Dataset.load(dataset).histories.user_ids[:3].to_pylist()
    lists = recommend(out, users=users, k=5, allow=str(ads / "dataset" / "candidates.parquet"))
    assert len(lists) == 15 and lists["score"].notna().all()


def test_a_column_that_is_missing_is_found_before_anything_is_written(ads: Path, tmp_path: Path):
    dataset = str(ads / "dataset")
    for part, message in (
        ({"type": "features", "columns": ["999"]}, "items have no column '999'"),
        ({"type": "features", "vectors": ["mm_82"]}, "no column 'mm_82'"),
        ({"type": "features", "columns": ["mm_81"]}, "column 'mm_81' holds"),
        ({"type": "features", "columns": ["101"], "width": 0}, "width=0"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(
                dataset,
                str(tmp_path / "run"),
                item_encoder=part,
                head={"type": "dense"},
                progress=False,
            )
    assert not (tmp_path / "run").exists()


def small(**users: Any) -> Dataset:
    histories = Histories.from_lists([[0, 1], [1, 0]])
    items = pa.table({"item_id": [5, 6], "f": [3, None], "tags": [[1, 2], None]})
    about = pa.table({"user_id": histories.user_ids, **users}) if users else None
    return Dataset(Catalog(items), histories, users=about)


def test_missing_values_and_lists():
    sizes, matrix = sparse_matrix(small().catalog.table, ["tags", "f"], "items")
    assert sizes == [("tags", 3, 2), ("f", 4, 1)]
    np.testing.assert_array_equal(matrix, [[1, 2, 3], [0, 0, 0]])
    long = pa.table({"x": [list(range(1, 40)), []]})
    sizes, matrix = sparse_matrix(long, ["x"], "items")
    assert sizes == [("x", 33, 32)] and matrix[0].tolist() == list(range(1, 33))
    with pytest.raises(DataError, match=r"items: column 'x' row 2 has \[-1\]"):
        sparse_matrix(pa.table({"x": [1, -1]}), ["x"], "items")


def test_parts_of_a_sum_are_found_wherever_they_are():
    nested = {
        "type": "sum",
        "parts": {
            "a": {"type": "features", "columns": ["f"]},
            "b": {"type": "sum", "parts": {"c": {"type": "user", "columns": ["age"]}}},
        },
    }
    config, tables = feature_tables(small(age=[7, 8]), nested)
    assert config["feature_columns"] == [("f", 4, 1)]
    assert config["user_columns"] == [("age", 9, 1)] and config["num_users"] == 2
    np.testing.assert_array_equal(tables["user_features"], [[7], [8]])
    with pytest.raises(ConfigError, match=r"no users\.parquet"):
        feature_tables(small(), nested)
    assert feature_tables(small(), {"type": "id"}) == ({}, {})


def test_a_recipe_is_checked_without_the_data(tmp_path: Path):
    recipe = {
        "name": "ads",
        "prepare": {"source": "tencentgr", "path": "downloads"},
        "split": {"type": "last-click"},
        "runs": {"a": {"item_encoder": {"type": "sum", "parts": PARTS}, "head": {"type": "dense"}}},
    }
    path = tmp_path / "ads.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert Recipe.load(path).name == "ads"
    recipe["runs"]["a"]["item_encoder"]["parts"]["item"]["widht"] = 3
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        Recipe.load(path)


def test_the_pool_of_the_split_is_what_is_ranked(ads: Path):
    data, split = SplitConfig(type="last-click").apply(Dataset.load(ads / "dataset"))
    np.testing.assert_array_equal(split.candidates, np.sort(candidates(data)))


def test_a_split_is_stored_in_full(ads: Path, tmp_path: Path):
    reference = SplitConfig(type="last-click")
    assert reference.describe() == {
        "type": "last-click",
        "order": "file",
        "seed": 0,
        "draw": 2025,
        "share": 0.1,
        "validation_share": 0.02,
        "cut": "position",
        "train_on": "others",
        "targets": [1],
    }
    assert SplitConfig(**reference.describe()).describe() == reference.describe()
    data, other = SplitConfig(type="last-click", cut="time", train_on="prefixes").apply(
        Dataset.load(ads / "dataset")
    )
    assert other.info["cut"] == "time" and other.info["train_on"] == "prefixes"
    assert len(check_split(data, other)) == 12
    run = tmp_path / "run"
    model = {"item_encoder": {"type": "id"}, "head": {"type": "dense"}, "d_model": 8}
    train(
        str(ads / "dataset"),
        str(run),
        split=reference,
        training=TrainingConfig(epochs=1),
        progress=False,
        **model,
    )
    record = read_json(run / "run.json")
    assert record["split"] == reference.describe()
    # As versions wrote it whose hold-out was another.
    old = {**record, "split": {"type": "last-click", "order": "file", "seed": 0}, "fingerprint": ""}
    (run / "run.json").write_text(json.dumps(old))
    with pytest.raises(ArtefactError, match=r"does not say draw, share, .*: train again"):
        evaluate(str(run), str(tmp_path / "report"), progress=False)


def test_more_users_can_be_asked_and_other_actions_be_the_target(ads: Path):
    data = Dataset.load(ads / "dataset")
    infos = [
        SplitConfig(type="last-click", **options).apply(data)[1].info
        for options in ({}, {"share": 0.3}, {"targets": [0, 1]})
    ]
    assert [info["held_out"] for info in infos] == [40, 120, 40]
    found = SplitConfig(type="last-click", targets=[0, 1]).apply(data)[1]
    # Every event is an exposure or a click, so the target is the last one of the user.
    assert data.histories.offsets is not None
    ends = data.histories.offsets[found.test.users + 1]
    known = data.histories.actions[ends - 1] > 0
    np.testing.assert_array_equal(found.test.targets[known], data.histories.items[ends - 1][known])
    assert known.any()


def test_lists_that_are_cut_are_told(capsys: pytest.CaptureFixture[str]):
    rows = [list(range(1, 20)), None, list(range(1, 34)), [], list(range(40))]
    table = pa.table({"107": pa.array(rows, pa.list_(pa.int32()))})
    sizes, matrix = sparse_matrix(table, ["107"], "users")
    assert sizes == [("107", 33, 32)] and matrix[0, :20].tolist() == [*range(1, 20), 0]
    assert matrix[2].tolist() == list(range(1, 33)) and matrix[4].tolist() == list(range(32))
    told = " ".join(capsys.readouterr().err.split())
    assert "users: column '107': 2 lists hold more than 32 values" in told
    sparse_matrix(table[:2], ["107"], "users")
    assert capsys.readouterr().err == ""
