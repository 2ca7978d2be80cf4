"""Which part of the machine each job of a recipe gets."""

from __future__ import annotations

import os
from queue import SimpleQueue

import pytest
import torch

from genrec.pipeline import jobs


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
