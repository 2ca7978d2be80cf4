"""Attention of many beams to one history, whose keys and values are never repeated."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def shared_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    allowed: torch.Tensor | None = None,
    own_key: torch.Tensor | None = None,
    own_value: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    own_bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Softmax attention of each beam's token over the user's context and the beam's own tokens.

    The beams of a user are the rows of one matrix product with the context's keys, so these are
    read once a user, however many beams there are. The two parts' scores stand side by side in one
    softmax: the result is that of one sequence per beam.

    Args:
        query: float `[B, H, W, w]`.
        key: float `[B, G, S, w]` of the context; G divides H (grouped queries).
        value: float `[B, G, S, w]`.
        allowed: bool, broadcastable to `[B, 1, W, S]`: what a beam sees of the context.
        own_key: float `[B, W, l, G, w]` of the beam's own tokens, all of which it sees.
        own_value: float `[B, W, l, G, w]`.
        bias: added to the context's scores, broadcastable to `[B, H, W, S]`.
        own_bias: added to the own scores, broadcastable to `[B, H, W, l]`.
        scale: of the scores, `w ** -0.5` by default.

    Returns:
        float `[B, H, W, w]`.

    Memory: `B H W (S + l)` scores, and `B H W l w` products of the own tokens.
    """
    users, heads, width, size = query.shape
    groups, length = key.shape[1], key.shape[2]
    each = heads // groups  # queries that share a key
    query = query * (size**-0.5 if scale is None else scale)
    # A group's queries are rows of one product.
    rows = query.reshape(users, groups, each * width, size)
    scores = (rows @ key.transpose(-1, -2)).view(users, heads, width, length)
    if bias is not None:
        scores = scores + bias
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    if own_key is not None:
        # As many products as beams, each of one row: a sum of products is faster.
        split = query.view(users, groups, each, width, 1, size)
        own = (split * own_key.permute(0, 3, 1, 2, 4).unsqueeze(2)).sum(-1).flatten(1, 2)
        scores = torch.cat([scores, own if own_bias is None else own + own_bias], -1)
    shares = F.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    of_context = shares.view(users, groups, each * width, -1)[..., :length]
    mixed = (of_context @ value).view(users, groups, each, width, size)
    if own_value is not None:
        of_own = shares.view(users, groups, each, width, -1)[..., length:].unsqueeze(-1)
        mixed = mixed + (of_own * own_value.permute(0, 3, 1, 2, 4).unsqueeze(2)).sum(-2)
    return mixed.flatten(1, 2)
