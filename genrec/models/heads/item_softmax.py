"""Cross-entropy over items whose scores are sums of code scores, never held all at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

BLOCK = 64


class CodeRows:
    """Which rows of a joined table of code scores each item adds up, and the reverse.

    Args:
        codes: int32 `[N, L]`.
        offsets: int32 `[L]`, first row of each level.
        rows: number of rows, the sum of the codebook sizes.

    Memory: `8 L` bytes per item.
    """

    def __init__(self, codes: torch.Tensor, offsets: torch.Tensor, rows: int) -> None:
        self.bags = (codes + offsets).to(torch.int32)
        flat = self.bags.flatten()
        self.items = (torch.argsort(flat, stable=True) // codes.shape[1]).to(torch.int32)
        counts = torch.bincount(flat, minlength=rows)
        self.starts = (counts.cumsum(0) - counts).to(torch.int32)


def item_cross_entropy(
    table: torch.Tensor, rows: CodeRows, targets: torch.Tensor, *, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean of `-log softmax_n(score)[target]`, where `score[n] = sum_l table[row of code l of n]`.

    Args:
        table: float `[R, P]`, code scores of P states.
        rows: what each item adds up.
        targets: int64 `[P]`.
        label_smoothing: share of the target spread evenly over all items.

    Cost: `2 N L P` additions, forward and gradient together, done in one pass; memory
    `4 N * 64` bytes whatever P is.
    """
    loss: torch.Tensor = _ItemCrossEntropy.apply(table, rows, targets, label_smoothing)
    return loss


def log_partition(table: torch.Tensor, rows: CodeRows) -> torch.Tensor:
    """Log of the sum over items of `exp(score)`, float `[P]`."""
    parts = [
        F.embedding_bag(rows.bags, block.contiguous(), mode="sum").logsumexp(0)
        for block in table.split(BLOCK, dim=1)
    ]
    return torch.cat(parts)


class _ItemCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        table: torch.Tensor,
        rows: CodeRows,
        targets: torch.Tensor,
        label_smoothing: float,
    ) -> torch.Tensor:
        states = table.shape[1]
        total = table.new_zeros(())
        gradient = torch.empty_like(table) if ctx.needs_input_grad[0] else None
        for start in range(0, states, BLOCK):
            part = slice(start, min(start + BLOCK, states))
            target = targets[part]
            column = torch.arange(len(target), device=table.device)
            scores = F.embedding_bag(rows.bags, table[:, part].contiguous(), mode="sum")
            scores -= scores.amax(0)
            picked = (1 - label_smoothing) * scores[target, column]
            if label_smoothing:
                picked = picked + label_smoothing * scores.mean(0)
            chance = scores.exp_()
            partition = chance.sum(0)
            total += (partition.log() - picked).sum()
            if gradient is None:
                continue
            chance /= partition
            if label_smoothing:
                chance -= label_smoothing / len(chance)
            chance[target, column] -= 1 - label_smoothing
            gradient[:, part] = F.embedding_bag(rows.items, chance, rows.starts, mode="sum")
        ctx.states = states
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return total / states

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (upstream / ctx.states), None, None, None
