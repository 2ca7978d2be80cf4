"""Sets of positions as bits, with rank and select: what filters and removed items are made of.

A node of the trie is a range of sorted positions, so it holds a member if and only if
``rank(high) > rank(low)``. One bit a position and one 32-bit count a word of 64 bits make 0.19
bytes a position and row (Jacobson, "Space-efficient static trees and graphs", 1989).
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_WORD = 64
_BYTE = 8  # bits in a byte, and bytes in a word
_ALL = np.int64(-1)
_SHIFT, _INSIDE = 6, 63  # of a position: which word, and which bit; faster than division


class BitRank:
    """One set of positions per row; build it with `from_mask` or `from_positions`.

    Wherever a method takes positions or ranks, their first dimension is the row; a single row
    serves any number of them.

    Attributes:
        words: int64 ``[R, size // 64 + 1]``, bit ``p % 64`` of word ``p // 64`` is position ``p``.
        before: int32, same shape, the members before each word.
        size: number of positions.
        totals: int64 ``[R]``, the members of each row.
    """

    def __init__(self, words: Tensor, size: int, before: Tensor | None = None) -> None:
        self.words = words
        self.size = size
        if before is None:
            before = F.pad(_counts(words).cumsum(dim=1, dtype=torch.int32)[:, :-1], (1, 0))
        self.before = before.to(torch.int32)
        self.totals = self.before[:, -1] + _popcount(words[:, -1])

    @classmethod
    def from_mask(cls, mask: Tensor) -> BitRank:
        """The positions where ``mask``, bool ``[R, size]``, is true."""
        size = mask.shape[1]
        if mask.device.type == "cpu" and sys.byteorder == "little":  # numpy has it ready made
            parts = np.packbits(mask.numpy(), axis=1, bitorder="little")
            words = np.zeros((len(mask), (size // _WORD + 1) * _BYTE), dtype=np.uint8)
            words[:, : parts.shape[1]] = parts
            return cls(torch.from_numpy(words.view(np.int64)), size)
        padded = F.pad(mask.to(torch.uint8), (0, _WORD - size % _WORD))
        packed = _joined(padded.unflatten(1, (-1, _BYTE)), 1)
        return cls(_joined(packed.to(torch.int64).unflatten(1, (-1, _BYTE)), _BYTE), size)

    @classmethod
    def from_positions(cls, positions: Tensor, size: int) -> BitRank:
        """The given positions, int64 ``[R, E]``; repeats count once, ``size`` is padding."""
        ordered = positions.sort(dim=1).values
        real = ordered < size
        real[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
        bits = (torch.ones_like(ordered) << (ordered & _INSIDE)) * real
        shape = (positions.shape[0], size // _WORD + 1)
        words = torch.zeros(shape, dtype=torch.int64, device=positions.device)
        return cls(words.scatter_add_(1, ordered >> _SHIFT, bits), size)

    def __len__(self) -> int:
        return self.words.shape[0]

    def __and__(self, other: BitRank) -> BitRank:
        return BitRank(self.words & other.words, self.size)

    def __invert__(self) -> BitRank:
        words = ~self.words
        words[:, -1] &= (1 << self.size % _WORD) - 1
        return BitRank(words, self.size)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.words.nbytes + self.before.nbytes + self.totals.nbytes

    def to(self, device: torch.device | str) -> BitRank:
        """The same sets on another device."""
        return BitRank(self.words.to(device), self.size, self.before.to(device))

    def select_rows(self, rows: Tensor | slice) -> BitRank:
        """The sets of some rows (a view, if they are a slice); a single row stays as it is."""
        if len(self) == 1:
            return self
        return BitRank(self.words[rows], self.size, self.before[rows])

    def mask(self) -> Tensor:
        """Bool ``[R, size]``."""
        bits = self.words[:, :, None] >> torch.arange(_WORD, device=self.words.device)
        return (bits.flatten(1)[:, : self.size] & 1).to(torch.bool)

    def contains(self, positions: Tensor) -> Tensor:
        """Whether each position (int64, 0 to ``size``) is a member; ``size`` is none."""
        word = self._take(self.words, positions >> _SHIFT)
        return ((word >> (positions & _INSIDE)) & 1).to(torch.bool)

    def rank(self, positions: Tensor) -> Tensor:
        """Members before each position, int64; positions are int64, 0 to ``size``."""
        index = positions >> _SHIFT
        below = (torch.ones_like(positions) << (positions & _INSIDE)) - 1
        inside = _popcount(self._take(self.words, index) & below)
        return inside + self._take(self.before, index)

    def any_between(self, low: Tensor, high: Tensor) -> Tensor:
        """Whether ``low .. high - 1`` holds a member: ``rank(high) > rank(low)``, without counting.

        Args:
            low: int64 positions, 0 to ``size``.
            high: int64 of the same shape, not below ``low``.
        """
        first, last = low >> _SHIFT, high >> _SHIFT
        above = self._take(self.words, first) & (torch.full_like(low, -1) << (low & _INSIDE))
        below = self._take(self.words, last) & ((torch.ones_like(high) << (high & _INSIDE)) - 1)
        after = self._take(self.before, (first + 1).clamp_max_(self.before.shape[1] - 1))
        between = self._take(self.before, last) > after
        return torch.where(first == last, above & below != 0, (above | below != 0) | between)

    def array_any_between(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """`any_between` of numpy's arrays, on the CPU: calls of numpy are cheaper than torch's."""
        words, before = self.words.numpy(), self.before.numpy()
        first, last = low >> _SHIFT, high >> _SHIFT
        long = last > first + 1
        here = last == first
        if len(self) > 1:
            row = np.arange(len(self)).reshape(-1, *[1] * (low.ndim - 1)) * words.shape[1]
            first, last = first + row, last + row
        above = words.take(first) & (_ALL << (low & _INSIDE))
        below = words.take(last) & ~(_ALL << (high & _INSIDE))
        found: np.ndarray = np.where(here, above & below, above | below) != 0
        if long.any():
            found[long] |= before.take(last[long]) > before.take(first[long] + 1)
        return found

    def select(self, ranks: Tensor) -> Tensor:
        """The position of the member of each rank (from 0), int64 like ``ranks`` ``[B, n]``.

        Ranks beyond the members give some position: the caller masks them.
        """
        before = self.before[0] if len(self) == 1 else self.before
        index = torch.searchsorted(before, ranks.to(torch.int32), right=True) - 1
        word = self._take(self.words, index)
        rest = ranks - self._take(self.before, index)
        offset = torch.zeros_like(ranks)
        for width in (32, 16, 8, 4, 2, 1):
            low = _popcount((word >> offset) & ((1 << width) - 1))
            right = rest >= low
            offset += right * width
            rest -= right * low
        return (index * _WORD + offset).clamp_max_(self.size - 1)

    def _take(self, values: Tensor, index: Tensor) -> Tensor:
        if len(self) == 1:
            return values[0].index_select(0, index.reshape(-1)).view(index.shape)
        return values.gather(1, index.flatten(1)).view(index.shape)


def _joined(parts: Tensor, bits: int) -> Tensor:
    """The last dimension as one number: part ``i`` shifted left by ``i * bits``."""
    joined = parts[..., 0].clone()
    for i in range(1, parts.shape[-1]):
        joined |= parts[..., i] << (i * bits)
    return joined


def _counts(words: Tensor) -> Tensor:
    """`_popcount` of many words, of an integer type."""
    if words.device.type == "cpu" and hasattr(np, "bitwise_count"):  # numpy 2
        return torch.from_numpy(np.bitwise_count(words.numpy().view(np.uint64)))
    return _popcount(words)


def _popcount(words: Tensor) -> Tensor:
    """The bits set in each int64, int64; a tree of sums in place of an instruction torch lacks."""
    words = words - ((words >> 1) & 0x5555555555555555)
    words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (words * 0x0101010101010101) >> 56
