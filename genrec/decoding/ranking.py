"""One total order for everything that is ranked: score first, then a fixed tie rank.

``topk`` promises nothing about equal elements, so it is never shown any: the score and the tie rank
of a candidate are packed into one int64 key, and no two candidates of a row have the same key.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEAD = torch.iinfo(torch.int64).min  # key of a candidate that does not exist; below any score
_GROUP = 32  # candidates per group in the first pass of `top_keys`


def rank_keys(scores: Tensor, ties: Tensor) -> Tensor:
    """Keys that sort as (higher score, then smaller tie) when sorted from large to small.

    Args:
        scores: float32, any shape; -inf is a score like any other.
        ties: int64 in ``0 .. 2**32 - 1``, broadcastable, different for all candidates of a row.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 turns -0.0, which has other bits, into 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(torch.int64) << 32).bitwise_or_(0xFFFFFFFF - ties)


def key_scores(keys: Tensor) -> Tensor:
    """The float32 scores inside ``keys``; -inf for dead ones."""
    ordered = (keys >> 32).to(torch.int32)
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores.masked_fill(keys == DEAD, -torch.inf)


def node_ties(nodes: Tensor) -> Tensor:
    """Pseudo-random tie ranks of the nodes of one depth: a bijection of 0 .. 2**32 - 1."""
    return (nodes * 0x9E3779B1) & 0xFFFFFFFF


def top_keys(keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest keys of every row, largest first, and their columns.

    The k largest keys lie in the k groups with the largest maxima, so wide rows are first reduced
    to their groups' maxima: one streaming pass instead of a selection over the whole row.

    Args:
        keys: int64 ``[B, n]``, different in a row (but for dead ones).
        k: at most ``n``.
    """
    rows, n = keys.shape
    groups = n // _GROUP
    if groups < 2 * k:
        return torch.topk(keys, k, dim=1)
    even = keys[:, : groups * _GROUP].unflatten(1, (groups, _GROUP))
    chosen = torch.topk(even.amax(dim=2), k, dim=1, sorted=False).indices
    part = even.gather(1, chosen[:, :, None].expand(rows, k, _GROUP)).flatten(1)
    step = torch.arange(_GROUP, device=keys.device)
    columns = (chosen[:, :, None] * _GROUP + step).flatten(1)
    if n > groups * _GROUP:
        part = torch.cat([part, keys[:, groups * _GROUP :]], dim=1)
        rest = torch.arange(groups * _GROUP, n, device=keys.device).expand(rows, -1)
        columns = torch.cat([columns, rest], dim=1)
    best = torch.topk(part, k, dim=1)
    return best.values, columns.gather(1, best.indices)
