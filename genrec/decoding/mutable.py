"""A prefix trie that is changed in place, at a cost that follows the change and not the catalog.

The arrays are those of `PrefixTrie`, with free slots between nodes and between items. A free slot
is to a search what a node without items is, which it passes over, so every search and back end
reads such a trie as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.codes import (
    as_integers,
    checked_codes,
    checked_ranks,
    default_tie_order,
    item_hashes,
)
from genrec.decoding.roomy import RoomyArrays
from genrec.decoding.trie import ARRAYS, LISTS, PLAIN, PrefixTrie, on_device
from genrec.decoding.updates import compacted
from genrec.errors import DataError

EMPTIED = 0.25  # share of nodes without items above which a trie is laid out anew
MANY = 0.25  # share of the catalog added at once above which a trie is laid out anew
_OF_TRIES = {of for of in dir(PrefixTrie) if not of.startswith("_")}
_OF_TRIES |= {*ARRAYS, *LISTS, *PLAIN, "live", "num_positions", "num_nodes", "derived"}


class TrieView(PrefixTrie):
    """The present state of a `MutableTrie`, for searches; its next change takes it away.

    What returns another trie returns one that never changes.
    """

    _owner: MutableTrie
    lasting = False

    def live_nodes(self, depth: int) -> Tensor | None:
        """See `PrefixTrie`."""
        found = super().live_nodes(depth)
        return None if self._owner._arrays.whole(depth) else found

    def add(self, codes: Any, tie_ranks: Any = None) -> PrefixTrie:
        """See `PrefixTrie`; copies the catalog, which `MutableTrie.add` does not."""
        return self._owner.freeze().add(codes, tie_ranks)

    def remove(self, items: Any) -> PrefixTrie:
        """See `PrefixTrie`; copies the catalog, which `MutableTrie.remove` does not."""
        return self._owner.freeze().remove(items)

    def compact(self) -> PrefixTrie:
        """See `PrefixTrie`; without items it stays as it is."""
        return self._owner.freeze() if self.num_live else self

    def renumber(self, items: Any) -> PrefixTrie:
        """See `PrefixTrie`."""
        return self._owner.freeze().renumber(items)

    def to(self, device: torch.device | str) -> PrefixTrie:
        """A copy on another device, which stays as it is; itself if it is there already."""
        return self if on_device(self, device) else self._owner.freeze().to(device)

    def _retire(self) -> None:
        self.__dict__.clear()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise DataError(
            "this state of the trie is gone, items were added or removed since; take the `trie` of "
            "the MutableTrie again, and filters with it"
        )


class MutableTrie:
    """A trie for a catalog that changes while it is searched; search its `trie`.

    Adding or removing ``k`` items of ``n`` moves O(k log² n) entries of each level, amortised, and
    one count for 64 positions behind the first that changed. Now and then a level, or the whole
    trie, is laid out anew, after a share of its length was added or removed. Numbers of items and
    results are those of `PrefixTrie.add` and `remove`.

    One thread may change it, and no search may be under way meanwhile: its arrays change in place.
    For searches that go on undisturbed use `PrefixTrie`, which is copied.

    Args:
        trie: what to begin with; it is copied once, with room between, and stays as it is.

    Example:
        >>> catalog = MutableTrie(PrefixTrie.from_codes([[0, 1], [1, 0]], [2, 2]))
        >>> catalog.add([[1, 1]])
        range(2, 3)
        >>> catalog.remove([0])
        >>> catalog.trie.lookup([[1, 1], [0, 1]]).tolist()
        [3, -1]
    """

    def __init__(self, trie: PrefixTrie) -> None:
        self._view: TrieView | None = None
        if isinstance(trie, TrieView):
            trie = trie._owner.freeze()
        self._lay_out(trie)
        order = default_tie_order(trie.num_items)
        self._hashed = bool((trie.tie_order.cpu().numpy() == order).all())

    @property
    def trie(self) -> TrieView:
        """The trie as it is, until the next change."""
        if self._view is None:
            self._view = view = TrieView(**self._arrays.parts)
            view._owner = self
            alive = enumerate(self._arrays.alive)
            view._live_nodes = {depth: torch.from_numpy(of) for depth, of in alive}
        return self._view

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        return self._arrays.codebook_sizes

    @property
    def num_items(self) -> int:
        """Item numbers given so far, those of removed items included."""
        return self._arrays.num_items

    @property
    def num_live(self) -> int:
        """Number of items that are not removed."""
        return self._arrays.num_live

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, room included."""
        return self._arrays.nbytes

    @property
    def written(self) -> int:
        """Bytes that the last change wrote to the arrays."""
        return self._arrays.written

    def add(
        self,
        codes: np.ndarray | Tensor | Sequence[Sequence[int]],
        tie_ranks: np.ndarray | Tensor | Sequence[int] | None = None,
    ) -> range:
        """Add items; their numbers are ``num_items``, ``num_items + 1``, ...

        Args:
            codes: ``[n, L]`` integers, one row per new item.
            tie_ranks: ``[n]`` ranks of the new items among all ``num_items + n``; the others keep
                their order and take the ranks that are left. Without it a fixed pseudo-random one,
                that of `PrefixTrie.from_codes` if it was used there as well.

        Raises:
            DataError: naming row and level, for malformed codes or ranks; nothing was changed then.
        """
        table = checked_codes(codes, self.codebook_sizes)
        old, count = self.num_items, len(table)
        if old + count >= 2**31:
            raise DataError(f"{old + count} items: a trie holds fewer than {2**31}")
        if tie_ranks is None:
            by_tie = np.argsort(item_hashes(np.arange(old, old + count)), kind="stable")
            places = self._arrays.ties.default_places(old + by_tie, hashed=self._hashed)
        else:
            ranks = checked_ranks(tie_ranks, count, old + count, "tie_ranks")
            by_tie, self._hashed = np.argsort(ranks), False
            places = self._arrays.ties.places(ranks[by_tie] - np.arange(count))
        if count > MANY * self.num_live:  # none among them: every row begins with an entry
            self._lay_out(self.freeze().add(table, tie_ranks))
        else:
            self._change()
            self._arrays.put_in(table, by_tie, places)
        return range(old, old + count)

    def remove(self, items: Tensor | np.ndarray | Sequence[int]) -> None:
        """Remove items; their numbers are not given again.

        Args:
            items: ``[n]`` item numbers, in any order; repeats count once.

        Raises:
            DataError: naming the item, if it is unknown or was removed before; nothing was changed
                then.
        """
        gone = as_integers(items, "item").astype(np.int64)
        if gone.ndim != 1:
            raise DataError(f"items of shape {gone.shape}: expected a list of item numbers")
        outside = (gone < 0) | (gone >= self.num_items)
        if outside.any():
            raise DataError(f"item {gone[outside][0]} is outside 0..{self.num_items - 1}")
        gone = np.unique(gone)
        removed = self._arrays.positions(gone) < 0
        if removed.any():
            raise DataError(f"item {gone[removed][0]} was removed before")
        if len(gone) == 0:
            return
        self._change()
        self._arrays.take_out(gone)
        emptied, leaves = self._arrays.num_emptied
        if emptied > EMPTIED * leaves:
            self._lay_out(self.freeze())

    def freeze(self) -> PrefixTrie:
        """A `PrefixTrie` of the items as they are, without room; copies the catalog."""
        parts = compacted(self.trie)
        ranks = self._arrays.ties.ranks()
        first = parts["leaf_items"].numpy()[parts["item_starts"][-1].numpy()[:-1]]
        parts["tie_order"] = torch.from_numpy(ranks)
        parts["leaf_tie"] = torch.from_numpy(ranks[first].astype(np.int32))
        return PrefixTrie.packed(parts)

    def _lay_out(self, trie: PrefixTrie) -> None:
        """All arrays anew."""
        self._change()
        trie = trie.to("cpu")
        self._arrays = RoomyArrays(trie if trie.live is None else PrefixTrie(**compacted(trie)))

    def _change(self) -> None:
        """Take the present view away."""
        if self._view is not None:
            self._view._retire()
            self._view = None

    def __getattr__(self, name: str) -> Any:
        if name in _OF_TRIES:
            raise DataError(
                f"a MutableTrie has no `{name}`; where a trie is expected, give its `trie`"
            )
        raise AttributeError(f"MutableTrie has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"MutableTrie(items={self.num_live}, codebook_sizes={self.codebook_sizes})"
