from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_batches.py"


def test_all_ways_of_making_batches_have_one_loss_and_less_padding(shop, capsys):
    spec = importlib.util.spec_from_file_location("bench_batches", SCRIPT)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    options = ["--batch_size=16", "--steps=2", "--rounds=1", "--width=16", "--by_length=4"]
    rows = bench.main([str(shop / "dataset"), *options])
    assert [(row["softmax"], row["batches"]) for row in rows] == [
        (loss, way) for loss in ("sampled", "full") for way in ("padded", "packed", "by length")
    ]
    for row in rows:
        assert row["loss"] == pytest.approx(rows[0]["loss"], abs=1e-5)
        assert row["times_as_fast"] > 0
    padded, packed, by_length = (row["places_per_label"] for row in rows[:3])
    assert padded == packed > by_length >= 1
    assert "| full | by length |" in capsys.readouterr().out
