"""Exact top-k of dot products over a pool of item vectors, block by block.

What bounds it is the product of queries and vectors and one pass over its result. A block's scores
are looked at in groups: a group whose largest score does not reach the k-th best so far is not
looked into, and after the first blocks few do. Ties follow the pool's tie order, as in every
search.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.codes import checked_count, default_tie_order
from genrec.decoding.filters import Filter
from genrec.decoding.item_numbers import excluded_items, items_by_tie
from genrec.decoding.ranking import DEAD, key_scores, key_ties, rank_keys
from genrec.decoding.result import SearchResult
from genrec.errors import ConfigError, GenrecError

_GROUP = 32
BLOCK_USERS, BLOCK_ITEMS = 512, 4096


@dataclass(frozen=True)
class Pool:
    """The items that a filter lets through for all users.

    Attributes:
        items: int64 `[P]`, by number.
        place: int64 `[N]`, where each item of the catalogue stands among them, -1 outside.
    """

    items: Tensor
    place: Tensor

    @classmethod
    def of(cls, filter: Filter, device: torch.device) -> Pool:
        """The pool of a filter of one row."""
        every = torch.arange(filter.num_items, device=device)
        items = filter.to(device).contains(every)[0].nonzero().squeeze(1)
        place = torch.full((filter.num_items,), -1, dtype=torch.int64, device=device)
        place[items] = torch.arange(len(items), device=device)
        return cls(items, place)

    def rows(self, items: Tensor) -> Tensor:
        """Where items int64 of any shape stand in the pool; -1 outside, and for -1."""
        items = items.to(self.place.device)
        return torch.where(items >= 0, self.place[items.clamp_min(0)], -1)

    def numbers(self, rows: Tensor) -> Tensor:
        """The items at `rows`, int64 of any shape; -1 for -1."""
        return self.items[rows.clamp_min(0)].masked_fill(rows < 0, -1)


def pool_search(
    queries: Tensor,
    vectors: Tensor | np.ndarray,
    *,
    k: int,
    tie_order: Tensor | np.ndarray | None = None,
    exclude: Tensor | None = None,
    block_users: int = BLOCK_USERS,
    block_items: int = BLOCK_ITEMS,
) -> tuple[Tensor, Tensor]:
    """The `k` vectors with the largest dot product with each query.

    Args:
        queries: float `[B, D]`.
        vectors: float `[P, D]`, on the queries' device, or a (memory-mapped) array of a CPU.
        k: at least 1.
        tie_order: int64 `[P]` permutation; of equal scores the smaller rank comes first. By default
            a fixed pseudo-random one.
        exclude: int64 `[B, E]` rows of the pool that may not be returned, -1 padded.
        block_users: queries at once.
        block_items: vectors at once.

    Returns:
        Rows of the pool int64 `[B, k]`, -1 where no more are left (of an empty pool, all), and
        scores float32 `[B, k]`, -inf there.

    Memory: about `6 * block_users * block_items` bytes whatever P is: about 12 MB by default.

    Raises:
        ConfigError: if `k` or a block is no integer of at least 1, shapes do not fit, the tie order
            is no permutation, or `exclude` has another number of rows or a row outside the pool.
        GenrecError: for NaN scores.
    """
    k = checked_count(k, "pool search: k")
    block_users = checked_count(block_users, "pool search: block_users")
    block_items = checked_count(block_items, "pool search: block_items")
    with warnings.catch_warnings():
        # A memory-mapped array cannot be written to; nothing here does.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        table = torch.as_tensor(vectors)
    if queries.ndim != 2 or table.ndim != 2 or queries.shape[1] != table.shape[1]:
        raise ConfigError(
            f"pool search: queries {tuple(queries.shape)}, vectors {tuple(table.shape)}: expected "
            "[B, D] and [P, D]"
        )
    size, device = len(table), queries.device
    ties = torch.as_tensor(default_tie_order(size) if tie_order is None else tie_order).to(device)
    if ties.shape != (size,):
        raise ConfigError(f"pool search: tie order {tuple(ties.shape)}: expected [{size}]")
    if size == 0:
        shape = (len(queries), k)
        nothing = torch.full(shape, -torch.inf, device=device)
        return torch.full(shape, -1, dtype=torch.int64, device=device), nothing
    by_tie = items_by_tie(ties)
    if exclude is not None:
        exclude = excluded_items(exclude, len(queries), size, device)
    items = torch.full((len(queries), k), -1, dtype=torch.int64, device=device)
    scores = torch.full((len(queries), k), -torch.inf, device=device)
    for low in range(0, len(queries), block_users):
        part = slice(low, low + block_users)
        banned = None if exclude is None else exclude[part]
        best = _search(queries[part], table, k, ties, banned, block_items)
        alive = best != DEAD
        found = by_tie[key_ties(best).masked_fill(~alive, 0)]
        items[part] = found.masked_fill(~alive, -1)
        scores[part] = key_scores(best)
    return items, scores


def item_result(items: Tensor, scores: Tensor, *, evaluations: int) -> SearchResult:
    """Lists of items as a search result whose leaves are item numbers.

    Args:
        items: int64 `[B, k]`, -1 where no more are left.
        scores: float32 `[B, k]`.
        evaluations: items scored for each list.
    """
    batch, device = len(items), items.device
    return SearchResult(
        items=items,
        scores=scores,
        leaves=items.clone(),
        leaf_scores=scores.clone(),
        leaf_sizes=(items >= 0).to(torch.int64),
        certified=torch.ones(batch, dtype=torch.bool, device=device),
        best_dropped=torch.full((batch,), -torch.inf, device=device),
        leaked=torch.zeros(batch, device=device),
        evaluations=torch.full((batch,), evaluations, device=device),
    )


def _search(
    queries: Tensor, table: Tensor, k: int, ties: Tensor, banned: Tensor | None, block: int
) -> Tensor:
    """Rank keys `[B, k]` of the best rows, largest first."""
    rows, device = len(queries), queries.device
    best = torch.full((rows, k), DEAD, dtype=torch.int64, device=device)
    # A score must reach this to matter; -inf until k rows are known.
    least = torch.full((rows,), -torch.inf, device=device)
    # The first block is short: it only has to give a first idea of what is good.
    edges = {0, min(len(table), max(k, _GROUP)), *range(block, len(table), block), len(table)}
    for start, stop in itertools.pairwise(sorted(edges)):
        scores = queries @ table[start:stop].to(device=device, dtype=queries.dtype).T
        scores = scores.float()
        if banned is not None:
            _ban(scores, banned - start)
        row, column, value = _reaching(scores, least, start)
        if not len(row):
            continue
        keys = rank_keys(value, ties[column])
        keys = keys.masked_fill(value == -torch.inf, DEAD) if banned is not None else keys
        best = _merged(best, row, keys, k)
        full = best[:, -1] != DEAD
        least = torch.where(full, key_scores(best[:, -1:]).squeeze(1), -torch.inf)
    return best


def _reaching(scores: Tensor, least: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column (counted from `start`) and value of the scores that reach the row's least."""
    width = scores.shape[1]
    groups = width // _GROUP
    # A group's members stand `groups` apart, so that its maximum is taken along whole rows.
    grouped = scores[:, : groups * _GROUP].unflatten(1, (_GROUP, groups))
    top = grouped.amax(dim=1)
    tail = scores[:, groups * _GROUP :]
    if bool(top.isnan().any()) or bool(tail.isnan().any()):
        bad = int((scores.isnan().any(dim=1)).nonzero()[0])
        raise GenrecError(f"the scores hold NaN for row {bad} of the queries")
    row, group = (top >= least[:, None]).nonzero(as_tuple=True)
    inside = grouped[row, :, group]
    member, place = (inside >= least[row, None]).nonzero(as_tuple=True)
    tail_row, tail_place = (tail >= least[:, None]).nonzero(as_tuple=True)
    return (
        torch.cat([row[member], tail_row]),
        start + torch.cat([place * groups + group[member], groups * _GROUP + tail_place]),
        torch.cat([inside[member, place], tail[tail_row, tail_place]]),
    )


def _merged(best: Tensor, row: Tensor, keys: Tensor, k: int) -> Tensor:
    """The largest `k` keys of each row, of those it has and new ones `(row, key)`."""
    rows = len(best)
    all_rows = torch.cat([torch.arange(rows, device=best.device).repeat_interleave(k), row])
    all_keys = torch.cat([best.flatten(), keys])
    order = torch.argsort(all_keys, descending=True)
    order = order[torch.argsort(all_rows[order], stable=True)]
    counts = torch.bincount(all_rows, minlength=rows)
    first = counts.cumsum(0) - counts
    return all_keys[order[first[:, None] + torch.arange(k, device=best.device)]]


def _ban(scores: Tensor, columns: Tensor) -> None:
    """Set `scores[b, columns[b, e]]` to -inf, in place, for all columns inside."""
    row, place = ((columns >= 0) & (columns < scores.shape[1])).nonzero(as_tuple=True)
    scores[row, columns[row, place]] = -torch.inf
