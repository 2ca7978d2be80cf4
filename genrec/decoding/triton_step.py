"""One step of a search as two Triton kernels, for CUDA: nothing is read back by the host.

The first kernel has a program per user and group of beams: log-sum-exp of each beam's row, gather
of its children, filters and exclusions, and the group's best children. The second has a program per
user: it merges the groups and finds parents and codes. A candidate is nothing but its rank key
(`genrec.decoding.ranking`), which sorts alone: the tie rank inside it leads back to the node.

Checked against the torch operations in Triton's interpreter (`TRITON_INTERPRET=1`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genrec.decoding.expansion import Expansion, Step
from genrec.decoding.levels import words_of
from genrec.decoding.ranking import DEAD
from genrec.decoding.trie import PrefixTrie
from genrec.decoding.triton_parts import children, code_at, codes, rank, smaller

_MIX = 0x9E3779B1  # of `genrec.decoding.ranking.node_ties`
_UNMIX = pow(_MIX, -1, 2**32)
_LANES = 1024  # candidates of a program looked at together
_TILE = 4096  # log-probabilities of a program read together
_PROGRAMS = 512  # of the first kernel, enough to fill a device
_PARTS = 32  # most groups of beams per user

_DEAD: tl.constexpr = tl.constexpr(DEAD)
_LOW: tl.constexpr = tl.constexpr(0xFFFFFFFF)
_MULTIPLIER: tl.constexpr = tl.constexpr(_MIX)
_INVERSE: tl.constexpr = tl.constexpr(_UNMIX)
_NEGLIGIBLE: tl.constexpr = tl.constexpr(-80.0)  # exp of less is denormal and adds nothing


def triton_step(given: Expansion) -> Step:
    """The best children of every user's beams, in two launches."""
    trie, level, excluded = given.trie, given.level, given.excluded
    batch, width = given.nodes.shape
    device, keep = given.nodes.device, given.keep
    log_probs = given.log_probs.detach()
    log_probs = log_probs if log_probs.stride(2) == 1 else log_probs.contiguous()
    nodes, scores = given.nodes.contiguous(), given.scores.contiguous()
    live, members = trie.live_nodes(level + 1), excluded.members
    filtered = excluded.filter is not None or not excluded.empty
    held = trie.level(level)
    branch = held.places
    kept = triton.next_power_of_2(keep + 1)
    slots = min(triton.next_power_of_2(branch), _LANES)
    beams = max(1, max(kept, _LANES) // slots)
    beams = max(min(beams, triton.next_power_of_2(width)), triton.cdiv(kept, slots))
    groups = triton.cdiv(width, beams)
    rounds = triton.cdiv(groups, min(groups, _PARTS, max(1, _PROGRAMS // batch)))
    parts = triton.cdiv(groups, rounds)

    def empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    keys, lost = empty(batch, parts, kept), empty(batch, parts, dtype=torch.float32)
    out_nodes, out_parent, out_code = (empty(batch, keep) for _ in range(3))
    out_scores = empty(batch, keep, dtype=torch.float32)
    dropped, leaked = empty(batch), empty(batch, dtype=torch.float32)
    sound = empty(batch, dtype=torch.bool)
    tokens, pointer = trie.tokens[level], trie.pointers[level]
    ranks = excluded.ranks.contiguous()
    options: dict[str, Any] = {
        "KEPT": kept,
        "LAST": given.last,
        "DENSE": held.dense,
        "WORDS": words_of(held.size) if held.dense else 0,
        "WIDE": tokens.dtype != torch.uint8,
        "num_warps": 8 if kept >= 512 else 4,
    }
    _best_of_parts[(batch, parts)](
        log_probs,
        nodes,
        scores,
        tokens,
        pointer,
        trie.leaf_tie,
        tokens if live is None else live.view(torch.uint8),
        nodes if members is None else members.words,
        pointer if members is None else members.before,
        trie.item_starts[level + 1],
        ranks,
        keys,
        lost,
        log_probs.stride(0),
        log_probs.stride(1),
        0 if members is None or len(members) == 1 else members.words.stride(0),
        width,
        log_probs.shape[2],
        rounds,
        ranks.shape[1],
        ranks.shape[1].bit_length(),
        BEAMS=beams,
        SLOTS=slots,
        COLUMNS=max(1, min(triton.next_power_of_2(log_probs.shape[2]), _TILE // beams)),
        LOGITS=given.logits,
        RENORMALIZE=given.renormalize,
        LIVE=live is not None,
        MEMBERS=filtered and members is not None,
        EXCLUDED=not excluded.empty,
        **options,
    )
    _merged[(batch,)](
        keys,
        lost,
        nodes,
        scores,
        tokens,
        pointer,
        _leaf_of_rank(trie) if given.last else pointer,
        out_nodes,
        out_scores,
        out_parent,
        out_code,
        dropped,
        leaked,
        sound,
        width,
        parts,
        keep,
        CHUNK=min(triton.next_power_of_2(width), max(1, _TILE // kept)),
        **options,
    )
    return Step(out_nodes, out_scores, out_parent, out_code, dropped, leaked, sound)


def _leaf_of_rank(trie: PrefixTrie) -> Tensor:
    """The leaf, int32, whose first item has each tie rank; made once."""
    if "leaf of rank" not in trie.derived:
        live = trie.live_nodes(trie.num_levels)
        leaves = torch.arange(trie.num_leaves, dtype=torch.int32, device=trie.device)
        ranks = trie.leaf_tie.to(torch.int64)
        if live is not None:  # places without a leaf have any rank
            leaves, ranks = leaves[live], ranks[live]
        table = torch.zeros(int(trie.leaf_tie.max()) + 1, dtype=torch.int32, device=trie.device)
        trie.derived["leaf of rank"] = table.index_put_((ranks,), leaves)
    found: Tensor = trie.derived["leaf of rank"]
    return found


@triton.jit(do_not_specialize=["width", "rounds", "num_excluded", "steps"])
def _best_of_parts(
    log_probs,
    nodes,
    scores,
    tokens,
    pointer,
    ties,
    live,
    words,
    before,
    item_starts,
    ranks,
    out_keys,
    out_lost,
    stride_user,
    stride_beam,
    stride_words,
    width,
    size,
    rounds,
    num_excluded,
    steps,
    BEAMS: tl.constexpr,
    SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEPT: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    LOGITS: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    LIVE: tl.constexpr,
    DENSE: tl.constexpr,
    WORDS: tl.constexpr,
    MEMBERS: tl.constexpr,
    EXCLUDED: tl.constexpr,
):
    """Rank keys of the best ``KEPT`` children of ``rounds * BEAMS`` beams, best first."""
    user = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    best = tl.full([KEPT], _DEAD, tl.int64)
    lost = tl.zeros([BEAMS], tl.float32)
    for turn in range(rounds):
        beam = (part * rounds + turn) * BEAMS + tl.arange(0, BEAMS)
        inside = beam < width
        node = tl.load(nodes + user * width + beam, mask=inside, other=-1)
        base = tl.load(scores + user * width + beam, mask=inside, other=0.0)
        alive = node >= 0
        low = tl.load(pointer + node, mask=alive, other=0).to(tl.int64)
        count = tl.load(pointer + node + 1, mask=alive, other=0).to(tl.int64) - low
        line = log_probs + user * stride_user + beam.to(tl.int64) * stride_beam
        high = tl.zeros([BEAMS], tl.float32)
        log_sum = tl.zeros([BEAMS], tl.float32)
        if LOGITS:
            high = tl.full([BEAMS], float("-inf"), tl.float32)
            for start in range(0, size, COLUMNS):
                column = start + tl.arange(0, COLUMNS)
                real = alive[:, None] & (column < size)[None, :]
                x = tl.load(line[:, None] + column[None, :], mask=real, other=float("-inf"))
                high = tl.maximum(high, tl.max(x.to(tl.float32), 1))
            high = tl.where(alive, high, 0.0)
            total = tl.zeros([BEAMS], tl.float32)
            for start in range(0, size, COLUMNS):
                column = start + tl.arange(0, COLUMNS)
                real = alive[:, None] & (column < size)[None, :]
                x = tl.load(line[:, None] + column[None, :], mask=real, other=float("-inf"))
                total += tl.sum(tl.exp(x.to(tl.float32) - high[:, None]), 1)
            log_sum = tl.where(alive, tl.log(total), 0.0)
        if DENSE:
            count = tl.where(alive, size, 0).to(tl.int64)
        most = tl.max(count, 0)
        mass = tl.zeros([BEAMS], tl.float32)
        over = tl.zeros([BEAMS], tl.float32)
        if RENORMALIZE:
            top = tl.full([BEAMS], float("-inf"), tl.float32)
            origin = low
            for start in range(0, most, SLOTS):
                slot = start + tl.arange(0, SLOTS)
                _, _, gain, origin = children(
                    line,
                    node,
                    origin,
                    count,
                    high,
                    log_sum,
                    tokens,
                    live,
                    slot,
                    WIDE,
                    LIVE,
                    DENSE,
                    WORDS,
                )
                top = tl.maximum(top, tl.max(gain, 1))
            shift = tl.where(top == float("-inf"), 0.0, top)
            origin = low
            for start in range(0, most, SLOTS):
                slot = start + tl.arange(0, SLOTS)
                _, _, gain, origin = children(
                    line,
                    node,
                    origin,
                    count,
                    high,
                    log_sum,
                    tokens,
                    live,
                    slot,
                    WIDE,
                    LIVE,
                    DENSE,
                    WORDS,
                )
                mass += tl.sum(tl.exp(gain - shift[:, None]), 1)
            sum_log = shift + tl.log(mass)
            over = tl.where(sum_log == float("-inf"), 0.0, sum_log)
            mass = tl.exp(sum_log)
        origin = low
        for start in range(0, most, SLOTS):
            slot = start + tl.arange(0, SLOTS)
            child, exists, gain, origin = children(
                line,
                node,
                origin,
                count,
                high,
                log_sum,
                tokens,
                live,
                slot,
                WIDE,
                LIVE,
                DENSE,
                WORDS,
            )
            if not RENORMALIZE:  # NaN passes, as in no maximum
                seen = tl.exp(tl.where(gain < _NEGLIGIBLE, _NEGLIGIBLE, gain))
                mass += tl.sum(tl.where(exists, seen, 0.0), 1)
            score = (gain - over[:, None]) + base[:, None]
            score = tl.where(score == 0.0, 0.0, score)  # -0.0 has other bits
            bits = score.to(tl.int32, bitcast=True)
            order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
            if LAST:
                tie = tl.load(ties + child, mask=exists, other=0).to(tl.int64)
            else:
                tie = child * _MULTIPLIER
            key = (order << 32) | (~tie & _LOW)
            wanted = exists & (key > tl.min(best, 0))
            if MEMBERS or EXCLUDED:
                first = tl.load(item_starts + child, mask=wanted, other=0).to(tl.int64)
                end = tl.load(item_starts + child + 1, mask=wanted, other=0).to(tl.int64)
                if MEMBERS:
                    row = user * stride_words
                    first = rank(words + row, before + row, first, wanted)
                    end = rank(words + row, before + row, end, wanted)
                allowed = end - first
                if EXCLUDED:
                    own = ranks + user * num_excluded
                    allowed -= smaller(own, num_excluded, end, wanted, steps)
                    allowed += smaller(own, num_excluded, first, wanted, steps)
                wanted = wanted & (allowed > 0)
            fresh = tl.reshape(tl.where(wanted, key, _DEAD), [BEAMS * SLOTS])
            if tl.max(fresh, 0) != _DEAD:
                worst_first = tl.flip(tl.topk(fresh, KEPT), 0)
                best = tl.bitonic_merge(tl.maximum(best, worst_first), descending=True)
        gone = 1.0 - mass
        gone = tl.where(gone < 0.0, 0.0, gone)
        lost += tl.where(alive, gone * tl.exp(base), 0.0)
    place = user * tl.num_programs(1) + part
    tl.store(out_keys + place * KEPT + tl.arange(0, KEPT), best)
    tl.store(out_lost + place, tl.sum(lost, 0))


@triton.jit(do_not_specialize=["width", "parts", "keep"])
def _merged(
    keys,
    lost,
    nodes,
    scores,
    tokens,
    pointer,
    leaf_of_rank,
    out_nodes,
    out_scores,
    out_parent,
    out_code,
    dropped,
    leaked,
    sound,
    width,
    parts,
    keep,
    CHUNK: tl.constexpr,
    KEPT: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    DENSE: tl.constexpr,
    WORDS: tl.constexpr,
):
    """The best ``keep`` children of a user, their parents and codes, and the best one dropped."""
    user = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, KEPT)
    best = tl.load(keys + user * parts * KEPT + place)
    total = tl.load(lost + user * parts)
    for part in range(1, parts):
        worst_first = tl.load(keys + (user * parts + part) * KEPT + (KEPT - 1 - place))
        best = tl.bitonic_merge(tl.maximum(best, worst_first), descending=True)
        total += tl.load(lost + user * parts + part)
    tl.store(dropped + user, tl.max(tl.where(place == keep, best, _DEAD), 0))
    found = (place < keep) & (best != _DEAD)
    order = (best >> 32).to(tl.int32)
    score = (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    tie = ~best & _LOW
    if LAST:
        child = tl.load(leaf_of_rank + tie, mask=found, other=0).to(tl.int64)
    else:
        child = (tie * _INVERSE) & _LOW
    parent = tl.zeros([KEPT], tl.int32)
    for start in range(0, width, CHUNK):  # the beam whose range of children it lies in
        beam = start + tl.arange(0, CHUNK)
        node = tl.load(nodes + user * width + beam, mask=beam < width, other=-1)
        low = tl.load(pointer + node, mask=node >= 0, other=0).to(tl.int64)
        high = tl.load(pointer + node + 1, mask=node >= 0, other=0).to(tl.int64)
        mine = (child[:, None] >= low[None, :]) & (child[:, None] < high[None, :])
        parent = tl.maximum(parent, tl.max(tl.where(mine, beam[None, :], 0), 1))
    above = tl.load(scores + user * width + parent, mask=found, other=0.0)
    rises = found & (score > above)  # a log-probability above 0
    column = user * keep + place
    wanted = place < keep
    tl.store(out_nodes + column, tl.where(found, child, -1), mask=wanted)
    tl.store(out_scores + column, tl.where(found, score, float("-inf")), mask=wanted)
    tl.store(out_parent + column, parent.to(tl.int64), mask=wanted)
    if DENSE:
        node = tl.load(nodes + user * width + parent, mask=found, other=0)
        low = tl.load(pointer + node, mask=found, other=0).to(tl.int64)
        code = code_at(tokens, node * WORDS, child - low, found, WORDS)
        code = tl.where(found, code, 0)
    else:
        code = codes(tokens, child, found, WIDE).to(tl.int64)
    tl.store(out_code + column, code, mask=wanted)
    tl.store(leaked + user, total)
    tl.store(sound + user, (tl.max(rises.to(tl.int32), 0) == 0) & (total == total))
