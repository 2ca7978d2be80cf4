"""One level of a light autoregressive head and the expansion of its beams, in one compiled pass.

Needs numba (`pip install genrec[fast]`); `genrec.models.heads.light_search` calls it. The MLP runs
on four beams at a time, whose numbers stay in the nearest cache, and nothing but the surviving
candidates is written. What may reorder sums is as in `genrec.decoding.kernel`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from genrec.decoding.kernel_parts import (
    CHUNK,
    DEAD,
    SUMS,
    Best,
    admit,
    chunk_max,
    exp,
    exp_sum,
    key_score,
    nothing,
    order,
    rank_key,
    select,
    shown_to,
)

_f32, _i64 = np.float32, np.int64
_TOGETHER = 4  # beams
_DENSE = 4  # a quarter of the codes: with more children all codes are scored


@njit(fastmath=SUMS)
def _affine(x, rows, weight, bias, out):
    """``x[:rows] @ weight + bias``; four rows share what is read of the weight."""
    inner, n = weight.shape
    r, whole = 0, inner // 4 * 4
    while r + 4 <= rows:
        o0, o1, o2, o3 = out[r], out[r + 1], out[r + 2], out[r + 3]
        for j in range(n):
            o0[j] = bias[j]
            o1[j] = bias[j]
            o2[j] = bias[j]
            o3[j] = bias[j]
        for k in range(0, whole, 4):
            a0, a1, a2, a3 = x[r, k], x[r, k + 1], x[r, k + 2], x[r, k + 3]
            b0, b1, b2, b3 = x[r + 1, k], x[r + 1, k + 1], x[r + 1, k + 2], x[r + 1, k + 3]
            c0, c1, c2, c3 = x[r + 2, k], x[r + 2, k + 1], x[r + 2, k + 2], x[r + 2, k + 3]
            d0, d1, d2, d3 = x[r + 3, k], x[r + 3, k + 1], x[r + 3, k + 2], x[r + 3, k + 3]
            for j in range(n):
                w0, w1, w2, w3 = weight[k, j], weight[k + 1, j], weight[k + 2, j], weight[k + 3, j]
                o0[j] += a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
                o1[j] += b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
                o2[j] += c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
                o3[j] += d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3
        for k in range(whole, inner):
            a0, b0, c0, d0 = x[r, k], x[r + 1, k], x[r + 2, k], x[r + 3, k]
            for j in range(n):
                w0 = weight[k, j]
                o0[j] += a0 * w0
                o1[j] += b0 * w0
                o2[j] += c0 * w0
                o3[j] += d0 * w0
        r += 4
    for s in range(r, rows):
        o0 = out[s]
        for j in range(n):
            o0[j] = bias[j]
        for k in range(inner):
            a0 = x[s, k]
            for j in range(n):
                o0[j] += a0 * weight[k, j]


@njit(fastmath=SUMS, error_model="numpy")  # a check of the division would keep it from vectors
def _gelu(x):
    """``x * Phi(x)`` in place; erf by Abramowitz and Stegun's 7.1.26, which is within 1.5e-7."""
    for i in range(len(x)):
        y = x[i]
        z = abs(y) * _f32(0.70710678)
        t = _f32(1.0) / (_f32(1.0) + _f32(0.3275911) * z)
        p = _f32(1.061405429)
        p = p * t + _f32(-1.453152027)
        p = p * t + _f32(1.421413741)
        p = p * t + _f32(-0.284496736)
        p = p * t + _f32(0.254829592)
        tail = _f32(0.5) * abs(y) * p * t * exp(-z * z)
        x[i] = (y if y > _f32(0.0) else _f32(0.0)) - tail


@njit(fastmath=SUMS, error_model="numpy")
def _standardize(x, eps, out):
    """A row less its mean, by its standard deviation."""
    n = len(x)
    total = _f32(0.0)
    for i in range(n):
        total += x[i]
    mean = total / _f32(n)
    square = _f32(0.0)
    for i in range(n):
        square += (x[i] - mean) * (x[i] - mean)
    scale = _f32(1.0) / np.sqrt(square / _f32(n) + eps)
    for i in range(n):
        out[i] = (x[i] - mean) * scale


@njit(fastmath=SUMS)
def _sum(first, second, out):
    for i in range(len(out)):
        out[i] = first[i] + second[i]


