"""One level of a trie: which codes lead from each node, and where to.

The codes are a list, one for each child, or bits, one for each code of each node above, in rows of
whole words. Where a quarter of the codes exist or more, bits are the smaller form; where a list
would not stay in a cache they are read nearly as fast. A child's number is then the number of bits
before its own: where the children of its node start, and the bits of the node's row below the code
(Jacobson, "Space-efficient static trees and graphs", 1989).

Everything that reads codes asks a `Level`, but for the kernels, which get the arrays as they are.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.bits import BitRank
from genrec.decoding.codes import pack_tokens

DENSE = 0.25  # share of codes that exist from which on they may be bits
LARGE = 2**22  # bytes of a list from which on they are: a smaller one stays in a cache
_FEW = 8  # a search among bits costs as much as listing so many codes
_WORD = 64


class Level:
    """The children of the nodes of one depth.

    Args:
        tokens: the codes as a list or as bits, see `genrec.decoding.PrefixTrie.tokens`.
        pointer: int32 ``[n + 1]``, where the children of each node start.
        size: number of codes.
        branch: most children of a node.
        num_children: children of all nodes.

    Attributes:
        dense: whether the codes are bits.
        places: columns of `children`.
        stride: bits of a node.
    """

    def __init__(
        self, tokens: Tensor, pointer: Tensor, size: int, branch: int, num_children: int
    ) -> None:
        self.tokens = tokens
        self.pointer = pointer
        self.size = size
        self.num_children = num_children
        self.dense = tokens.dtype == torch.int64
        self.places = size if self.dense else branch
        self.stride = words_of(size) * _WORD
        self._branch = branch

    @cached_property
    def bits(self) -> BitRank:
        """Which codes of a dense level exist: code ``c`` of node ``v`` at ``v * stride + c``."""
        return BitRank(self.tokens[None], self.stride * (len(self.pointer) - 1))

    @property
    def rows(self) -> Tensor:
        """The bits of a dense level, int64 ``[n, w]``, of which word ``i`` has 64 codes each."""
        return self.tokens[:-1].view(len(self.pointer) - 1, -1)

    def listed(self) -> Tensor:
        """The code of each child, uint8, or the bits of a uint16 in an int16."""
        if not self.dense:
            return self.tokens
        rows = unpacked(self.rows.cpu().numpy(), self.size)
        return torch.from_numpy(pack_tokens(rows.nonzero()[1], self.size)).to(self.tokens.device)

    def array(self) -> np.ndarray:
        """The code of each child, uint8 or uint16, on the CPU."""
        tokens = self.listed().numpy()
        return tokens if tokens.dtype == np.uint8 else tokens.view(np.uint16)

    def codes(self, nodes: Tensor) -> Tensor:
        """The codes, int64, of nodes of the next depth; any shape."""
        flat = nodes.reshape(-1)
        if self.dense and _FEW * len(flat) < self.num_children:
            return (self.bits.select(flat) % self.stride).view(nodes.shape)
        tokens = self.listed()
        found = tokens.index_select(0, flat).to(torch.int64).view(nodes.shape)
        return found if tokens.dtype == torch.uint8 else found & 0xFFFF

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The codes and children of nodes (int64, any shape), side by side in `places` columns.

        Returns:
            Codes int64, children int64, and whether there is none, bool, ``[..., places]``. Where
            there is none, the others are those of some child.
        """
        low = self.pointer[nodes].to(torch.int64)[..., None]
        columns = torch.arange(self.places, device=nodes.device)
        last = self.num_children - 1
        if not self.dense:
            absent = columns >= self.pointer[nodes + 1].to(torch.int64)[..., None] - low
            found = (low + columns).clamp_max_(last)
            return self.codes(found), found, absent
        words = self.rows[nodes].repeat_interleave(_WORD, dim=-1)[..., : self.size]
        there = (words >> (columns % _WORD)) & 1
        found = (low + there.cumsum(dim=-1) - 1).clamp_(0, last)
        return columns.expand(found.shape), found, there == 0

    def columns(self, nodes: Tensor, parents: Tensor) -> Tensor:
        """In which column of its parent's `children` each node of the next depth stands, int64."""
        return self.codes(nodes) if self.dense else nodes - self.pointer[parents]

    def parents(self, nodes: Tensor) -> Tensor:
        """Parents, int64, of nodes of the next depth."""
        return torch.searchsorted(self.pointer, nodes.to(self.pointer.dtype), right=True) - 1

    def descend(self, nodes: Tensor, codes: Tensor) -> Tensor:
        """Children of nodes (int64, -1 stays -1) along codes of the same shape; -1 for none."""
        codes = codes.to(torch.int64)  # bounds of a level may be no numbers of a narrower type
        if self.dense:
            inside = codes.clamp(0, self.size - 1)
            cells = nodes.clamp_min(0) * self.stride + inside
            there = self.bits.contains(cells) & (inside == codes) & (nodes >= 0)
            return torch.where(there, self.bits.rank(cells), -1)
        low, end = self.lower_bound(nodes.clamp_min(0), codes)
        there = self.codes(low.clamp_max(self.num_children - 1)) == codes
        return torch.where((low < end) & there & (nodes >= 0), low, -1)

    def lower_bound(self, nodes: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """First child of each node whose code is not below, and the end of its children."""
        low, end = (self.pointer[of].to(torch.int64) for of in (nodes, nodes + 1))
        codes = codes.to(torch.int64)
        if self.dense:
            return self.bits.rank(nodes * self.stride + codes.clamp(0, self.size)), end
        high, last = end, self.num_children - 1
        for _ in range(self._branch.bit_length()):
            middle = (low + high) // 2
            right = (low < high) & (self.codes(middle.clamp_max(last)) < codes)
            low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
        return low, end


def packed(tokens: np.ndarray, pointer: np.ndarray, size: int) -> Tensor:
    """A list of codes in the form that a level is kept in.

    Args:
        tokens: uint8, or the bits of a uint16 in an int16, the code of each child.
        pointer: int32 ``[n + 1]``, where the children of each node start.
        size: number of codes.
    """
    above, below = len(pointer) - 1, len(tokens)
    every = above * size
    pays = tokens.nbytes >= LARGE and DENSE * every <= below < every
    pays = pays and 8 * (above * words_of(size) + 1) < tokens.nbytes
    return as_bits(tokens, pointer, size) if pays else torch.from_numpy(tokens)


def as_bits(tokens: np.ndarray, pointer: np.ndarray, size: int) -> Tensor:
    """A list of codes as bits, int64 ``[n * w + 1]``: rows of words, and a word of zeros."""
    above, stride = len(pointer) - 1, words_of(size) * _WORD
    codes = tokens if tokens.dtype == np.uint8 else tokens.view(np.uint16)
    mask = np.zeros((1, above * stride), dtype=bool)
    mask[0, np.repeat(np.arange(above) * stride, np.diff(pointer)) + codes] = True
    return BitRank.from_mask(torch.from_numpy(mask)).words[0]


def unpacked(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows of words, int64 ``[n, w]``, as uint8 ``[n, size]`` of 0 and 1."""
    bytes_ = np.ascontiguousarray(rows).astype("<i8", copy=False).view(np.uint8)
    return np.unpackbits(bytes_, axis=1, count=size, bitorder="little")


def words_of(size: int) -> int:
    """Words of 64 bits that the codes of a node take."""
    return -(-size // _WORD)
