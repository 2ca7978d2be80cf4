"""What the compiled kernels share: exponentials, selection, rank keys, and sets of nodes.

numba keeps compiled code by the file of the function that was called, so after a change here the
caches of the kernels that use it (`__pycache__/*.nbi`) have to go.

Sums of exponentials may be reordered by the compiler; scores, thresholds and keys may not.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SUMS = {"reassoc", "contract", "nsz", "arcp"}  # neither nnan nor ninf: NaN has to be noticed
CHUNK = 32
DEAD = np.iinfo(np.int64).min
_f32, _i32, _i64 = np.float32, np.int32, np.int64
_u32, _u64 = np.uint32, np.uint64


@njit(inline="always")
def ones(word):
    """The bits set in an int64."""
    x = _u64(word)
    x = x - ((x >> _u64(1)) & _u64(0x5555555555555555))
    x = (x & _u64(0x3333333333333333)) + ((x >> _u64(2)) & _u64(0x3333333333333333))
    x = (x + (x >> _u64(4))) & _u64(0x0F0F0F0F0F0F0F0F)
    return _i64((x * _u64(0x0101010101010101)) >> _u64(56))


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
def row_max(x, n):
    """The maximum of ``x[:n]``: four side by side, so that no comparison waits for the last."""
    best = _f32(-np.inf)
    whole = n // CHUNK * CHUNK
    for i in range(0, whole, CHUNK):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(i + 4, i + CHUNK, 4):
            a = a if a > x[j] else x[j]
            b = b if b > x[j + 1] else x[j + 1]
            c = c if c > x[j + 2] else x[j + 2]
            d = d if d > x[j + 3] else x[j + 3]
        a = a if a > b else b
        c = c if c > d else d
        a = a if a > c else c
        best = a if a > best else best
    for i in range(whole, n):
        best = x[i] if x[i] > best else best
    return best


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


@njit(fastmath=SUMS | {"nnan"})
def mask_row(x, n, row, exps, out):
    """``x[:n]`` in ``out`` where a row of bits holds the code, else -inf; ``exps`` summed there.

    Loops of a length that the compiler knows: it has to see that they take many lanes at once.
    """
    total = _f32(0.0)
    whole = n // CHUNK
    for c in range(whole + 1):
        start = c * CHUNK
        if start == n:
            break
        held = _u32(row[c >> 1] >> ((c & 1) * CHUNK))
        if c < whole:
            for i in range(CHUNK):
                here = (held >> _u32(i)) & _u32(1)
                out[start + i] = x[start + i] if here else _f32(-np.inf)
                total += exps[start + i] if here else _f32(0.0)
        else:
            for i in range(n - start):
                here = (held >> _u32(i)) & _u32(1)
                out[start + i] = x[start + i] if here else _f32(-np.inf)
                total += exps[start + i] if here else _f32(0.0)
    return total


@njit
def pick(x, n, least, out):
    """The places in ``x[:n]`` of what is at least ``least``, in ``out``; how many there are.

    No branch, so nothing waits for a wrong guess.
    """
    found = 0
    for i in range(n):
        out[found] = i
        found += _i64(x[i] >= least)
    return found


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
def _insert(keys, loads, low, high):
    """Sort ``keys[low : high + 1]``, a few, from the largest down."""
    for i in range(low + 1, high + 1):
        j = i
        while j > low and keys[j - 1] < keys[j]:
            _swap(keys, loads, j - 1, j)
            j -= 1


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
        _insert(keys, loads, low, high)


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
    _insert(keys, loads, low, high)
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
def largest_family(nodes, pointer):
    """The most places for children of any of ``nodes``; if some are free, more than codes."""
    most = _i64(0)
    for node in nodes:
        if node >= 0:
            most = max(most, _i64(pointer[node + 1]) - _i64(pointer[node]))
    return most


@njit
def contains(ordered, n, value):
    """Whether ``ordered[:n]``, ascending, holds ``value``."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < n and ordered[low] == value


@njit(inline="always")
def holds(row, code):
    """Whether a row of bits, int64, holds a code."""
    return (row[code >> 6] >> (code & 63)) & 1 != 0


@njit
def codes_below(row, code):
    """How many codes below ``code`` a row of bits holds."""
    found = ones(row[code >> 6] & ((_i64(1) << (code & 63)) - 1))
    for i in range(code >> 6):
        found += ones(row[i])
    return found


@njit
def code_at(row, rank):
    """The code of which ``rank`` codes of a row of bits are below."""
    i = 0
    while ones(row[i]) <= rank:
        rank -= ones(row[i])
        i += 1
    word, offset = _u64(row[i]), 0
    for j in range(5, -1, -1):
        width = 1 << j
        low = ones((word >> _u64(offset)) & ((_u64(1) << _u64(width)) - _u64(1)))
        if rank >= low:
            rank -= low
            offset += width
    return i * 64 + offset


@njit
def list_codes(row, out):
    """The codes of a row of bits, ascending, in ``out``."""
    found = 0
    for i in range(len(row)):
        word = row[i]
        while word != 0:
            out[found] = i * 64 + ones((word & -word) - 1)
            found += 1
            word &= word - 1
