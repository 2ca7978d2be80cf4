from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_shared_history.py"
spec = importlib.util.spec_from_file_location("bench_shared_history", SCRIPT)
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
SMALL = {
    "length": 12,
    "batch": 3,
    "beam": 6,
    "levels": 4,
    "items": 300,
    "width": 16,
    "layers": 2,
    "heads": 2,
    "k": 5,
    "repeats": 1,
    "seed": 1,
}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_the_two_ways_find_the_same(architecture: str) -> None:
    found = bench.measure(architecture=architecture, **SMALL)
    assert found["largest difference of scores"] < 1e-4
    assert found["ratio"] > 0


def test_a_cache_that_is_not_reordered_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.DynamicCache, "reorder_cache", lambda *_: None)
    with pytest.raises(SystemExit, match="differ"):
        bench.measure(architecture="llama", **SMALL)
    assert torch.is_inference_mode_enabled() is False
