"""Which items may be returned: allow-lists and deny-lists of a request or of each user."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.bits import BitRank
from genrec.decoding.item_numbers import item_numbers
from genrec.decoding.optional import installed
from genrec.decoding.trie import PrefixTrie
from genrec.errors import ConfigError

_FEW_NODES = 2**17  # up to so many nodes of a depth are looked at once instead of on demand


class Filter:
    """The items that a search may return; build it with `from_mask`, `allow` or `deny`.

    One row serves all users, or there is one row per user. It costs 0.19 bytes an item and row, is
    made once and used in any number of searches, and acts inside them: a prefix without an allowed
    item takes no place in a beam. `a & b` lets through what both let through.

    For compiled steps, where numba is installed and the trie is on the CPU, each node of the trie
    takes a bit more, which is what a step asks; leaves do not where each is one item. At ten
    million random items of 256 codes that is 0.1 bytes an item and row with three levels, 0.22 with
    four.

    Attributes:
        members: positions of the allowed items in the trie's sorted order, or the allowed items
            if there is no trie.
        trie: the trie that it was made for; None in a search over item scores.
        num_items: item numbers known.
        marks: by depth, the first below the root, bits of the nodes that hold an allowed item (see
            `genrec.decoding.node_marks`); made where they can be, else None.
    """

    def __init__(
        self,
        members: BitRank,
        num_items: int,
        trie: PrefixTrie | None = None,
        marks: list[np.ndarray] | None = None,
    ) -> None:
        self.members = members
        self.num_items = num_items
        self.trie = trie
        self._alive: dict[int, Tensor] = {}
        if marks is None and trie is not None and _compiled(trie):
            from genrec.decoding.node_marks import node_marks

            marks = node_marks(trie, members.words)
        self.marks = marks

    @classmethod
    def from_mask(cls, of: PrefixTrie | int, mask: Tensor | np.ndarray) -> Filter:
        """The items where ``mask``, bool ``[N]`` or ``[B, N]``, is true.

        Args:
            of: the trie to be searched, or the number of items for `dense_search`.
            mask: one row for all users, or a row per user.

        Raises:
            ConfigError: for a mask of another type or shape.
        """
        trie, num_items = _source(of)
        allowed = torch.as_tensor(mask)
        if allowed.dtype != torch.bool:
            raise ConfigError(f"filter mask of type {allowed.dtype}: expected bool")
        if allowed.ndim not in (1, 2) or allowed.shape[-1] != num_items:
            raise ConfigError(
                f"filter mask of shape {tuple(allowed.shape)}: expected [{num_items}] or "
                f"[B, {num_items}], one value per item"
            )
        allowed = allowed.view(-1, num_items) if allowed.ndim == 1 else allowed
        if trie is None:
            return cls(BitRank.from_mask(allowed), num_items)
        allowed = allowed.to(trie.device)
        if _compiled(trie) and sys.byteorder == "little":
            from genrec.decoding.node_marks import sorted_words

            members = BitRank(sorted_words(trie, allowed), trie.num_positions)
        elif len(allowed) == 1:  # selecting from one dimension is several times faster
            members = BitRank.from_mask(allowed[0].index_select(0, trie.leaf_items)[None])
        else:
            members = BitRank.from_mask(allowed.index_select(1, trie.leaf_items))
        return cls(members if trie.live is None else members & trie.live, num_items, trie)

    @classmethod
    def allow(cls, of: PrefixTrie | int, items: Tensor | np.ndarray | list[int]) -> Filter:
        """Only these items.

        Args:
            of: the trie to be searched, or the number of items for `dense_search`.
            items: ``[n]`` item numbers for all users, or ``[B, n]`` per user, padded with -1.
                Items removed from the trie are passed over.

        Raises:
            ConfigError: for another type or shape, or naming the row of an unknown item.
        """
        trie, num_items = _source(of)
        positions = _positions(trie, num_items, items)
        size = num_items if trie is None else trie.num_positions
        return cls(BitRank.from_positions(positions, size), num_items, trie)

    @classmethod
    def deny(cls, of: PrefixTrie | int, items: Tensor | np.ndarray | list[int]) -> Filter:
        """All items but these; as `allow`."""
        some = cls.allow(of, items)
        members, trie = ~some.members, some.trie
        if trie is not None and trie.live is not None:
            members = members & trie.live
        return cls(members, some.num_items, trie)

    def __len__(self) -> int:
        return len(self.members)

    def __and__(self, other: Filter) -> Filter:
        if _identity(self) is not _identity(other) or self.num_items != other.num_items:
            raise ConfigError("filters of different tries cannot be combined; make both for one")
        if len(self) != len(other) and 1 not in (len(self), len(other)):
            raise ConfigError(
                f"filters of {len(self)} and {len(other)} users cannot be combined: expected the "
                "same users, or one row for all"
            )
        return Filter(self.members & other.members, self.num_items, self.trie)

    @property
    def num_allowed(self) -> Tensor:
        """Allowed items of each row, int64 ``[R]``."""
        return self.members.totals

    @property
    def nbytes(self) -> int:
        """Bytes of the bits and counts, and of the nodes' bits if there are any."""
        words = self.members.words.data_ptr()
        made = [of for of in self.marks or () if of.ctypes.data != words]
        return self.members.nbytes + sum(of.nbytes for of in made)

    def to(self, device: torch.device | str) -> Filter:
        """The same filter on another device."""
        trie = None if self.trie is None else self.trie.to(device)
        return self._moved(device, trie)

    def _moved(self, device: torch.device | str, trie: PrefixTrie | None) -> Filter:
        """Itself with its trie there, which is there already."""
        return Filter(self.members.to(device), self.num_items, trie)

    def select(self, rows: Tensor | slice) -> Filter:
        """The filter of some of the users; itself if there is one row for all."""
        if len(self) == 1:
            return self
        marks = self.marks
        if marks is not None:
            index = rows.numpy() if isinstance(rows, Tensor) else rows
            marks = [of[index] for of in marks]
        return Filter(self.members.select_rows(rows), self.num_items, self.trie, marks)

    def contains(self, items: Tensor | np.ndarray | list[int]) -> Tensor:
        """Whether items may be returned, bool ``[R, n]``.

        Args:
            items: integers ``[R, n]``, or ``[n]`` for all rows; -1, with which results are padded,
                is none of them.

        Raises:
            ConfigError: for another type or shape, or an unknown item.
        """
        numbers = item_numbers(items, "items", self.num_items, self.members.words.device)
        if numbers.ndim not in (1, 2) or (numbers.ndim == 2 and len(self) not in (1, len(numbers))):
            raise ConfigError(
                f"items of shape {tuple(numbers.shape)} for a filter of {len(self)} users: "
                "expected [n], or a row for each"
            )
        places = _places(self.trie, self.num_items, numbers)
        if places.ndim == 1:
            places = places.expand(len(self), -1)
        return self.members.contains(places)

    def alive(self, depth: int, nodes: Tensor) -> Tensor:
        """Whether nodes of ``depth`` hold an allowed item, bool; ``nodes`` int64 ``[R, ...]``.

        Where there are few nodes, all are looked at, which one row does once for all searches.
        """
        assert self.trie is not None
        starts = self.trie.item_starts[depth]
        one = len(self) == 1
        if self._on_demand(depth, nodes[:1].numel()):
            low, high = starts[nodes].to(torch.int64), starts[nodes + 1].to(torch.int64)
            return self.members.any_between(low, high)
        alive = self._alive.get(depth)
        if alive is None:
            bounds = starts.to(torch.int64).expand(len(self), -1)
            alive = self.members.any_between(bounds[:, :-1], bounds[:, 1:])
            self._alive[depth] = alive
        if one:
            return alive[0].index_select(0, nodes.reshape(-1)).view(nodes.shape)
        return alive.gather(1, nodes.flatten(1)).view(nodes.shape)

    def array_alive(self, depth: int, nodes: np.ndarray) -> np.ndarray:
        """`alive` of numpy's arrays, on the CPU: calls of numpy are cheaper than torch's."""
        assert self.trie is not None
        if not self._on_demand(depth, nodes[:1].size):
            return self.alive(depth, torch.from_numpy(nodes)).numpy()
        starts = self.trie.item_starts[depth].numpy()
        low, high = (starts.take(nodes + i).astype(np.int64) for i in (0, 1))
        return self.members.array_any_between(low, high)

    def _on_demand(self, depth: int, asked: int) -> bool:
        """Whether nodes are looked up when they are asked for, ``asked`` of them for a row."""
        assert self.trie is not None
        few = max(_FEW_NODES, asked) if len(self) == 1 else asked
        return self.trie.num_nodes[depth] >= few

    def checked(self, batch: int, trie: PrefixTrie | None = None) -> Filter:
        """Itself, on the trie's device, if it fits a search for ``batch`` users.

        Raises:
            ConfigError: if it has rows of other users, or was made for another trie.
        """
        if len(self) not in (1, batch):
            raise ConfigError(
                f"filter of {len(self)} users for a batch of {batch}: expected one row for all or "
                "one per user"
            )
        if trie is None:
            return self
        if _identity(self) is not trie.identity:
            raise ConfigError(
                "the filter was made for another trie; make it again for the trie that is "
                "searched, also after items were added or removed"
            )
        return self if self.members.words.device == trie.device else self._moved(trie.device, trie)


