"""Losses of a state against its next item and a few others: sampled softmax, InfoNCE, pairs.

A softmax over the catalog is estimated from drawn items. An item that is drawn often must count
less each time: with `c(i)` the expected number of draws of item i, `sum over drawn of exp(s) / c`
has the mean `sum over all of exp(s)`. That is the logQ correction (Bengio and Senecal 2008), and it
holds for the union of items drawn from the batch and from the catalog when `c` adds up both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

Scores = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Seen:
    """The items of the rows that states come from.

    Attributes:
        items: int64 `[B, W]`, negative where there is none; an item may come twice.
        known: bool `[B, S]`, which states of each row are asked, M in all.
    """

    items: torch.Tensor
    known: torch.Tensor

    def others(self, uniform: torch.Tensor, num_items: int) -> torch.Tensor:
        """An item int64 `[M]` for each state, uniform over those that are not in its row.

        Args:
            uniform: float64 `[M]` in [0, 1), the draws.
            num_items: of the catalogue. Where a row holds all of them, any item is drawn.
        """
        rows = self.items.masked_fill(self.items < 0, num_items).sort(1).values
        again = F.pad(rows[:, 1:] == rows[:, :-1], (1, 0))
        rows = rows.masked_fill(again, num_items).sort(1).values
        held = (rows < num_items).sum(1)
        rows = rows[:, : int(held.max())] if len(rows) else rows
        full = held == num_items
        held, rows = held.masked_fill(full, 0), rows.masked_fill(full.unsqueeze(1), num_items)
        row = self.known.nonzero()[:, 0]
        number = (uniform * (num_items - held)[row]).long()
        drawn = torch.zeros_like(self.known, dtype=torch.int64)
        drawn[self.known] = number
        # Below the j-th of its items a row lacks `item - j` others: number r of those that it
        # lacks is r and as many more as there are items with no more than r others below.
        below = rows - torch.arange(rows.shape[1], device=rows.device)
        below = below.masked_fill(rows == num_items, num_items)
        return number + torch.searchsorted(below, drawn, right=True)[self.known]


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
        drawn: int64 `[n]`, or `[M, n]` of each state's own; where it is a state's own target it
            does not count.
        expected: float as `drawn`, expected draws of each drawn item; None for no correction.
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
