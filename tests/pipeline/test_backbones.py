"""Backbones other than the transformer through the verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from genrec.errors import ConfigError
from genrec.pipeline import evaluate, recommend, train
from genrec.training import TrainingConfig

PLAN: dict[str, Any] = {
    "item_encoder": {"type": "id"},
    "head": {"type": "dense", "similarity": "cosine", "temperature": 0.05},
    "d_model": 16,
    "max_history": 12,
    "training": TrainingConfig(epochs=1, batch_size=64),
    "progress": False,
}


@pytest.mark.parametrize("name", ["hstu"])
def test_times_reach_the_backbone(name: str, shop: Path, tmp_path: Path) -> None:
    backbone = {"type": name, "times": "request"}
    run = train(str(shop / "dataset"), str(tmp_path / "run"), backbone=backbone, **PLAN)
    parts = run.model.backbone.state_dict()
    (table,) = [value for key, value in parts.items() if key == "layers.0.time"]
    assert table.std() > 0
    facts = []
    for known in (True, False):
        options = {"examples": 0, "request_time": known, "masks": ["unmasked"], "bootstrap": 0}
        found = evaluate(str(tmp_path / "run"), str(tmp_path / f"{known}"), **options)
        facts.append([found[name].facts["knows_request_time"] for name in ("run", "popularity")])
        page = (tmp_path / f"{known}" / "report.html").read_text()
        assert ("<th>told</th>" in page) is known
    assert facts == [[True, False], [False, False]]

    asked = {"users": ["U00004", "U00007"], "k": 150, "repeat": True}
    lists = {
        moment: recommend(str(tmp_path / "run"), request_time=moment, **asked)
        for moment in (None, "2020-01-01", 1_577_836_800, "now")
    }
    scores = {moment: found["score"].tolist() for moment, found in lists.items()}
    assert scores["2020-01-01"] == scores[1_577_836_800]
    assert scores[None] != scores["2020-01-01"] != scores["now"]
    with pytest.raises(ConfigError, match="request_time: 'soon' is no moment"):
        recommend(str(tmp_path / "run"), request_time="soon", **asked)
    with pytest.raises(ConfigError, match="reads the time of every event"):
        recommend(str(tmp_path / "run"), items="G00001")


@pytest.mark.parametrize("name", ["hstu"])
def test_data_without_times_are_refused_before_training(name: str, tmp_path: Path) -> None:
    folder, out = positions_only(tmp_path), tmp_path / "run"
    with pytest.raises(ConfigError, match=f"'{name}' reads the time of every event"):
        train(str(folder), str(out), backbone={"type": name}, **PLAN)
    assert not out.exists()
    train(str(folder), str(out), backbone={"type": name, "times": "none"}, **PLAN)


@pytest.mark.parametrize(("feature", "field"), [("time-gap", "time"), ("action", "action")])
def test_data_without_what_a_feature_reads_are_refused(
    feature: str, field: str, tmp_path: Path
) -> None:
    parts = {"item": {"type": "id"}, "more": {"type": feature}}
    plan = {**PLAN, "item_encoder": {"type": "sum", "parts": parts}}
    with pytest.raises(ConfigError, match=f"'sum' reads the {field} of every event"):
        train(str(positions_only(tmp_path)), str(tmp_path / "run"), **plan)


def positions_only(folder: Path) -> Path:
    """A dataset without times and actions."""
    dataset = folder / "dataset"
    dataset.mkdir()
    events = [(u, (u + n) % 9, n) for u in range(12) for n in range(5)]
    frame = pd.DataFrame(events, columns=["user_id", "item_id", "position"])
    frame.to_parquet(dataset / "interactions.parquet")
    pd.DataFrame({"item_id": range(9)}).to_parquet(dataset / "items.parquet")
    return dataset
