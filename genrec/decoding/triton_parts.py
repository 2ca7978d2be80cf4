"""What the Triton kernels read of a trie: children and codes of nodes, ranks in sets of bits."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def codes(tokens, nodes, mask, WIDE: tl.constexpr):
    """Codes of nodes; two bytes are stored as int16."""
    codes = tl.load(tokens + nodes, mask=mask, other=0).to(tl.int32)
    return codes & 0xFFFF if WIDE else codes


@triton.jit
def bits(words):
    """The bits set in each int64, as `genrec.decoding.bits` counts them."""
    words = words - ((words >> 1) & 0x5555555555555555)
    words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((words * 0x0101010101010101) >> 56) & 0x7F


@triton.jit
def code_at(words, start, rank, mask, WORDS: tl.constexpr):
    """The codes of which ``rank`` codes of a row of bits, from word ``start`` on, are below."""
    before = tl.zeros(rank.shape, tl.int64)
    place = tl.zeros(rank.shape, tl.int64)
    left = rank
    for index in range(WORDS):
        before += bits(tl.load(words + start + index, mask=mask, other=0))
        beyond = before <= rank
        left = tl.where(beyond, rank - before, left)
        place = tl.where(beyond, index + 1, place)
    word = tl.load(words + start + place, mask=mask & (place < WORDS), other=0)
    offset = tl.zeros(rank.shape, tl.int64)
    for halving in tl.static_range(6):
        ones = bits((word >> offset) & ((1 << (32 >> halving)) - 1))
        beyond = left >= ones
        offset = tl.where(beyond, offset + (32 >> halving), offset)
        left = tl.where(beyond, left - ones, left)
    return place * 64 + offset


@triton.jit
def rank(words, before, positions, mask):
    """Members before each position."""
    index = positions >> 6
    word = tl.load(words + index, mask=mask, other=0)
    below = (tl.full(positions.shape, 1, tl.int64) << (positions & 63)) - 1
    return bits(word & below) + tl.load(before + index, mask=mask, other=0).to(tl.int64)


@triton.jit
def smaller(ordered, count, values, mask, steps):
    """How many of ``ordered[:count]`` are below each value: ``steps`` halvings."""
    low = tl.zeros(values.shape, tl.int64)
    high = tl.zeros(values.shape, tl.int64) + count
    for _ in range(steps):
        middle = (low + high) >> 1
        open = mask & (low < high)
        right = open & (tl.load(ordered + middle, mask=open, other=0) < values)
        low = tl.where(right, middle + 1, low)
        high = tl.where(open & (right == 0), middle, high)
    return low


@triton.jit
def children(
    line,
    node,
    low,
    count,
    high,
    log_sum,
    tokens,
    live,
    slot,
    WIDE: tl.constexpr,
    LIVE: tl.constexpr,
    DENSE: tl.constexpr,
    WORDS: tl.constexpr,
):
    """A tile of children: their nodes, whether they exist, and their log-probabilities.

    And from where on the next tile counts its children. In a dense level a slot is a code.
    """
    exists = slot[None, :] < count[:, None]
    if DENSE:
        place = node[:, None] * WORDS + (slot >> 6)[None, :]
        word = tl.load(tokens + place, mask=exists, other=0)
        bit = ((word >> (slot & 63)[None, :]) & 1).to(tl.int32)
        child = low[:, None] + (tl.cumsum(bit, 1) - bit)
        low = low + tl.sum(bit, 1)
        exists = exists & (bit != 0)
        code = tl.zeros(child.shape, tl.int32) + slot[None, :]
    else:
        child = low[:, None] + slot[None, :]
        code = codes(tokens, child, exists, WIDE)
    value = tl.load(line[:, None] + code, mask=exists, other=0.0).to(tl.float32)
    if LIVE:
        exists = exists & (tl.load(live + child, mask=exists, other=0) != 0)
    gain = (value - high[:, None]) - log_sum[:, None]  # rounds as log_softmax does
    return child, exists, tl.where(exists, gain, float("-inf")), low
