"""The set of valid semantic IDs as a prefix trie of flat tensors.

Sort the tuples and number the nodes of every depth in sorted order: a child's number is then its
position in the next level, so a level needs only the code of each of its nodes and, for each node
above, where its children start. A node is also a contiguous range of the sorted items, which is
what exclusions need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.errors import DataError

MAX_LEVELS = 64
MAX_CODES = 65_536
_WORD = 2**62  # several codes are packed into one int64 sort key as long as they stay below


class PrefixTrie:
    """Prefix trie over the semantic IDs of ``num_items`` items; build it with `from_codes`.

    Depth 0 is the root, depth ``num_levels`` the leaves; level ``l`` leads from depth ``l`` to
    depth ``l + 1``. The children of node ``v`` at depth ``l`` are the nodes
    ``pointers[l][v] .. pointers[l][v + 1] - 1`` at depth ``l + 1``.

    Attributes:
        codebook_sizes: number of codes of each level.
        num_items: number of items.
        num_nodes: nodes at each depth, ``num_levels + 1`` numbers, the first is 1.
        max_branch: largest number of children of one node, per level.
        tokens: per level, the code of every node of depth ``l + 1``; uint8, or the bits of a
            uint16 in an int16 (torch cannot index uint16), read them with `node_codes`.
        pointers: per level, int32 ``[num_nodes[l] + 1]``.
        item_starts: per depth, int32 ``[num_nodes[d] + 1]``: node ``v`` holds the items at the
            sorted positions ``item_starts[d][v] .. item_starts[d][v + 1] - 1``.
        leaf_items: int32 ``[num_items]``, the items in sorted order; inside a leaf in tie order.
        item_position: int32 ``[num_items]``, the inverse of ``leaf_items``.
        item_leaf: int32 ``[num_items]``, the leaf of every item.
        leaf_tie: int32 ``[num_leaves]``, the rank of the leaf among all leaves by the tie order
            of its first item; of two leaves with equal scores the smaller rank wins.
        tie_order: int64 ``[num_items]``, rank of every item; the smaller wins.
    """

    def __init__(
        self,
        *,
        codebook_sizes: tuple[int, ...],
        max_branch: tuple[int, ...],
        tokens: list[Tensor],
        pointers: list[Tensor],
        item_starts: list[Tensor],
        leaf_items: Tensor,
        item_position: Tensor,
        item_leaf: Tensor,
        leaf_tie: Tensor,
        tie_order: Tensor,
    ) -> None:
        self.codebook_sizes = codebook_sizes
        self.max_branch = max_branch
        self.tokens = tokens
        self.pointers = pointers
        self.item_starts = item_starts
        self.leaf_items = leaf_items
        self.item_position = item_position
        self.item_leaf = item_leaf
        self.leaf_tie = leaf_tie
        self.tie_order = tie_order
        self.num_items = leaf_items.shape[0]
        self.num_nodes = tuple(starts.shape[0] - 1 for starts in item_starts)
        self._leaf_bags: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_codes(
        cls,
        codes: np.ndarray | Tensor | Sequence[Sequence[int]],
        codebook_sizes: Sequence[int],
        tie_order: np.ndarray | Tensor | Sequence[int] | None = None,
    ) -> PrefixTrie:
        """Build the trie of ``codes``.

        Args:
            codes: ``[N, L]`` integers, one row per item, in any order, duplicates allowed.
            codebook_sizes: number of codes per level, 1 to 65,536 each, 1 to 64 levels.
            tie_order: ``[N]`` rank of every item (a permutation of 0..N-1, the smaller rank
                wins). Without it a fixed pseudo-random order is used, so that item numbers, which
                often follow first appearance in the data, never decide a tie.

        Raises:
            DataError: naming row and level, for malformed codes, sizes or tie order.
        """
        sizes = _checked_sizes(codebook_sizes)
        table = _checked_codes(codes, sizes)
        num_items, levels = table.shape
        tie = default_tie_order(num_items) if tie_order is None else tie_order
        tie = _checked_tie_order(tie, num_items)

        order = np.lexsort((tie, *reversed(_sort_keys(table, sizes))))
        ranked = table[order]
        starts = [np.zeros(1, dtype=np.int64)]
        new = np.zeros(num_items, dtype=bool)
        new[0] = True
        for level in range(levels):
            new[1:] |= ranked[1:, level] != ranked[:-1, level]
            starts.append(np.flatnonzero(new))
        tokens, pointers, branch = [], [], []
        for level in range(levels):
            below = starts[level + 1]
            pointer = np.append(np.searchsorted(below, starts[level]), below.size)
            branch.append(int(np.diff(pointer).max()))
            pointers.append(torch.from_numpy(pointer.astype(np.int32)))
            tokens.append(_pack_tokens(ranked[below, level], sizes[level]))

        first = starts[-1]
        leaf_of_position = np.cumsum(new) - 1
        position = np.empty(num_items, dtype=np.int32)
        position[order] = np.arange(num_items, dtype=np.int32)
        leaf_tie = np.empty(first.size, dtype=np.int32)
        leaf_tie[np.argsort(tie[order[first]])] = np.arange(first.size, dtype=np.int32)
        return cls(
            codebook_sizes=sizes,
            max_branch=tuple(branch),
            tokens=tokens,
            pointers=pointers,
            item_starts=[
                torch.from_numpy(np.append(start, num_items).astype(np.int32)) for start in starts
            ],
            leaf_items=torch.from_numpy(order.astype(np.int32)),
            item_position=torch.from_numpy(position),
            item_leaf=torch.from_numpy(leaf_of_position[position].astype(np.int32)),
            leaf_tie=torch.from_numpy(leaf_tie),
            tie_order=torch.from_numpy(tie),
        )

    @property
    def num_levels(self) -> int:
        """Number of codes of a semantic ID."""
        return len(self.tokens)

    @property
    def num_leaves(self) -> int:
        """Number of distinct semantic IDs."""
        return self.num_nodes[-1]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.leaf_items.device

    @property
    def index_nbytes(self) -> int:
        """Bytes of the tokens and pointers: what a search without exclusions reads."""
        return sum(t.nbytes for t in (*self.tokens, *self.pointers))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, items and ranges included."""
        items = (self.leaf_items, self.item_position, self.item_leaf, self.leaf_tie, self.tie_order)
        return self.index_nbytes + sum(t.nbytes for t in (*self.item_starts, *items))

    def __repr__(self) -> str:
        return (
            f"PrefixTrie(items={self.num_items}, leaves={self.num_leaves}, "
            f"codebook_sizes={self.codebook_sizes}, device={self.device})"
        )

    def to(self, device: torch.device | str) -> PrefixTrie:
        """The same trie on another device; itself if it is there already."""
        if torch.empty(0, device=device).device == self.device:
            return self

        def move(value: Any) -> Any:
            if isinstance(value, list):
                return [tensor.to(device) for tensor in value]
            return value.to(device)

        names = ("tokens", "pointers", "item_starts", "leaf_items", "item_position", "item_leaf")
        moved = {name: move(getattr(self, name)) for name in (*names, "leaf_tie", "tie_order")}
        return PrefixTrie(codebook_sizes=self.codebook_sizes, max_branch=self.max_branch, **moved)

    def node_codes(self, level: int, nodes: Tensor) -> Tensor:
        """The codes, int64, of nodes of depth ``level + 1``; any shape."""
        tokens = self.tokens[level].index_select(0, nodes.reshape(-1)).view(nodes.shape)
        codes = tokens.to(torch.int64)
        return codes if tokens.dtype == torch.uint8 else codes & 0xFFFF

    def descend(self, level: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """Children of ``nodes`` (depth ``level``) along ``codes``; -1 where there is none.

        Args:
            level: level of the codes.
            nodes: int64, any shape; -1 stays -1.
            codes: integers of the same shape; codes outside the codebook lead nowhere.
        """
        pointer = self.pointers[level]
        safe = nodes.clamp_min(0)
        low, end = pointer[safe].to(torch.int64), pointer[safe + 1].to(torch.int64)
        high = end
        last = self.num_nodes[level + 1] - 1
        for _ in range(self.max_branch[level].bit_length()):
            middle = (low + high) // 2
            right = (low < high) & (self.node_codes(level, middle.clamp_max(last)) < codes)
            low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
        found = (low < end) & (self.node_codes(level, low.clamp_max(last)) == codes) & (nodes >= 0)
        return torch.where(found, low, -1)

    def lookup(self, codes: Tensor | np.ndarray | Sequence[Any]) -> Tensor:
        """Leaf numbers, int64 ``[...]``, of ``codes`` ``[..., L]``; -1 for tuples of no item."""
        table = torch.as_tensor(codes, device=self.device)
        if table.ndim == 0 or table.shape[-1] != self.num_levels:
            raise DataError(
                f"codes of shape {tuple(table.shape)}: expected {self.num_levels} codes, one per "
                "level, in the last dimension"
            )
        nodes = torch.zeros(table.shape[:-1], dtype=torch.int64, device=self.device)
        for level in range(self.num_levels):
            nodes = self.descend(level, nodes, table[..., level].to(torch.int64))
        return nodes

    def leaf_codes(self, leaves: Tensor) -> Tensor:
        """The tuples, int64 ``[..., L]``, of ``leaves`` (int64, any shape)."""
        columns, nodes = [], leaves
        for level in reversed(range(self.num_levels)):
            columns.append(self.node_codes(level, nodes))
            nodes = self.parents(level, nodes)
        return torch.stack(columns[::-1], dim=-1)

    def parents(self, level: int, nodes: Tensor) -> Tensor:
        """Parents, int64, at depth ``level``, of nodes of depth ``level + 1``."""
        pointer = self.pointers[level]
        return torch.searchsorted(pointer, nodes.to(pointer.dtype), right=True) - 1

    def bucket(self, leaf: int) -> Tensor:
        """The items, int64, of one leaf in tie order."""
        start, end = self.item_starts[-1][leaf : leaf + 2].tolist()
        return self.leaf_items[start:end].to(torch.int64)

    def leaf_bags(self) -> tuple[Tensor, Tensor]:
        """All leaves in tie order as rows of positions in the joined codebooks.

        Returns:
            ``leaves`` int64 ``[num_leaves]`` in tie order, and ``bags`` int32 ``[num_leaves, L]``
            with ``bags[r, l] = codebook_sizes[0] + .. + codebook_sizes[l - 1] + code``. Kept after
            the first call: scoring whole catalogs reads them every time.
        """
        if self._leaf_bags is None:
            leaves = torch.argsort(self.leaf_tie)
            bags = self.leaf_codes(leaves).to(torch.int32)
            offsets = np.cumsum((0, *self.codebook_sizes[:-1])).astype(np.int32)
            self._leaf_bags = leaves, bags + torch.from_numpy(offsets).to(self.device)
        return self._leaf_bags


def default_tie_order(num_items: int) -> np.ndarray:
    """A fixed pseudo-random permutation, int64 ``[num_items]`` (SplitMix64 of the index)."""
    with np.errstate(over="ignore"):
        z = np.arange(1, num_items + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    rank = np.empty(num_items, dtype=np.int64)
    rank[np.argsort(z, kind="stable")] = np.arange(num_items)
    return rank


def _pack_tokens(codes: np.ndarray, size: int) -> Tensor:
    if size <= 256:
        return torch.from_numpy(codes.astype(np.uint8))
    return torch.from_numpy(codes.astype(np.uint16).view(np.int16))


def _sort_keys(codes: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Pack the columns, most significant first, into as few int64 keys as they fit."""
    keys: list[np.ndarray] = []
    room = 0
    for level, size in enumerate(sizes):
        if room >= size:
            keys[-1] = keys[-1] * size + codes[:, level]
            room //= size
        else:
            keys.append(codes[:, level].astype(np.int64))
            room = _WORD // size
    return keys


def _as_integers(values: Any, what: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what}: rows of different lengths; give every row the same") from error
    if array.dtype.kind not in "iu":
        raise DataError(f"{what} of type {array.dtype}: expected integers")
    return array


def _checked_sizes(codebook_sizes: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in codebook_sizes)
    if not 1 <= len(sizes) <= MAX_LEVELS:
        raise DataError(f"{len(sizes)} codebook sizes: expected 1 to {MAX_LEVELS} levels")
    for level, size in enumerate(sizes):
        if not 1 <= size <= MAX_CODES:
            raise DataError(
                f"codebook size {size} of level {level}: expected 1 to {MAX_CODES} codes"
            )
    return sizes


def _checked_codes(codes: Any, sizes: tuple[int, ...]) -> np.ndarray:
    table = _as_integers(codes, "codes")
    if table.ndim != 2 or table.shape[0] == 0:
        raise DataError(f"codes of shape {table.shape}: expected one row of codes per item, [N, L]")
    if table.shape[1] != len(sizes):
        raise DataError(
            f"codes with {table.shape[1]} levels but {len(sizes)} codebook sizes: expected one "
            "size per level"
        )
    if table.shape[0] >= 2**31:
        raise DataError(f"{table.shape[0]} items: a trie holds fewer than {2**31}")
    outside = (table < 0) | (table >= np.asarray(sizes))
    if outside.any():
        row, level = (int(i) for i in np.argwhere(outside)[0])
        raise DataError(
            f"codes, row {row}, level {level}: code {table[row, level]} is outside "
            f"0..{sizes[level] - 1} ({int(outside.any(axis=1).sum())} such rows); "
            "check the codes or the codebook sizes"
        )
    return table


def _checked_tie_order(tie_order: Any, num_items: int) -> np.ndarray:
    tie = _as_integers(tie_order, "tie_order")
    if tie.shape != (num_items,):
        raise DataError(f"tie_order of shape {tie.shape}: expected one rank per item, {num_items}")
    tie = tie.astype(np.int64)
    inside = (tie >= 0) & (tie < num_items)
    if not inside.all():
        row = int(np.argmin(inside))
        raise DataError(f"tie_order, row {row}: rank {tie[row]} is outside 0..{num_items - 1}")
    counts = np.bincount(tie, minlength=num_items)
    if counts.max() > 1:
        rank = int(np.argmax(counts))
        rows = np.flatnonzero(tie == rank)[:2].tolist()
        raise DataError(
            f"tie_order: rank {rank} in rows {rows[0]} and {rows[1]}; expected a permutation"
        )
    return tie
