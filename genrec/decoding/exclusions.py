"""Items a user must not be shown, as positions in the trie's sorted order of items."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.decoding.trie import PrefixTrie
from genrec.errors import ConfigError

_NEVER = torch.iinfo(torch.int64).max


class Exclusions:
    """Per-user excluded items; answers what a search asks about nodes and leaves.

    Every question is answered from the excluded items of the user, so its cost follows their
    number and the number of beams, never the number of candidates or the catalog.

    Args:
        trie: the trie searched.
        positions: int64 ``[B, E]`` sorted positions without repeats, ``num_items`` as padding.
    """

    def __init__(self, trie: PrefixTrie, positions: Tensor) -> None:
        self.trie = trie
        self.positions = positions
        count = positions.shape[1]
        rank = torch.arange(count, device=positions.device)
        real = positions < trie.num_items
        # allowed positions before each excluded one: what maps an allowed rank to its position
        self._allowed_before = torch.where(real, positions - rank, _NEVER)
        self.num_allowed = trie.num_items - real.sum(dim=1)

    @classmethod
    def from_items(cls, trie: PrefixTrie, exclude: Tensor | None, batch: int) -> Exclusions:
        """Read ``exclude``, int64 ``[B, E]`` item numbers padded with -1 (None: nothing).

        Raises:
            ConfigError: for another shape or type, or naming the row of an unknown item.
        """
        if exclude is None:
            return cls(trie, torch.empty(batch, 0, dtype=torch.int64, device=trie.device))
        items = checked_exclude(exclude, batch, trie.num_items).to(trie.device)
        positions = trie.item_position[items.clamp_min(0)].to(torch.int64)
        positions = positions.masked_fill(items < 0, trie.num_items).sort(dim=1).values
        repeated = torch.zeros_like(positions, dtype=torch.bool)
        repeated[:, 1:] = positions[:, 1:] == positions[:, :-1]
        return cls(trie, positions.masked_fill(repeated, trie.num_items).sort(dim=1).values)

    @property
    def empty(self) -> bool:
        """Whether no user excludes anything."""
        return self.positions.shape[1] == 0

    def select(self, rows: Tensor) -> Exclusions:
        """The exclusions of some of the users."""
        return Exclusions(self.trie, self.positions[rows])

    def dead_nodes(self, depth: int) -> Tensor:
        """Nodes of ``depth`` whose items are all excluded, int64 ``[B, E]``; -1 elsewhere."""
        starts = self.trie.item_starts[depth]
        real = self.positions < self.trie.num_items
        inside = self.positions.clamp_max(self.trie.num_items - 1)
        nodes = torch.searchsorted(starts, inside.to(starts.dtype), right=True) - 1
        low, high = starts[nodes].to(torch.int64), starts[nodes + 1].to(torch.int64)
        return torch.where(real & (self._excluded(low, high) == high - low), nodes, -1)

    def allowed_sizes(self, leaves: Tensor) -> Tensor:
        """Allowed items, int64 ``[B, m]``, of leaves ``[B, m]``; 0 at -1."""
        starts = self.trie.item_starts[-1]
        safe = leaves.clamp_min(0)
        low, high = starts[safe].to(torch.int64), starts[safe + 1].to(torch.int64)
        return (high - low - self._excluded(low, high)).masked_fill(leaves < 0, 0)

    def allowed_items(self, leaves: Tensor, ranks: Tensor) -> Tensor:
        """The ``ranks``-th (from 0) allowed items, in tie order, of leaves; both ``[B, k]``.

        Ranks beyond a leaf's allowed items give some item: the caller masks them.
        """
        low = self.trie.item_starts[-1][leaves].to(torch.int64)
        wanted = low - torch.searchsorted(self.positions, low) + ranks
        skipped = torch.searchsorted(self._allowed_before, wanted, right=True)
        last = self.trie.num_items - 1
        return self.trie.leaf_items[(wanted + skipped).clamp_max(last)].to(torch.int64)

    def _excluded(self, low: Tensor, high: Tensor) -> Tensor:
        """Excluded items at the positions ``low .. high - 1``, all ``[B, n]``."""
        before_high = torch.searchsorted(self.positions, high.contiguous())
        return before_high - torch.searchsorted(self.positions, low.contiguous())


def checked_exclude(exclude: Tensor, batch: int, num_items: int) -> Tensor:
    """``exclude`` as int64 ``[batch, E]`` if it is well formed."""
    if exclude.ndim != 2 or exclude.shape[0] != batch:
        raise ConfigError(
            f"exclude of shape {tuple(exclude.shape)}: expected [{batch}, E], a row of item "
            "numbers per user, padded with -1"
        )
    if exclude.is_floating_point() or exclude.is_complex() or exclude.dtype == torch.bool:
        raise ConfigError(f"exclude of type {exclude.dtype}: expected item numbers (integers)")
    outside = (exclude < -1) | (exclude >= num_items)
    if outside.any():
        row, column = outside.nonzero()[0].tolist()
        raise ConfigError(
            f"exclude, row {row}: item {int(exclude[row, column])} is outside 0..{num_items - 1}; "
            "leave unknown items out or pad with -1"
        )
    return exclude.to(torch.int64)
