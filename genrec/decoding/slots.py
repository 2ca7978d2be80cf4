"""Entries in order, with free slots between them, so that a few can be put in where they belong.

A packed-memory array (Itai, Konheim, Rodeh, "A sparse table implementation of priority queues",
1981; Bender, Demaine, Farach-Colton, "Cache-oblivious B-trees", 2000): an entry that finds no free
slot in its segment has the smallest aligned window with room enough spread out evenly, and wider
windows have to stay emptier than narrow ones. Amortised, an entry moves O(log² n) others; the row
grows, which moves all, after a share of its length was put in. Plain numpy, any number at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEGMENT = 32  # slots of the smallest window
FILL = 0.8  # share of slots taken after a row was laid out
FULL = 0.92  # share taken above which a whole row grows; a segment may be full
_FAN = 64  # counts that are summed into one of the next kind


@dataclass(frozen=True)
class Move:
    """What an insertion did to the slots of some windows; other slots are as before.

    Attributes:
        starts: int64 ``[w]``, first slots of the windows, ascending.
        ends: int64 ``[w]``, their ends.
        slots: int64 ``[n]``, all their slots.
        source: int64 ``[m]``, of each entry in them, in order, its slot before; -1 if it is new.
        target: int64 ``[m]``, its slot now.
        window: int64 ``[m]``, its window.
        owner: int64 ``[n]``, the entry in each slot, or the last one before it.
        grown: whether the row is longer than before; there is one window then, the whole row.
    """

    starts: np.ndarray
    ends: np.ndarray
    slots: np.ndarray
    source: np.ndarray
    target: np.ndarray
    window: np.ndarray
    owner: np.ndarray
    grown: bool

    @property
    def new(self) -> np.ndarray:
        """Which entries are new, bool ``[m]``."""
        fresh: np.ndarray = self.source < 0
        return fresh

    def now(self, slots: np.ndarray) -> np.ndarray:
        """Where entries are that were at ``slots``, in windows or not."""
        old = ~self.new
        before, after = self.source[old], self.target[old]
        if len(before) == 0:
            return slots
        place = np.searchsorted(before, slots).clip(max=len(before) - 1)
        return np.where(before[place] == slots, after[place], slots)

    def carried(self, values: np.ndarray, fresh: np.ndarray | int | bool) -> np.ndarray:
        """What ``values``, by slots before, says of each entry; ``fresh`` of the new ones."""
        new = self.new
        found = np.empty(len(new), dtype=values.dtype)
        found[~new] = values[self.source[~new]]
        found[new] = fresh
        return found


class Slots:
    """Which slots of a row are taken.

    Args:
        count: entries, laid out evenly.
        size: slots; by default so many that the share `FILL` is taken.

    Attributes:
        taken: bool ``[size]``.
        count: slots taken.
    """

    def __init__(self, count: int, size: int | None = None) -> None:
        self._reset(spread(count, roomy(count) if size is None else size), size)

    def __len__(self) -> int:
        return len(self.taken)

    def _reset(self, target: np.ndarray, size: int | None = None) -> None:
        self.taken = np.zeros(roomy(len(target)) if size is None else size, dtype=bool)
        self.taken[target] = True
        self.count = len(target)
        padded = np.zeros(-(-len(self.taken) // SEGMENT) * SEGMENT, dtype=bool)
        padded[: len(self.taken)] = self.taken
        counts = padded.reshape(-1, SEGMENT).sum(axis=1)
        self._counts = []
        while True:
            counts = np.append(counts, np.zeros(-len(counts) % _FAN, dtype=np.int64))
            self._counts.append(counts)
            if len(counts) == _FAN:
                break
            counts = counts.reshape(-1, _FAN).sum(axis=1)

    def insert(self, places: np.ndarray) -> Move:
        """Put entries in, each before the slot that it names, or last; they keep their order.

        Args:
            places: int64 ``[k]``, at least one, ascending, 0 to the number of slots.
        """
        size = len(self.taken)
        slots = np.minimum(places, size - 1)
        windows = self._windows(slots)
        grown = windows is None
        if windows is None:
            windows = np.zeros(1, dtype=np.int64), np.full(1, size)
        starts, ends = windows
        inside = ranges(starts, ends)
        old = inside[self.taken[inside]]
        source = np.full(len(old) + len(places), -1, dtype=np.int64)
        kept = np.ones(len(source), dtype=bool)
        kept[np.searchsorted(old, places) + np.arange(len(places))] = False
        source[kept] = old
        window = np.empty(len(source), dtype=np.int64)
        window[kept] = np.searchsorted(starts, old, side="right") - 1
        window[~kept] = np.searchsorted(starts, slots, side="right") - 1
        if grown:
            ends = np.full(1, roomy(len(source)))
            inside = np.arange(ends[0])
        number = np.bincount(window, minlength=len(starts))
        first = np.cumsum(number) - number
        place = np.arange(len(source)) - first[window]
        target = starts[window] + place * (ends - starts)[window] // number[window]
        if grown:
            self._reset(target)
        else:
            self.taken[inside] = False
            self.taken[target] = True
            self.count += len(places)
            self._recount(ranges(starts // SEGMENT, -(-ends // SEGMENT)))
        owner = np.cumsum(self.taken[inside]) - 1  # the first slot of a window is taken
        return Move(starts, ends, inside, source, target, window, owner, grown)

    def free(self, slots: np.ndarray) -> None:
        """Take entries out, at different slots in ascending order."""
        self.taken[slots] = False
        self.count -= len(slots)
        self._recount(distinct(slots // SEGMENT))

    def select(self, ranks: np.ndarray) -> np.ndarray:
        """The slots of the entries of these ranks, from 0; the end for the number of entries."""
        node, rest = np.zeros(len(ranks), dtype=np.int64), np.minimum(ranks, self.count - 1)
        for counts in reversed(self._counts):
            ends = counts.reshape(-1, _FAN)[node].cumsum(axis=1)
            step = (ends <= rest[:, None]).sum(axis=1).clip(max=_FAN - 1)
            rest -= np.where(step > 0, ends[np.arange(len(step)), step - 1], 0)
            node = node * _FAN + step
        slots = (node * SEGMENT)[:, None] + np.arange(SEGMENT)
        inside = self.taken[slots.clip(max=len(self.taken) - 1)]
        inside &= slots < len(self.taken)
        found = node * SEGMENT + (inside.cumsum(axis=1) <= rest[:, None]).sum(axis=1)
        return np.where(ranks < self.count, found, len(self.taken))

    def _windows(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Aligned windows with room for all, none inside another; None if the row has to grow."""
        size = len(self.taken)
        top = max(0, (-(-size // SEGMENT) - 1).bit_length())
        starts, ends, open = [], [], slots
        for height in range(top + 1):
            width = SEGMENT << height
            block = distinct(open // width)
            start = block * width
            end = np.minimum(start + width, size)
            new = np.searchsorted(slots, end) - np.searchsorted(slots, start)
            limit = 1.0 - (1.0 - FULL) * height / max(1, top)
            fits = self._count(block, height) + new <= limit * (end - start)
            starts.append(start[fits])
            ends.append(end[fits])
            open = start[~fits]
            if len(open) == 0:
                break
        else:
            return None
        start, end = np.concatenate(starts), np.concatenate(ends)
        order = np.lexsort((-end, start))
        start, end = start[order], end[order]
        outer = np.append(True, end[1:] > np.maximum.accumulate(end)[:-1])
        return start[outer], end[outer]

    def _count(self, block: np.ndarray, height: int) -> np.ndarray:
        """Entries in aligned blocks of ``2**height`` segments."""
        kind, rest = divmod(height, 6)  # a count of the next kind is over 2**6
        if kind == len(self._counts):
            kind, rest = kind - 1, rest + 6
        parts = (block << rest)[:, None] + np.arange(1 << rest)
        counts: np.ndarray = self._counts[kind][parts].sum(axis=1)
        return counts

    def _recount(self, segments: np.ndarray) -> None:
        places = (segments * SEGMENT)[:, None] + np.arange(SEGMENT)
        inside = self.taken[places.clip(max=len(self.taken) - 1)] & (places < len(self.taken))
        change = inside.sum(axis=1) - self._counts[0][segments]
        for counts in self._counts:
            np.add.at(counts, segments, change)
            segments = segments // _FAN


def roomy(count: int) -> int:
    """Slots for ``count`` entries, a multiple of 64."""
    return (int(count / FILL) // 64 + 1) * 64


def spread(count: int, size: int) -> np.ndarray:
    """Slots, int64 ``[count]``, that are evenly far apart; the first is 0."""
    return np.arange(count, dtype=np.int64) * size // max(1, count)


def ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """``starts[0] .. ends[0] - 1, starts[1] .. ends[1] - 1, ..``, int64."""
    sizes = ends - starts
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(int(sizes.sum()))


def distinct(ordered: np.ndarray) -> np.ndarray:
    """Ascending values without repeats."""
    found: np.ndarray = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    return found
