"""Exact top-k over item scores, for heads that score items instead of codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.decoding.codes import checked_count
from genrec.decoding.filters import Filter
from genrec.decoding.item_numbers import excluded_items, item_numbers, items_by_tie
from genrec.decoding.ranking import DEAD, key_scores, key_ties, rank_keys, top_keys
from genrec.decoding.result import SearchResult
from genrec.errors import ConfigError, GenrecError


def dense_search(
    scores: Tensor | Callable[[int, int], Tensor],
    *,
    k: int,
    tie_order: Tensor | np.ndarray,
    exclude: Tensor | None = None,
    filter: Filter | None = None,
    block: int = 8192,
) -> SearchResult:
    """The exact ``k`` best items of every user; the leaves of the result are item numbers.

    Args:
        scores: ``[B, N]``, or a function that returns the scores ``[B, stop - start]`` of the
            items ``start .. stop - 1``, so that no ``[B, N]`` matrix need exist.
        k: items wanted per user.
        tie_order: int64 ``[N]`` permutation; of items with equal scores the smaller rank wins.
        exclude: int64 ``[B, E]`` items never returned, padded with -1.
        filter: the items that may be returned, for all users or per user; excluded ones may not.
        block: items looked at at once.

    Raises:
        ConfigError: for a ``k`` or ``block`` that is no integer of at least 1, malformed
            exclusions, a filter of another batch or number of items, a tie order that is no
            permutation, or scores of another shape.
        GenrecError: for NaN scores.
    """
    ties = torch.as_tensor(tie_order).to(torch.int64)
    k, block = checked_count(k, "k"), checked_count(block, "block")
    if ties.ndim != 1 or len(ties) == 0:
        raise ConfigError(f"tie_order of shape {tuple(ties.shape)}: expected one rank per item")
    num_items = len(ties)
    if isinstance(scores, Tensor) and (scores.ndim != 2 or scores.shape[1] != num_items):
        raise ConfigError(f"scores of shape {tuple(scores.shape)}: expected [B, {num_items}]")
    if filter is not None and filter.num_items != num_items:
        raise ConfigError(f"filter of {filter.num_items} items for scores of {num_items} items")
    m = min(k, num_items)
    best = by_tie = torch.empty(0)
    banned: Tensor | None = None
    for start in range(0, num_items, block):
        stop = min(start + block, num_items)
        part = scores[:, start:stop] if isinstance(scores, Tensor) else scores(start, stop)
        if part.ndim != 2 or part.shape[1] != stop - start:
            raise ConfigError(
                f"scores of shape {tuple(part.shape)} for items {start} to {stop - 1}: "
                f"expected [B, {stop - start}]"
            )
        part = part.to(torch.float32)
        if start == 0:
            batch, ties = part.shape[0], ties.to(part.device)
            by_tie = items_by_tie(ties)
            best = torch.full((batch, m), DEAD, dtype=torch.int64, device=part.device)
            if exclude is not None:
                banned = excluded_items(exclude, batch, num_items, part.device)
            if filter is not None:
                filter = filter.checked(batch)
        if bool(part.isnan().any()):
            row = int(part.isnan().any(dim=1).nonzero()[0])
            raise GenrecError(f"the scores hold NaN for row {row} of the batch")
        keys = rank_keys(part, ties[start:stop])
        if filter is not None:
            inside = torch.arange(start, stop, device=filter.members.words.device)
            keys.masked_fill_(~filter.contains(inside).to(part.device), DEAD)
        if banned is not None and banned.numel():
            _kill(keys, banned - start)
        best = torch.cat([best, top_keys(keys, min(m, keys.shape[1]))[0]], dim=1)
        best = torch.topk(best, m, dim=1).values
    return _result(best, by_tie, k)


def rank_candidates(
    items: Tensor, scores: Tensor, *, k: int, tie_order: Tensor | np.ndarray
) -> SearchResult:
    """The best ``k`` of each user's own candidates, ranked as `dense_search` ranks the catalog.

    The result is certified: of these candidates it is the exact order. Whether they are all that
    matters only the caller knows.

    Args:
        items: int64 ``[B, n]``, no item twice in a row, padded with -1.
        scores: ``[B, n]``, theirs; what stands at padding is not read.
        k: items wanted per user.
        tie_order: int64 ``[N]`` permutation; of items with equal scores the smaller rank wins.

    Raises:
        ConfigError: for a ``k`` that is no integer of at least 1, scores of another shape than the
            items, an unknown item, or a tie order that is no permutation.
        GenrecError: for NaN scores.
    """
    k = checked_count(k, "k")
    if items.ndim != 2 or items.shape != scores.shape:
        raise ConfigError(
            f"items of shape {tuple(items.shape)}, scores of shape {tuple(scores.shape)}: "
            "expected one score per candidate, [B, n]"
        )
    ties = torch.as_tensor(tie_order).to(items.device, torch.int64)
    by_tie = items_by_tie(ties)
    items = item_numbers(items, "candidates", len(ties), items.device)
    real = items >= 0
    scores = scores.to(torch.float32).masked_fill(~real, 0.0)
    if bool(scores.isnan().any()):
        row = int(scores.isnan().any(dim=1).nonzero()[0])
        raise GenrecError(f"the scores hold NaN for row {row} of the batch")
    keys = rank_keys(scores, ties[items.clamp_min(0)]).masked_fill_(~real, DEAD)
    m = min(k, keys.shape[1])
    return _result(top_keys(keys, m)[0] if m else keys, by_tie, k)


def _kill(keys: Tensor, columns: Tensor) -> None:
    """Mark ``keys[b, columns[b, e]]`` as dead, in place, for all columns inside ``keys``."""
    inside = (columns >= 0) & (columns < keys.shape[1])
    kill = torch.full_like(columns, torch.iinfo(torch.int64).max).masked_fill_(inside, DEAD)
    keys.scatter_reduce_(1, columns.masked_fill(~inside, 0), kill, "amin")


def _result(best: Tensor, by_tie: Tensor, k: int) -> SearchResult:
    """Read the result back from rank keys ``[B, m]``; ``by_tie`` maps tie ranks to items."""
    best = F.pad(best, (0, k - best.shape[1]), value=DEAD)
    batch, alive = best.shape[0], best != DEAD
    items = by_tie[key_ties(best).masked_fill(~alive, 0)].masked_fill(~alive, -1)
    scores = key_scores(best)
    return SearchResult(
        items=items,
        scores=scores,
        leaves=items.clone(),
        leaf_scores=scores.clone(),
        leaf_sizes=alive.to(torch.int64),
        certified=torch.ones(batch, dtype=torch.bool, device=best.device),
        best_dropped=torch.full((batch,), -torch.inf, device=best.device),
        leaked=torch.zeros(batch, device=best.device),
        evaluations=torch.full((batch,), len(by_tie), device=best.device),
    )
