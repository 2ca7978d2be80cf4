"""Seconds of a training by the clock and of processors, which are told apart and add up."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from genrec.training import clock as module
from genrec.training.clock import Clock, Spent


def work(seconds: float) -> None:
    """Keep one processor busy."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@pytest.mark.skipif(torch.accelerator.is_available(), reason="processors are counted without one")
def test_waiting_takes_no_time_of_processors_and_validations_are_told_apart() -> None:
    clock = Clock(Spent())
    work(0.1)
    with clock.validating():
        work(0.2)
        time.sleep(0.5)
    found = clock.read()
    assert found.seconds >= 0.8 and found.seconds - found.training_seconds >= 0.7
    assert 0.3 <= found.cpu_seconds + 0.03 < found.seconds - 0.2  # told in ticks of .01 s
    assert found.cpu_seconds - found.training_cpu_seconds + 0.03 >= 0.2


def test_it_counts_on_from_what_was_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([[100.0, 10.0], [101.0, 10.5], [103.0, 12.0], [107.0, 14.0]])
    monkeypatch.setattr(module, "_now", lambda: np.array(next(moments)))
    monkeypatch.setattr(module, "_accelerated", lambda: False)
    monkeypatch.setattr(module, "summed", lambda values: 2 * values)  # another process as busy
    clock = Clock(Spent(50.0, 30.0, 20.0, 15.0))
    with clock.validating():
        pass
    assert clock.read() == Spent(57.0, 35.0, 20.0 + 2 * 4.0, 15.0 + 2 * 2.5)


@pytest.mark.parametrize("accelerated", [False, True])
def test_processors_are_unknown_after_an_earlier_version_or_beside_an_accelerator(
    monkeypatch: pytest.MonkeyPatch, accelerated: bool
) -> None:
    monkeypatch.setattr(module, "_accelerated", lambda: accelerated)
    log = [{"loss": 1.0}, {"seconds": 9.0}, {"seconds": 4.0, "training_seconds": 3.0}]
    before = Spent.of(log[1:2])
    assert before == Spent(9.0, 9.0, None, None)
    found = Clock(Spent() if accelerated else before).read()
    assert (found.cpu_seconds, found.training_cpu_seconds) == (None, None)
    assert set(found.known()) == {"seconds", "training_seconds"}


def test_a_log_tells_what_its_last_validation_knew() -> None:
    entries = [
        Spent(4.0, 3.0, 2.0, 1.0).known(),
        {"loss": 2.0},
        Spent(8.0, 6.0, 4.0, 2.126).known(),
    ]
    assert Spent.of(entries) == Spent(8.0, 6.0, 4.0, 2.13)
    assert Spent.of(entries[1:2]) == Spent()
