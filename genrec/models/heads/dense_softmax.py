"""Cross-entropy over items whose scores are dot products, a block of states at a time."""

from __future__ import annotations

from typing import Any

import torch

BLOCK_BYTES = {"cpu": 2**23, "default": 2**29}  # of logits: a CPU's cache, a share of a GPU


def dense_cross_entropy(
    states: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    *,
    scale: float = 1.0,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Mean of `-log softmax_n(scale * states @ items[n])[target]`.

    Equal to `F.cross_entropy(scale * states @ items.T, targets)` and its gradients. Products run in
    the dtype of autocast where it is on, everything else in float32.

    Args:
        states: float `[M, D]`.
        items: float `[N, D]`.
        targets: int64 `[M]`, below N.
        scale: factor of all logits, the inverse of a temperature.
        label_smoothing: share of the target spread evenly over all items.

    Cost: `6 M N D` multiply-adds, forward and gradient together, done in one pass. Memory: one
    block of logits whatever M is, and the gradients of states and items.
    """
    loss: torch.Tensor = _DenseCrossEntropy.apply(states, items, targets, scale, label_smoothing)
    return loss


class _DenseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        items: torch.Tensor,
        targets: torch.Tensor,
        scale: float,
        label_smoothing: float,
    ) -> torch.Tensor:
        device = states.device.type
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else torch.float32
        learning = any(ctx.needs_input_grad[:2])
        with torch.autocast(device, enabled=False):
            total, gradients = _blocks(
                states.to(dtype) * scale, items.to(dtype), targets, label_smoothing, learning
            )
        ctx.save_for_backward(*gradients)
        ctx.factor = 1 / len(states)
        ctx.scale, ctx.dtypes = scale, (states.dtype, items.dtype)
        return total / len(states)

    @staticmethod
    def backward(
        ctx: Any, upstream: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        of_states, of_items = ctx.saved_tensors
        factor = upstream * ctx.factor
        states, items = ctx.dtypes
        return (
            (of_states * (factor * ctx.scale)).to(states),
            (of_items * factor).to(items),
            None,
            None,
            None,
        )


def _blocks(
    states: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    label_smoothing: float,
    learning: bool,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Sum of the losses, and its gradients with respect to scaled states and items."""
    budget = BLOCK_BYTES.get(states.device.type, BLOCK_BYTES["default"])
    rows = max(1, budget // (4 * len(items)))
    total = torch.zeros((), device=states.device)
    of_states = torch.empty(states.shape, device=states.device) if learning else None
    of_items = torch.zeros(items.shape, device=states.device) if learning else None
    for start in range(0, len(states), rows):
        part = slice(start, start + rows)
        block, target = states[part], targets[part].unsqueeze(1)
        logits = (block @ items.T).float()
        logits -= logits.amax(1, keepdim=True)
        picked = (1 - label_smoothing) * logits.gather(1, target)
        if label_smoothing:
            picked = picked + label_smoothing * logits.mean(1, keepdim=True)
        chance = logits.exp_()
        partition = chance.sum(1, keepdim=True)
        total += (partition.log() - picked).sum()
        if of_states is None or of_items is None:
            continue
        chance /= partition
        if label_smoothing:
            chance -= label_smoothing / len(items)
        chance.scatter_add_(1, target, torch.full_like(picked, label_smoothing - 1))
        chance = chance.to(items.dtype)
        of_states[part] = chance @ items
        if items.dtype == torch.float32:
            of_items.addmm_(chance.T, block)
        else:
            of_items += chance.T @ block
    return total, () if of_states is None or of_items is None else (of_states, of_items)
