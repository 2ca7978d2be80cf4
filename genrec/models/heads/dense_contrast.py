"""Losses of a state against its next item and a few others: sampled softmax, InfoNCE, pairs.

A softmax over the catalog is estimated from drawn items. An item that is drawn often must count
less each time: with `c(i)` the expected number of draws of item i, `sum over drawn of exp(s) / c`
has the mean `sum over all of exp(s)`. That is the logQ correction (Bengio and Senecal 2008), and it
holds for the union of items drawn from the batch and from the catalog when `c` adds up both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Scores = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ItemSampler:
    """Draws items in proportion to `counts ** power`, from any number of items.

    Args:
        counts: float `[N]`, events of each item in training.
        power: 1 is popularity, 0 uniform.

    Memory: 12 bytes an item. A draw costs a binary search.
    """

    def __init__(self, counts: torch.Tensor, power: float) -> None:
        self.key = (counts.data_ptr(), counts._version, counts.device, power)
        weight = counts.double().clamp_min(1e-9) ** power
        self._ends = weight.cumsum(0)
        self.chance = (weight / self._ends[-1]).float()

    def fits(self, counts: torch.Tensor, power: float) -> bool:
        """Whether it was made from these counts as they are now."""
        return self.key == (counts.data_ptr(), counts._version, counts.device, power)

    def draw(self, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Items int64 `[count]`, with replacement, by the process's generator or another."""
        drawn = torch.rand(
            count, dtype=torch.float64, device=self._ends.device, generator=generator
        )
        found = torch.searchsorted(self._ends, drawn * self._ends[-1], right=True)
        return found.clamp_max(len(self._ends) - 1)


def contrast(
    positive: torch.Tensor,
    negative: torch.Tensor,
    targets: torch.Tensor,
    drawn: torch.Tensor,
    expected: torch.Tensor | None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of each state's target against drawn items.

    Args:
        positive: float `[M, 1]`, logits of the targets.
        negative: float `[M, n]`, logits of the drawn items.
        targets: int64 `[M]`.
        drawn: int64 `[n]`; where it is a state's own target it does not count.
        expected: float `[n]`, expected draws of each drawn item; None for no correction.
        weights: float `[M]`, how much each target counts in the mean; the same by default.
    """
    negative = negative.float()
    if expected is not None:
        negative = negative - expected.log()
    negative = negative.masked_fill(drawn == targets.unsqueeze(1), -torch.inf)
    logits = torch.cat([positive.float(), negative], dim=1)
    if weights is None:
        return F.cross_entropy(logits, torch.zeros_like(targets))
    each = F.cross_entropy(logits, torch.zeros_like(targets), reduction="none")
    return _weighted(each, weights)


def pairs(
    positive: torch.Tensor, negative: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross-entropy of one target and one other item for each state.

    Args:
        positive: float `[M, 1]`, logits of the targets.
        negative: float `[M, 1]`, logits of the others.
        weights: float `[M]`, how much each target counts in the mean; the same by default.
    """
    if weights is None:
        return F.softplus(-positive.float()).mean() + F.softplus(negative.float()).mean()
    each = F.softplus(-positive.float()) + F.softplus(negative.float())
    return _weighted(each.squeeze(1), weights)


def _weighted(each: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean; 0 where nothing counts, as in a batch of exposures that weigh nothing."""
    return (weights * each).sum() / weights.sum().clamp_min(1e-9)
