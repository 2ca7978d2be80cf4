"""Groups of like length, so that short sequences do not pay for long ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch

ALIKE = 1.5  # the longest of a group by the shortest


def alike(lengths: torch.Tensor) -> Iterator[torch.Tensor]:
    """Indices of `lengths`, int64 `[n]`, in groups within a factor of `ALIKE`, shortest first.

    As many groups as the logarithm of the longest by the shortest, whatever the number of lengths.
    """
    ordered, order = lengths.sort(stable=True)
    low = 0
    while low < len(order):
        limit = (ordered[low] * ALIKE).ceil().long()
        high = int(torch.searchsorted(ordered, limit, right=True))
        yield order[low:high]
        low = high
