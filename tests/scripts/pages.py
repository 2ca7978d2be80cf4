"""Scripts of the repository as modules, and folders of runs for them to read."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from genrec.evaluation import Evaluation, Ranks, SearchRecord

SCRIPTS = Path(__file__).parents[2] / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def write(folder: Path, ndcg: float, *, machine: str = "CPU of a test", **more: Any) -> None:
    """`metrics.json` of a method; with a seed also the `run.json` of its training."""
    folder.mkdir(parents=True)
    metrics: dict[str, Any] = {
        "day_order": "file",
        "certificate_rate": 0.5,
        "parameters": 1234,
        "seconds": 3.0,
        "test/users": 40,
        "fingerprints": {"dataset": "abc"},
        "exact": True,
        **more,
    }
    if "seed" in metrics:
        trained = {"machine": machine, "threads": 1, "torch_version": "9.9"}
        metrics |= {"training_seconds": 120.0, "trained_on": trained}
        about = {"vectors": "../../vectors/white", "peak_memory_mb": 700.4}
        (folder / "run.json").write_text(json.dumps(about))
    for mask, factor in (("unmasked", 1), ("masked", 2)):
        for name in ("recall@10", "ndcg@10"):
            value = ndcg * factor
            entry = {"value": value, "low": value - 0.01, "high": value + 0.01}
            metrics[f"test/{mask}/{name}"] = entry
    (folder / "metrics.json").write_text(json.dumps(metrics))


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


USERS = 30
GAIN = 1 / np.log2(np.arange(2, 12))  # of the target's place


def write_ranks(folder: Path, before: np.ndarray, *, users: int = USERS) -> np.ndarray:
    """Ranks of a run, twice as many places down with the history unmasked.

    Returns:
        Recall@10 and NDCG@10 by user, unmasked and then masked.
    """
    values = []
    searches = {}
    for mask, places in (("unmasked", 2 * before), ("masked", before)):
        ones = np.ones(users, dtype=np.int64)
        nothing = {"certified": ones > 0, "target_excluded": ones < 0}
        searches[mask] = SearchRecord(
            ranks=Ranks(places, ones, places),
            leaked=np.zeros(users, dtype=np.float32),
            evaluations=ones,
            seconds=1.0,
            **nothing,
        )
        hit = places < 10
        values += [hit.astype(float), np.where(hit, GAIN[np.minimum(places, 9)], 0.0)]
    (folder / "ranks").mkdir()
    Evaluation(
        ranker=folder.name,
        split="test",
        users=np.arange(users),
        targets=np.arange(users),
        history_lengths=np.ones(users, dtype=np.int64),
        searches=searches,
        ks=(10,),
        has_tuples=False,
        bootstrap=200,
    ).save(folder / "ranks/test.parquet")
    return np.stack(values)
