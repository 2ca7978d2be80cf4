"""What the compiled kernels share: exponentials, selection, and the candidates of one beam.

numba keeps compiled code by the file of the function that was called, so after a change here the
caches of the kernels that use it (`__pycache__/*.nbi`) have to go.

Sums of exponentials may be reordered by the compiler; scores, thresholds and keys may not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

SUMS = {"reassoc", "contract", "nsz", "arcp"}  # neither nnan nor ninf: NaN has to be noticed
CHUNK = 32
DEAD = np.iinfo(np.int64).min
_f32, _i32, _i64 = np.float32, np.int32, np.int64


@njit(inline="always", fastmath=SUMS)
def exp(x):
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


@njit(fastmath=SUMS | {"nnan"})
def chunk_max(x, n, out):
    """The maximum of ``x[:n]``; of each chunk in ``out``."""
    best = _f32(-np.inf)
    for c in range((n + CHUNK - 1) // CHUNK):
        m = _f32(-np.inf)
        for i in range(c * CHUNK, min(n, (c + 1) * CHUNK)):
            m = x[i] if x[i] > m else m
        out[c] = m
        best = m if m > best else best
    return best


@njit(fastmath=SUMS)
def exp_sum(x, n, shift, out):
    """Sum of ``exp(x[:n] - shift)``, which is kept in ``out``; NaN if any of ``x[:n]`` is."""
    total = _f32(0.0)
    for i in range(n):
        value = exp(x[i] - shift)
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
def order(keys, loads, n, k):
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
def select(keys, loads, n, k):
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
def rank_key(score, tie):
    """`genrec.decoding.ranking.rank_keys` of one candidate."""
    bits = _f32(score + _f32(0.0)).view(np.int32)
    ordered = _i64(bits ^ ((bits >> 31) & 0x7FFFFFFF))
    return (ordered << 32) | (~_i64(tie) & 0xFFFFFFFF)


@njit
def key_score(key):
    """The score inside a rank key."""
    ordered = _i32(key >> 32)
    return _i32(ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(np.float32)


@njit
def any_between(words, before, low, high):
    """`genrec.decoding.bits.BitRank.any_between` of one range and one row."""
    first, last = low >> 6, high >> 6
    above = words[first] & (_i64(-1) << (low & 63))
    below = words[last] & ((_i64(1) << (high & 63)) - 1)
    if first == last:
        return (above & below) != 0
    return (above | below) != 0 or before[last] > before[first + 1]


@njit
def contains(ordered, value):
    """Whether ``ordered``, ascending, holds ``value``."""
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high) // 2
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(ordered) and ordered[low] == value


class Shown(NamedTuple):
    """What decides whether a node of the next depth may be shown to a user.

    Attributes:
        live: bool, which nodes exist; empty: all.
        marks: int64, bits of the nodes that a filter for all users leaves; empty: see ``words``.
        words: int64, bits of the user's filter; empty: no filter, or one with ``marks``.
        before: int32, members before each word.
        item_starts: int32, the first position of each node.
        banned: int64, excluded nodes in ascending order.
    """

    live: np.ndarray
    marks: np.ndarray
    words: np.ndarray
    before: np.ndarray
    item_starts: np.ndarray
    banned: np.ndarray


@njit
def shown_to(user, live, marks, words, before, item_starts, dead):
    """`Shown` of one user; ``words``, ``before`` and ``dead`` with a row for all or for each."""
    row = user if words.shape[0] > 1 else 0
    alive = 0
    banned = np.empty(dead.shape[1], dtype=np.int64)
    for i in range(dead.shape[1]):
        if dead[user, i] >= 0:
            banned[alive] = dead[user, i]
            alive += 1
    return Shown(live, marks, words[row], before[row], item_starts, banned[:alive])


@njit
def is_shown(child, shown):
    """Whether a node exists, a filter leaves it, and it is not excluded."""
    if len(shown.live) and not shown.live[child]:
        return False
    if len(shown.marks) and not (shown.marks[child >> 6] >> (child & 63)) & 1:
        return False
    if len(shown.words):
        low, high = _i64(shown.item_starts[child]), _i64(shown.item_starts[child + 1])
        if not any_between(shown.words, shown.before, low, high):
            return False
    return not (len(shown.banned) and contains(shown.banned, child))


class Best(NamedTuple):
    """How far the buffer of a user's candidates is.

    Attributes:
        n: candidates in it.
        cut: rank key below which nothing can enter any more.
        cut_score: its score.
        reach: candidates that reached the floor.
        below: rank key of the best candidate below the floor.
        below_score: its score.
    """

    n: int
    cut: int
    cut_score: float
    reach: int
    below: int
    below_score: float


@njit
def nothing():
    """An empty buffer."""
    low = _f32(-np.inf)
    return Best(0, _i64(DEAD), low, 0, _i64(DEAD), low)


@njit
def keep_shown(keys, loads, best, most, wanted, shown):
    """Sort a buffer of candidates that were not asked, and leave out what may not be shown.

    Args:
        keys: rank keys in the buffer.
        loads: beam and child of each.
        best: the buffer.
        most: candidates that it was cut back to.
        wanted: how many are wanted, at most ``most``.
        shown: which may be shown.

    Returns:
        How many of the best ones there are, ``wanted`` at most, and whether these are all, or
        ``wanted``: else some were cut off that should have been looked at.
    """
    whole = best.cut == DEAD
    looked = best.n if whole else min(best.n, most)
    order(keys, loads, best.n, looked)
    found = 0
    for i in range(looked):
        if found < wanted and is_shown(loads[i] & 0xFFFFFFFF, shown):
            keys[found], loads[found] = keys[i], loads[i]
            found += 1
    return found, whole or found == wanted


@njit
def admit(row, first, ties, floor, asking, shown, most, keys, loads, best):
    """Put the children of one beam that may be among the best into the buffer.

    Args:
        row: the beam's number, its score, the logits or log-probabilities of its children, their
            number, their maxima by chunk, and what is taken off them, in two parts.
        first: the first child.
        ties: int32, tie ranks of the next depth; empty: those of inner nodes.
        floor: lowest score kept.
        asking: whether children that may not be shown are left out.
        shown: which may.
        most: candidates that the buffer is cut back to when it is full; below 1: only count.
        keys: int64, rank keys in the buffer.
        loads: int64, beam and child of each.
        best: the buffer so far.

    Returns:
        The buffer afterwards.
    """
    w, base, values, count, tops, high, log_sum = row
    n, cut, cut_score, reach, below, below_score = best
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
            if asking and not is_shown(child, shown):
                continue
            if s < floor:
                below, below_score = key, s
                continue
            reach += 1
            if most < 1:
                continue
            if n == len(keys):
                cut = select(keys, loads, n, most)
                n, cut_score = most, key_score(cut)
                if key <= cut:
                    continue
            keys[n], loads[n] = key, (_i64(w) << 32) | child
            n += 1
    return Best(n, cut, cut_score, reach, below, below_score)
