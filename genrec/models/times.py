"""Gaps between times, in buckets."""

from __future__ import annotations

import torch

TIME_BUCKETS = 129
BUCKET_WIDTH = 0.301


def gap_buckets(gap: torch.Tensor) -> torch.Tensor:
    """`clamp(floor(ln(max(gap, 1)) / 0.301), 0, 128)` as uint8, HSTU's rule.

    The bounds of the buckets grow by a factor of `e^0.301`, about 1.35.

    Args:
        gap: int64 seconds, any shape.
    """
    logs = gap.clamp_min(1).float().log_()
    return logs.div_(BUCKET_WIDTH).clamp_max_(TIME_BUCKETS - 1).to(torch.uint8)
