"""The compiled expansion of beams: log-sum-exp, child gather and top-k in one pass per user.

Needs numba (`pip install genrec[fast]`); `genrec.decoding.compiled_step` calls it. Of a beam
whose best child could still enter, those that could are picked out without a branch. Candidates lie
in a buffer; whenever it is full, those that came last are asked for filters and exclusions, all in
one loop, so that the memory of many is waited for at once, and it is cut back to the best
``keep + 1``. The last of them is the threshold, and in the end the best one dropped.

Sums of exponentials may be reordered by the compiler; scores, thresholds and keys may not.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from genrec.decoding.kernel_parts import (
    DEAD,
    code_at,
    codes_below,
    contains,
    exp_sum,
    holds,
    key_score,
    largest_family,
    mask_row,
    order,
    pick,
    rank_key,
    row_max,
    select,
)

_f32, _i64 = np.float32, np.int64


@njit(inline="always")
def _shown(child, marks, banned):
    """Whether a filter and the excluded nodes let a node through."""
    shown = len(marks) == 0 or (marks[child >> 6] >> (child & 63)) & 1 != 0
    return shown and not (len(banned) and contains(banned, len(banned), child))


@njit
def _ask(keys, loads, start, n, marks, banned):
    """Move those of the candidates ``start .. n - 1`` that may be shown together; their end.

    No branch waits for what memory says, so the next candidates are read meanwhile.
    """
    end = n
    if len(marks):
        end = start
        for i in range(start, n):
            child = loads[i] & 0xFFFFFFFF
            keys[end], loads[end] = keys[i], loads[i]
            end += (marks[child >> 6] >> (child & 63)) & 1
    if len(banned):
        n, end = end, start
        for i in range(start, n):
            child = loads[i] & 0xFFFFFFFF
            keys[end], loads[end] = keys[i], loads[i]
            end += _i64(not contains(banned, len(banned), child))
    return end


@njit(nogil=True, cache=True)
def expand_rows(
    start,
    stop,
    log_probs,
    nodes,
    scores,
    tokens,
    bits,
    pointer,
    ties,
    live,
    marks,
    dead,
    floor,
    renormalize,
    logits,
    counting,
    out_nodes,
    out_scores,
    out_parent,
    out_code,
    dropped,
    leaked,
    sound,
):
    """Expand the beams of the users ``start .. stop - 1``; see `genrec.decoding.step`.

    Args:
        start: first user.
        stop: end of the users.
        log_probs: float32 ``[B, W, K]``.
        nodes: int64 ``[B, W]``, -1 where a beam is dead.
        scores: float32 ``[B, W]``.
        tokens: uint8 or uint16, the codes of the next depth's nodes; not read where there are
            bits.
        bits: int64 ``[n, w]``, the codes of each node's children as bits
            (`genrec.decoding.levels`); no rows: ``tokens`` are read. All nodes exist then.
        pointer: int32, where each node's children start.
        ties: int32, the tie ranks of the next depth; empty: those of inner nodes.
        live: bool, which nodes of the next depth exist; empty: all.
        marks: int64 ``[R, n]``, bits of the next depth's nodes that a filter leaves
            (`genrec.decoding.node_marks`), one row or one per user; no rows: no filter.
        dead: int64 ``[B, E]``, excluded nodes in ascending order with -1 anywhere between.
        floor: float32 ``[B]``, the lowest score kept; empty: any.
        renormalize: whether scores are log-softmax over the existing children.
        logits: whether ``log_probs`` still lack their normalization.
        counting: whether to write nothing but, to ``dropped``, how many candidates reach the floor.
        out_nodes: int64 ``[B, keep]``.
        out_scores: float32 ``[B, keep]``.
        out_parent: int64 ``[B, keep]``.
        out_code: int64 ``[B, keep]``.
        dropped: int64 ``[B]``, rank key of the best candidate not kept.
        leaked: float32 ``[B]``, probability on codes without a child.
        sound: bool ``[B]``, whether neither NaN nor a score above its parent's was met.
    """
    keep, width, size = out_nodes.shape[1], nodes.shape[1], log_probs.shape[2]
    places = size
    if len(live):
        for b in range(start, stop):
            places = max(places, largest_family(nodes[b], pointer))
    gathered = np.empty(places, dtype=np.float32)
    exps = np.empty(places, dtype=np.float32)
    picked = np.empty(places + 1, dtype=np.int64)
    room = 2 * (keep + 1) + 64
    enough = keep + 1 + (room - keep - 1) // 2
    keys = np.empty(room, dtype=np.int64)
    loads = np.empty(room, dtype=np.int64)
    excluded = np.empty(dead.shape[1], dtype=np.int64)
    no_marks = np.empty(0, dtype=np.int64)
    for b in range(start, stop):
        own = no_marks
        if len(marks):
            own = marks[b if len(marks) > 1 else 0]
        num_banned = 0
        for i in range(dead.shape[1]):
            if dead[b, i] >= 0:
                excluded[num_banned] = dead[b, i]
                num_banned += 1
        banned = excluded[:num_banned]
        least = floor[b] if len(floor) else _f32(-np.inf)
        asking = len(own) > 0 or num_banned > 0
        n, asked, reach = 0, 0, 0
        cut, below = _i64(DEAD), _i64(DEAD)
        cut_score, below_score = _f32(-np.inf), _f32(-np.inf)
        lost, fine = 0.0, True
        for w in range(width):
            node = nodes[b, w]
            if node < 0:
                continue
            first = _i64(pointer[node])
            count = _i64(pointer[node + 1]) - first
            base = scores[b, w]
            x = log_probs[b, w]
            full = count == size and len(live) == 0
            dense = len(bits) > 0 and not full
            # a score is ((x - high) - log_sum) + base, in this order, as the torch path rounds
            high, log_sum, mass = _f32(0.0), _f32(0.0), _f32(1.0)
            top = _f32(-np.inf)
            if logits:
                top = row_max(x, size)
                total = exp_sum(x, size, top, exps)
                high, log_sum = top, _f32(np.log(total))
                fine = fine and not np.isnan(total)
            values = x
            if dense:
                existing = mask_row(x, size, bits[node], exps, gathered)
                values, count = gathered, size
                if logits:
                    mass = existing / total
            elif not full:
                existing = _f32(0.0)
                for j in range(count):
                    code = tokens[first + j]
                    here = len(live) == 0 or live[first + j]
                    gathered[j] = x[code] if here else _f32(-np.inf)
                    if logits and here:
                        existing += exps[code]
                values = gathered
                if logits:
                    mass = existing / total
            if not (full and logits):
                top = row_max(values, count)
            if not logits:
                mass = exp_sum(values, count, _f32(0.0), exps)
                fine = fine and not np.isnan(mass)
            if renormalize:
                high, log_sum = top, _f32(0.0)
                if np.isfinite(top):
                    total = exp_sum(values, count, top, exps)
                    high, log_sum = top + _f32(np.log(total)), _f32(0.0)
                else:
                    high = _f32(0.0)
            lost += max(0.0, 1.0 - mass) * np.exp(base)
            s = _f32(_f32(_f32(top - high) - log_sum) + base)
            if s < cut_score or (s < least and s < below_score):
                continue
            # what scores as much, less what rounding may add or take
            bound = max(cut_score, min(least, below_score))
            slack = _f32(1e-6) * (abs(bound) + abs(base) + abs(log_sum) + abs(high))
            bound = ((bound - base) + log_sum) + high - slack
            if np.isnan(bound):
                bound = _f32(-np.inf)
            for i in range(pick(values, count, bound, picked)):
                j = picked[i]
                s = _f32(_f32(_f32(values[j] - high) - log_sum) + base)
                if s < cut_score or (s < least and s < below_score):
                    continue
                child = first + j
                if dense:
                    if not holds(bits[node], j):
                        continue
                    child = first + codes_below(bits[node], j)
                tie = _i64(ties[child]) if len(ties) else child * _i64(0x9E3779B1)
                key = rank_key(s, tie)
                if key <= cut or (s < least and key <= below):
                    continue
                if len(live) and not live[child]:
                    continue
                if s < least or counting:
                    if not _shown(child, own, banned):
                        continue
                    if s < least:
                        below, below_score = key, s
                    else:
                        reach += 1
                    continue
                if n == room:
                    if asking:
                        n = _ask(keys, loads, asked, n, own, banned)
                    if n > enough:
                        cut = select(keys, loads, n, keep + 1)
                        n, cut_score = keep + 1, key_score(cut)
                    asked = n
                    if key <= cut:
                        continue
                keys[n], loads[n] = key, (_i64(w) << 32) | child
                n += 1
        leaked[b] = lost
        if counting:
            dropped[b] = reach
            continue
        if asking:
            n = _ask(keys, loads, asked, n, own, banned)
        order(keys, loads, n, min(n, keep + 1))
        dropped[b] = keys[keep] if n > keep else below
        for i in range(min(n, keep)):
            w, child = loads[i] >> 32, loads[i] & 0xFFFFFFFF
            out_nodes[b, i], out_scores[b, i] = child, key_score(keys[i])
            out_parent[b, i] = w
            if len(bits):
                node = nodes[b, w]
                out_code[b, i] = code_at(bits[node], child - pointer[node])
            else:
                out_code[b, i] = tokens[child]
            fine = fine and out_scores[b, i] <= scores[b, w]
        for i in range(n, keep):
            out_nodes[b, i], out_scores[b, i] = -1, -np.inf
            out_parent[b, i], out_code[b, i] = 0, 0
        sound[b] = fine
