"""The processes that `accelerate launch` or torchrun started, and sums over them."""

from __future__ import annotations

import os
from datetime import timedelta

import numpy as np
import torch
from accelerate import PartialState

# One process may quantize while the others wait for it.
PATIENCE = timedelta(days=2)


def processes() -> PartialState:
    """The processes that `accelerate launch` or torchrun started; one if nobody did."""
    if PartialState._shared_state:
        return PartialState()
    # Or, launched with FSDP, transformers reads weights of a saved model in the first one only.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    # On the CPU accelerate has to be told so, or it takes each process for the only one.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)


def summed(values: np.ndarray) -> np.ndarray:
    """The sum of an array over all processes, in each of them; all must call it.

    Exact for floats too where no more than one process holds a value other than zero.

    Args:
        values: numbers or truth values, of one shape and type in all processes.
    """
    team = processes()
    if team.num_processes == 1:
        return values
    plain = values.view(np.uint8) if values.dtype == bool else values
    tensor = torch.from_numpy(np.ascontiguousarray(plain)).to(team.device)
    torch.distributed.all_reduce(tensor)
    return tensor.cpu().numpy().astype(values.dtype, copy=False)


def largest(value: int) -> int:
    """The largest value of any process, in each of them; all must call it."""
    team = processes()
    if team.num_processes == 1:
        return value
    tensor = torch.tensor(value, device=team.device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return int(tensor)


def gathered(values: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The values of all processes, one after another, in each of them; all must call it.

    Args:
        values: `[n]` of one type, on any device; each process may have another n.

    Returns:
        `[sum of n]`, without gradients, and where this process's values start in it.
    """
    team = processes()
    if team.num_processes == 1:
        return values.detach(), 0
    size = torch.tensor([len(values)], device=values.device)
    sizes = [torch.empty_like(size) for _ in range(team.num_processes)]
    torch.distributed.all_gather(sizes, size)
    counts = [int(one) for one in sizes]
    padded = values.new_zeros(max(counts))
    padded[: len(values)] = values.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(parts, padded)
    whole = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return whole, sum(counts[: team.process_index])
