"""Statistics of a download's histories beside those that were published of TencentGR.

Lengths and actions are those of the paper (arXiv 2604.04976); how often an item occurs and how long
it lives are those of people who read the files. Ranges are what generated files must keep to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec.data.tencentgr import read_competition, read_huggingface
from genrec.errors import DataError

DAY = 86_400
FEW = 5
_DAYS = 64  # of a mask


@dataclass(frozen=True)
class Published:
    """A statistic of TencentGR.

    Attributes:
        what: as `history_statistics` names it.
        said: what was published.
        low: least value that agrees.
        high: largest.
    """

    what: str
    said: str
    low: float
    high: float


_SHAPE = (
    Published("events of an item, median", "2", 1, 3),
    Published("items of at most 5 events", "73 %", 0.69, 0.77),
    Published("events of an item, 90th percentile", "22 to 23", 18, 30),
    Published("events on the most frequent 1 % of items", "about half", 0.45, 0.55),
    Published("items of two days in a row that are in both", "below .3", 0.0, 0.32),
    Published("items of two days further apart than two in both", "below .1", 0.0, 0.1),
)
#: Lengths of both are those of -1M: the generator makes no others.
PUBLISHED = {
    "1M": (
        Published("events per user", "90.06", 88.5, 91.5),
        Published("longest history", "100", 100, 100),
        Published("clicks, share of known actions", "9.81 %", 0.093, 0.103),
        *_SHAPE,
    ),
    "10M": (
        Published("clicks, share of known actions", "2.85 %", 0.026, 0.031),
        Published("conversions, share of known actions", "2.52 %", 0.023, 0.028),
        *_SHAPE,
    ),
}


def history_statistics(folder: str | os.PathLike[str]) -> dict[str, float]:
    """Statistics of the histories of a download, in either layout, a piece of a file at a time.

    Items are counted where they occur: an item without an event has no part in any of them, and
    `items with an event` says how many have one. Shares are of 1.

    Args:
        folder: as it was downloaded or generated.

    Raises:
        DataError: if it holds no histories, or a file of them is damaged.
    """
    root = Path(folder)
    if (root / "seq").is_dir():
        units = read_huggingface.units(root)["seq"]
    else:
        units = read_competition.units(root, root, "train")["seq"]
    users = longest = events = 0
    actions = np.zeros(4, dtype=np.int64)
    counts = np.zeros(0, dtype=np.int64)
    days = np.zeros(0, dtype=np.uint64)
    first: int | None = None
    for unit in units:
        part = unit.work(*unit.arguments)
        if not len(part["items"]):
            continue
        users += len(part["lengths"])
        longest = max(longest, int(part["lengths"].max()))
        events += len(part["items"])
        actions += np.bincount(part["actions"], minlength=4)
        size = max(len(counts), int(part["items"].max()) + 1)
        counts = _grown(counts, size) + np.bincount(part["items"], minlength=size)
        days = _grown(days, size)
        # A later piece may begin earlier: there are bits to spare on both sides.
        day = part["times"] // DAY
        first = int(day.min()) - 16 if first is None else first
        mark_days(days, part["items"], day - first)
    if not events:
        raise DataError(f"{root}: no event was found; expected seq/ or seq.jsonl with histories")
    known = actions[1:].sum()
    near, far = day_overlap(days)
    return {
        "users": users,
        "items with an event": int((counts > 0).sum()),
        "events per user": events / users,
        "longest history": longest,
        "events without an action": float(actions[0] / events),
        "clicks, share of known actions": float(actions[2] / max(known, 1)),
        "conversions, share of known actions": float(actions[3] / max(known, 1)),
        **popularity_statistics(counts),
        "items of two days in a row that are in both": near,
        "items of two days further apart than two in both": far,
    }


def _grown(values: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(size - len(values), dtype=values.dtype)])


def popularity_statistics(counts: np.ndarray) -> dict[str, float]:
    """How events are spread over the items that have any.

    Args:
        counts: int64 `[N]`, events of each item.
    """
    seen = np.sort(counts[counts > 0])[::-1]
    top = max(1, len(seen) // 100)
    return {
        "events of an item, median": float(np.median(seen)),
        f"items of at most {FEW} events": float((seen <= FEW).mean()),
        "events of an item, 90th percentile": float(np.percentile(seen, 90)),
        "events on the most frequent 1 % of items": float(seen[:top].sum() / seen.sum()),
    }


def mark_days(days: np.ndarray, items: np.ndarray, day: np.ndarray) -> None:
    """Set the bit of each event's day for its item, in place.

    Args:
        days: uint64 `[N]`, the days of each item.
        items: int64 `[T]`.
        day: int64 `[T]`; those outside 0 to 63 are left out.
    """
    for one in np.unique(day):
        if 0 <= one < _DAYS:
            # The same item twice gets the same value, so the order of assignment is of no matter.
            shown = items[day == one]
            days[shown] |= np.uint64(1) << np.uint64(one)


def day_overlap(days: np.ndarray) -> tuple[float, float]:
    """Mean Jaccard index of the items of two days: one apart, and from three to a week apart.

    Args:
        days: uint64 `[N]`, a bit for each day of each item.

    Returns:
        NaN where there are no two such days.
    """
    bits = [np.uint64(1) << np.uint64(one) for one in range(_DAYS)]
    sizes = np.array([np.count_nonzero(days & bit) for bit in bits])
    return _jaccard(days, bits, sizes, [1]), _jaccard(days, bits, sizes, range(3, 8))


def _jaccard(
    days: np.ndarray, bits: list[np.uint64], sizes: np.ndarray, apart: Iterable[int]
) -> float:
    found = []
    for step in apart:
        for one in range(_DAYS - step):
            if sizes[one] and sizes[one + step]:
                both = bits[one] | bits[one + step]
                shared = np.count_nonzero((days & both) == both)
                found.append(shared / (sizes[one] + sizes[one + step] - shared))
    return float(np.mean(found)) if found else float("nan")
