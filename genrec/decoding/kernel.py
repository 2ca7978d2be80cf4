"""The compiled expansion of beams: log-sum-exp, child gather and top-k in one pass per user.

Needs numba (`pip install genrec[fast]`); `genrec.decoding.compiled_step` calls it. A candidate is
looked at only if its chunk's best log-probability could still enter the beam, and asked for filters
and exclusions only if it does. Candidates lie in a buffer that is cut back to the best ``keep + 1``
whenever it is full; the last of them is the threshold, and in the end the best one dropped.

Sums of exponentials may be reordered by the compiler; scores, thresholds and keys may not.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_SUMS = {"reassoc", "contract", "nsz", "arcp"}  # neither nnan nor ninf: NaN has to be noticed
_CHUNK = 32
_DEAD = np.iinfo(np.int64).min
_f32, _i32, _i64 = np.float32, np.int32, np.int64


@njit(inline="always", fastmath=_SUMS)
def _exp(x):
    """e^x for x <= 0 in float32: 2^n times a polynomial (Cephes' coefficients), vectorised."""
    y = _f32(-87.0) if x < _f32(-87.0) else x  # NaN passes
    n = _f32(_i32(y * _f32(1.44269504) - _f32(0.5)))
    r = y - n * _f32(0.693359375) + n * _f32(2.12194440e-4)
    p = _f32(1.9875691500e-4)
    p = p * r + _f32(1.3981999507e-3)
    p = p * r + _f32(8.3334519073e-3)
    p = p * r + _f32(4.1665795894e-2)
    p = p * r + _f32(1.6666665459e-1)
    p = p * r + _f32(5.0000001201e-1)
    p = p * r * r + r + _f32(1.0)
    return p * _i32((_i32(n) + _i32(127)) << _i32(23)).view(np.float32)


@njit(fastmath=_SUMS | {"nnan"})
def _chunk_max(x, n, out):
    """The maximum of ``x[:n]``; of each chunk in ``out``."""
    best = _f32(-np.inf)
    for c in range((n + _CHUNK - 1) // _CHUNK):
        m = _f32(-np.inf)
        for i in range(c * _CHUNK, min(n, (c + 1) * _CHUNK)):
            m = x[i] if x[i] > m else m
        out[c] = m
        best = m if m > best else best
    return best


@njit(fastmath=_SUMS)
def _exp_sum(x, n, shift, out):
    """Sum of ``exp(x[:n] - shift)``, which is kept in ``out``; NaN if any of ``x[:n]`` is."""
    total = _f32(0.0)
    for i in range(n):
        value = _exp(x[i] - shift)
        out[i] = value
        total += value
    return total


@njit
def _swap(keys, loads, i, j):
    keys[i], keys[j] = keys[j], keys[i]
    loads[i], loads[j] = loads[j], loads[i]


@njit
def _split(keys, loads, low, high):
    """Hoare's partition of ``low .. high``, larger keys first; the end of the first part."""
    a, b, c = keys[low], keys[(low + high) // 2], keys[high]
    pivot = max(min(a, b), min(max(a, b), c))
    i, j = low - 1, high + 1
    while True:
        i += 1
        while keys[i] > pivot:
            i += 1
        j -= 1
        while keys[j] < pivot:
            j -= 1
        if i >= j:
            return j if j < high else high - 1
        _swap(keys, loads, i, j)


@njit
def _order(keys, loads, n, k):
    """Bring the ``k`` largest of ``keys[:n]`` to the front, sorted, the largest first."""
    stack = np.empty((64, 2), dtype=np.int64)
    stack[0, 0], stack[0, 1], top = 0, n - 1, 1
    while top > 0:
        top -= 1
        low, high = stack[top, 0], stack[top, 1]
        while high - low > 16:
            j = _split(keys, loads, low, high)
            if j + 1 >= k:  # nothing beyond is wanted
                high = j
            elif j - low < high - j - 1:
                stack[top, 0], stack[top, 1] = j + 1, high
                top += 1
                high = j
            else:
                stack[top, 0], stack[top, 1] = low, j
                top += 1
                low = j + 1
        for i in range(low + 1, high + 1):
            j = i
            while j > low and keys[j - 1] < keys[j]:
                _swap(keys, loads, j - 1, j)
                j -= 1


@njit
def _select(keys, loads, n, k):
    """Bring the ``k`` largest of ``keys[:n]``, ``k < n``, to the front in any order; the least."""
    low, high = 0, n - 1
    while high - low > 16:
        j = _split(keys, loads, low, high)
        if j + 1 >= k:
            high = j
        else:
            low = j + 1
    for i in range(low + 1, high + 1):
        j = i
        while j > low and keys[j - 1] < keys[j]:
            _swap(keys, loads, j - 1, j)
            j -= 1
    least = keys[0]
    for i in range(1, k):
        least = min(least, keys[i])
    return least


@njit
def _key(score, tie):
    """`genrec.decoding.ranking.rank_keys` of one candidate."""
    bits = _f32(score + _f32(0.0)).view(np.int32)
    ordered = _i64(bits ^ ((bits >> 31) & 0x7FFFFFFF))
    return (ordered << 32) | (~_i64(tie) & 0xFFFFFFFF)


@njit
def _key_score(key):
    ordered = _i32(key >> 32)
    return _i32(ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(np.float32)


@njit
def _any_between(words, before, low, high):
    """`genrec.decoding.bits.BitRank.any_between` of one range and one row."""
    first, last = low >> 6, high >> 6
    above = words[first] & (_i64(-1) << (low & 63))
    below = words[last] & ((_i64(1) << (high & 63)) - 1)
    if first == last:
        return (above & below) != 0
    return (above | below) != 0 or before[last] > before[first + 1]


@njit(nogil=True, cache=True)
def mark_nodes(words, before, item_starts):
    """Which nodes hold a member: one bit a node, int64 words, from one row of a filter."""
    count = len(item_starts) - 1
    marks = np.zeros((count + 63) // 64, dtype=np.int64)
    for node in range(count):
        if _any_between(words, before, _i64(item_starts[node]), _i64(item_starts[node + 1])):
            marks[node >> 6] |= _i64(1) << (node & 63)
    return marks


@njit
def _contains(ordered, n, value):
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < n and ordered[low] == value


@njit(nogil=True, cache=True)
def expand_rows(
    start,
    stop,
    log_probs,
    nodes,
    scores,
    tokens,
    pointer,
    ties,
    live,
    marks,
    words,
    before,
    item_starts,
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
        tokens: uint8 or uint16, the codes of the next depth's nodes.
        pointer: int32, where each node's children start.
        ties: int32, the tie ranks of the next depth; empty: those of inner nodes.
        live: bool, which nodes of the next depth exist; empty: all.
        marks: int64, bits of the next depth's nodes that a filter for all users leaves; empty: see
            ``words``.
        words: int64 ``[R, n]``, bits of the filter; no rows: no filter, or one with ``marks``.
        before: int32 ``[R, n]``, members before each word.
        item_starts: int32, the first position of each node of the next depth.
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
    gathered = np.empty(size, dtype=np.float32)
    exps = np.empty(size, dtype=np.float32)
    tops = np.empty((size + _CHUNK - 1) // _CHUNK, dtype=np.float32)
    room = 2 * (keep + 1) + 64
    keys = np.empty(room, dtype=np.int64)
    loads = np.empty(room, dtype=np.int64)
    banned = np.empty(dead.shape[1], dtype=np.int64)
    for b in range(start, stop):
        row = b if words.shape[0] > 1 else 0
        num_banned = 0
        for i in range(dead.shape[1]):
            if dead[b, i] >= 0:
                banned[num_banned] = dead[b, i]
                num_banned += 1
        least = floor[b] if len(floor) else _f32(-np.inf)
        n, reach = 0, 0
        cut, below = _i64(_DEAD), _i64(_DEAD)
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
            # a score is ((x - high) - log_sum) + base, in this order, as the torch path rounds
            high, log_sum, mass = _f32(0.0), _f32(0.0), _f32(1.0)
            top = _f32(-np.inf)
            if logits:
                top = _chunk_max(x, size, tops)
                total = _exp_sum(x, size, top, exps)
                high, log_sum = top, _f32(np.log(total))
                fine = fine and not np.isnan(total)
            values = x
            if not full:
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
                top = _chunk_max(values, count, tops)
            if not logits:
                mass = _exp_sum(values, count, _f32(0.0), exps)
                fine = fine and not np.isnan(mass)
            if renormalize:
                high, log_sum = top, _f32(0.0)
                if np.isfinite(top):
                    total = _exp_sum(values, count, top, exps)
                    high, log_sum = top + _f32(np.log(total)), _f32(0.0)
                else:
                    high = _f32(0.0)
            lost += max(0.0, 1.0 - mass) * np.exp(base)
            for c in range((count + _CHUNK - 1) // _CHUNK):
                s = _f32(_f32(_f32(tops[c] - high) - log_sum) + base)
                if s < cut_score or (s < least and s < below_score):
                    continue
                for j in range(c * _CHUNK, min(count, (c + 1) * _CHUNK)):
                    s = _f32(_f32(_f32(values[j] - high) - log_sum) + base)
                    if s < cut_score or (s < least and s < below_score):
                        continue
                    child = first + j
                    tie = _i64(ties[child]) if len(ties) else child * _i64(0x9E3779B1)
                    key = _key(s, tie)
                    if key <= cut or (s < least and key <= below):
                        continue
                    if len(live) and not live[child]:
                        continue
                    if len(marks) and not (marks[child >> 6] >> (child & 63)) & 1:
                        continue
                    if words.shape[0] and not _any_between(
                        words[row],
                        before[row],
                        _i64(item_starts[child]),
                        _i64(item_starts[child + 1]),
                    ):
                        continue
                    if num_banned and _contains(banned, num_banned, child):
                        continue
                    if s < least:
                        below, below_score = key, s
                        continue
                    reach += 1
                    if counting:
                        continue
                    if n == room:
                        cut = _select(keys, loads, n, keep + 1)
                        n, cut_score = keep + 1, _key_score(cut)
                        if key <= cut:
                            continue
                    keys[n], loads[n] = key, (_i64(w) << 32) | child
                    n += 1
        leaked[b] = lost
        if counting:
            dropped[b] = reach
            continue
        _order(keys, loads, n, min(n, keep + 1))
        dropped[b] = keys[keep] if n > keep else below
        for i in range(min(n, keep)):
            w, child = loads[i] >> 32, loads[i] & 0xFFFFFFFF
            out_nodes[b, i], out_scores[b, i] = child, _key_score(keys[i])
            out_parent[b, i], out_code[b, i] = w, tokens[child]
            fine = fine and out_scores[b, i] <= scores[b, w]
        for i in range(n, keep):
            out_nodes[b, i], out_scores[b, i] = -1, -np.inf
            out_parent[b, i], out_code[b, i] = 0, 0
        sound[b] = fine
