"""Optimisers: one for dense parameters, one of its own for embedding tables.

A row of an embedding table has a gradient in few steps, a matrix of the backbone in all. So tables
take other learning rates, and an optimiser that leaves the other rows alone keeps their moments
from fading and a rare item from being moved by what others did.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from genrec.errors import ConfigError
from genrec.models import Recommender
from genrec.training.config import TrainingConfig


def build_optimizer(
    model: Recommender, config: TrainingConfig, *, decayed: Collection[str]
) -> torch.optim.Optimizer:
    """The optimiser of a configuration that asks for more than AdamW with one learning rate.

    Args:
        model: whose parameters are trained.
        config: `optimizer`, `table_optimizer` and their learning rates.
        decayed: names of the parameters that AdamW decays.

    Returns:
        AdamW with groups, or several optimisers as one. The first group is one of dense parameters,
        whose learning rate is the one that is logged.

    Raises:
        ConfigError: if tables, or matrices of the backbone, are to be trained in another way and
            the model has none.
    """
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    tables = table_names(model) & parameters.keys()
    if not tables and config.splits_tables:
        raise ConfigError(
            f"training: table_optimizer={config.table_optimizer!r}, table_learning_rate="
            f"{config.table_learning_rate}, but the item encoder and the head have no embedding "
            "table; leave both out"
        )
    hidden = hidden_names(model) & parameters.keys() if config.optimizer == "muon" else set()
    if config.optimizer == "muon" and not hidden:
        raise ConfigError(
            f"training: optimizer='muon' trains matrices between hidden states, but the backbone "
            f"{model.config.backbone['type']!r} has none to train; use 'adamw'"
        )
    of_tables = config.table_learning_rate or config.learning_rate

    def groups(names: Iterable[str], rate: float) -> list[dict[str, Any]]:
        found: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name in names:
            found[name in decayed].append(parameters[name])
        return [
            {
                "params": some,
                "lr": rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for decays, some in found.items()
            if some
        ]

    dense = [name for name in parameters if name not in tables and name not in hidden]
    plain = groups(dense, config.learning_rate)
    if config.table_optimizer == "adamw":
        plain += groups([name for name in parameters if name in tables], of_tables)
    parts: list[torch.optim.Optimizer] = []
    if plain:
        parts.append(torch.optim.AdamW(plain, betas=(0.9, config.adam_beta2)))
    if hidden:
        rate = config.muon_learning_rate or config.learning_rate
        matrices = [one for name, one in parameters.items() if name in hidden]
        parts.append(_muon(matrices, lr=rate, weight_decay=config.weight_decay))
    if config.table_optimizer != "adamw":
        rows = [one for name, one in parameters.items() if name in tables]
        kinds = {
            "sparse-adam": lambda: SparseAdam(rows, lr=of_tables, betas=(0.9, config.adam_beta2)),
            "adagrad": lambda: torch.optim.Adagrad(rows, lr=of_tables),
            "rowwise-adagrad": lambda: RowWiseAdagrad(rows, lr=of_tables),
        }
        parts.append(kinds[config.table_optimizer]())
    return parts[0] if len(parts) == 1 else JoinedOptimizer(parts)


def table_names(model: Recommender) -> set[str]:
    """Names of the embedding tables: the `nn.Embedding`s of the item encoder and of the head."""
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.partition(".")[0] in ("item_encoder", "head")
    }


def hidden_names(model: Recommender) -> set[str]:
    """Names of the matrices between hidden states: those of the backbone, embeddings left out."""
    looked_up = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    }
    return {
        name
        for name, one in model.named_parameters()
        if name.startswith("backbone.") and one.dim() == 2 and name not in looked_up
    }


class JoinedOptimizer(torch.optim.Optimizer):
    """Several optimisers of different parameters as one, for schedules and checkpoints.

    Args:
        parts: the optimisers; their groups are those of the whole, in this order.
    """

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> Any:
        """One step of each part; a closure is not called."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the states of the parts back."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        # Loading makes new groups; a schedule holds this list.
        self.param_groups[:] = self._groups()


