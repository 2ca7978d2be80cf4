"""What machine figures are from: its name, threads, and peak memory of process and accelerator."""

from __future__ import annotations

import contextlib
import gc
import platform
import sys
import weakref
from pathlib import Path
from typing import Any, ClassVar

import torch

if sys.platform != "win32":
    import resource

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def machine() -> dict[str, Any]:
    """`machine` (the accelerator's name, or the processor's kind), `threads`, `torch_version`."""
    accelerator = torch.cuda.is_available()
    return {
        "machine": torch.cuda.get_device_name() if accelerator else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "torch_version": torch.__version__,
    }


class PeakMemory:
    """The most memory that was held since it was made.

    System and CUDA each keep one peak per process, which can be set back but not split. So whoever
    begins a measurement adds the peak so far to all others that are still read, and sets it back: a
    training knows its peak though its validations measure their own. What earlier work left to the
    garbage collector, as the model of a recipe's last run, is collected before; what it still
    holds, and what the process holds of libraries, counts.

    Where the system's peak cannot be set back (only Linux can, and some containers forbid it), it
    is that since the process started.
    """

    _others: ClassVar[weakref.WeakSet[PeakMemory]] = weakref.WeakSet()

    def __init__(self) -> None:
        self._most: dict[str, float] = {}
        for other in self._others:
            other.read()
        gc.collect()
        with contextlib.suppress(OSError):  # elsewhere than on Linux, or not permitted
            _RESET.write_text("5")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._others.add(self)

    def read(self) -> dict[str, float]:
        """Peaks in MiB.

        Returns:
            `peak_memory_mb`: resident memory of the process, where the system tells;
            `peak_device_memory_mb`: memory of CUDA tensors, with CUDA only.
        """
        for name, peak in _peaks().items():
            self._most[name] = max(self._most.get(name, 0.0), peak)
        return dict(self._most)


def _peaks() -> dict[str, float]:
    """The peaks since the last time they were set back."""
    peaks = {}
    if _STATUS.is_file():
        told = next((line for line in _STATUS.read_text().splitlines() if "VmHWM" in line), None)
        if told is not None:
            peaks["peak_memory_mb"] = round(int(told.split()[1]) / 2**10, 1)
    elif sys.platform != "win32":
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        peaks["peak_memory_mb"] = round(peak / 2**20, 1)
    if torch.cuda.is_available():
        peaks["peak_device_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peaks
