from __future__ import annotations

import json
from pathlib import Path

import pytest

from genrec.pipeline.sweeps import planned_runs, summary, variants, write_summary


def test_a_sweep_is_the_product_of_its_lists() -> None:
    run = {
        "d_model": 8,
        "backbone": {"type": "transformer", "dropout": 0.5},
        "sweep": {
            "backbone.dropout": [0.1, 0.3],
            "head.dropout": [0.0],
            "training.last_only": [True, False],
        },
    }
    found = variants("sid", run)
    assert list(found) == [
        f"sid-backbone.dropout{dropout}-head.dropout0-last_only{last}"
        for dropout in ("0.1", "0.3")
        for last in ("true", "false")
    ]
    chosen = found["sid-backbone.dropout0.3-head.dropout0-last_onlyfalse"]
    assert chosen == {
        "d_model": 8,
        "backbone": {"type": "transformer", "dropout": 0.3},
        "head": {"dropout": 0.0},
        "training": {"last_only": False},
    }
    assert run["backbone"]["dropout"] == 0.5
    assert variants("plain", {"d_model": 4}) == {"plain": {"d_model": 4}}


def test_runs_of_one_variant_differ_in_the_seed_alone() -> None:
    runs = {"a": {"seeds": [3, 4], "sweep": {"d_model": [8, 16]}}, "b": {"d_model": 2}}
    planned = planned_runs(runs)
    assert list(planned) == [
        "a-d_model8-seed3", "a-d_model8-seed4", "a-d_model16-seed3", "a-d_model16-seed4", "b",
    ]  # fmt: skip
    assert planned["a-d_model16-seed4"].variant == "a-d_model16"
    assert planned["a-d_model16-seed4"].options == {"d_model": 16, "training": {"seed": 4}}
    assert planned["b"].options == {"d_model": 2, "training": {}}


@pytest.mark.parametrize("own", [True, False])
def test_the_table_has_mean_and_spread_best_validation_first(tmp_path: Path, own: bool) -> None:
    planned = planned_runs({"low": {"seeds": [0, 1]}, "high": {}})
    figures = {"low-seed0": 0.02, "low-seed1": 0.04, "high": 0.05}
    for name, value in figures.items():
        run = tmp_path / "runs" / name
        place = run if own else tmp_path / "report" / name
        for folder in (run, place):
            folder.mkdir(parents=True, exist_ok=True)
        about = {"validation": {"ndcg@10": value}, "parameters": 1200, "seconds": 90}
        (run / "run.json").write_text(json.dumps(about))
        metrics = {
            f"validation/unmasked/{metric}@{k}": {"value": value + k / 1000}
            for metric in ("ndcg", "recall")
            for k in (5, 10, 20)
        }
        (place / "metrics.json").write_text(json.dumps(metrics))
    rows = summary(tmp_path, planned, split="validation", own=own)
    high, low = rows
    assert high == ("high", "1", ".0500", "R@10 .0600, N@10 .0600", "", "1,200", "1.5")
    spread = "R@10 .0400 (.0141), N@10 .0400 (.0141)"
    assert low == ("low", "2", ".0300 (.0141)", spread, "", "1,200", "1.5")
    write_summary(tmp_path / "runs.md", rows)
    assert "| high | 1 | .0500 |" in (tmp_path / "runs.md").read_text()
