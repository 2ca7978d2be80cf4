"""Models whose weights, gradients and optimiser are shared out to processes (FSDP2).

`fully_shard` (Zhao et al. 2023, the second version in PyTorch) splits every parameter by its first
dimension and gathers a layer whole while it runs. Tables of many rows need not be gathered for the
few rows that a batch reads: `RowSharded` asks every process for its own rows and adds up the
answers.

Validation uses a model of the usual kind, whose other weights are whole (`whole_model`). Tables
that are split are whole in no process: each one draws its own rows (`own_rows`), and `row_blocks`
gives them to be written, a block at a time.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from safetensors import safe_open
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from transformers.utils import SAFE_WEIGHTS_NAME

from genrec.errors import ConfigError
from genrec.models import DenseHead, Recommender, RecommenderConfig
from genrec.models.embeddings import HeldRows, bounds, held_rows, share
from genrec.processes import largest, processes
from genrec.training.config import TrainingConfig
from genrec.training.optimizers import table_names

_LAUNCHED = "ACCELERATE_USE_FSDP"
_CHECKPOINTED = "._checkpoint_wrapped_module"
_BLOCK = 1 << 24  # numbers of a table that travel at once: 64 MB


def as_launched(config: TrainingConfig) -> TrainingConfig:
    """The configuration with what `accelerate launch --use_fsdp` asks for.

    Raises:
        ConfigError: if parameters are to be offloaded to the CPU, which is not supported, or for
            settings that do not go with FSDP.
    """
    if os.environ.get(_LAUNCHED, "").lower() != "true" or config.fsdp:
        return config
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true":
        raise ConfigError(
            "training: accelerate was told to offload parameters (fsdp_offload_params), which "
            "genrec does not do; set it to false"
        )
    asked = {
        "reshard_after_forward": os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true") != "false",
        "activation_checkpointing": os.environ.get("FSDP_ACTIVATION_CHECKPOINTING") == "true",
    }
    return replace(config, fsdp=True, fsdp_config=asked)


@contextlib.contextmanager
def launcher_settings() -> Iterator[None]:
    """Put back what one training tells accelerate of FSDP, so that the next one starts afresh."""
    state = processes()
    before = os.environ.get(_LAUNCHED), state.distributed_type
    try:
        with warnings.catch_warnings():
            # Of the states that come out beside the loss; nobody changes them.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
            yield
    finally:
        os.environ.pop(_LAUNCHED, None)
        if before[0] is not None:
            os.environ[_LAUNCHED] = before[0]
        AcceleratorState._reset_state()
        state.distributed_type = before[1]


def is_sharded(config: TrainingConfig) -> bool:
    """Whether parameters are shared out: FSDP is asked for, and there are several processes."""
    return config.fsdp and processes().num_processes > 1


def own_rows(config: TrainingConfig) -> contextlib.AbstractContextManager[None]:
    """While it lasts, models are built with this process's rows of the tables to be split."""
    if not (is_sharded(config) and config.shard_tables):
        return contextlib.nullcontext()
    team = processes()
    return held_rows(
        process=team.process_index, processes=team.num_processes, least=config.shard_tables
    )


