"""Which part of the machine each job of a recipe gets."""

from __future__ import annotations

import os
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from rich.console import Console

from genrec.errors import ConfigError
from genrec.pipeline import jobs
from genrec.pipeline.settings import SplitConfig
from genrec.pipeline.stages import Stages

ENDS = {
    "bad": ConfigError("d_model: expected more"),
    "large": torch.OutOfMemoryError("tried to allocate 9 TiB\nmore about it"),
    "larger": MemoryError("no room"),
}


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        (None, 0, [None, None, None]),
        (None, 1, [None, None, None]),
        (None, 2, ["0", "1", "0"]),
        ("5, 7", 2, ["5", "7", "5"]),
        ("GPU-a,GPU-b,GPU-c", 3, ["GPU-a", "GPU-b", "GPU-c"]),
        ("3", 1, [None, None, None]),
    ],
)
def test_jobs_take_the_gpus_in_turn(visible, count, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert jobs.devices_of_jobs(3) == expected


def test_a_job_sees_its_gpu_alone(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    devices = SimpleQueue()
    for device in ("1", None):
        devices.put(device)
    jobs._begin_job(2, devices)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1" and threads == [2]
    jobs._begin_job(2, devices)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_the_cores_are_those_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    assert jobs.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert jobs.usable_cores() == 64


def train_all(folder: Path, names: list[str], count: int) -> tuple[Stages, dict[str, str]]:
    """What `jobs.train_all` says of each run that failed."""
    stages = Stages(folder, Console(quiet=True))
    failed = jobs.train_all(stages, {name: {} for name in names}, SplitConfig(), count, False)
    return stages, {name: str(error) for name, error in failed.items()}


def test_a_run_that_does_not_fit_stops_no_other(tmp_path: Path, monkeypatch: Any) -> None:
    trained = []

    def train(stages: Stages, name: str, *rest: Any) -> bool:
        if name in ENDS:
            raise ENDS[name]
        trained.append(name)
        return True

    monkeypatch.setattr(jobs, "_train", train)
    _, failed = train_all(tmp_path, ["large", "good", "bad", "larger", "last"], 1)
    assert trained == ["good", "last"]
    assert list(failed) == ["large", "bad", "larger"]
    assert failed["large"].startswith("out of memory (tried to allocate 9 TiB); a smaller batch")
    assert failed["bad"] == "d_model: expected more"


def test_jobs_that_are_ended_from_outside_are_told(tmp_path: Path, monkeypatch: Any) -> None:
    class Pool:
        def __init__(self, *args: Any, **options: Any) -> None:
            pass

        def submit(self, work: Any, folder: Path, known: Any, name: str, *rest: Any) -> Any:
            done: Future[Any] = Future()
            if name == "good":
                done.set_result(("key", None, True))
            else:
                done.set_exception(ENDS.get(name, BrokenProcessPool("ended")))
            return done

        def shutdown(self, **options: Any) -> None:
            pass

    monkeypatch.setattr(jobs, "ProcessPoolExecutor", Pool)
    stages, failed = train_all(tmp_path, ["killed", "good", "large"], 2)
    assert stages.keys == {"runs/good": "key"}
    assert list(failed) == ["killed", "large"]
    assert "ended from outside" in failed["killed"] and "fewer jobs" in failed["killed"]
    assert failed["large"].startswith("out of memory")