def parts_of(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimisers that an optimiser, with or without accelerate's wrapper, is made of."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner.parts if isinstance(inner, JoinedOptimizer) else [inner]


class SparseAdam(torch.optim.Optimizer):
    """Adam that moves rows with a gradient only, and only their moments, as torch's `SparseAdam`.

    It takes gradients of the usual layout, in which a row without a gradient is zero: these can be
    clipped and averaged over processes, sparse ones cannot everywhere.

    Args:
        params: matrices, whole or split by rows over processes.
        lr: learning rate.
        betas: of the moments.
        eps: keeps the divisor above 0.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; a closure is not called."""
        for group in self.param_groups:
            first, second = group["betas"]
            for one in group["params"]:
                if one.grad is None:
                    continue
                state = self.state[one]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(one)
                    state["exp_avg_sq"] = torch.zeros_like(one)
                state["step"] += 1
                mean, square = local(state["exp_avg"]), local(state["exp_avg_sq"])
                rows = local(one.grad).ne(0).any(dim=1).nonzero().squeeze(1)
                gradient = local(one.grad)[rows]
                # Moments are moved towards the gradient, as torch does; no other row fades.
                mean.index_add_(0, rows, (gradient - mean[rows]) * (1 - first))
                square.index_add_(0, rows, (gradient**2 - square[rows]) * (1 - second))
                bias = math.sqrt(1 - second ** int(state["step"])) / (
                    1 - first ** int(state["step"])
                )
                moved = mean[rows] / (square[rows].sqrt() + group["eps"])
                local(one).index_add_(0, rows, moved, alpha=-group["lr"] * bias)


class RowWiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator per row, the mean of its squared gradients (Gupta et al. 2014).

    `s_r <- s_r + mean(g_r ** 2)`, `w_r <- w_r - lr g_r / (sqrt(s_r) + eps)`. Its state is one
    number per row, where Adam's is two per weight; a row without a gradient stays as it is.

    Args:
        params: matrices, whole or split by rows over processes.
        lr: learning rate.
        eps: keeps the divisor above 0.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float = 0.01, eps: float = 1e-10
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; a closure is not called."""
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is None:
                    continue
                state, weight, gradient = self.state[one], local(one), local(one.grad)
                if not state:
                    state["sum"] = weight.new_zeros(len(weight), 1)
                state["sum"] += gradient.square().mean(dim=1, keepdim=True)
                weight.addcdiv_(gradient, state["sum"].sqrt() + group["eps"], value=-group["lr"])


class SplitMuon(torch.optim.Optimizer):
    """Muon of matrices that are split over processes (FSDP2); a step is that of one process.

    A matrix must be whole to be made orthogonal, so each one in turn is gathered with its gradient
    and momentum, and all processes take the step of `torch.optim.Muon` and keep their rows of it.

    Args:
        params: matrices, as FSDP2 splits them.
        lr: learning rate.
        weight_decay: decoupled, as AdamW's.

    Cost: three gathers for a matrix, and each process does the arithmetic of one. Memory: three
    matrices, of one at a time.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; a closure is not called, and all processes must take it together."""
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is None:
                    continue
                state = self.state[one]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(one)
                matrix = nn.Parameter(one.full_tensor())
                matrix.grad = one.grad.full_tensor()
                whole = _muon([matrix], lr=group["lr"], weight_decay=group["weight_decay"])
                momentum = state["momentum_buffer"].full_tensor()
                whole.state[matrix]["momentum_buffer"] = momentum
                whole.step()
                for split, moved in ((one, matrix.detach()), (state["momentum_buffer"], momentum)):
                    own = distribute_tensor(
                        moved, split.device_mesh, split.placements, src_data_rank=None
                    )
                    local(split).copy_(local(own))


def _muon(params: list[nn.Parameter], *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    if any(isinstance(one, DTensor) for one in params):
        return SplitMuon(params, lr=lr, weight_decay=weight_decay)
    # Scaled so that a learning rate means what it means to AdamW.
    return torch.optim.Muon(
        params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )


def local(value: Any) -> Any:
    """The rows that this process holds of what is split by rows; else the tensor itself."""
    return value.to_local() if isinstance(value, DTensor) else value
