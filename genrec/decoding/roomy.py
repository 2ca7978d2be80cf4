"""The arrays of a `MutableTrie`: those of a `PrefixTrie` with free slots between their entries.

A row holds the nodes of a depth: 0 the root, `num_levels` the leaves, and one more the items, whose
parents are the leaves. In a free slot stands the code of the entry before it, so that codes ascend,
and its range of children is empty, so that ranges follow each other. Plain numpy.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from genrec.decoding.bits import BitRank
from genrec.decoding.codes import sort_keys
from genrec.decoding.slots import Move, Slots, distinct, ranges
from genrec.decoding.tie_slots import TieSlots
from genrec.decoding.trie import PrefixTrie

_FEW = 8  # words of bits up to which the counts behind each are passed over


class RoomyArrays:
    """Arrays that entries are put into and taken out of; see `MutableTrie`.

    Args:
        trie: on the CPU, without removed items; it is copied.

    Attributes:
        codebook_sizes: number of codes of each level.
        ties: the order of ties of all item numbers.
        written: bytes that the last change wrote.
        parts: the arguments of a `PrefixTrie` that reads them; its ties are slots.
        alive: per depth, bool, whether a slot holds a node with items.
    """

    def __init__(self, trie: PrefixTrie) -> None:
        self.codebook_sizes, levels = trie.codebook_sizes, trie.num_levels
        nodes = trie.num_nodes
        rows = [Slots(1, 1)]
        for depth, size in enumerate(self.codebook_sizes, 1):
            whole = nodes[depth] == len(rows[-1]) * size
            rows.append(Slots(nodes[depth], nodes[depth] if whole else None))
        rows.append(Slots(trie.num_positions))
        self._rows = rows
        self._max_branch = [0] * levels
        owners = [np.cumsum(row.taken) - 1 for row in rows]  # -1 before the first of an empty row
        targets = [np.flatnonzero(row.taken) for row in rows]

        def spread_out(values: np.ndarray, depth: int) -> np.ndarray:
            if len(values) == 0:
                return np.zeros(len(rows[depth]), dtype=values.dtype)
            found: np.ndarray = values[owners[depth]]
            return found

        self._tokens, self._pointers, self.alive = [], [], []
        bounds = [p.numpy() for p in (*trie.pointers, trie.item_starts[-1])]
        for depth in range(levels + 1):
            row = rows[depth]
            if depth:
                self._tokens.append(spread_out(trie.level(depth - 1).array(), depth))
            end = len(rows[depth + 1])
            first = np.append(targets[depth + 1], end)[bounds[depth]] if nodes[depth] else [end]
            pointer = np.empty(len(row) + 1, dtype=np.int32)
            pointer[:-1] = np.asarray(first)[owners[depth] + ~row.taken]
            pointer[0], pointer[-1] = 0, end
            self._pointers.append(pointer)
            if depth < levels:
                self._max_branch[depth] = int(np.diff(pointer).max())
            self.alive.append(row.taken.copy())
        if not trie.num_live:
            self.alive[0][:] = False
        self._num_alive = [int(alive.sum()) for alive in self.alive]
        self._starts: list[np.ndarray] = [self._pointers[-1]]
        for depth in range(levels - 1, -1, -1):
            self._starts.insert(0, self._starts[0][self._pointers[depth]])
        self._starts.pop()

        self.ties = TieSlots(trie.tie_order.numpy())
        room = len(self.ties.label)
        self._position, self._leaf = (np.full(room, -1, dtype=np.int32) for _ in range(2))
        items = trie.leaf_items.numpy()
        self._leaf_items = spread_out(items, levels + 1)
        self._position[items] = targets[-1]
        held = np.diff(trie.item_starts[-1].numpy())
        self._leaf[items] = np.repeat(targets[levels], held)
        self._leaf_tie = np.zeros(len(rows[levels]), dtype=np.int32)
        live = BitRank.from_mask(torch.from_numpy(rows[-1].taken)[None])
        self._words, self._before = live.words.numpy()[0], live.before.numpy()[0]
        self._tie_leaves(targets[levels], live)
        self.written = self.nbytes

    @property
    def num_levels(self) -> int:
        """Number of codes of a semantic ID."""
        return len(self.codebook_sizes)

    @property
    def num_items(self) -> int:
        """Item numbers given so far."""
        return self.ties.count

    @property
    def num_live(self) -> int:
        """Items that are there."""
        return self._rows[-1].count

    @property
    def num_emptied(self) -> tuple[int, int]:
        """Leaves without items, and all leaves."""
        leaves = self._rows[self.num_levels].count
        return leaves - self._num_alive[-1], leaves

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        lists = (self._tokens, self._pointers, self.alive, self._starts)
        single = (self._leaf_items, self._position, self._leaf, self._leaf_tie)
        every = (*(of for some in lists for of in some), *single, self._words, self._before)
        return self.ties.nbytes + sum(of.nbytes for of in every)

    def whole(self, depth: int) -> bool:
        """Whether all slots of a depth hold nodes with items."""
        return self._num_alive[depth] == len(self._rows[depth])

    @property
    def parts(self) -> dict[str, Any]:
        """See the class; tensors share the arrays' memory."""
        tokens = [of.view(np.int16) if of.dtype == np.uint16 else of for of in self._tokens]
        starts, count = [self._item_starts(d) for d in range(len(tokens) + 1)], self.num_items
        return {
            "codebook_sizes": self.codebook_sizes,
            "max_branch": tuple(self._max_branch),
            "tokens": [torch.from_numpy(of) for of in tokens],
            "pointers": [torch.from_numpy(of) for of in self._pointers[:-1]],
            "item_starts": [torch.from_numpy(of) for of in starts],
            "leaf_items": torch.from_numpy(self._leaf_items),
            "item_position": torch.from_numpy(self._position[:count]),
            "item_leaf": torch.from_numpy(self._leaf[:count]),
            "leaf_tie": torch.from_numpy(self._leaf_tie),
            "tie_order": torch.from_numpy(self.ties.label[:count]),
            "live": self._live(),
        }

    def positions(self, items: np.ndarray) -> np.ndarray:
        """The positions, int64, of items; -1 of those taken out."""
        found: np.ndarray = self._position[items].astype(np.int64)
        return found

    def put_in(self, table: np.ndarray, by_tie: np.ndarray, places: np.ndarray) -> None:
        """Items, numbered on from the last.

        Args:
            table: codes ``[n, L]``, checked.
            by_tie: int64 ``[n]``, their rows in the order of ties.
            places: int64 ``[n]``, for each of these before which slot of the order it goes.
        """
        old = self.num_items
        retied, self.written = self.ties.insert(places, old + by_tie)
        tail = np.full(len(self.ties.label) - len(self._leaf), -1, dtype=np.int32)
        if len(tail):
            self._position, self._leaf = (
                np.append(of, tail) for of in (self._position, self._leaf)
            )
        keys = sort_keys(table, self.codebook_sizes)[::-1]
        order = np.lexsort((self.ties.label[old : old + len(table)], *keys))
        self._put(table[order], old + order, retied)

    def take_out(self, items: np.ndarray) -> None:
        """Items, int64, different ones, at least one, that are there."""
        self.written = 0
        positions = np.sort(self.positions(items))
        nodes = np.unique(self._leaf[items]).astype(np.int64)
        self._position[items] = self._leaf[items] = -1
        self.written += 8 * len(items)
        self._rows[-1].free(positions)
        self._mark(positions)
        live = self._live()
        self._tie_leaves(nodes, live)
        for depth in range(self.num_levels, -1, -1):
            starts = self._item_starts(depth)
            low, high = (
                live.rank(torch.from_numpy(starts[nodes + i].astype(np.int64))) for i in (0, 1)
            )
            nodes = nodes[(low == high).numpy()]
            self.alive[depth][nodes] = False
            self._num_alive[depth] -= len(nodes)
            if depth and len(nodes):
                nodes = np.unique(self._above(depth, nodes))

    def _live(self) -> BitRank:
        words, before = (torch.from_numpy(of)[None] for of in (self._words, self._before))
        return BitRank(words, len(self._rows[-1]), before)

    def _item_starts(self, depth: int) -> np.ndarray:
        return self._starts[depth] if depth < self.num_levels else self._pointers[-1]

    def _above(self, depth: int, slots: np.ndarray) -> np.ndarray:
        """The parents, one depth up, of slots."""
        return _search(self._pointers[depth - 1], slots, "right") - 1

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
        place = self._lower_bound(levels + 1, node, self.ties.label[items])
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
        self._num_alive[depth] += int((~self.alive[depth][nodes]).sum())
        self.alive[depth][nodes] = True

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
            value = self._tokens[depth - 1][at] if nodes else self.ties.label[self._leaf_items[at]]
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
        old = self._tokens[depth - 1], self.alive[depth], self._pointers[depth]
        tokens, alive, pointer = old
        values = move.carried(tokens, codes), move.carried(alive, False)
        start = move.carried(pointer[:-1], pointer[places])
        after = pointer[-1:] if move.grown else pointer[move.ends]
        ties = move.carried(self._leaf_tie, 0) if last else None
        if move.grown:
            tokens = self._tokens[depth - 1] = np.empty(size, dtype=tokens.dtype)
            alive = self.alive[depth] = np.empty(size, dtype=bool)
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
        self._leaf_tie[leaves[held]] = self.ties.label[self._leaf_items[first]]


def _search(pointer: np.ndarray, slots: np.ndarray, side: Literal["left", "right"] = "left") -> Any:
    """`searchsorted` of few among many; of one type, or numpy would convert the many."""
    return np.searchsorted(pointer, slots.astype(pointer.dtype), side=side)
