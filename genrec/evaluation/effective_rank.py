"""How many dimensions hidden states use: the effective rank (Roy and Vetterli 2007)."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.processes import largest, summed


class EffectiveRank:
    """The effective rank of states that come in batches.

    `exp(-sum_i p_i log p_i)`, where p are the singular values of the centred states over their
    sum: D for states that spread evenly over D directions, 1 on a line, 0 if all are equal.
    Centred, because a common offset tells users apart as little as a constant does.

    Memory: `8 (D + 1) ** 2` bytes, whatever the number of states; sums are float64.
    """

    def __init__(self) -> None:
        self.moments: Tensor | None = None

    def add(self, states: Tensor) -> None:
        """Count float states `[B, D]`."""
        values = states.detach().double()
        values = torch.cat([values, values.new_ones(len(values), 1)], dim=1)
        products = (values.T @ values).cpu()
        self.moments = products if self.moments is None else self.moments + products

    def share(self) -> None:
        """Count the states of all processes; all must call it."""
        width = largest(0 if self.moments is None else len(self.moments))
        if width:
            own = torch.zeros(width, width).double() if self.moments is None else self.moments
            self.moments = torch.from_numpy(summed(own.numpy()))

    def value(self) -> float | None:
        """The effective rank of the states so far, None without any."""
        if self.moments is None:
            return None
        count = self.moments[-1, -1]
        mean = self.moments[-1, :-1] / count
        covariance = self.moments[:-1, :-1] / count - torch.outer(mean, mean)
        variances = torch.linalg.eigvalsh(covariance).clamp_min(0)
        # What rounding leaves of a direction that is not there.
        variances[variances < 1e-12 * self.moments[:-1, :-1].diagonal().sum() / count] = 0
        singular = variances.sqrt()
        if not bool(singular.any()):
            return 0.0
        share = singular / singular.sum()
        return float(torch.special.entr(share).sum().exp())
