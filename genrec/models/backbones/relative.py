"""Biases of a pair of tokens by distance and by time, as HSTU and FuXi learn them.

Position: one scalar per distance `i - j`. Time: one scalar per bucket of the gap between the time
asked about at token i and the time of token j. Neither depends on the head; each layer has its
own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from genrec.errors import ConfigError, expected_one_of
from genrec.models.meta import SequenceMeta
from genrec.models.times import gap_buckets

ROWS = 128  # queries whose gaps are computed at once
TIMES = ("request", "event", "none")


def check_times(times: str) -> None:
    """Raise ConfigError unless `times` is one of the ways to use time."""
    if times not in TIMES:
        raise ConfigError(f"backbone: times={times!r}; {expected_one_of(times, TIMES)}")


def event_times(meta: SequenceMeta, times: str) -> torch.Tensor:
    """When each token's item was consumed, int64 `[B, S]` seconds.

    Raises:
        ConfigError: without the times that `times` needs.
    """
    if meta.event_time is None or (meta.query_time is None and times == "request"):
        raise ConfigError(
            f"backbone: times={times!r} needs the time of every event; use a dataset with "
            "timestamps or set times: none"
        )
    return meta.event_time


def asked_times(meta: SequenceMeta, times: str) -> torch.Tensor:
    """The time asked about at each token, int64 `[B, S]` seconds.

    Args:
        meta: with `event_time`, and with `query_time` for `request`.
        times: `request`, when the item that the token predicts is consumed, so that the model
            knows when a recommendation is asked for; or `event`, when the latest item was that is
            complete at the token: its own, or the one before if codes of its own are to come.
    """
    event = event_times(meta, times)
    if meta.query_time is not None and times == "request":
        return meta.query_time
    if meta.level is None or not meta.level.numel():
        return event
    # In the first item there is none before: its own time, or padding's would be a gap to it.
    column = (torch.arange(event.shape[1], device=event.device) - meta.level - 1).clamp_min(0)
    inner = (meta.level >= 0) & (meta.level < meta.level.amax()) & meta.mask.gather(1, column)
    return torch.where(inner, event.gather(1, column), event)


def step_times(meta: SequenceMeta, context: SequenceMeta, times: str) -> torch.Tensor:
    """`asked_times` `[B, 1]` of a decoded token `[B, 1]` that continues the history `context`."""
    if times == "request" or meta.level is None:
        return asked_times(meta, times)
    return event_times(context, times).gather(1, context.last().unsqueeze(1))


def time_buckets(asked: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    """The bucket of `asked_i - event_j` as uint8 `[B, Q, K]`; see `gap_buckets`.

    Args:
        asked: int64 `[B, Q]` seconds.
        event: int64 `[B, K]` seconds.
    """
    shape = (*asked.shape, event.shape[1])
    buckets = torch.empty(shape, dtype=torch.uint8, device=asked.device)
    for low in range(0, asked.shape[1], ROWS):
        rows = slice(low, low + ROWS)
        buckets[:, rows] = gap_buckets(asked[:, rows, None] - event[:, None, :])
    return buckets


def log_gaps(asked: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    """`ln(1 + max(asked_i - event_j, 0))` as float32 `[B, Q, K]`; see `time_buckets`."""
    return (asked[:, :, None] - event[:, None, :]).clamp_min_(0).float().log1p_()


Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def distances(meta: SequenceMeta) -> torch.Tensor:
    """`max(i - j, 0)` of positions as int32, `[S, S]` where all rows agree, else `[B, S, S]`."""
    if meta.right_padded:
        place = torch.arange(meta.mask.shape[1], dtype=torch.int32, device=meta.mask.device)
        return (place[:, None] - place).clamp_min_(0)
    place = meta.position.to(torch.int32)
    return (place[:, :, None] - place[:, None, :]).clamp_min_(0)


@dataclass(frozen=True)
class Pairs:
    """What the biases of all layers read of pairs of tokens, made once per pass.

    Attributes:
        distance: int32 `[Q, K]` or `[B, Q, K]`.
        gaps: `[B, Q, K]`, the gap between the time asked about and that of the key, measured as
            `time_buckets` or `log_gaps` do; None without times.
    """

    distance: torch.Tensor
    gaps: torch.Tensor | None

    @classmethod
    def of(cls, meta: SequenceMeta, times: str, measure: Measure = time_buckets) -> Pairs:
        """The pairs `[S, S]` of a batch; `times` as for `asked_times`, or `none`."""
        gaps = None
        if times != "none":
            gaps = measure(asked_times(meta, times), event_times(meta, times))
        return cls(distance=distances(meta), gaps=gaps)

    @classmethod
    def of_step(
        cls,
        meta: SequenceMeta,
        seen: SequenceMeta,
        context: SequenceMeta,
        times: str,
        measure: Measure = time_buckets,
    ) -> Pairs:
        """The pairs `[B, 1, K]` of a decoded token `[B, 1]` with the tokens `seen`, `[B, K]`.

        Args:
            meta: of the new token.
            seen: the history's tokens, or those decoded so far.
            context: the history.
            times: as for `of`.
            measure: as for `of`.
        """
        distance = (meta.position[:, :, None] - seen.position[:, None, :]).clamp_min(0)
        gaps = None
        if times != "none":
            gaps = measure(step_times(meta, context, times), event_times(seen, times))
        return cls(distance=distance.to(torch.int32), gaps=gaps)


def lookup(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`table[index]` for a table `[T]` of scalars, as fast backward as forward.

    The gradient is a weighted count per entry, not a scatter, which takes ten times as long.

    Args:
        table: float `[T]`.
        index: integers of any shape, in 0..T-1.
    """
    values: torch.Tensor = _Lookup.apply(table, index)
    return values


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.size = len(table)
        flat = index.to(torch.int32).flatten()
        return table.index_select(0, flat).view(index.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,) = ctx.saved_tensors
        flat = index.to(torch.int32).flatten()
        return torch.bincount(flat, upstream.flatten(), ctx.size).to(upstream.dtype), None
