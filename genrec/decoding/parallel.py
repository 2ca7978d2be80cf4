"""Exact top-k for heads that predict all codes at once: an item's score is a sum of look-ups.

Every leaf of the trie is scored, block by block, and a running top-k is kept, so memory follows the
block and not the catalog.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.decoding.codes import checked_count
from genrec.decoding.exclusions import Exclusions, items_of_leaves
from genrec.decoding.filters import Filter
from genrec.decoding.ranking import DEAD, key_scores, key_ties, rank_keys, top_keys
from genrec.decoding.result import SearchResult
from genrec.decoding.trie import PrefixTrie
from genrec.errors import ConfigError, GenrecError

_LOWEST = -1e36  # look-ups that are not below it add up to more than -inf
_NEGLIGIBLE = -80.0  # exp of less is denormal, which is slow, and adds nothing to a sum near 1


def exact_parallel_search(
    log_probs: Sequence[Tensor],
    trie: PrefixTrie,
    *,
    k: int,
    exclude: Tensor | None = None,
    filter: Filter | None = None,
    block: int = 8192,
) -> SearchResult:
    """The exact ``k`` best items of every user; ranked as `beam_search` ranks them.

    Args:
        log_probs: per level ``[B, K_l]``; any real scores, -inf allowed (such items come last).
        trie: the valid tuples, on the same device.
        k: items wanted per user.
        exclude: int64 ``[B, E]`` items never returned, padded with -1.
        filter: the items that may be returned, for all users or per user; excluded ones may not.
        block: leaves scored at once; memory is ``block * B`` floats.

    Raises:
        ConfigError: for a ``k`` or ``block`` that is no integer of at least 1, malformed
            exclusions, a filter of another trie or batch, or ``log_probs`` that do not fit the
            trie.
        GenrecError: for NaN or +inf in ``log_probs``.
    """
    table = _joined_table(log_probs, trie)
    k, block = checked_count(k, "k"), checked_count(block, "block")
    batch = table.shape[1]
    excluded = Exclusions.from_items(trie, exclude, batch, filter)
    ranked_leaves, bags = trie.leaf_bags()
    dead = None
    if not excluded.empty:
        nodes = excluded.dead_nodes(trie.num_levels)
        dead = trie.bag_rows(nodes.clamp_min(0)).masked_fill_(nodes < 0, -1)
    num_leaves = len(ranked_leaves)
    if num_leaves == 0:  # all items were removed
        ranked_leaves = torch.full((1,), -1, device=trie.device)
    m = min(k, num_leaves)
    mass = torch.zeros(batch, device=trie.device)

    def search(ruled_out: bool) -> Tensor:
        """Rank keys ``[B, m]`` of the best leaves that score more than -inf, or of the others."""
        best = torch.full((batch, m), DEAD, dtype=torch.int64, device=trie.device)
        for start in range(0, num_leaves, block):
            scores = F.embedding_bag(bags[start : start + block], table, mode="sum")
            if ruled_out:
                scores = torch.where(scores == -torch.inf, 0.0, -torch.inf)
            else:
                mass.add_(scores.clamp_min(_NEGLIGIBLE).exp_().sum(dim=0))
            if excluded.filter is not None:
                leaves = ranked_leaves[start : start + block].expand(len(excluded.filter), -1)
                allowed = excluded.filter.alive(trie.num_levels, leaves)
                scores.masked_fill_(~allowed.T, -torch.inf)
            if dead is not None:
                _mask(scores, dead - start)
            best = torch.cat([best, _top_of_block(scores, m, start)], dim=1)
            best = torch.topk(best, m, dim=1).values
        return best

    best = search(ruled_out=False)
    if bool((best == DEAD).any()) and float(table.detach().amin()) < _LOWEST:
        others = search(ruled_out=True)
        last = rank_keys(torch.full(others.shape, -torch.inf, device=trie.device), key_ties(others))
        last.masked_fill_(others == DEAD, DEAD)
        best = torch.topk(torch.cat([best, last], dim=1), m, dim=1).values
    best = F.pad(best, (0, k - m), value=DEAD)
    alive = best != DEAD
    ranks = key_ties(best).masked_fill(~alive, 0)
    leaves = ranked_leaves[ranks].masked_fill(~alive, -1)
    found = key_scores(best)
    sizes = excluded.allowed_sizes(leaves)
    items, item_scores = items_of_leaves(excluded, leaves, found, sizes, k)
    return SearchResult(
        items=items,
        scores=item_scores,
        leaves=leaves,
        leaf_scores=found,
        leaf_sizes=sizes,
        certified=torch.ones(batch, dtype=torch.bool, device=trie.device),
        best_dropped=torch.full((batch,), -torch.inf, device=trie.device),
        leaked=(1.0 - mass).clamp_min(0.0),
        evaluations=torch.full((batch,), num_leaves, device=trie.device),
    )


def _joined_table(log_probs: Sequence[Tensor], trie: PrefixTrie) -> Tensor:
    """All levels as float32 ``[K_0 + .. + K_{L-1}, B]``: the rows that leaves add up."""
    shapes = [tuple(level.shape) for level in log_probs]
    batch = shapes[0][0] if shapes and len(shapes[0]) == 2 else -1
    if shapes != [(batch, size) for size in trie.codebook_sizes]:
        raise ConfigError(
            f"log_probs of shapes {shapes}: expected [B, K] per level with "
            f"K = {trie.codebook_sizes}; was the model trained with another SID vocabulary?"
        )
    joined = torch.cat([level.to(torch.float32) for level in log_probs], dim=1)
    sound = joined.amax(dim=1) < torch.inf  # the maximum of a row with NaN is NaN
    if not bool(sound.all()):
        row = int((~sound).nonzero()[0])
        raise GenrecError(f"log_probs hold NaN or +inf for row {row} of the batch")
    return joined.T.contiguous()


def _mask(scores: Tensor, rows: Tensor) -> None:
    """Set ``scores[rows[b, e], b]`` to -inf, in place, for all rows inside ``scores``."""
    inside = (rows >= 0) & (rows < scores.shape[0])
    lowest = torch.full(rows.shape, torch.inf, device=rows.device).masked_fill_(inside, -torch.inf)
    scores.scatter_reduce_(0, rows.masked_fill(~inside, 0).T, lowest.T, "amin")


def _top_of_block(scores: Tensor, k: int, start: int) -> Tensor:
    """Rank keys ``[B, k']`` of the best leaves of a block, ``k' = min(k, n)``; dead at -inf.

    The rows of ``scores`` ``[n, B]`` are leaves in tie order, so groups of neighbours are in tie
    order too: the k best leaves lie in the k best groups by (best score, group number). Only those
    are looked at again.
    """
    n, batch = scores.shape
    k = min(k, n)
    position = torch.arange(n, device=scores.device)
    size = math.isqrt(n // k)  # groups and the second pass then cost the same
    if size < 3:
        values, columns = scores.T, position.expand(batch, n)
    else:
        groups = n // size
        best = scores[: groups * size].unflatten(0, (groups, size)).amax(dim=1)
        chosen = top_keys(rank_keys(best.T, position[:groups]), k)[1]
        columns = (chosen[:, :, None] * size + position[:size]).flatten(1)
        rest = position[groups * size :].expand(batch, -1)
        columns = torch.cat([columns, rest], dim=1)
        values = scores.gather(0, columns.T).T
    keys = rank_keys(values, columns + start).masked_fill_(values == -torch.inf, DEAD)
    return torch.topk(keys, k, dim=1).values