class RowSharded(nn.Embedding):
    """An embedding table whose rows are split over the processes, and stay where they are.

    A look-up gathers the row numbers that the processes ask for, each process looks up the rows it
    holds, and a reduce-scatter adds up the answers: the rows of one process and zeros of others, so
    the sum is exact. All processes must look up together; how many rows each asks for may differ.

    The gradient of a row is the mean over the processes, as for parameters of FSDP. The backward
    pass adds to `weight.grad` in place; `torch.autograd.grad` does not know of it.

    Args:
        table: the rows that this process holds, or a whole table, which is left alone.
        device: of the process's part.

    Memory of a process: `1 / W` of the rows, of W processes; of a look-up, `4 W M D` bytes for at
    most M rows of width D that a process asks for.
    """

    def __init__(self, table: nn.Embedding, *, device: torch.device) -> None:
        super().__init__(
            table.num_embeddings,
            table.embedding_dim,
            padding_idx=table.padding_idx,
            device="meta",
        )
        mesh = init_device_mesh(device.type, (processes().num_processes,))
        trains = True
        if isinstance(table, HeldRows):
            # The device may have a number ("cpu:0"), for which torch would copy.
            held = table.held if device.type == "cpu" else table.held.to(device)
        else:
            trains = table.weight.requires_grad
            first, last = bounds(table.num_embeddings, mesh.get_rank(), mesh.size())
            # A copy, or the part would keep the memory of the whole.
            held = table.weight.detach()[first:last].to(device, copy=True)
        shape = torch.Size([table.num_embeddings, table.embedding_dim])
        own = DTensor.from_local(held, mesh, [Shard(0)], shape=shape, stride=(shape[1], 1))
        self.weight = nn.Parameter(own, requires_grad=trains)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Rows `[..., D]` of numbers `[...]`, as any embedding; row `padding_idx` is zero."""
        weight: Any = self.weight
        mesh = weight.device_mesh
        numbers = input.reshape(-1)
        padded = F.pad(numbers, (0, largest(len(numbers)) - len(numbers)))
        own = DTensor.from_local(padded, mesh, [Shard(0)], run_check=False)
        asked = own.redistribute(placements=[Replicate()]).to_local()
        # DTensor's own look-up would make a gradient of the whole table in each process.
        held = weight.to_local()
        local = asked - mesh.get_rank() * share(self.num_embeddings, mesh.size())
        here = (local >= 0) & (local < len(held))
        found = _OwnRows.apply(held, local, here, weight)
        answers = DTensor.from_local(found, mesh, [Partial()], run_check=False)
        rows = answers.redistribute(placements=[Shard(0)]).to_local()[: len(numbers)]
        if self.padding_idx is not None:
            rows = rows.masked_fill((numbers == self.padding_idx).unsqueeze(1), 0)
        if rows.requires_grad:
            rows.register_hook(lambda gradient: gradient / mesh.size())
        return rows.view(*input.shape, self.embedding_dim)


class _OwnRows(torch.autograd.Function):
    """Rows of a table that are held here, and zeros for others; gradients are added up in place.

    Autograd would make a gradient as large as the part for each look-up, and add them up.
    """

    @staticmethod
    def forward(
        ctx: Any, held: torch.Tensor, local: torch.Tensor, here: torch.Tensor, weight: Any
    ) -> torch.Tensor:
        ctx.save_for_backward(local, here)
        ctx.weight = weight
        found = held.new_zeros(len(local), held.shape[1])
        found[here] = held[local[here]]
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None, None, None]:
        local, here = ctx.saved_tensors
        (gradient,) = gradients
        with torch.no_grad():
            if ctx.weight.grad is None:
                ctx.weight.grad = torch.zeros_like(ctx.weight)
            own = ctx.weight.grad.to_local()
            own.index_add_(0, local[here], gradient[here].to(own.dtype))
        return None, None, None, None


def tables_to_split(model: Recommender, rows: int) -> dict[str, nn.Embedding]:
    """The embedding tables of at least `rows` rows, by name.

    Raises:
        ConfigError: if no table is as large.
    """
    names = [name.removesuffix(".weight") for name in sorted(table_names(model))]
    found = {name: cast("nn.Embedding", model.get_submodule(name)) for name in names}
    large = {name: table for name, table in found.items() if table.num_embeddings >= rows}
    if not large:
        most = max((table.num_embeddings for table in found.values()), default=0)
        raise ConfigError(
            f"training: shard_tables={rows}, but the largest embedding table of the model has "
            f"{most} rows; set it to at most that, or to 0"
        )
    return large


def shard_tables(model: Recommender, *, rows: int, device: torch.device) -> list[RowSharded]:
    """Split the embedding tables of at least `rows` rows over the processes, in place.

    Returns:
        The tables that were split.
    """
    split = []
    for name, table in tables_to_split(model, rows).items():
        split.append(RowSharded(table, device=device))
        model.set_submodule(name, split[-1])
    return split


def row_sharded(model: nn.Module) -> dict[str, RowSharded]:
    """The tables that are split by rows, by name."""
    return {name: one for name, one in model.named_modules() if isinstance(one, RowSharded)}


@torch.no_grad()
def whole_model(model: Recommender) -> Recommender:
    """A model of the usual kind with the weights of a sharded one; all processes must call it.

    Buffers are shared with it, and so are tables that are split by rows.

    Memory: the weights once in each process, without those tables. A search over the whole
    catalogue encodes it a block at a time; over a pool of items it has their vectors.
    """
    with torch.device("meta"):
        plain = Recommender(cast("RecommenderConfig", model.config))
    for name, table in row_sharded(model).items():
        plain.set_submodule(name, table)
    tables = {f"{name}.weight" for name in row_sharded(model)}
    for name, value in model.named_parameters():
        name = name.replace(_CHECKPOINTED, "")
        if name not in tables:
            full = value.full_tensor() if isinstance(value, DTensor) else value.detach()
            _owner(plain, name)._parameters[name.rpartition(".")[2]] = nn.Parameter(full)
    for name, buffer in model.named_buffers():
        name = name.replace(_CHECKPOINTED, "")
        _owner(plain, name)._buffers[name.rpartition(".")[2]] = buffer
    return _in_blocks(plain).train(model.training)


def split_model(folder: Path, *, rows: int, device: torch.device) -> Recommender:
    """A saved model whose tables of at least `rows` rows are split over the processes.

    All processes must load it, and call it together; it is on `device`, and does not train.
    """
    config = RecommenderConfig.from_pretrained(folder)
    with torch.device("meta"):
        large = tables_to_split(Recommender(config), rows)
    team, split = processes(), {}
    with safe_open(folder / SAFE_WEIGHTS_NAME, "pt") as file:
        state = {name: file.get_slice(name) for name in file.offset_keys()}
        for name, table in large.items():
            count = table.num_embeddings
            first, last = bounds(count, team.process_index, team.num_processes)
            held = state.pop(f"{name}.weight")[first:last]
            split[name] = HeldRows(count, held, first=first, padding_idx=table.padding_idx)
        state = {name: file.get_tensor(name) for name in state}
    with held_rows(process=0, processes=1, least=rows):  # so that it expects no weights of them
        model = Recommender.from_pretrained(None, config=config, state_dict=state)
    for name, rows_held in split.items():
        model.set_submodule(name, RowSharded(rows_held, device=device))
    nn.Module.to(model, device)  # its own `to` has no types
    return _in_blocks(model).eval()


def _in_blocks(model: Recommender) -> Recommender:
    """The model, whose searches gather no table that is split."""
    if row_sharded(model):
        for head in model.modules():
            if isinstance(head, DenseHead):
                head.keeps_catalog = False
    return model


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


@torch.no_grad()
def is_finite(value: torch.Tensor) -> bool:
    """Whether all numbers are finite, in every process; all must ask if the tensor is split.

    Memory: that of a block, 64 MB, not of the tensor.
    """
    held: Any = value.to_local() if isinstance(value, DTensor) else value
    blocks = held.reshape(-1).split(_BLOCK)
    bad = not all(bool(torch.isfinite(block).all()) for block in blocks)
    return not (largest(int(bad)) if isinstance(value, DTensor) else bad)


@torch.no_grad()
def row_blocks(table: RowSharded) -> Iterator[torch.Tensor]:
    """The rows of a table in order, a block `[n, D]` at a time; all processes must go through it.

    Memory: a block, 64 MB, in each process.
    """
    weight: Any = table.weight
    local, mesh = weight.to_local(), weight.device_mesh
    rows = max(1, _BLOCK // table.embedding_dim)
    for rank in range(mesh.size()):
        first, last = bounds(table.num_embeddings, rank, mesh.size())
        for start in range(0, last - first, rows):
            count = min(rows, last - first - start)
            if rank == mesh.get_rank():
                block = local[start : start + count].contiguous()
            else:
                block = local.new_empty(count, table.embedding_dim)
            torch.distributed.broadcast(block, src=rank)
            yield block
