"""One step of a search by torch operations, on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.decoding.expansion import Expansion, Step
from genrec.decoding.ranking import DEAD, key_scores, node_ties, rank_keys, top_keys
from genrec.decoding.trie import PrefixTrie

_CACHED = 2**17  # candidates of one level ranked at once on the CPU
_NEGLIGIBLE = -80.0  # exp of less is denormal, which is slow, and adds nothing to a sum near 1


def torch_step(given: Expansion) -> Step:
    """The best children of every user's beams."""
    trie, level, log_probs = given.trie, given.level, given.log_probs
    nodes, scores, excluded, keep = given.nodes, given.scores, given.excluded, given.keep
    floor, renormalize, logits = given.floor, given.renormalize, given.logits
    batch, beams = nodes.shape
    branch = trie.level(level).places
    width = beams * branch
    dead = None if excluded.empty else excluded.dead_nodes(level + 1)
    alive = nodes >= 0
    nodes = nodes.clamp_min(0)
    # a few users at a time on the CPU, so that the candidates stay in its cache
    rows = batch
    if nodes.device.type == "cpu":
        rows = max(1, _CACHED // max(1, width))
    found = []
    for start in range(0, max(1, batch), rows):
        part = slice(start, start + rows)
        here, ok, above = nodes[part], alive[part], scores[part]
        gains = log_probs[part].float().log_softmax(dim=2) if logits else log_probs[part]
        keys, children, lost = _expand(trie, level, gains, here, above, ok, renormalize)
        if excluded.filter is not None:
            allowed = excluded.filter.select(part).alive(level + 1, children)
            keys.masked_fill_(~allowed, DEAD)
        if dead is not None:
            _kill_excluded(keys, trie, dead[part], level, here, ok)
        wide = min(keep, max(1, width))
        if floor is not None:
            over = key_scores(keys) >= floor[part, None, None]
            reach = (over & (keys != DEAD)).sum(dim=(1, 2))
            wide = min(wide, max(1, int(reach.max())))
        best, columns = top_keys(keys.flatten(1), min(wide + 1, width))
        best = F.pad(best, (0, wide + 1 - best.shape[1]), value=DEAD)
        columns = F.pad(columns, (0, max(0, wide - columns.shape[1])))
        dropped = best[:, wide]
        if floor is not None:  # each user as if alone: what lies below the floor is dropped as well
            kept = reach.clamp_max(wide)[:, None]
            dropped = best.gather(1, kept)[:, 0]
            best = best.masked_fill(torch.arange(wide + 1, device=best.device) >= kept, DEAD)
        chosen = children.flatten(1).gather(1, columns[:, :wide])
        found.append((best[:, :wide], columns[:, :wide] // branch, chosen, dropped, lost))
    wide = max(best.shape[1] for best, *_ in found)
    keys_, parents, nodes_, dropped_, lost_ = zip(*found, strict=True)
    best, parent, chosen = (
        parts[0]
        if len(parts) == 1
        else torch.cat([F.pad(part, (0, wide - part.shape[1]), value=fill) for part in parts])
        for parts, fill in ((keys_, DEAD), (parents, 0), (nodes_, 0))
    )
    reached, leaked = key_scores(best), torch.cat(lost_)
    # a score above its parent's has a log-probability above 0
    rising = (reached > scores.gather(1, parent)).any(dim=1)
    return Step(
        nodes=chosen.masked_fill(best == DEAD, -1),
        scores=reached,
        parent=parent,
        code=trie.level(level).codes(chosen),
        dropped=torch.cat(dropped_),
        leaked=leaked,
        sound=~(rising | leaked.isnan()),
    )


def _expand(
    trie: PrefixTrie,
    level: int,
    log_probs: Tensor,
    nodes: Tensor,
    scores: Tensor,
    alive: Tensor,
    renormalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """All children of the beams, padded to the level's places.

    Returns:
        Rank keys ``[B, W, b]`` (dead where there is no child), children's nodes ``[B, W, b]`` and
        the probability ``[B]`` that went to codes without a child.
    """
    codes, children, absent = trie.level(level).children(nodes)
    absent |= ~alive[:, :, None]
    live = trie.live_nodes(level + 1)
    if live is not None:
        absent |= ~live[children]
    gains = log_probs.gather(2, codes).to(torch.float32)
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
    codes = trie.level(level)
    above = codes.parents(dead.clamp_min(0))
    beams, column = nodes.masked_fill(~alive, trie.num_nodes[level]).sort(dim=1)
    place = torch.searchsorted(beams, above).clamp_max_(beams.shape[1] - 1)
    hit = (beams.gather(1, place) == above) & (dead >= 0)
    slot = codes.columns(dead.clamp_min(0), above)
    target = (column.gather(1, place) * keys.shape[2] + slot).masked_fill(~hit, 0)
    kill = torch.full_like(target, torch.iinfo(torch.int64).max).masked_fill_(hit, DEAD)
    keys.flatten(1).scatter_reduce_(1, target, kill, "amin")
