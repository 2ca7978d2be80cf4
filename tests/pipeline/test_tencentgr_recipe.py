"""The recipe for the real files runs as it stands on generated files of their layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from genrec.artefacts import read_json
from genrec.data.tencentgr import generate_tencentgr
from genrec.data.tencentgr.schema import ITEM_FEATURES
from genrec.evaluation import Evaluation
from genrec.pipeline import run
from genrec.pipeline.runs import Run

RECIPE = Path(__file__).parents[2] / "recipes" / "tencentgr-1m.yaml"


def smaller(value: Any, key: str = "") -> Any:
    """Fewer and narrower of everything; what is read, composed and optimised stays."""
    sizes = {
        "epochs": 1,
        "batch_size": 64,
        "negatives": 32,
        "in_batch": 32,
        "codebook_size": 8,
        "max_history": 20,
        "max_rows": 101,
        "width": 8,
        "workers": 0,
        "beams": [4],
    }
    if key in sizes:
        return sizes[key]
    if key == "codebook_sizes":
        return [8] * len(value)
    if isinstance(value, dict):
        return {name: smaller(one, name) for name, one in value.items() if name != "scale"} | (
            {"d_model": 16} if "scale" in value else {}
        )
    return value


@pytest.mark.slow
def test_every_row_runs_on_generated_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GENREC_DATA", str(tmp_path))
    generate_tencentgr(tmp_path / "TencentGR-1M", users=300, items=480, max_length=20)
    plan = smaller(yaml.safe_load(RECIPE.read_text()))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(plan))
    out = run(str(path), out=str(tmp_path / "out"), progress=False)
    rows = {folder.name for folder in (out / "runs").iterdir()}
    assert rows == set(plan["runs"]) >= {"hstu-4x128", "hstu-8x256", "hstu-8x512", "rq-both"}
    for name in rows:
        told = Run.open(out / "runs" / name).model
        assert told.asks_when == name.endswith("-request")
        assert told.asks_which_action == name.endswith("-asked")
        record = read_json(out / "runs" / name / "metrics.json")
        found = Evaluation.load(out / "runs" / name / "ranks" / "test.parquet")
        assert record["candidates"] == 66 and len(found) > 5
        assert np.isfinite(
            [record[f"test/{mask}/ndcg@10"]["value"] for mask in found.searches]
        ).all()


def test_the_published_sizes_are_rows():
    rows = yaml.safe_load(RECIPE.read_text())["runs"]
    for name in ("hstu-4x128", "hstu-8x256", "hstu-8x512"):
        assert rows[name]["scale"] == name.removeprefix("hstu-")
        assert rows[name]["backbone"]["type"] == "hstu"
    assert rows["baseline-bce"]["d_model"] == 32 and rows["baseline-bce"]["backbone"]["layers"] == 1


def mentions(value: Any, key: str, found: Any) -> bool:
    """Whether a part of a row is set so."""
    if isinstance(value, list):
        return any(mentions(one, key, found) for one in value)
    if not isinstance(value, dict):
        return False
    return value.get(key) == found or any(mentions(one, key, found) for one in value.values())


def test_only_the_rows_that_say_so_are_told_of_the_target():
    rows = yaml.safe_load(RECIPE.read_text())["runs"]
    told = {name for name, row in rows.items() if mentions(row, "times", "request")}
    assert told == {name for name in rows if name.endswith("-request")} == {"hstu-4x128-request"}
    asked = {name for name, row in rows.items() if mentions(row, "type", "next-action")}
    assert asked == {name for name in rows if name.endswith("-asked")} == {"hstu-4x128-asked"}
    # A default of the backbone may change, so each says what it knows of times.
    for row in rows.values():
        assert row["backbone"]["type"] != "hstu" or "times" in row["backbone"]


def test_the_published_rows_read_what_was_published():
    rows = yaml.safe_load(RECIPE.read_text())["runs"]
    for size in ("4x128", "8x256", "8x512"):
        row = rows[f"hstu-{size}-published"]
        assert row["scale"] == size and row["backbone"]["dropout"] == 0.1
        assert row["backbone"]["times"] == "none"
        parts = row["item_encoder"]["parts"]
        assert {part["type"] for part in parts.values()} == {"features", "user"}
        assert not any("vectors" in part for part in parts.values())
        read = [*parts["id"]["columns"], *parts["features"]["columns"]]
        assert sorted(map(str, read)) == sorted(
            ["reid", *(feature.name for feature in ITEM_FEATURES)]
        )
        assert parts["id"]["max_rows"] > 4_783_154 and parts["features"]["max_rows"] > 2_135_891
        assert row["head"]["temperature"] == 0.02 and row["head"]["negatives"] == 0
        training = row["training"]
        assert row["head"]["in_batch"] > training["batch_size"] * 101
        assert (training["epochs"], training["batch_size"]) == (6, 32)
        assert training["weight_decay"] == 1e-5
        steps = 6 * (1_001_845 - 100_184 - 5_009) // 32
        assert round(training["warmup"] * steps) == pytest.approx(1000, abs=1)
