"""What a user may be shown: a filter's items but for the excluded ones, as sorted positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.bits import BitRank
from genrec.decoding.filters import Filter
from genrec.decoding.item_numbers import excluded_items
from genrec.decoding.trie import PrefixTrie

_NEVER = torch.iinfo(torch.int64).max


class Exclusions:
    """Per-user excluded items and filters; answers what a search asks about nodes and leaves.

    Everything is counted in allowed items before the exclusions: `members` ranks positions, and
    without a filter rank and position are the same. Questions about exclusions are answered from
    the excluded items of the user, so their cost follows their number and the number of beams,
    never the number of candidates or the catalog.

    Args:
        trie: the trie searched.
        positions: int64 ``[B, E]`` sorted positions of excluded items among the members, without
            repeats, ``num_positions`` as padding.
        filter: which items may be returned, one row or one per user.

    Attributes:
        members: positions of the items that the filter lets through, or that are not removed; None
            if these are all.
        ranks: int64 ``[B, E]``, how many members stand before each excluded one, ascending.
    """

    def __init__(self, trie: PrefixTrie, positions: Tensor, filter: Filter | None = None) -> None:
        self.trie = trie
        self.positions = positions
        self.filter = filter
        self.members: BitRank | None = trie.live if filter is None else filter.members
        count = positions.shape[1]
        real = positions < trie.num_positions
        self.ranks = self._rank(positions)
        # allowed ranks before each excluded one: what maps an allowed rank to its position
        steps = torch.arange(count, device=positions.device)
        self._allowed_before = torch.where(real, self.ranks - steps, _NEVER)
        everything = trie.num_positions if self.members is None else self.members.totals
        self.num_allowed = everything - real.sum(dim=1)

    @classmethod
    def from_items(
        cls,
        trie: PrefixTrie,
        exclude: Tensor | np.ndarray | Sequence[Sequence[int]] | None,
        batch: int,
        filter: Filter | None = None,
    ) -> Exclusions:
        """Read ``exclude``, integers ``[B, E]``, item numbers padded with -1 (None: nothing).

        Raises:
            ConfigError: for another shape or type, naming the row of an unknown item, or for a
                filter of another trie or batch.
        """
        filter = None if filter is None else filter.checked(batch, trie)
        if exclude is None:
            items = torch.empty(batch, 0, dtype=torch.int64, device=trie.device)
        else:
            items = excluded_items(exclude, batch, trie.num_items, trie.device)
        if items.numel() == 0:
            return cls(trie, items, filter)
        end = trie.num_positions
        positions = trie.item_position[items.clamp_min(0)].to(torch.int64)
        positions = positions.masked_fill((items < 0) | (positions < 0), end)
        members = trie.live if filter is None else filter.members
        if members is not None:
            positions = positions.masked_fill(~members.contains(positions), end)
        positions = positions.sort(dim=1).values
        repeated = torch.zeros_like(positions, dtype=torch.bool)
        repeated[:, 1:] = positions[:, 1:] == positions[:, :-1]
        return cls(trie, positions.masked_fill(repeated, end).sort(dim=1).values, filter)

    @property
    def empty(self) -> bool:
        """Whether no user excludes anything; a filter may leave items out all the same."""
        return self.positions.shape[1] == 0

    def select(self, rows: Tensor | slice) -> Exclusions:
        """The exclusions and filters of some of the users."""
        filter = None if self.filter is None else self.filter.select(rows)
        return Exclusions(self.trie, self.positions[rows], filter)

    def dead_nodes(self, depth: int) -> Tensor:
        """Nodes of ``depth`` whose members are all excluded, int64 ``[B, E]``; -1 elsewhere."""
        starts = self.trie.item_starts[depth]
        real = self.positions < self.trie.num_positions
        inside = self.positions.clamp_max(self.trie.num_positions - 1)
        nodes = torch.searchsorted(starts, inside.to(starts.dtype), right=True) - 1
        low, high = self._bounds(depth, nodes)
        return torch.where(real & (self._excluded(low, high) == high - low), nodes, -1)

    def allowed_sizes(self, leaves: Tensor) -> Tensor:
        """Allowed items, int64 ``[B, m]``, of leaves ``[B, m]``; 0 at -1."""
        low, high = self._bounds(-1, leaves.clamp_min(0))
        return (high - low - self._excluded(low, high)).masked_fill(leaves < 0, 0)

    def allowed_items(self, leaves: Tensor, ranks: Tensor) -> Tensor:
        """The ``ranks``-th (from 0) allowed items, in tie order, of leaves; both ``[B, k]``.

        Ranks beyond a leaf's allowed items give some item: the caller masks them.
        """
        low, _ = self._bounds(-1, leaves)
        wanted = low - torch.searchsorted(self.ranks, low) + ranks
        wanted += torch.searchsorted(self._allowed_before, wanted, right=True)
        last = self.trie.num_positions - 1
        if self.members is not None:
            wanted = self.members.select(wanted.clamp_max(last))
        return self.trie.leaf_items[wanted.clamp_max(last)].to(torch.int64)

    def _rank(self, positions: Tensor) -> Tensor:
        return positions if self.members is None else self.members.rank(positions)

    def _bounds(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The range of members, as ranks, below each node."""
        starts = self.trie.item_starts[depth]
        low, high = starts[nodes].to(torch.int64), starts[nodes + 1].to(torch.int64)
        return self._rank(low), self._rank(high)

    def _excluded(self, low: Tensor, high: Tensor) -> Tensor:
        """Excluded items at the ranks ``low .. high - 1``, all ``[B, n]``."""
        before_high = torch.searchsorted(self.ranks, high.contiguous())
        return before_high - torch.searchsorted(self.ranks, low.contiguous())


def items_of_leaves(
    excluded: Exclusions, leaves: Tensor, scores: Tensor, sizes: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The first ``k`` allowed items of ranked leaves and their scores, ``[B, k]`` each.

    Args:
        excluded: items left out.
        leaves: int64 ``[B, m]``, -1 as padding at the end.
        scores: float32 ``[B, m]``.
        sizes: int64 ``[B, m]``, allowed items of every leaf.
        k: items wanted; -1 and -inf where there are fewer.
    """
    ends = sizes.cumsum(dim=1)
    slots = torch.arange(k, device=leaves.device).expand(leaves.shape[0], k).contiguous()
    column = torch.searchsorted(ends, slots, right=True).clamp_max_(leaves.shape[1] - 1)
    rank = slots - (ends - sizes).gather(1, column)
    found = slots < ends[:, -1:]
    items = excluded.allowed_items(leaves.gather(1, column).clamp_min(0), rank)
    items = items.masked_fill(~found, -1)
    return items, scores.gather(1, column).masked_fill(~found, -torch.inf)
