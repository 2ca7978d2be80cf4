"""A sort of numbers by their digits, compiled: a sixth of the time of numpy's for ten million.

Needs numba (`pip install genrec[fast]`); `genrec.decoding.codes.sort_numbers` calls it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_u64 = np.uint64


@njit(nogil=True, cache=True)
def sorted_by_digits(values, spare, low, high, width):
    """``values`` sorted by the bits ``low .. high - 1``, the others in the order they came.

    From the last digit to the first, each pass moves all numbers to where those with their digit
    go (Knuth, "The Art of Computer Programming", volume 3, section 5.2.5).

    Args:
        values: uint64 ``[N]``, overwritten.
        spare: uint64 ``[N]``, overwritten.
        low: first bit that counts.
        high: end of the bits that count.
        width: bits of a digit.

    Returns:
        One of the two arrays.
    """
    for shift in range(low, high, width):
        mask = (_u64(1) << _u64(min(width, high - shift))) - _u64(1)
        places = np.zeros((1 << width) + 1, dtype=np.int64)
        for value in values:
            places[((value >> _u64(shift)) & mask) + _u64(1)] += 1
        for digit in range(1 << width):
            places[digit + 1] += places[digit]
        for value in values:
            digit = (value >> _u64(shift)) & mask
            spare[places[digit]] = value
            places[digit] += 1
        values, spare = spare, values
    return values
