"""One level of a light autoregressive head and the expansion of its beams, in one compiled pass.

Needs numba (`pip install genrec[fast]`); `genrec.models.light_search` calls it. The MLP runs
on four beams at a time, whose numbers stay in the nearest cache, and nothing but the surviving
candidates is written. What may reorder sums is as in `genrec.decoding.kernel`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from genrec.decoding.kernel_parts import (
    CHUNK,
    DEAD,
    chunk_max,
    code_at,
    contains,
    exp_sum,
    key_score,
    largest_family,
    list_codes,
    order,
    rank_key,
    row_max,
    select,
)
from genrec.models.light_arithmetic import add, affine, dot, gelu, standardize

_f32, _i64 = np.float32, np.int64
_TOGETHER = 4  # beams
_DENSE = 4  # a quarter of the codes: with more children all codes are scored


@njit
def _banned_of(user, dead):
    """The excluded nodes of a user, ascending; ``dead`` is int64 ``[B, E]`` with -1 anywhere."""
    banned = np.empty(dead.shape[1], dtype=np.int64)
    count = 0
    for i in range(dead.shape[1]):
        if dead[user, i] >= 0:
            banned[count] = dead[user, i]
            count += 1
    return banned[:count]


@njit
def _is_shown(child, live, marks, banned):
    """Whether a node of the next depth may be shown to a user.

    Args:
        child: the node.
        live: bool, which nodes exist; empty: all.
        marks: int64, bits of the nodes that the user's filter leaves; empty: no filter.
        banned: int64, excluded nodes in ascending order.
    """
    if len(live) and not live[child]:
        return False
    if len(marks) and not (marks[child >> 6] >> (child & 63)) & 1:
        return False
    return not (len(banned) and contains(banned, len(banned), child))


class _Best(NamedTuple):
    """How far the buffer of a user's candidates is.

    Attributes:
        n: candidates in it.
        cut: rank key below which nothing can enter any more.
        cut_score: its score.
        below: rank key of the best candidate below the floor.
        below_score: its score.
    """

    n: int
    cut: int
    cut_score: float
    below: int
    below_score: float


@njit
def _nothing():
    """An empty buffer."""
    low = _f32(-np.inf)
    return _Best(0, _i64(DEAD), low, _i64(DEAD), low)


@njit
def _admit(
    w,
    base,
    first,
    count,
    values,
    tops,
    high,
    log_sum,
    ties,
    floor,
    asking,
    live,
    marks,
    banned,
    most,
    keys,
    loads,
    best,
):
    """Put the children of one beam that may be among the best into the buffer.

    Args:
        w: the beam's number.
        base: its score.
        first: its first child.
        count: how many children it has.
        values: float32, their logits or log-probabilities.
        tops: float32, the maxima of the values by chunk.
        high: what is taken off the values first.
        log_sum: what is taken off next.
        ties: int32, tie ranks of the next depth; empty: those of inner nodes.
        floor: lowest score kept.
        asking: whether children that may not be shown are left out; by `_is_shown` with the next.
        live: see there.
        marks: see there.
        banned: see there.
        most: candidates that the buffer is cut back to when it is full.
        keys: int64, rank keys in the buffer.
        loads: int64, beam and child of each.
        best: the buffer so far.

    Returns:
        The buffer afterwards.
    """
    n, cut, cut_score, below, below_score = best
    for c in range((count + CHUNK - 1) // CHUNK):
        s = _f32(_f32(_f32(tops[c] - high) - log_sum) + base)
        if s < cut_score or (s < floor and s < below_score):
            continue
        for j in range(c * CHUNK, min(count, (c + 1) * CHUNK)):
            s = _f32(_f32(_f32(values[j] - high) - log_sum) + base)
            if s < cut_score or (s < floor and s < below_score):
                continue
            child = first + j
            tie = _i64(ties[child]) if len(ties) else child * _i64(0x9E3779B1)
            key = rank_key(s, tie)
            if key <= cut or (s < floor and key <= below):
                continue
            if asking and not _is_shown(child, live, marks, banned):
                continue
            if s < floor:
                below, below_score = key, s
                continue
            if n == len(keys):
                cut = select(keys, loads, n, most)
                n, cut_score = most, key_score(cut)
                if key <= cut:
                    continue
            keys[n], loads[n] = key, (_i64(w) << 32) | child
            n += 1
    return _Best(n, cut, cut_score, below, below_score)


@njit(nogil=True, cache=True)
def expand_light(
    start,
    stop,
    level,
    beams,
    states,
    layer,
    below,
    tests,
    floor,
    keep,
    every,
    renormalize,
    prefixes,
    dropped,
    leaked,
    sound,
    evaluations,
):
    """Score and expand the beams of the users ``start .. stop - 1``.

    Args:
        start: first user.
        stop: end of the users.
        level: the level scored.
        beams: those of all users, one after the other, each user's best first: int64 ``[B + 1]``
            where each user's start; int64 ``[n]`` nodes; float32 ``[n]`` scores; int64 ``[n]``
            parents; int64 ``[n]`` codes; float32 ``[m, D]`` the parents' prefixes; float32
            ``[K, D]`` what a code adds to them.
        states: float32 ``[B, L, D]``, what each user adds to a level's input.
        layer: of the level: weights ``[D, H]`` and bias; weights ``[H, D]`` and bias; the codes'
            vectors ``[K, D]``, the same as columns ``[D, K]``, all float32; the constant of the
            normalization; whether queries have length 1.
        below: of the next depth: codes or their bits, where each node's children start, tie ranks
            (see `genrec.decoding.kernel.expand_rows`).
        tests: which nodes may be shown, see `genrec.decoding.kernel.expand_rows`.
        floor: float32 ``[B]``, lowest score kept.
        keep: most beams kept per user; below 0 all that reach the floor.
        every: whether all codes are scored where a few are enough, which ``leaked`` needs.
        renormalize: whether scores are log-softmax over the existing children.
        prefixes: float32 ``[n, D]``, the beams' own prefixes, or no rows: not wanted.
        dropped: int64 ``[B]``, rank key of the best candidate not kept, or beam not expanded.
        leaked: float32 ``[B]``, probability on codes without a child, of beams whose codes were
            all scored.
        sound: bool ``[B]``, whether no NaN was met.
        evaluations: int64 ``[B]``, beams expanded.

    Returns:
        How many beams of each user were kept, int64 ``[stop - start]``, and these: nodes, scores,
        parents (places in ``beams``) and codes.
    """
    offsets, nodes, scores, parents, codes, above, table = beams
    w_in, b_in, w_out, b_out, vectors, columns, eps, cosine = layer
    tokens, bits, pointer, ties = below
    live, marks, dead = tests
    width, hidden, size = w_out.shape[1], w_in.shape[1], vectors.shape[0]
    x = np.empty((_TOGETHER, width), dtype=np.float32)
    query = np.empty((_TOGETHER, width), dtype=np.float32)
    inside = np.empty((_TOGETHER, hidden), dtype=np.float32)
    logits = np.empty((_TOGETHER, size), dtype=np.float32)
    no_bias = np.zeros(size, dtype=np.float32)
    places = size
    if len(live):
        places = max(size, largest_family(nodes[offsets[start] : offsets[stop]], pointer))
    gathered = np.empty(places, dtype=np.float32)
    listed = np.empty(size, dtype=np.uint16)
    exps = np.empty(places, dtype=np.float32)
    tops = np.empty((places + CHUNK - 1) // CHUNK, dtype=np.float32)
    prefix = np.empty(width, dtype=np.float32)
    no_marks = np.empty(0, dtype=np.int64)
    most = keep + 1 if keep >= 0 else 2**62
    room = 2 * (keep + 1 if keep >= 0 else size) + 64
    keys = np.empty(room, dtype=np.int64)
    loads = np.empty(room, dtype=np.int64)
    counts = np.zeros(stop - start, dtype=np.int64)
    space, filled = 64 * (stop - start), 0
    out_nodes, out_scores = np.empty(space, dtype=np.int64), np.empty(space, dtype=np.float32)
    out_parents, out_codes = np.empty(space, dtype=np.int64), np.empty(space, dtype=np.int64)
    last = len(ties) > 0
    for b in range(start, stop):
        banned = _banned_of(b, dead)
        own = no_marks
        if len(marks):
            own = marks[b if len(marks) > 1 else 0]
        asking = max(len(live), len(own), len(banned)) > 0
        best, lost, fine = _nothing(), 0.0, True
        skipped = _i64(DEAD)
        w = offsets[b]
        while w < offsets[b + 1]:
            if last and best.n > most:
                cut = select(keys, loads, best.n, most)
                best = _Best(most, cut, key_score(cut), best.below, best.below_score)
            if last and scores[w] < best.cut_score:
                skipped = rank_key(scores[w], nodes[w] * _i64(0x9E3779B1))
                break  # nor can the beams after it lead to anything better
            rows = min(_TOGETHER, offsets[b + 1] - w)
            evaluations[b] += rows
            wide = False
            for r in range(rows):
                node = nodes[w + r]
                count = pointer[node + 1] - pointer[node]
                wide = wide or not renormalize or every or count * _DENSE >= size
                to = prefixes[w + r] if len(prefixes) else prefix
                add(above[parents[w + r]], table[codes[w + r]], to)
                add(states[b, level], to, x[r])
                standardize(x[r], eps, query[r])
            affine(query, rows, w_in, b_in, inside)
            for r in range(rows):
                gelu(inside[r])
            affine(inside, rows, w_out, b_out, query)
            for r in range(rows):
                add(x[r], query[r], query[r])
                if cosine:
                    scale = _f32(1.0) / max(np.sqrt(dot(query[r], query[r])), _f32(1e-12))
                    for i in range(width):
                        query[r, i] *= scale
            if wide:
                affine(query, rows, columns, no_bias, logits)
            for r in range(rows):
                node, base = nodes[w + r], scores[w + r]
                first = _i64(pointer[node])
                count = _i64(pointer[node + 1]) - first
                values = logits[r]
                total, mass, top = _f32(1.0), _f32(1.0), _f32(0.0)
                measured = wide and (every or not renormalize)
                if measured:
                    top = row_max(values, size)
                    total = exp_sum(values, size, top, exps)
                    fine = fine and not np.isnan(total)
                sparse = count < size or len(live) > 0
                if sparse:
                    existing = _f32(0.0)
                    if len(bits):
                        list_codes(bits[node], listed)
                    for j in range(count):
                        code = _i64(listed[j]) if len(bits) else _i64(tokens[first + j])
                        if len(live) and not live[first + j]:
                            gathered[j] = _f32(-np.inf)
                            continue
                        gathered[j] = values[code] if wide else dot(query[r], vectors[code])
                        if measured:
                            existing += exps[code]
                    values = gathered
                    mass = existing / total
                    if measured:
                        lost += max(0.0, 1.0 - mass) * np.exp(base)
                high, log_sum = top, _f32(np.log(total))
                peak = row_max(values, count) if sparse or renormalize else top
                if renormalize:
                    high, log_sum = _f32(0.0), _f32(0.0)
                    if np.isfinite(peak):
                        total = exp_sum(values, count, peak, exps)
                        fine = fine and not np.isnan(total)
                        high = peak + _f32(np.log(total))
                s = _f32(_f32(_f32(peak - high) - log_sum) + base)
                if s < best.cut_score or (s < floor[b] and s < best.below_score):
                    continue
                tops[0] = peak
                if count > CHUNK:
                    chunk_max(values, count, tops)
                if keep < 0 and best.n + count > len(keys):
                    keys = np.concatenate((keys, np.empty_like(keys)))
                    loads = np.concatenate((loads, np.empty_like(loads)))
                best = _admit(
                    w + r,
                    base,
                    first,
                    count,
                    values,
                    tops,
                    high,
                    log_sum,
                    ties,
                    floor[b],
                    asking,
                    live,
                    own,
                    banned,
                    most,
                    keys,
                    loads,
                    best,
                )
            w += rows
        n = best.n
        wanted = n if keep < 0 else min(n, keep)
        order(keys, loads, n, min(n, wanted + 1))
        dropped[b] = skipped
        if not last:  # a tuple that ranks below the k-th is no pruned prefix
            dropped[b] = keys[wanted] if n > wanted else best.below
        leaked[b], sound[b], counts[b - start] = lost, fine, wanted
        while filled + wanted > space:
            space *= 2
            out_nodes = np.concatenate((out_nodes, np.empty_like(out_nodes)))
            out_scores = np.concatenate((out_scores, np.empty_like(out_scores)))
            out_parents = np.concatenate((out_parents, np.empty_like(out_parents)))
            out_codes = np.concatenate((out_codes, np.empty_like(out_codes)))
        for i in range(wanted):
            child = loads[i] & 0xFFFFFFFF
            out_nodes[filled], out_scores[filled] = child, key_score(keys[i])
            w = loads[i] >> 32
            out_parents[filled] = w
            if len(bits):
                out_codes[filled] = code_at(bits[nodes[w]], child - pointer[nodes[w]])
            else:
                out_codes[filled] = tokens[child]
            filled += 1
    found = out_nodes[:filled], out_scores[:filled], out_parents[:filled], out_codes[:filled]
    return counts, found
