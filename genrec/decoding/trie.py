"""The set of valid semantic IDs as a prefix trie of flat tensors.

Sort the tuples and number the nodes of every depth in sorted order: a child's number is then its
position in the next level, so a level needs only the code of each of its nodes (or a bit for each
code, see `genrec.decoding.levels`) and, for each node above, where its children start. A node is
also a contiguous range of the sorted items, which is what exclusions and filters need.

A trie never changes: adding and removing items return another one, which shares what stayed the
same, so a search that is under way goes on undisturbed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.bits import BitRank
from genrec.decoding.build import built
from genrec.decoding.codes import (
    as_integers,
    checked_codes,
    checked_numbers,
    checked_ranks,
    checked_sizes,
    integer_tensor,
)
from genrec.decoding.levels import Level, packed
from genrec.decoding.updates import compacted, merged, renumbered
from genrec.errors import ConfigError, DataError

LISTS = ("tokens", "pointers", "item_starts")
ARRAYS = ("leaf_items", "item_position", "item_leaf", "leaf_tie", "tie_order")
PLAIN = ("codebook_sizes", "max_branch", "identity")
COMPACT_ABOVE = 0.25  # share of removed items above which a trie is compacted


def on_device(trie: PrefixTrie, device: torch.device | str) -> bool:
    """Whether a trie is on a device already.

    Raises:
        ConfigError: for a device that torch does not know or have.
    """
    try:
        return torch.empty(0, device=device).device == trie.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {str(device)!r} cannot be used: {reason}") from error


class PrefixTrie:
    """Prefix trie over the semantic IDs of items; build it with `from_codes`.

    Depth 0 is the root, depth ``num_levels`` the leaves; level ``l`` leads from depth ``l`` to
    depth ``l + 1``. The children of node ``v`` at depth ``l`` are the nodes
    ``pointers[l][v] .. pointers[l][v + 1] - 1`` at depth ``l + 1``.

    A removed item keeps its number, which is never given again. Its position stays until the trie
    is compacted; until then a node may be left without items. Searches do not see it.

    Attributes:
        codebook_sizes: number of codes of each level.
        num_items: item numbers given so far, those of removed items included.
        num_positions: length of the sorted order of items.
        num_nodes: nodes at each depth, ``num_levels + 1`` numbers, the first is 1.
        max_branch: largest number of children of one node, per level.
        tokens: per level, the code of every node of depth ``l + 1``; uint8, or the bits of a
            uint16 in an int16 (torch cannot index uint16). Where many codes exist, bits instead:
            int64, rows of words for each node of depth ``l``, and one word more. `level` reads
            both.
        pointers: per level, int32 ``[num_nodes[l] + 1]``.
        item_starts: per depth, int32 ``[num_nodes[d] + 1]``: node ``v`` holds the items at the
            sorted positions ``item_starts[d][v] .. item_starts[d][v + 1] - 1``.
        leaf_items: int32 ``[num_positions]``, the items in sorted order; inside a leaf in tie
            order.
        item_position: int32 ``[num_items]``, the inverse of ``leaf_items``; -1 if removed.
        item_leaf: int32 ``[num_items]``, the leaf of every item; -1 if removed.
        leaf_tie: int32 ``[num_leaves]``, the tie rank of the leaf's first item; of two leaves with
            equal scores the smaller rank wins.
        tie_order: int64 ``[num_items]``, rank of every item; the smaller wins.
        live: the positions of items that are not removed; None if all are there.
        identity: the same object for a trie and its copies on other devices; filters belong to it.
        lasting: whether tables that take a pass over the catalog are worth their making.
    """

    lasting = True

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
        live: BitRank | None = None,
        identity: object | None = None,
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
        self.live = live
        self.identity = object() if identity is None else identity
        self.num_items = tie_order.shape[0]
        self.num_positions = leaf_items.shape[0]
        self.num_nodes = tuple(starts.shape[0] - 1 for starts in item_starts)
        self._leaf_bags: tuple[Tensor, Tensor] | None = None
        self._bag_ties = leaf_tie
        self._live_nodes: dict[int, Tensor] = {}
        self._levels: dict[int, Level] = {}
        self.derived: dict[str, Any] = {}  # what back ends make of it once

    @classmethod
    def from_codes(
        cls,
        codes: np.ndarray | Tensor | Sequence[Sequence[int]],
        codebook_sizes: Sequence[int] | np.ndarray | Tensor,
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
        sizes = checked_sizes(codebook_sizes)
        table = checked_codes(codes, sizes)
        tie = None
        if tie_order is not None:
            tie = checked_ranks(tie_order, len(table), len(table), "tie_order")
        return cls.packed(built(table, sizes, tie))

    @classmethod
    def packed(cls, parts: dict[str, Any]) -> PrefixTrie:
        """The trie of these arguments, whose dense levels become bits."""
        levels = zip(parts["tokens"], parts["pointers"], parts["codebook_sizes"], strict=True)
        tokens = [packed(codes.numpy(), pointer.numpy(), size) for codes, pointer, size in levels]
        return cls(**{**parts, "tokens": tokens})

    def add(
        self,
        codes: np.ndarray | Tensor | Sequence[Sequence[int]],
        tie_ranks: np.ndarray | Tensor | Sequence[int] | None = None,
    ) -> PrefixTrie:
        """The trie with more items, numbered ``num_items``, ``num_items + 1``, ...

        The new items are sorted and merged into the sorted arrays: the catalog is copied once but
        never sorted again, so add many at a time. Removed items are compacted on the way. Done on
        the CPU.

        Args:
            codes: ``[n, L]`` integers, one row per new item.
            tie_ranks: ``[n]`` ranks of the new items among all ``num_items + n``; the others keep
                their order and take the ranks that are left. Without it, as in `from_codes`.

        Raises:
            DataError: naming row and level, for malformed codes or ranks.
        """
        base = self if self.live is None else PrefixTrie(**compacted(self.to("cpu")))
        return PrefixTrie.packed(merged(base.to("cpu"), codes, tie_ranks)).to(self.device)

    def remove(self, items: Tensor | np.ndarray | Sequence[int]) -> PrefixTrie:
        """The trie without some items, which are marked in a bit set; nodes and order stay.

        Only what is kept per item is copied. When more than a quarter of the positions belong to
        removed items, the trie is compacted.

        Args:
            items: ``[n]`` item numbers, in any order; repeats count once.

        Raises:
            DataError: naming the item, if it is unknown or was removed before.
        """
        gone = checked_numbers(items, "item", self.num_items, self.device)
        if gone.ndim != 1:
            raise DataError(f"items of shape {tuple(gone.shape)}: expected a list of item numbers")
        positions = self.item_position[gone].to(torch.int64)
        if bool((positions < 0).any()):
            raise DataError(f"item {int(gone[positions < 0][0])} was removed before")
        live = ~BitRank.from_positions(positions[None], self.num_positions)
        live = live if self.live is None else live & self.live
        leaves = self.item_leaf[gone].to(torch.int64)
        low, high = (live.rank(self.item_starts[-1][leaves + i].to(torch.int64)) for i in (0, 1))
        first = live.select(low[None])[0]  # of an empty leaf some item: its rank decides nothing
        ties = self.tie_order[self.leaf_items[first].to(torch.int64)].to(torch.int32)
        left = high > low
        changed = {
            "item_position": self.item_position.index_fill(0, gone, -1),
            "item_leaf": self.item_leaf.index_fill(0, gone, -1),
            "leaf_tie": self.leaf_tie.index_put((leaves[left],), ties[left]),
            "live": live,
            "identity": None,
        }
        trie = PrefixTrie(**{**self._parts(), **changed})
        few = trie.num_live < (1 - COMPACT_ABOVE) * trie.num_positions
        return trie.compact() if few else trie

    def compact(self) -> PrefixTrie:
        """The trie without the positions and nodes of removed items; itself if there are none.

        A trie without any item stays as it is. Done on the CPU, in one pass over the catalog.
        """
        if self.live is None or self.num_live == 0:
            return self
        return PrefixTrie.packed(compacted(self.to("cpu"))).to(self.device)

    def renumber(self, items: Tensor | np.ndarray | Sequence[int]) -> PrefixTrie:
        """The trie with other item numbers; removed items and their numbers are gone.

        Codes and the order of ties stay as they are, so nothing is sorted. Done on the CPU, in one
        pass over the catalog.

        Args:
            items: ``[n]`` all items that are not removed, each once: item ``items[i]`` becomes
                item ``i``.

        Raises:
            DataError: naming an item that is missing or given twice.
        """
        order = as_integers(items, "items").astype(np.int64)
        if order.ndim != 1:
            raise DataError(f"items of shape {order.shape}: expected a list of item numbers")
        whole = self.num_live == self.num_items == len(order)
        if whole and (order == np.arange(len(order))).all():
            return self
        base = self.compact().to("cpu")
        return PrefixTrie(**renumbered(base, order)).to(self.device)

    @property
    def num_levels(self) -> int:
        """Number of codes of a semantic ID."""
        return len(self.tokens)

    @property
    def num_leaves(self) -> int:
        """Number of leaves: distinct semantic IDs, and those emptied since the last compaction."""
        return self.num_nodes[-1]

    @property
    def num_live(self) -> int:
        """Number of items that are not removed."""
        return self.num_positions if self.live is None else int(self.live.totals[0])

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
        live = 0 if self.live is None else self.live.nbytes
        return self.index_nbytes + sum(t.nbytes for t in (*self.item_starts, *items)) + live

    def __repr__(self) -> str:
        return (
            f"PrefixTrie(items={self.num_live}, leaves={self.num_leaves}, "
            f"codebook_sizes={self.codebook_sizes}, device={self.device})"
        )

    def to(self, device: torch.device | str) -> PrefixTrie:
        """The same trie on another device; itself if it is there already.

        Raises:
            ConfigError: for a device that torch does not know or have.
        """
        if on_device(self, device):
            return self

        def move(value: Any) -> Any:
            if isinstance(value, list):
                return [tensor.to(device) for tensor in value]
            return value.to(device) if isinstance(value, (Tensor, BitRank)) else value

        return PrefixTrie(**{name: move(value) for name, value in self._parts().items()})

    def _parts(self) -> dict[str, Any]:
        """The arguments that make this trie again."""
        return {name: getattr(self, name) for name in (*ARRAYS, *LISTS, "live", *PLAIN)}

    def level(self, level: int) -> Level:
        """The codes of a level and what they lead to.

        Raises:
            DataError: for a level that is none.
        """
        if not 0 <= level < self.num_levels:
            raise DataError(f"level {level}: expected 0 to {self.num_levels - 1}")
        if level not in self._levels:
            self._levels[level] = Level(
                self.tokens[level],
                self.pointers[level],
                self.codebook_sizes[level],
                self.max_branch[level],
                self.num_nodes[level + 1],
            )
        return self._levels[level]

    def descend(self, level: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """Children of ``nodes`` (depth ``level``) along ``codes``; -1 where there is none.

        Args:
            level: level of the codes.
            nodes: int64, any shape; -1 stays -1.
            codes: integers of the same shape; codes outside the codebook lead nowhere.

        Raises:
            DataError: for a level that is none.
        """
        return self.level(level).descend(nodes, codes)

    def lookup(self, codes: Tensor | np.ndarray | Sequence[Any]) -> Tensor:
        """Leaf numbers, int64 ``[...]``, of ``codes`` ``[..., L]``; -1 for tuples of no item.

        Raises:
            DataError: for codes that are no integers, or another number of levels.
        """
        table = integer_tensor(codes, "codes", self.device)
        if table.ndim == 0 or table.shape[-1] != self.num_levels:
            raise DataError(
                f"codes of shape {tuple(table.shape)}: expected {self.num_levels} codes, one per "
                "level, in the last dimension"
            )
        nodes = torch.zeros(table.shape[:-1], dtype=torch.int64, device=self.device)
        for level in range(self.num_levels):
            nodes = self.descend(level, nodes, table[..., level])
        live = self.live_nodes(self.num_levels)
        return nodes if live is None else torch.where(live[nodes.clamp_min(0)], nodes, -1)

    def live_nodes(self, depth: int) -> Tensor | None:
        """Which nodes of ``depth`` hold an item that is not removed, bool; None if all do.

        Raises:
            DataError: for a depth that is none.
        """
        if not 0 <= depth <= self.num_levels:
            raise DataError(f"depth {depth}: expected 0 to {self.num_levels}")
        if self.live is None:
            return None
        if depth not in self._live_nodes:
            starts = self.item_starts[depth].to(torch.int64)
            self._live_nodes[depth] = self.live.rank(starts).diff() > 0
        return self._live_nodes[depth]

    def leaf_codes(self, leaves: Tensor) -> Tensor:
        """The tuples, int64 ``[..., L]``, of ``leaves`` (integers, any shape).

        Raises:
            DataError: naming a leaf that is none.
        """
        columns, nodes = [], checked_numbers(leaves, "leaf", self.num_leaves, self.device)
        for level in reversed(range(self.num_levels)):
            columns.append(self.level(level).codes(nodes))
            nodes = self.level(level).parents(nodes)
        return torch.stack(columns[::-1], dim=-1)

    def bucket(self, leaf: int) -> Tensor:
        """The items, int64, of one leaf in tie order.

        Raises:
            DataError: for a leaf that is none.
        """
        leaf = int(checked_numbers([leaf], "leaf", self.num_leaves, self.device))
        start, end = self.item_starts[-1][leaf : leaf + 2].tolist()
        items = self.leaf_items[start:end].to(torch.int64)
        if self.live is None:
            return items
        return items[self.live.contains(torch.arange(start, end, device=self.device))]

    def leaf_bags(self) -> tuple[Tensor, Tensor]:
        """All leaves with an item, in tie order, as rows of positions in the joined codebooks.

        Returns:
            ``leaves`` int64 ``[n]`` in tie order, and ``bags`` int32 ``[n, L]`` with
            ``bags[r, l] = codebook_sizes[0] + .. + codebook_sizes[l - 1] + code``. Kept after the
            first call: scoring whole catalogs reads them every time.
        """
        if self._leaf_bags is None:
            ties, leaves = self.leaf_tie.sort()
            live = self.live_nodes(self.num_levels)
            if live is not None:
                kept = live[leaves]
                ties, leaves = ties[kept], leaves[kept]
            bags = self.leaf_codes(leaves).to(torch.int32)
            offsets = np.cumsum((0, *self.codebook_sizes[:-1])).astype(np.int32)
            bags += torch.from_numpy(offsets).to(self.device)
            self._leaf_bags, self._bag_ties = (leaves, bags), ties
        return self._leaf_bags

    def bag_rows(self, leaves: Tensor) -> Tensor:
        """The rows of leaves, which hold items, in `leaf_bags`; int64, any shape."""
        self.leaf_bags()
        return torch.searchsorted(self._bag_ties, self.leaf_tie[leaves])
