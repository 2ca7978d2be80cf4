"""What machine figures are from: its name, threads, and peak memory of process and accelerator."""

from __future__ import annotations

import platform
import sys
from typing import Any

import torch

if sys.platform != "win32":
    import resource


def machine() -> dict[str, Any]:
    """`machine` (the accelerator's name, or the processor's kind), `threads`, `torch_version`."""
    accelerator = torch.cuda.is_available()
    return {
        "machine": torch.cuda.get_device_name() if accelerator else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "torch_version": torch.__version__,
    }


def reset_peak_memory() -> None:
    """Forget the accelerator's peak so far; the process's peak cannot be reset."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, float]:
    """Peaks in MiB.

    Returns:
        `peak_memory_mb`: resident memory of the process since it started, where the system tells;
        `peak_device_memory_mb`: memory of CUDA tensors since `reset_peak_memory`, with CUDA only.
    """
    peaks = {}
    if sys.platform != "win32":
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        peaks["peak_memory_mb"] = round(peak / 2**20, 1)
    if torch.cuda.is_available():
        peaks["peak_device_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peaks
