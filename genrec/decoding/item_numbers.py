"""Item numbers and tie ranks as callers give them, checked once for every search and filter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.codes import integer_tensor
from genrec.errors import ConfigError, DataError


def item_numbers(values: Any, what: str, num_items: int, device: torch.device) -> Tensor:
    """``values``, integers of any type and shape, as int64 on a device; -1 is padding.

    Raises:
        ConfigError: naming ``what``, for values that are no integers, rows of different lengths,
            and the row of a number outside ``-1 .. num_items - 1``.
    """
    try:
        numbers = integer_tensor(values, what, device)
    except DataError as error:
        raise ConfigError(f"{error}; item numbers are expected, padded with -1") from error
    outside = (numbers < -1) | (numbers >= num_items)
    if _unsigned(values):  # those above the largest int64 have come out negative
        outside |= numbers < 0
    if bool(outside.any()):
        place = outside.nonzero()[0].tolist()
        row = f", row {place[0] if len(place) > 1 else 0}" if place else ""
        number = int(numbers[tuple(place)])
        number += 2**64 if _unsigned(values) and number < 0 else 0
        raise ConfigError(
            f"{what}{row}: item {number} is outside 0..{num_items - 1}; leave unknown items out or "
            "pad with -1"
        )
    return numbers


def excluded_items(exclude: Any, batch: int, num_items: int, device: torch.device) -> Tensor:
    """``exclude`` as int64 ``[batch, E]`` on a device if it is well formed.

    Raises:
        ConfigError: for another shape or type, or naming the row of an unknown item.
    """
    numbers = item_numbers(exclude, "exclude", num_items, device)
    if numbers.ndim != 2 or numbers.shape[0] != batch:
        raise ConfigError(
            f"exclude of shape {tuple(numbers.shape)}: expected [{batch}, E], a row of item "
            "numbers per user, padded with -1"
        )
    return numbers


def items_by_tie(ties: Tensor) -> Tensor:
    """The items in the order of their tie ranks, int64 ``[N]``; the inverse of ``ties``.

    Raises:
        ConfigError: unless ``ties`` holds each of the ranks 0 to N - 1 once.
    """
    by_tie = torch.argsort(ties)
    wrong = ties[by_tie] != torch.arange(len(ties), device=ties.device)
    if bool(wrong.any()):
        raise ConfigError(
            f"tie_order: no item has rank {int(wrong.nonzero()[0])}; expected each rank of 0 to "
            f"{len(ties) - 1} once"
        )
    return by_tie


def _unsigned(values: Any) -> bool:
    return getattr(values, "dtype", None) in (torch.uint64, np.dtype(np.uint64))
