"""Pointwise attention: SiLU of each score instead of a softmax over them, a block at a time.

No softmax ties the keys of a row together, so the sum over keys may be cut anywhere. A key is left
out by zeroing its value: `SiLU(0 + bias)` is not 0.

On a CPU the plain form is bound by memory: about ten passes over `[B, H, S, S]`. Here a block of
scores lives in the cache from its product to its gradient, keys after the block's last query are
never looked at, and nothing of size `S^2` is kept for the backward pass, which makes the scores
anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

ROWS = 128
BLOCK_BYTES = {"cpu": 1 << 20, "default": 1 << 28}  # of scores; on a CPU they should fit the cache


def pointwise_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    normalizer: int,
    bias: torch.Tensor | None = None,
    table: torch.Tensor | None = None,
    buckets: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal `sum_{j <= i} SiLU(q_i k_j + bias_ij + table[buckets_ij]) v_j / normalizer`.

    Args:
        query: float `[B, H, S, dqk]`.
        key: float `[B, H, S, dqk]`.
        value: float `[B, H, S, dv]`, zero at keys that nobody may see.
        normalizer: the constant N.
        bias: float `[S, S]` or `[B, S, S]`, shared by the heads.
        table: float `[T]`, T at most 256.
        buckets: uint8 `[B, S, S]`, which entry of the table a pair adds.

    Returns:
        Float `[B, H, S, dv]`. Under autocast on a CPU it is computed in fp32, as softmax attention
        is; elsewhere the products are taken in the type of their inputs and the rest in fp32.

    Cost: `S^2 (dqk + dv) H B` multiply-adds forward, two and a half times that backward.
    """
    mixed: torch.Tensor = _Pointwise.apply(query, key, value, normalizer, bias, table, buckets)
    return mixed


def shared_pointwise_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    normalizer: int,
    own_key: torch.Tensor,
    own_value: torch.Tensor,
    bias: torch.Tensor | None = None,
    own_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pointwise attention of each beam's token over the user's context and the beam's own tokens.

    The two parts are computed apart and add up: there is no softmax to join. The context is read
    once a user, whatever the number of beams.

    Args:
        query: float `[B, W, H, dqk]`.
        key: float `[B, H, S, dqk]` of the context.
        value: float `[B, H, S, dv]`, zero at padding.
        normalizer: the constant N, that of the full pass.
        own_key: float `[B, W, l, H, dqk]` of the beam's own tokens, all of which it sees.
        own_value: float `[B, W, l, H, dv]`.
        bias: float `[B, 1, S]`, shared by heads and beams.
        own_bias: float `[B, 1, l]`.

    Returns:
        Float `[B, W, H, dv]`.
    """
    scores = query.transpose(1, 2) @ key.transpose(2, 3)
    own = torch.einsum("bwhd,bwlhd->bhwl", query, own_key)
    if bias is not None and own_bias is not None:
        scores, own = scores + bias[:, None], own + own_bias[:, None]
    mixed = (F.silu(scores) @ value).transpose(1, 2)
    return (mixed + torch.einsum("bhwl,bwlhd->bwhd", F.silu(own), own_value)) / normalizer


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        normalizer: int,
        bias: torch.Tensor | None,
        table: torch.Tensor | None,
        buckets: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.kinds = query.dtype, key.dtype, value.dtype
        if query.device.type == "cpu":
            query, key, value = (one.to(_wide(one.dtype)) for one in (query, key, value))
        mixed = torch.empty_like(value, memory_format=torch.contiguous_format)
        with torch.autocast(query.device.type, enabled=False):
            for rows, low, high in _blocks(query):
                scores = _scores(query, key, bias, table, buckets, rows, low, high)
                weight = torch.sigmoid(scores).mul_(scores)
                weight[..., low:].tril_()
                seen = value[rows, :, :high]
                mixed[rows, :, low:high] = (weight.to(seen.dtype) @ seen).mul_(1 / normalizer)
        ctx.save_for_backward(query, key, value, bias, table, buckets)
        ctx.normalizer = normalizer
        return mixed.to(ctx.kinds[2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, bias, table, buckets = ctx.saved_tensors
        of_query, of_key, of_value = (torch.zeros_like(one) for one in (query, key, value))
        of_bias = None if bias is None else torch.zeros_like(bias)
        of_table = None if table is None else torch.zeros_like(table)
        upstream = upstream.to(value.dtype) * (1 / ctx.normalizer)
        with torch.autocast(query.device.type, enabled=False):
            for rows, low, high in _blocks(query):
                scores = _scores(query, key, bias, table, buckets, rows, low, high)
                chance = torch.sigmoid(scores)
                weight = scores * chance
                weight[..., low:].tril_()
                given = upstream[rows, :, low:high]
                of_value[rows, :, :high] += weight.to(given.dtype).transpose(2, 3) @ given
                # SiLU'(s) = p + s p (1 - p) with p = sigmoid(s)
                slope = scores.mul_(chance).mul_(1 - chance).add_(chance)
                slope *= given @ value[rows, :, :high].transpose(2, 3)
                slope[..., low:].tril_()
                if of_bias is not None or of_table is not None:
                    of_pairs = slope.sum(1)
                if of_bias is not None:
                    whole = bias.dim() == 2
                    place = (slice(low, high), slice(high))
                    of_bias[place if whole else (rows, *place)] += (
                        of_pairs.sum(0) if whole else of_pairs
                    )
                if of_table is not None:
                    bucket = buckets[rows, low:high, :high].to(torch.int32).flatten()
                    of_table += torch.bincount(bucket, of_pairs.flatten(), len(table))
                slope = slope.to(query.dtype)
                of_query[rows, :, low:high] = slope @ key[rows, :, :high]
                of_key[rows, :, :high] += slope.transpose(2, 3) @ query[rows, :, low:high]
        of_parts = zip((of_query, of_key, of_value), ctx.kinds, strict=True)
        return (*(one.to(kind) for one, kind in of_parts), None, of_bias, of_table, None)


def _blocks(query: torch.Tensor) -> Iterator[tuple[slice, int, int]]:
    """Slices of the batch and ranges of queries whose scores are small enough together."""
    batch, heads, length, _ = query.shape
    budget = BLOCK_BYTES.get(query.device.type, BLOCK_BYTES["default"])
    for low in range(0, length, ROWS):
        high = min(low + ROWS, length)
        users = max(1, budget // (4 * heads * (high - low) * high))
        for start in range(0, batch, users):
            yield slice(start, start + users), low, high


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type that scores of this type are worked on in."""
    return torch.promote_types(dtype, torch.float32)


def _scores(
    query: torch.Tensor,
    key: torch.Tensor,
    bias: torch.Tensor | None,
    table: torch.Tensor | None,
    buckets: torch.Tensor | None,
    rows: slice,
    low: int,
    high: int,
) -> torch.Tensor:
    """Scores `[b, H, high - low, high]` of a block; those of later keys are among them."""
    scores = query[rows, :, low:high] @ key[rows, :, :high].transpose(2, 3)
    scores = scores.to(_wide(scores.dtype))
    added = None
    if bias is not None:
        added = bias[..., low:high, :high]
        added = added[None] if bias.dim() == 2 else added[rows]
    if table is not None and buckets is not None:
        block = buckets[rows, low:high, :high]
        by_time = table.index_select(0, block.to(torch.int32).flatten()).view(block.shape)
        added = by_time if added is None else by_time.add_(added)
    return scores if added is None else scores.add_(added[:, None])
