"""The compiled passes that make a filter: items in sorted order, and ranges that hold one.

With the last position of each range as a bit, `e`, one addition answers for all ranges of a word
(the test of fields for zero of Warren, "Hacker's Delight", chapter 6, with fields as wide as the
ranges): what `x` holds below an end carries into it.

    (((x & ~e) + ~e) | x) & e

The carry out of a word belongs to the range that goes on in the next one. The bits at the ends,
pushed together, are those of the ranges. So a row costs time by words of positions, not by ranges.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_i64, _u64 = np.int64, np.uint64
_BLOCK = 64  # words whose bits are pushed together side by side


@njit(nogil=True, cache=True)
def ordered_bits(bits, items):
    """The bits of items in another order, int64 ``[R, n // 64 + 1]``.

    Args:
        bits: uint32 ``[R, m]``, bit ``i % 32`` of word ``i // 32`` is item ``i``. A bit an item
            fits a cache that a byte does not; of words of 32 bits 16 are read at once.
        items: int32 ``[n]``, which item stands where.
    """
    n = len(items)
    out = np.zeros((bits.shape[0], n // 64 + 1), dtype=np.int64)
    for row in range(bits.shape[0]):
        own = bits[row]
        for w in range(n // 64):
            word = _i64(0)
            for i in range(64):
                item = items[w * 64 + i]
                word |= _i64((own[item >> 5] >> (item & 31)) & 1) << i
            out[row, w] = word
        for i in range(n // 64 * 64, n):
            item = items[i]
            out[row, n // 64] |= _i64((own[item >> 5] >> (item & 31)) & 1) << (i & 63)
    return out


@njit(nogil=True, cache=True)
def range_ends(starts, words):
    """The last position of each range that is not empty, as bits; how many there are.

    Args:
        starts: int32 ``[n + 1]``, range ``i`` is ``starts[i] .. starts[i + 1] - 1``.
        words: how many words the bits take.
    """
    ends, filled = np.zeros(words, dtype=np.uint64), 0
    for i in range(len(starts) - 1):
        if starts[i + 1] > starts[i]:
            last = _i64(starts[i + 1]) - 1
            ends[last >> 6] |= _u64(1) << _u64(last & 63)
            filled += 1
    return ends, filled


@njit(inline="always")
def _at_ends(x, ends, carry):
    """The bits at the ends of ranges that hold a bit of ``x``; the carry into the next word."""
    inside = ~ends
    total = (x & inside) + inside
    over = total < inside
    sum = total + carry
    return (sum | x) & ends, _u64(over | (sum < total))


@njit(inline="always")
def _ones(x):
    """The bits set in a word."""
    x = x - ((x >> _u64(1)) & _u64(0x5555555555555555))
    x = (x & _u64(0x3333333333333333)) + ((x >> _u64(2)) & _u64(0x3333333333333333))
    x = (x + (x >> _u64(4))) & _u64(0x0F0F0F0F0F0F0F0F)
    return _i64((x * _u64(0x0101010101010101)) >> _u64(56))


@njit
def _moves(ends, moves, sizes):
    """What pushes the bits at ``ends`` of each word together, and how many they are.

    A bit moves down by the zeros below it, in powers of two: "Hacker's Delight", section 7-4.

    Args:
        ends: uint64 ``[n]``.
        moves: uint64 ``[6, n]``, the bits that move by 1, 2, 4, 8, 16, 32; written.
        sizes: int64 ``[n]``, written.
    """
    for i in range(len(ends)):
        sizes[i] = _ones(ends[i])
        left, zeros = ends[i], ~ends[i] << _u64(1)
        for j in range(6):
            odd = zeros  # where the number of zeros below, of those that are left, is odd
            odd ^= odd << _u64(1)
            odd ^= odd << _u64(2)
            odd ^= odd << _u64(4)
            odd ^= odd << _u64(8)
            odd ^= odd << _u64(16)
            odd ^= odd << _u64(32)
            move = odd & left
            moves[j, i] = move
            left = (left ^ move) | (move >> (_u64(1) << _u64(j)))
            zeros &= ~odd


@njit(nogil=True, cache=True)
def marks_by_word(bits, ends, count):
    """Which of ``count`` ranges hold a bit, int64 ``[R, count // 64 + 1]``; none is empty.

    Args:
        bits: int64 ``[R, n]``.
        ends: uint64 ``[n]``, the last position of each range.
        count: number of ranges.
    """
    marks = np.zeros((bits.shape[0], count // 64 + 1), dtype=np.int64)
    moves = np.empty((6, _BLOCK), dtype=np.uint64)
    sizes, found = np.empty(_BLOCK, dtype=np.int64), np.empty(_BLOCK, dtype=np.uint64)
    carries = np.zeros(bits.shape[0], dtype=np.uint64)
    done = 0  # ranges of the blocks before
    for first in range(0, len(ends), _BLOCK):
        here = ends[first : first + _BLOCK]
        _moves(here, moves, sizes)
        for row in range(bits.shape[0]):
            carry = carries[row]
            for i in range(len(here)):
                found[i], carry = _at_ends(_u64(bits[row, first + i]), here[i], carry)
            carries[row] = carry
            for j in range(6):
                for i in range(len(here)):
                    move = found[i] & moves[j, i]
                    found[i] = (found[i] ^ move) | (move >> (_u64(1) << _u64(j)))
            n, out = done, marks[row]
            for i in range(len(here)):
                used = n & 63
                out[n >> 6] |= _i64(found[i] << _u64(used))
                if used + sizes[i] > 64:
                    out[(n >> 6) + 1] = _i64(found[i] >> _u64(64 - used))
                n += sizes[i]
        done += sizes[: len(here)].sum()
    return marks


@njit(nogil=True, cache=True)
def marks_by_node(bits, ends, starts):
    """As `marks_by_word`, but ranges may be empty, as those of free slots are."""
    count = len(starts) - 1
    marks = np.zeros((bits.shape[0], count // 64 + 1), dtype=np.int64)
    found = np.empty(len(ends), dtype=np.int64)
    for row in range(bits.shape[0]):
        carry = _u64(0)
        for w in range(len(ends)):
            here, carry = _at_ends(_u64(bits[row, w]), ends[w], carry)
            found[w] = _i64(here)
        for i in range(count):
            last = max(_i64(starts[i + 1]) - 1, 0)
            here = (found[last >> 6] >> (last & 63)) & _i64(starts[i + 1] > starts[i])
            marks[row, i >> 6] |= (here & 1) << (i & 63)
    return marks
