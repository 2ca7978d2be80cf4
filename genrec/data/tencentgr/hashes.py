"""Hashes of whole numbers: a draw that needs no state, of any item in any order."""

from __future__ import annotations

import numpy as np


def mixed(*parts: int | np.ndarray) -> np.ndarray:
    """A 64-bit hash of whole numbers, elementwise (splitmix64's finaliser)."""
    value = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            value = (value + np.asarray(part).astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(30)
            value *= np.uint64(0xBF58476D1CE4E5B9)
            value ^= value >> np.uint64(27)
            value *= np.uint64(0x94D049BB133111EB)
            value ^= value >> np.uint64(31)
    return value


def unit(*parts: int | np.ndarray) -> np.ndarray:
    """The hash as a number from 0 to below 1."""
    return (mixed(*parts) >> np.uint64(11)) * 2.0**-53