def _compiled(trie: PrefixTrie) -> bool:
    """Whether compiled steps may search a trie."""
    return trie.device.type == "cpu" and installed("numba")


def _identity(of: Filter) -> object | None:
    return None if of.trie is None else of.trie.identity


def _source(of: PrefixTrie | int) -> tuple[PrefixTrie | None, int]:
    if isinstance(of, PrefixTrie):
        return of, of.num_items
    if not isinstance(of, (int, np.integer)) or isinstance(of, bool):
        raise ConfigError(
            f"filter for a {type(of).__name__}: expected a PrefixTrie (a MutableTrie's is its "
            "`trie`), or the number of items"
        )
    if of < 1:
        raise ConfigError(f"filter of {of} items: expected at least 1")
    return None, int(of)


def _positions(trie: PrefixTrie | None, num_items: int, items: Any) -> Tensor:
    """Positions of items, int64 ``[R, n]``; the number of positions as padding."""
    if trie is not None:
        device = trie.device
    else:
        device = items.device if isinstance(items, Tensor) else torch.device("cpu")
    numbers = item_numbers(items, "filter items", num_items, device)
    if numbers.ndim not in (1, 2):
        raise ConfigError(
            f"filter items of shape {tuple(numbers.shape)}: expected [n], or [B, n] per user"
        )
    return _places(trie, num_items, numbers[None] if numbers.ndim == 1 else numbers)


def _places(trie: PrefixTrie | None, num_items: int, numbers: Tensor) -> Tensor:
    """Where items, -1 among them, stand among the members; their number for those that do not."""
    if trie is None:
        return numbers.masked_fill(numbers < 0, num_items)
    places = trie.item_position[numbers.clamp_min(0)].to(torch.int64)
    return places.masked_fill((numbers < 0) | (places < 0), trie.num_positions)
