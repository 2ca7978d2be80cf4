from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

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
    assert found["lists whose items were compared"] > 0
    assert found["ratio"] > 0


def test_a_near_tie_in_one_list_hides_no_other_list() -> None:
    scores = torch.tensor([[-1.0, -1.00001, -3.0], [-1.0, -2.0, -3.0]])
    items = torch.tensor([[1, 2, 3], [4, 5, 6]])
    one = SimpleNamespace(scores=scores, items=items)
    swapped = torch.tensor([[2, 1, 3], [4, 5, 6]])
    assert bench.compare(one, SimpleNamespace(scores=scores, items=swapped)) == 1
    other = torch.tensor([[1, 2, 3], [4, 5, 9]])
    with pytest.raises(SystemExit, match="differ in their items"):
        bench.compare(one, SimpleNamespace(scores=scores, items=other))


def test_a_cache_that_is_not_reordered_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.DynamicCache, "reorder_cache", lambda *_: None)
    with pytest.raises(SystemExit, match="differ"):
        bench.measure(architecture="llama", **SMALL)
    assert torch.is_inference_mode_enabled() is False
