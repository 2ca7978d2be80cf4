"""A run notes what its own training took, whatever its process did before."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genrec.evaluation import PeakMemory
from genrec.pipeline import train
from genrec.training import TrainingConfig

HELD = 600  # MiB, far more than a training of nine items takes


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is set back on Linux")
def test_what_was_held_before_a_training_is_not_its_peak(tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    events = [(u, (u + n) % 9, n) for u in range(12) for n in range(5)]
    frame = pd.DataFrame(events, columns=["user_id", "item_id", "position"])
    frame.to_parquet(dataset / "interactions.parquet")
    pd.DataFrame({"item_id": range(9)}).to_parquet(dataset / "items.parquet")
    whole = PeakMemory()
    np.ones(HELD * 2**20, dtype=np.uint8).sum()
    before = whole.read()["peak_memory_mb"]
    run = train(
        str(dataset),
        str(tmp_path / "run"),
        item_encoder={"type": "id"},
        head={"type": "dense"},
        d_model=8,
        training=TrainingConfig(epochs=1),
        progress=False,
    )
    assert 0 < run.config["peak_memory_mb"] < before - HELD / 4
    assert whole.read()["peak_memory_mb"] >= before
