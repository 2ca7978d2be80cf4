"""Checkpoints of a sharded training: a file of each process with what it holds, as safetensors.

No process needs more memory than it trains with, and nothing is gathered. The files belong to one
number of processes. (The layouts of accelerate gather every parameter whole, or are read back by a
pickle that may run anything.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from genrec.processes import processes
from genrec.training.optimizers import parts_of
from genrec.training.tensor_files import Blocks, write_tensors


def shard_files() -> list[str]:
    """Names of the files of all processes that work together now."""
    count = processes().num_processes
    return [f"shard-{rank:05d}-of-{count:05d}.safetensors" for rank in range(count)]


def save_shard(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write this process's part of weights and optimiser; all processes must call it."""
    held: dict[str, torch.Tensor] = {}
    for name, value in model.named_parameters():
        held[f"weight/{name}"] = _local(value)
        for key, part in _state(optimizer, value).items():
            held[f"{key}/{name}"] = _local(part)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / shard_files()[processes().process_index]
    temporary = path.with_name(f".{path.name}")
    write_tensors(temporary, {name: Blocks.of(tensor) for name, tensor in held.items()})
    temporary.replace(path)
    processes().wait_for_everyone()


@torch.no_grad()
def load_shard(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put this process's part of weights and optimiser back."""
    held = load_file(folder / shard_files()[processes().process_index])
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in held.items():
        kind, _, name = key.partition("/")
        states.setdefault(name, {})[kind] = tensor
    for name, value in model.named_parameters():
        state = states[name]
        _local(value).copy_(state.pop("weight"))
        _state(optimizer, value).update({key: _like(value, one) for key, one in state.items()})


def _state(optimizer: torch.optim.Optimizer, parameter: Any) -> dict[str, Any]:
    """The state that an optimiser, or the part of it that trains the parameter, has of it."""
    for part in parts_of(optimizer):
        for group in part.param_groups:
            if any(one is parameter for one in group["params"]):
                found: dict[str, Any] = part.state[parameter]
                return found
    return {}  # of what is not trained


def _local(value: Any) -> torch.Tensor:
    value = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(value)
    found: torch.Tensor = value.to_local() if isinstance(value, DTensor) else value
    return found


def _like(parameter: Any, part: torch.Tensor) -> torch.Tensor:
    """State of the optimiser as it was: split as its parameter is, of its rows, or of steps."""
    if part.dim() == 0:
        return part
    if not isinstance(parameter, DTensor) or part.shape != parameter.to_local().shape:
        return part.to(parameter.device)
    return DTensor.from_local(
        part.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
