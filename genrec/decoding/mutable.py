"""A prefix trie that is changed in place, at a cost that follows the change and not the catalog.

The arrays are those of `PrefixTrie`, with free slots between nodes and between items. A free slot
is to a search what a node without items is, which it passes over, so every search and back end
reads such a trie as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.bits import BitRank
from genrec.decoding.codes import (
    as_integers,
    checked_codes,
    checked_ranks,
    default_tie_order,
    item_hashes,
    sort_keys,
)
from genrec.decoding.slots import Move, Slots, distinct, ranges
from genrec.decoding.trie import PrefixTrie, on_device
from genrec.decoding.updates import compacted
from genrec.errors import DataError

EMPTIED = 0.25  # share of nodes without items above which a trie is laid out anew
MANY = 0.25  # share of the catalog added at once above which a trie is laid out anew
_ROOM = 1.25  # by how much what is kept per item grows
_FEW = 8  # words of bits up to which the counts behind each are passed over


class TrieView(PrefixTrie):
    """The present state of a `MutableTrie`, for searches; its next change takes it away.

    What returns another trie returns one that never changes.
    """

    _owner: MutableTrie
    lasting = False

    def live_nodes(self, depth: int) -> Tensor | None:
        """See `PrefixTrie`."""
        found = self._live_nodes.get(depth)
        return super().live_nodes(depth) if found is None else self._owner.some_of(depth, found)

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

    Attributes:
        written: bytes that the last change wrote to the arrays.

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
        self.written = 0
        self._lay_out(trie)
        order = default_tie_order(trie.num_items)
        self._default_ties = bool((trie.tie_order.cpu().numpy() == order).all())

    @property
    def trie(self) -> TrieView:
        """The trie as it is, until the next change."""
        if self._view is None:
            self._view = self._viewed()
        return self._view

    @property
    def num_items(self) -> int:
        """Item numbers given so far, those of removed items included."""
        return self._ties.count

    @property
    def num_live(self) -> int:
        """Number of items that are not removed."""
        return self._rows[-1].count

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, room included."""
        return sum(array.nbytes for array in self._arrays())

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
            places = self._default_places(old + by_tie)
        else:
            ranks = checked_ranks(tie_ranks, count, old + count, "tie_ranks")
            by_tie = np.argsort(ranks)
            places = self._ties.select(ranks[by_tie] - np.arange(count))
        if count > MANY * self.num_live:  # none among them: every row begins with an entry
            self._lay_out(self.freeze().add(table, tie_ranks))
            return range(old, old + count)
        self._change()
        self._grow_items(old + count)
        retied = self._rank(places, old + by_tie)
        order = np.lexsort(
            (self._label[old : old + count], *sort_keys(table, self.codebook_sizes)[::-1])
        )
        self._put(table[order], old + order, retied)
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
        positions = self._position[gone].astype(np.int64)
        if (positions < 0).any():
            raise DataError(f"item {gone[positions < 0][0]} was removed before")
        if len(gone) == 0:
            return
        self._change()
        leaves = np.unique(self._leaf[gone]).astype(np.int64)
        self._position[gone] = self._leaf[gone] = -1
        positions.sort()
        self._rows[-1].free(positions)
        self._mark(positions)
        live = self._live()
        self._tie_leaves(leaves, live)
        nodes = leaves
        for depth in range(self.num_levels, -1, -1):
            starts = self._item_starts(depth)
            low, high = (
                live.rank(torch.from_numpy(starts[nodes + i].astype(np.int64))) for i in (0, 1)
            )
            nodes = nodes[(low == high).numpy()]
            self._alive[depth][nodes] = False
            self._num_alive[depth] -= len(nodes)
            if depth and len(nodes):
                nodes = np.unique(self._above(depth, nodes))
        leaves_held = self._rows[self.num_levels].count
        if leaves_held - self._num_alive[-1] > EMPTIED * leaves_held:
            self._lay_out(self.freeze())

    def freeze(self) -> PrefixTrie:
        """A `PrefixTrie` of the items as they are, without room; copies the catalog."""
        parts = compacted(self.trie)
        order = self._tie_items[self._ties.taken]
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order))
        first = parts["leaf_items"].numpy()[parts["item_starts"][-1].numpy()[:-1]]
        parts["tie_order"] = torch.from_numpy(ranks)
        parts["leaf_tie"] = torch.from_numpy(ranks[first].astype(np.int32))
        return PrefixTrie(**parts)

    @property
    def num_levels(self) -> int:
        """Number of codes of a semantic ID."""
        return len(self.codebook_sizes)

    def some_of(self, depth: int, alive: Tensor) -> Tensor | None:
        """``alive``, or None if all slots of the depth hold items."""
        return None if self._num_alive[depth] == len(self._rows[depth]) else alive

    def __repr__(self) -> str:
        return f"MutableTrie(items={self.num_live}, codebook_sizes={self.codebook_sizes})"

    # What follows works on depths: 0 the root, then nodes, `num_levels` the leaves, and one more
    # for the items, whose parents are the leaves.

    def _lay_out(self, trie: PrefixTrie) -> None:
        """All arrays anew, with room between entries but where every code exists."""
        self._change()
        trie = trie.to("cpu")
        parts = trie if trie.live is None else PrefixTrie(**compacted(trie))
        self.codebook_sizes, levels = parts.codebook_sizes, parts.num_levels
        nodes = parts.num_nodes
        rows = [Slots(1, 1)]
        for depth, size in enumerate(self.codebook_sizes, 1):
            whole = nodes[depth] == len(rows[-1]) * size
            rows.append(Slots(nodes[depth], nodes[depth] if whole else None))
        rows.append(Slots(parts.num_positions))
        self._rows = rows
        self._max_branch = [0] * levels
        owners = [np.cumsum(row.taken) - 1 for row in rows]  # -1 before the first of an empty row
        targets = [np.flatnonzero(row.taken) for row in rows]

        def spread_out(values: np.ndarray, depth: int) -> np.ndarray:
            if len(values) == 0:
                return np.zeros(len(rows[depth]), dtype=values.dtype)
            found: np.ndarray = values[owners[depth]]
            return found

        self._tokens, self._pointers, self._alive = [], [], []
        bounds = [p.numpy() for p in (*parts.pointers, parts.item_starts[-1])]
        for depth in range(levels + 1):
            row = rows[depth]
            if depth:
                tokens = parts.tokens[depth - 1].numpy()
                tokens = tokens if tokens.dtype == np.uint8 else tokens.view(np.uint16)
                self._tokens.append(spread_out(tokens, depth))
            end = len(rows[depth + 1])
            first = np.append(targets[depth + 1], end)[bounds[depth]] if nodes[depth] else [end]
            pointer = np.empty(len(row) + 1, dtype=np.int32)
            pointer[:-1] = np.asarray(first)[owners[depth] + ~row.taken]
            pointer[0], pointer[-1] = 0, end
            self._pointers.append(pointer)
            if depth < levels:
                self._max_branch[depth] = int(np.diff(pointer).max())
            self._alive.append(row.taken.copy())
        if not trie.num_live:
            self._alive[0][:] = False
        self._num_alive = [int(alive.sum()) for alive in self._alive]
        self._starts: list[np.ndarray] = [self._pointers[-1]]
        for depth in range(levels - 1, -1, -1):
            self._starts.insert(0, self._starts[0][self._pointers[depth]])
        self._starts.pop()

        self._ties = Slots(trie.num_items)
        order = np.empty(trie.num_items, dtype=np.int32)
        order[trie.tie_order.numpy()] = np.arange(trie.num_items)
        self._tie_items = order[np.cumsum(self._ties.taken) - 1]
        self._label = np.empty(trie.num_items, dtype=np.int32)
        self._label[order] = np.flatnonzero(self._ties.taken)
        items = parts.leaf_items.numpy()
        self._leaf_items = spread_out(items, levels + 1)
        self._position, self._leaf = (np.full(trie.num_items, -1, dtype=np.int32) for _ in range(2))
        self._position[items] = targets[-1]
        leaf = np.searchsorted(self._pointers[-1], targets[-1], side="right") - 1
        self._leaf[items] = leaf
        self._leaf_tie = np.zeros(len(rows[levels]), dtype=np.int32)
        live = BitRank.from_mask(torch.from_numpy(rows[-1].taken)[None])
        self._words, self._before = live.words.numpy()[0], live.before.numpy()[0]
        self._tie_leaves(targets[levels], live)
        self.written = self.nbytes

    def _change(self) -> None:
        """Take the present view away."""
        self.written = 0
        if self._view is not None:
            self._view._retire()
            self._view = None

    def _viewed(self) -> TrieView:
        tokens = [of.view(np.int16) if of.dtype == np.uint16 else of for of in self._tokens]
        count = self.num_items
        view = TrieView(
            codebook_sizes=self.codebook_sizes,
            max_branch=tuple(self._max_branch),
            tokens=[torch.from_numpy(of) for of in tokens],
            pointers=[torch.from_numpy(of) for of in self._pointers[:-1]],
            item_starts=[torch.from_numpy(self._item_starts(d)) for d in range(len(tokens) + 1)],
            leaf_items=torch.from_numpy(self._leaf_items),
            item_position=torch.from_numpy(self._position[:count]),
            item_leaf=torch.from_numpy(self._leaf[:count]),
            leaf_tie=torch.from_numpy(self._leaf_tie),
            tie_order=torch.from_numpy(self._label[:count]),
            live=self._live(),
        )
        view._owner = self
        view._live_nodes = {depth: torch.from_numpy(of) for depth, of in enumerate(self._alive)}
        return view

    def _live(self) -> BitRank:
        words, before = (torch.from_numpy(of)[None] for of in (self._words, self._before))
        return BitRank(words, len(self._rows[-1]), before)

    def _item_starts(self, depth: int) -> np.ndarray:
        return self._starts[depth] if depth < self.num_levels else self._pointers[-1]

    def _arrays(self) -> list[np.ndarray]:
        lists = (self._tokens, self._pointers, self._alive, self._starts)
        single = (self._leaf_items, self._position, self._leaf, self._leaf_tie, self._label)
        more = (self._tie_items, self._words, self._before)
        return [*(of for some in lists for of in some), *single, *more]

    def _above(self, depth: int, slots: np.ndarray) -> np.ndarray:
        """The parents, one depth up, of slots."""
        return _search(self._pointers[depth - 1], slots, "right") - 1

    def _default_places(self, items: np.ndarray) -> np.ndarray:
        """Before which slots of the order of ties new items go, whose hashes rise."""
        mixed = item_hashes(items)
        if not self._default_ties:
            share = mixed / 2.0**64
            return self._ties.select((share * (self.num_items + 1)).astype(np.int64))
        low = np.zeros(len(items), dtype=np.int64)
        high = np.full(len(items), len(self._ties))
        while (low < high).any():
            middle = (low + high) // 2
            held = self._tie_items[middle.clip(max=len(self._ties) - 1)]
            right = (low < high) & (item_hashes(held) < mixed)
            low, high = np.where(right, middle + 1, low), np.where(right, high, middle)
        return low

    def _rank(self, places: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Put new items into the order of ties; the items whose label changed."""
        move = self._ties.insert(places)
        held = move.carried(self._tie_items, items)
        if move.grown:
            self._tie_items = np.empty(len(self._ties), dtype=np.int32)
        self._tie_items[move.slots] = held[move.owner]
        self._label[held] = move.target
        self.written += 4 * (len(move.slots) + len(held))
        changed: np.ndarray = held[move.source != move.target]
        return changed

    def _grow_items(self, count: int) -> None:
        """Room for ``count`` item numbers."""
        if count <= len(self._label):
            return
        more = max(count, int(_ROOM * len(self._label))) - len(self._label)
        tail = np.full(more, -1, dtype=np.int32)
        self._label, self._position, self._leaf = (
            np.append(of, tail) for of in (self._label, self._position, self._leaf)
        )

    def _put(self, table: np.ndarray, items: np.ndarray, retied: np.ndarray) -> None:
        """Put ranked items, sorted by codes and ties, into all levels."""
        levels = self.num_levels
        node = np.zeros(len(table), dtype=np.int64)
        first = np.zeros(len(table), dtype=bool)  # of the items that share a prefix
        first[0] = True
        self._revive(0, node[:1])
        moves: list[Move | None] = []
        for depth in range(1, levels + 1):
            first[1:] |= table[1:, depth - 1] != table[:-1, depth - 1]
            codes, parents = table[first, depth - 1], node[first]
            place = self._lower_bound(depth, parents, codes)
            row = self._rows[depth]
            inside = place.clip(max=len(row) - 1)
            found = (place < self._pointers[depth - 1][parents + 1]) & row.taken[inside]
            found &= self._tokens[depth - 1][inside] == codes
            moves.append(None)
            if not found.all():
                before = place[~found]
                moves[-1] = move = self._insert(depth, before, parents[~found])
                self._spread_nodes(depth, move, before, codes[~found])
                place[found] = move.now(place[found])
                place[~found] = move.target[move.new]
            self._revive(depth, place)
            node = place[np.cumsum(first) - 1]
        place = self._lower_bound(levels + 1, node, self._label[items])
        move = self._insert(levels + 1, place, node)
        held = move.carried(self._leaf_items, items)
        if move.grown:
            self._leaf_items = np.empty(len(self._rows[-1]), dtype=np.int32)
        self._leaf_items[move.slots] = held[move.owner]
        self._position[held] = move.target
        self.written += 4 * (len(move.slots) + len(held))
        self._leaf[items] = node
        self._mark(None if move.grown else move.slots)
        self._name_leaves(moves[-1])
        self._find_ranges([*moves, move])
        leaves = self._leaf[retied].astype(np.int64)
        self._tie_leaves(np.unique(np.append(node, leaves[leaves >= 0])), self._live())

    def _revive(self, depth: int, nodes: np.ndarray) -> None:
        """Nodes, different ones, hold items now."""
        self._num_alive[depth] += int((~self._alive[depth][nodes]).sum())
        self._alive[depth][nodes] = True

    def _lower_bound(self, depth: int, parents: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The first slot among each parent's whose code (of items: label) is not below, or the end.

        In free slots, and in those of removed items, stand values that are in order as well.
        """
        pointer, last = self._pointers[depth - 1], len(self._rows[depth]) - 1
        low, high = pointer[parents].astype(np.int64), pointer[parents + 1].astype(np.int64)
        for _ in range(int((high - low).max()).bit_length()):
            middle = (low + high) // 2
            at = middle.clip(max=last)
            nodes = depth <= self.num_levels
            value = self._tokens[depth - 1][at] if nodes else self._label[self._leaf_items[at]]
            right = (low < high) & (value < wanted)
            low, high = np.where(right, middle + 1, low), np.where(right, high, middle)
        return low

    def _insert(self, depth: int, places: np.ndarray, parents: np.ndarray) -> Move:
        """Make room for new entries of a depth, and find where those of their parents start."""
        move = self._rows[depth].insert(places)
        pointer, size = self._pointers[depth - 1], len(self._rows[depth])
        # the parents whose entries started in a window, or where a new one goes
        low = _search(pointer[:-1], move.starts)
        high = _search(pointer[:-1], move.ends)
        high[move.ends == size] = len(pointer) - 1
        near = ranges(np.maximum(low - 1, 0), high)  # and those that go on into a window
        parent = np.empty(len(move.source), dtype=np.int64)
        parent[move.new], old = parents, move.source[~move.new]
        parent[~move.new] = near[
            np.searchsorted(pointer[near], old.astype(pointer.dtype), side="right") - 1
        ]
        which = ranges(low, high)
        window = np.repeat(np.arange(len(low)), high - low)
        begins = np.append(True, (parent[1:] != parent[:-1]) | (np.diff(move.window) > 0))
        owner, start, inside = parent[begins], move.target[begins], move.window[begins]
        value = np.full(len(which), size)
        if len(which):
            place = np.searchsorted(which, owner).clip(max=len(which) - 1)
            own = (which[place] == owner) & (window[place] == inside)
            value[place[own]] = start[own]
        # a parent without entries in the window starts where the next one does, or at its end
        value = np.minimum.accumulate(value[::-1])[::-1]
        pointer[which] = np.minimum(value, move.ends[window])
        pointer[-1] = size
        self.written += 4 * len(which)
        if depth <= self.num_levels:
            family = int((pointer[near + 1] - pointer[near]).max())
            self._max_branch[depth - 1] = max(self._max_branch[depth - 1], family)
        return move

    def _spread_nodes(self, depth: int, move: Move, places: np.ndarray, codes: np.ndarray) -> None:
        """Move what is kept per node of a depth, and write new nodes."""
        size, last = len(self._rows[depth]), depth == self.num_levels
        old = self._tokens[depth - 1], self._alive[depth], self._pointers[depth]
        tokens, alive, pointer = old
        values = move.carried(tokens, codes), move.carried(alive, False)
        start = move.carried(pointer[:-1], pointer[places])
        after = pointer[-1:] if move.grown else pointer[move.ends]
        ties = move.carried(self._leaf_tie, 0) if last else None
        if move.grown:
            tokens = self._tokens[depth - 1] = np.empty(size, dtype=tokens.dtype)
            alive = self._alive[depth] = np.empty(size, dtype=bool)
            pointer = self._pointers[depth] = np.full(size + 1, pointer[-1], dtype=np.int32)
            if last:
                self._leaf_tie = np.zeros(size, dtype=np.int32)
            else:
                self._starts[depth] = np.full(size + 1, len(self._rows[-1]), dtype=np.int32)
        self.written += len(move.slots) * (tokens.itemsize + 5) + len(move.target) * (1 + 4 * last)
        tokens[move.slots] = values[0][move.owner]
        alive[move.slots] = False
        alive[move.target] = values[1]
        # a free slot has no children: it starts where the next entry does
        following = np.append(start[1:], start[:1])
        ends = np.append(np.diff(move.window) > 0, True)
        following[ends] = after
        taken = self._rows[depth].taken[move.slots]
        pointer[move.slots] = np.where(taken, start[move.owner], following[move.owner])
        if ties is not None:
            self._leaf_tie[move.target] = ties

    def _mark(self, slots: np.ndarray | None) -> None:
        """Write the bits of positions, and the counts behind them; None is all."""
        taken = self._rows[-1].taken
        if slots is None:
            live = BitRank.from_mask(torch.from_numpy(taken)[None])
            self._words, self._before = live.words.numpy()[0], live.before.numpy()[0]
            self.written += self._words.nbytes + self._before.nbytes
            return
        words = distinct(slots >> 6)
        bits = taken.reshape(-1, 64)[words]
        held = self._before[words + 1] - self._before[words]
        self._words[words] = np.packbits(bits, axis=1, bitorder="little").view("<i8")[:, 0]
        change = bits.sum(axis=1, dtype=np.int32) - held
        self.written += 8 * len(words) + 4 * (len(self._before) - int(words[0]))
        words, change = words[change != 0], change[change != 0]
        if len(words) <= _FEW:
            for word, more in zip(words.tolist(), change.tolist(), strict=True):
                self._before[word + 1 :] += more
        else:
            step = np.zeros(len(self._before), dtype=np.int32)
            step[words + 1] = change
            self._before += np.cumsum(step, dtype=np.int32)

    def _name_leaves(self, move: Move | None) -> None:
        """Tell the items of leaves that moved where these are."""
        if move is None:
            return
        pointer = self._pointers[-1]
        positions = ranges(pointer[move.starts].astype(np.int64), pointer[move.ends])
        positions = positions[self._rows[-1].taken[positions]]
        self.written += 4 * len(positions)
        self._leaf[self._leaf_items[positions]] = self._above(self.num_levels + 1, positions)

    def _find_ranges(self, moves: list[Move | None]) -> None:
        """Where the items of nodes start, of all whose slot, children or items moved.

        Args:
            moves: of each depth from 1 on, the last of the items.
        """
        assert moves[-1] is not None
        low, high = moves[-1].starts, moves[-1].ends
        for depth in range(self.num_levels, -1, -1):
            pointer = self._pointers[depth]
            low, high = _search(pointer, low), _search(pointer, high, "right")
            move = moves[depth - 1] if depth else None
            if move is not None:
                low, high = np.append(low, move.starts), np.append(high, move.ends)
            if depth < self.num_levels:
                nodes = ranges(low, high)
                self.written += 4 * len(nodes)
                self._starts[depth][nodes] = self._item_starts(depth + 1)[pointer[nodes]]

    def _tie_leaves(self, leaves: np.ndarray, live: BitRank) -> None:
        """Write the labels of the first items of leaves, of those that hold any."""
        low, high = (
            live.rank(torch.from_numpy(self._pointers[-1][leaves + i].astype(np.int64)))
            for i in (0, 1)
        )
        held = (high > low).numpy()
        first = live.select(low[None])[0].numpy()[held]
        self._leaf_tie[leaves[held]] = self._label[self._leaf_items[first]]


def _search(pointer: np.ndarray, slots: np.ndarray, side: Literal["left", "right"] = "left") -> Any:
    """`searchsorted` of few among many; of one type, or numpy would convert the many."""
    return np.searchsorted(pointer, slots.astype(pointer.dtype), side=side)
