"""Beam search over a prefix trie, vectorised over users, beams and children.

Scores are sums of log-probabilities, so no completion of a prefix scores above the prefix. Hence
the certificate: if the k-th best item found scores above every prefix ever pruned, the answer is
exact. It costs one more candidate per level.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.decoding.exclusions import Exclusions
from genrec.decoding.filters import Filter
from genrec.decoding.ranking import DEAD, key_scores, node_ties, rank_keys, top_keys
from genrec.decoding.result import SearchResult
from genrec.decoding.trie import PrefixTrie
from genrec.errors import ConfigError, GenrecError

_BUDGET = 2**26  # candidates or log-probabilities of one level held at once
_CACHED = 2**17  # candidates of one level ranked at once on the CPU
_NEGLIGIBLE = -80.0  # exp of less is denormal, which is slow, and adds nothing to a sum near 1


class StepDecoder(Protocol):
    """What an autoregressive head hands to the search: the next code's log-probabilities.

    Log-probabilities are at most 0 and may be -inf; they may be of any floating type, scores are
    float32. The state is the decoder's own; users never mix.
    """

    def first(self) -> tuple[Tensor, Any]:
        """Log-probabilities ``[B, K_0]`` of the first code, and the state."""
        ...

    def next(self, state: Any, parent: Tensor, code: Tensor, level: int) -> tuple[Tensor, Any]:
        """Extend the beams by one code.

        Args:
            state: what the call before returned.
            parent: int64 ``[B, W]``, the column of each beam's parent in the previous beam (all
                0 at level 1, whose parent is the empty prefix).
            code: int64 ``[B, W]``, the code that extends the parent.
            level: the level to predict, 1 to L - 1.

        Returns:
            Log-probabilities ``[B, W, K_level]`` and the new state.
        """
        ...

    def select(self, rows: Tensor) -> StepDecoder:
        """The same decoder for the users ``rows`` (int64), from the start."""
        ...


def default_beam_width(k: int) -> int:
    """Beams kept per level for lists of `k` items where nobody asked for a number."""
    return max(50, 2 * k)


def beam_search(
    decoder: StepDecoder,
    trie: PrefixTrie,
    *,
    k: int,
    beam_width: int,
    exclude: Tensor | None = None,
    filter: Filter | None = None,
    exact: bool = False,
    renormalize: bool = False,
    max_width: int | None = None,
) -> SearchResult:
    """The ``k`` best items of every user under the decoder, among the items of the trie.

    Tuples are ranked by (score, tie rank of the tuple's first item), the items of a tuple by their
    tie order; between prefixes of one depth with equal scores a fixed pseudo-random order decides.
    If ``min(k, allowed items)`` items were not found, the search is repeated wider for the users
    concerned until they are.

    Args:
        decoder: log-probabilities of the next code, see `StepDecoder`.
        trie: the valid tuples, on the decoder's device.
        k: items wanted per user.
        beam_width: prefixes kept per level; may exceed the codebook and the number of nodes.
        exclude: int64 ``[B, E]`` items never returned, padded with -1.
        filter: the items that may be returned, for all users or per user; excluded ones may not.
        exact: repeat with doubled width, only for the users without a certificate, until all have
            one or ``max_width`` is reached.
        renormalize: score by log-softmax over the valid children of a prefix instead of by the
            decoder's log-probabilities.
        max_width: widest beam that ``exact`` may use; by default as wide as the trie.

    Raises:
        ConfigError: for a ``k`` or width below 1, malformed exclusions, a filter of another trie
            or batch, or log-probabilities of another shape than the trie's levels.
        GenrecError: if the decoder returns NaN or a log-probability above 0.
    """
    if k < 1 or beam_width < 1 or (max_width is not None and max_width < 1):
        raise ConfigError(
            f"k={k}, beam_width={beam_width}, max_width={max_width}: expected at least 1"
        )
    first = decoder.first()
    batch = first[0].shape[0]
    excluded = Exclusions.from_items(trie, exclude, batch, filter)
    wanted = excluded.num_allowed.clamp_max(k)
    full = max(trie.num_nodes)
    per_beam = max(trie.codebook_sizes)

    def run(rows: Tensor, width: int) -> SearchResult:
        """Search for some users, as many at once as fit in memory."""
        parts = []
        for part in rows.split(max(1, _BUDGET // (min(width, full) * per_beam))):
            if len(part) == batch:
                start = decoder, *first
            else:
                some = decoder.select(part)
                start = some, *some.first()
            parts.append(_search(*start, trie, excluded.select(part), k, width, renormalize))
        return SearchResult.concatenate(parts)

    width = beam_width
    result = run(torch.arange(batch, device=trie.device), width)
    while width < full:
        again = (result.items >= 0).sum(dim=1) < wanted
        if exact and (max_width is None or 2 * width <= max_width):
            again |= ~result.certified
        rows = again.nonzero().flatten()
        if len(rows) == 0:
            break
        width *= 2
        result.replace(rows, run(rows, width))
    return result


def _search(
    decoder: StepDecoder,
    log_probs: Tensor,
    state: Any,
    trie: PrefixTrie,
    excluded: Exclusions,
    k: int,
    width: int,
    renormalize: bool,
) -> SearchResult:
    """One pass over the levels, for all users of the decoder with one width."""
    batch, device = log_probs.shape[0], trie.device
    log_probs = log_probs[:, None]
    nodes = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    parent = code = nodes
    scores = torch.zeros(batch, 1, device=device)
    alive = torch.ones(batch, 1, dtype=torch.bool, device=device)
    pruned = torch.full((batch,), DEAD, dtype=torch.int64, device=device)
    leaked = torch.zeros(batch, device=device)
    rising = torch.zeros(batch, dtype=torch.bool, device=device)
    evaluations = torch.zeros(batch, dtype=torch.int64, device=device)
    for level in range(trie.num_levels):
        if level > 0:
            log_probs, state = decoder.next(state, parent, code, level)
        expected = (batch, nodes.shape[1], trie.codebook_sizes[level])
        if log_probs.shape != expected:
            raise ConfigError(
                f"log-probabilities of shape {tuple(log_probs.shape)} at level {level}: "
                f"expected {expected}; was the model trained with another SID vocabulary?"
            )
        evaluations += alive.sum(dim=1)
        last = level == trie.num_levels - 1
        keep = min(k if last else width, trie.num_nodes[level + 1])
        best, parent, nodes, lost = _step(
            trie, level, log_probs, nodes, scores, alive, excluded, keep, renormalize
        )
        leaked += lost
        if not last and best.shape[1] > keep:
            # a tuple that ranks below the k-th is no pruned prefix: the last level drops nothing
            pruned = torch.maximum(pruned, best[:, keep])
        best, parent, nodes = best[:, :keep], parent[:, :keep], nodes[:, :keep]
        alive = best != DEAD
        above = scores.gather(1, parent)
        scores = key_scores(best)
        rising |= (scores > above).any(dim=1)
        code = trie.node_codes(level, nodes)
    if bool((rising | leaked.isnan()).any()):
        row = int((rising | leaked.isnan()).nonzero()[0])
        raise GenrecError(
            f"the decoder returned NaN or a log-probability above 0 for row {row} of the batch: "
            "the head must return log-probabilities (log_softmax)"
        )
    return _finish(trie, excluded, k, nodes, scores, alive, pruned, leaked, evaluations)


def _step(
    trie: PrefixTrie,
    level: int,
    log_probs: Tensor,
    nodes: Tensor,
    scores: Tensor,
    alive: Tensor,
    excluded: Exclusions,
    keep: int,
    renormalize: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Expand the beams by one level.

    Returns:
        Rank keys of the ``keep`` best children, best first, and of the next one if there are so
        many candidates, ``[B, keep + 1]``; their parents' columns and their own nodes, of the same
        shape; and the probability ``[B]`` that went to codes without a child.
    """
    branch = trie.max_branch[level]
    take = min(keep + 1, nodes.shape[1] * branch)
    dead = None if excluded.empty else excluded.dead_nodes(level + 1)
    # a few users at a time on the CPU, so that the candidates stay in its cache
    rows = nodes.shape[0]
    if nodes.device.type == "cpu":
        rows = max(1, _CACHED // (nodes.shape[1] * branch))
    found = []
    for start in range(0, max(1, nodes.shape[0]), rows):
        part = slice(start, start + rows)
        here, ok = nodes[part], alive[part]
        keys, children, lost = _expand(
            trie, level, log_probs[part], here, scores[part], ok, renormalize
        )
        if excluded.filter is not None:
            allowed = excluded.filter.select(part).alive(level + 1, children)
            keys.masked_fill_(~allowed, DEAD)
        if dead is not None:
            _kill_excluded(keys, trie, dead[part], level, here, ok)
        best, columns = top_keys(keys.flatten(1), take)
        found.append((best, columns // branch, children.flatten(1).gather(1, columns), lost))
    if len(found) == 1:
        return found[0]
    best, parent, chosen, lost = (torch.cat(parts) for parts in zip(*found, strict=True))
    return best, parent, chosen, lost


def _expand(
    trie: PrefixTrie,
    level: int,
    log_probs: Tensor,
    nodes: Tensor,
    scores: Tensor,
    alive: Tensor,
    renormalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """All children of the beams, padded to the level's largest branch.

    Returns:
        Rank keys ``[B, W, b]`` (dead where there is no child), children's nodes ``[B, W, b]`` and
        the probability ``[B]`` that went to codes without a child.
    """
    pointer = trie.pointers[level]
    low = pointer[nodes].to(torch.int64)
    count = (pointer[nodes + 1] - low) * alive
    slots = torch.arange(trie.max_branch[level], device=nodes.device)
    absent = slots >= count[:, :, None]
    children = (low[:, :, None] + slots).clamp_max_(trie.num_nodes[level + 1] - 1)
    live = trie.live_nodes(level + 1)
    if live is not None:
        absent |= ~live[children]
    gains = log_probs.gather(2, trie.node_codes(level, children)).to(torch.float32)
    gains.masked_fill_(absent, -torch.inf)
    if renormalize:
        total = gains.logsumexp(dim=2)
        mass = total.exp()
        gains -= total.masked_fill(total == -torch.inf, 0.0)[:, :, None]
    else:
        mass = gains.clamp_min(_NEGLIGIBLE).exp_().sum(dim=2)
    lost = ((1.0 - mass).clamp_min(0.0) * scores.exp() * alive).sum(dim=1)
    last = level == trie.num_levels - 1
    ties = trie.leaf_tie[children].to(torch.int64) if last else node_ties(children)
    keys = rank_keys(gains.add_(scores[:, :, None]), ties)
    return keys.masked_fill_(absent, DEAD), children, lost


def _kill_excluded(
    keys: Tensor,
    trie: PrefixTrie,
    dead: Tensor,
    level: int,
    nodes: Tensor,
    alive: Tensor,
) -> None:
    """Mark the candidates without an allowed item as dead, in place.

    Found from the excluded side: each wholly excluded node (``dead``, int64 ``[B, E]``, -1 as
    padding) looks for its parent among the beams.
    """
    above = trie.parents(level, dead.clamp_min(0))
    beams, column = nodes.masked_fill(~alive, trie.num_nodes[level]).sort(dim=1)
    place = torch.searchsorted(beams, above).clamp_max_(beams.shape[1] - 1)
    hit = (beams.gather(1, place) == above) & (dead >= 0)
    slot = dead - trie.pointers[level][above]
    target = (column.gather(1, place) * keys.shape[2] + slot).masked_fill(~hit, 0)
    kill = torch.full_like(target, torch.iinfo(torch.int64).max).masked_fill_(hit, DEAD)
    keys.flatten(1).scatter_reduce_(1, target, kill, "amin")


def _finish(
    trie: PrefixTrie,
    excluded: Exclusions,
    k: int,
    nodes: Tensor,
    scores: Tensor,
    alive: Tensor,
    pruned: Tensor,
    leaked: Tensor,
    evaluations: Tensor,
) -> SearchResult:
    """Turn ranked leaves into items and write the certificate."""
    leaves = F.pad(nodes.masked_fill(~alive, -1), (0, k - nodes.shape[1]), value=-1)
    scores = F.pad(scores, (0, k - scores.shape[1]), value=-torch.inf)
    sizes = excluded.allowed_sizes(leaves)
    items, item_scores = items_of_leaves(excluded, leaves, scores, sizes, k)
    best_dropped = key_scores(pruned)
    proven = (items[:, -1] >= 0) & (item_scores[:, -1] > best_dropped)
    everything = (items >= 0).sum(dim=1) == excluded.num_allowed
    return SearchResult(
        items=items,
        scores=item_scores,
        leaves=leaves,
        leaf_scores=scores,
        leaf_sizes=sizes,
        certified=proven | everything | (pruned == DEAD),
        best_dropped=best_dropped,
        leaked=leaked,
        evaluations=evaluations,
    )


def items_of_leaves(
    excluded: Exclusions, leaves: Tensor, scores: Tensor, sizes: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The first ``k`` allowed items of ranked leaves and their scores, ``[B, k]`` each.

    Args:
        excluded: items left out.
        leaves: int64 ``[B, m]``, -1 as padding at the end.
        scores: float32 ``[B, m]``.
        sizes: int64 ``[B, m]``, allowed items of every leaf.
        k: items wanted; -1 and -inf where there are fewer.
    """
    ends = sizes.cumsum(dim=1)
    slots = torch.arange(k, device=leaves.device).expand(leaves.shape[0], k).contiguous()
    column = torch.searchsorted(ends, slots, right=True).clamp_max_(leaves.shape[1] - 1)
    rank = slots - (ends - sizes).gather(1, column)
    found = slots < ends[:, -1:]
    items = excluded.allowed_items(leaves.gather(1, column).clamp_min(0), rank)
    items = items.masked_fill(~found, -1)
    return items, scores.gather(1, column).masked_fill(~found, -torch.inf)
