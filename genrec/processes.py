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
