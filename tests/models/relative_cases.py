"""What the slow versions of HSTU and FuXi share: scalars, one pair of tokens at a time."""

from __future__ import annotations

import math

import torch

from genrec.models import SequenceMeta


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def centred(row: torch.Tensor) -> torch.Tensor:
    """Layer norm without weights."""
    moved = row - row.mean()
    return moved / math.sqrt(float((moved**2).mean()) + 1e-6)


def scaled(row: torch.Tensor) -> torch.Tensor:
    """Over the root mean square."""
    return row / math.sqrt(float((row**2).mean()) + 1e-6)


def bucket(gap: int) -> int:
    return min(max(math.floor(math.log(max(gap, 1)) / 0.301), 0), 128)


def timed_users(users: int, length: int) -> SequenceMeta:
    """Users with events from seconds to weeks apart; the request follows the last."""
    times = 1_400_000_000 + (10 ** (6 * torch.rand(users, length + 1))).long().cumsum(1)
    mask = torch.ones(users, length, dtype=torch.bool)
    return SequenceMeta.from_mask(mask, event_time=times[:, :-1], query_time=times[:, 1:])


def asked_of(meta: SequenceMeta, times: str) -> torch.Tensor:
    asked = meta.query_time if times == "request" else meta.event_time
    assert asked is not None
    return asked