@njit(fastmath=SUMS)
def _dot(x, y):
    total = _f32(0.0)
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


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
        below: of the next depth: codes, where each node's children start, tie ranks (see
            `genrec.decoding.kernel.expand_rows`).
        tests: which nodes may be shown, see `genrec.decoding.kernel_parts.shown_to`.
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
    tokens, pointer, ties = below
    live, marks, words, before, item_starts, dead = tests
    width, hidden, size = w_out.shape[1], w_in.shape[1], vectors.shape[0]
    x = np.empty((_TOGETHER, width), dtype=np.float32)
    query = np.empty((_TOGETHER, width), dtype=np.float32)
    inside = np.empty((_TOGETHER, hidden), dtype=np.float32)
    logits = np.empty((_TOGETHER, size), dtype=np.float32)
    no_bias = np.zeros(size, dtype=np.float32)
    gathered = np.empty(size, dtype=np.float32)
    exps = np.empty(size, dtype=np.float32)
    tops = np.empty((size + CHUNK - 1) // CHUNK, dtype=np.float32)
    prefix = np.empty(width, dtype=np.float32)
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
        shown = shown_to(b, live, marks, words, before, item_starts, dead)
        asking = max(len(live), len(marks), words.shape[1], len(shown.banned)) > 0
        best, lost, fine = nothing(), 0.0, True
        skipped = _i64(DEAD)
        w = offsets[b]
        while w < offsets[b + 1]:
            if last and best.n > most:
                cut = select(keys, loads, best.n, most)
                best = Best(most, cut, key_score(cut), best.reach, best.below, best.below_score)
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
                own = prefixes[w + r] if len(prefixes) else prefix
                _sum(above[parents[w + r]], table[codes[w + r]], own)
                _sum(states[b, level], own, x[r])
                _standardize(x[r], eps, query[r])
            _affine(query, rows, w_in, b_in, inside)
            for r in range(rows):
                _gelu(inside[r])
            _affine(inside, rows, w_out, b_out, query)
            for r in range(rows):
                _sum(x[r], query[r], query[r])
                if cosine:
                    scale = _f32(1.0) / max(np.sqrt(_dot(query[r], query[r])), _f32(1e-12))
                    for i in range(width):
                        query[r, i] *= scale
            if wide:
                _affine(query, rows, columns, no_bias, logits)
            for r in range(rows):
                node, base = nodes[w + r], scores[w + r]
                first = _i64(pointer[node])
                count = _i64(pointer[node + 1]) - first
                values = logits[r]
                total, mass, top = _f32(1.0), _f32(1.0), _f32(0.0)
                measured = wide and (every or not renormalize)
                if measured:
                    top = chunk_max(values, size, tops)
                    total = exp_sum(values, size, top, exps)
                    fine = fine and not np.isnan(total)
                sparse = count < size or len(live) > 0
                if sparse:
                    existing = _f32(0.0)
                    for j in range(count):
                        code = tokens[first + j]
                        if len(live) and not live[first + j]:
                            gathered[j] = _f32(-np.inf)
                            continue
                        gathered[j] = values[code] if wide else _dot(query[r], vectors[code])
                        if measured:
                            existing += exps[code]
                    values = gathered
                    mass = existing / total
                    if measured:
                        lost += max(0.0, 1.0 - mass) * np.exp(base)
                high, log_sum = top, _f32(np.log(total))
                peak = chunk_max(values, count, tops) if sparse or renormalize else top
                if renormalize:
                    high, log_sum = _f32(0.0), _f32(0.0)
                    if np.isfinite(peak):
                        total = exp_sum(values, count, peak, exps)
                        fine = fine and not np.isnan(total)
                        high = peak + _f32(np.log(total))
                if keep < 0 and best.n + count > len(keys):
                    keys = np.concatenate((keys, np.empty_like(keys)))
                    loads = np.concatenate((loads, np.empty_like(loads)))
                row = (w + r, base, values, count, tops, high, log_sum)
                best = admit(row, first, ties, floor[b], asking, shown, most, keys, loads, best)
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
            out_parents[filled], out_codes[filled] = loads[i] >> 32, tokens[child]
            filled += 1
    found = out_nodes[:filled], out_scores[:filled], out_parents[:filled], out_codes[:filled]
    return counts, found
