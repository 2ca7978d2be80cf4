"""A loss taken a block of states at a time, each block's gradient at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

BLOCK_STATES = {"cpu": 256, "default": 1 << 30}  # what a block makes should fit a CPU's cache

BlockLoss = Callable[..., torch.Tensor]


def blockwise_mean(
    loss: BlockLoss, states: torch.Tensor, targets: torch.Tensor, *inputs: torch.Tensor
) -> torch.Tensor:
    """Mean over the states of `loss(states, targets, *inputs)`, which sums over those it is given.

    Equal to `loss(states, targets, *inputs) / len(states)` and its gradients. What the loss holds
    between its forward and backward pass exists for one block only, so memory does not grow with
    the number of states; on a CPU it stays in the cache.

    Args:
        loss: of states `[m, D]` and targets `[m]`, a scalar; it reads no other tensor that learns.
        states: float `[M, D]`.
        targets: int64 `[M]`.
        *inputs: what the loss reads of the model, in the order of its parameters.
    """
    mean: torch.Tensor = _Blockwise.apply(loss, states, targets, *inputs)
    return mean


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        loss: BlockLoss,
        states: torch.Tensor,
        targets: torch.Tensor,
        *inputs: torch.Tensor,
    ) -> torch.Tensor:
        rows = BLOCK_STATES.get(states.device.type, BLOCK_STATES["default"])
        held = [one.detach().requires_grad_(one.requires_grad) for one in inputs]
        total = torch.zeros((), device=states.device)
        sums = [torch.zeros_like(one) for one in held]
        of_states = torch.zeros_like(states)
        learning = any(ctx.needs_input_grad)
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            block = states[part].detach().requires_grad_(learning)
            with torch.set_grad_enabled(learning):
                missed = loss(block, targets[part], *held)
            total += missed.detach()
            if not learning:
                continue
            wanted = [one for one in (block, *held) if one.requires_grad]
            found = iter(torch.autograd.grad(missed, wanted))
            of_states[part] = next(found)
            for one, summed in zip(held, sums, strict=True):
                if one.requires_grad:
                    summed += next(found)
        ctx.save_for_backward(of_states, *sums)
        ctx.factor = 1 / len(states)
        return total / len(states)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        factor = upstream * ctx.factor
        of_states, *sums = (gradient * factor for gradient in ctx.saved_tensors)
        wanted = ctx.needs_input_grad[3:]
        kept = [one if asked else None for one, asked in zip(sums, wanted, strict=True)]
        return (None, of_states if ctx.needs_input_grad[1] else None, None, *kept)
