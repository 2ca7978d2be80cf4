"""The peak of a measurement is its own, also where others were taken before it or inside it."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

import genrec.evaluation.memory as module
from genrec.evaluation import PeakMemory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is set back on Linux")
HELD = 96  # MiB


def hold() -> None:
    """Touch memory for a moment; an array of this size is given back to the system when freed."""
    np.ones(HELD * 2**20, dtype=np.uint8).sum()


def peak(measured: PeakMemory) -> float:
    return measured.read()["peak_memory_mb"]


def test_a_measurement_forgets_what_was_before() -> None:
    first = PeakMemory()
    hold()
    with_array = peak(first)
    second = PeakMemory()
    assert peak(second) < with_array - HELD / 2
    hold()
    assert peak(second) == pytest.approx(with_array, abs=HELD / 4)


def test_a_measurement_inside_another_takes_nothing_from_it() -> None:
    outer = PeakMemory()
    hold()
    inner = PeakMemory()
    assert peak(outer) > peak(inner) + HELD / 2


def test_a_peak_that_cannot_be_set_back_is_that_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RESET", tmp_path / "none" / "clear_refs")
    monkeypatch.setattr(module, "_STATUS", tmp_path / "status")
    hold()
    with_array = peak(PeakMemory())
    assert with_array > HELD
    assert peak(PeakMemory()) == with_array


class Cycle:
    """Holds an array until the garbage collector comes."""

    def __init__(self) -> None:
        self.array = np.ones(HELD * 2**20, dtype=np.uint8)
        self.itself = self


def test_what_waits_for_the_garbage_collector_is_not_counted() -> None:
    gc.disable()
    try:
        before = PeakMemory()
        Cycle()
        assert peak(PeakMemory()) < peak(before) - HELD / 2
    finally:
        gc.enable()
