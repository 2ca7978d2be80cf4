"""The recipe for the real files runs as it stands on generated files of their layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from genrec.artefacts import read_json
from genrec.data.tencentgr import generate_tencentgr
from genrec.evaluation import Evaluation
from genrec.pipeline import run

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
