"""One total order for everything that is ranked: score first, then a fixed tie rank.

``topk`` promises nothing about equal elements, so it is never shown any: the score and the tie rank
of a candidate are packed into one int64 key, and no two candidates of a row have the same key.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

DEAD = torch.iinfo(torch.int64).min  # key of a candidate that does not exist; below any score
_HIGH_WORD = 1 if sys.byteorder == "little" else 0


def rank_keys(scores: Tensor, ties: Tensor) -> Tensor:
    """Keys that sort as (higher score, then smaller tie) when sorted from large to small.

    Args:
        scores: float32, any shape; -inf is a score like any other.
        ties: int64 of a shape that broadcasts to the scores', different for all candidates of a
            row in their low 32 bits, which are read as an unsigned number.
    """
    keys = (~ties).expand(scores.shape).contiguous()
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 turns -0.0, which has other bits, into 0.0
    high = keys.view(torch.int32).unflatten(-1, (-1, 2))[..., _HIGH_WORD]
    torch.bitwise_xor(bits, (bits >> 31).bitwise_and_(0x7FFFFFFF), out=high)
    return keys


def key_scores(keys: Tensor) -> Tensor:
    """The float32 scores inside ``keys``; -inf for dead ones."""
    ordered = (keys >> 32).to(torch.int32)
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores.masked_fill(keys == DEAD, -torch.inf)


def key_ties(keys: Tensor) -> Tensor:
    """The low 32 bits of the ties inside ``keys``, int64."""
    return ~keys & 0xFFFFFFFF


def node_ties(nodes: Tensor) -> Tensor:
    """Pseudo-random tie ranks of the nodes of one depth: a bijection in the low 32 bits."""
    return nodes * 0x9E3779B1


def top_keys(keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest keys of every row, largest first, and their columns.

    The k largest keys lie in the k groups with the largest maxima, so wide rows are first reduced
    to their groups' maxima: one streaming pass instead of a selection over the whole row.

    Args:
        keys: int64 ``[B, n]``, different in a row (but for dead ones).
        k: at most ``n``.
    """
    rows, n = keys.shape
    size = math.isqrt(n // k)  # groups and the second pass then cost the same
    if size < 3:
        return torch.topk(keys, k, dim=1)
    groups = n // size
    grouped = keys[:, : groups * size].unflatten(1, (size, groups))
    chosen = torch.topk(grouped.amax(dim=1), k, dim=1, sorted=False).indices
    steps = torch.arange(0, groups * size, groups, device=keys.device)
    columns = (chosen[:, :, None] + steps).flatten(1)
    if n > groups * size:
        rest = torch.arange(groups * size, n, device=keys.device).expand(rows, -1)
        columns = torch.cat([columns, rest], dim=1)
    best = torch.topk(keys.gather(1, columns), k, dim=1)
    return best.values, columns.gather(1, best.indices)
