"""One entry from each of many ranges of a list, in proportion to weights."""

from __future__ import annotations

import numpy as np


def draw_in_ranges(
    rng: np.random.Generator, cumulative: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """One entry of each range `[low, high)`, in proportion to its weight; int64 `[B]`.

    Args:
        rng: draws a number for each range.
        cumulative: float64 `[N + 1]`, running sum of the weights of N entries, from 0.
        low: int64 `[B]`, first entry of each range.
        high: int64 `[B]`, end of each range.
    """
    start, stop = cumulative[low], cumulative[high]
    place = start + rng.random(len(low)) * (stop - start)
    return np.clip(np.searchsorted(cumulative, place, side="right") - 1, low, high - 1)
