"""The order of ties of a `MutableTrie`: all item numbers, best first, with free slots between them.

An item's slot stands for its rank. A new item goes between others without new numbers for those.
"""

from __future__ import annotations

import numpy as np

from genrec.decoding.codes import item_hashes
from genrec.decoding.slots import Slots

_ROOM = 1.25  # by how much the room for item numbers grows


class TieSlots:
    """Which item each slot holds, and the slot of each.

    Args:
        ranks: int64 ``[N]``, a permutation, the rank of each item.

    Attributes:
        label: int32, of each item number its slot; longer than there are items.
    """

    def __init__(self, ranks: np.ndarray) -> None:
        order = np.empty(len(ranks), dtype=np.int32)
        order[ranks] = np.arange(len(ranks))
        self._slots = Slots(len(ranks))
        self._items = order[np.cumsum(self._slots.taken) - 1]
        self.label = np.full(int(_ROOM * len(ranks)), -1, dtype=np.int32)
        self.label[order] = np.flatnonzero(self._slots.taken)

    @property
    def count(self) -> int:
        """Item numbers given so far."""
        return self._slots.count

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.label.nbytes + self._items.nbytes

    def ranks(self) -> np.ndarray:
        """The rank of every item number, int64; a pass over all."""
        order = self._items[self._slots.taken]
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order))
        return ranks

    def places(self, ranks: np.ndarray) -> np.ndarray:
        """The slots of the items now at these ranks; the end for the number of items."""
        return self._slots.select(ranks)

    def default_places(self, items: np.ndarray, *, hashed: bool) -> np.ndarray:
        """Before which slots new items go, whose hashes rise; ascending.

        Args:
            items: int64.
            hashed: whether the order is that of hashes; else the hash says how far in it goes.
        """
        mixed = item_hashes(items)
        if not hashed:
            return self.places((mixed / 2.0**64 * (self.count + 1)).astype(np.int64))
        low = np.zeros(len(items), dtype=np.int64)
        high = np.full(len(items), len(self._slots))
        while (low < high).any():
            middle = (low + high) // 2
            held = self._items[middle.clip(max=len(self._slots) - 1)]
            right = (low < high) & (item_hashes(held) < mixed)
            low, high = np.where(right, middle + 1, low), np.where(right, high, middle)
        return low

    def insert(self, places: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, int]:
        """Put new items in, each before a slot.

        Args:
            places: int64, ascending.
            items: int64, as many, the numbers that follow the last one, in any order.

        Returns:
            The items whose label changed, and the bytes written.
        """
        total = self.count + len(items)
        if total > len(self.label):
            more = max(total, int(_ROOM * len(self.label))) - len(self.label)
            self.label = np.append(self.label, np.full(more, -1, dtype=np.int32))
        move = self._slots.insert(places)
        held = move.carried(self._items, items)
        if move.grown:
            self._items = np.empty(len(self._slots), dtype=np.int32)
        self._items[move.slots] = held[move.owner]
        self.label[held] = move.target
        return held[move.source != move.target], 4 * (len(move.slots) + len(held))
