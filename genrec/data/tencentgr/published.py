"""Published counts of TencentGR-1M and -10M, and how a dataset and its hold-out compare with them.

Counts of the files and statistics are those of the paper (arXiv 2604.04976), those of the hold-out
of a public reproduction on the hub's files. A dataset is one of these where its number of users,
items or candidates is a published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrec.data.dataset import Dataset
from genrec.data.tencentgr.protocol import CUTS, SEED, SHARE
from genrec.data.tencentgr.schema import CLICK

#: Numbers of the files, which must be equal.
COUNTS = {
    "TencentGR-1M": {"users": 1_001_845, "items in training": 4_783_154, "candidates": 660_000},
    "TencentGR-10M": {
        "users": 10_139_575,
        "items in training": 17_487_676,
        "candidates": 3_637_720,
    },
}
#: Files and rows of each table on the hub. A repackaged download may have other files, not rows.
TABLES = {
    "TencentGR-1M": {
        "seq": (10, 1_001_845),
        "user_feat": (10, 1_001_845),
        "item_feat": (10, 4_783_154),
        "candidate": (1, 660_000),
        "vectors_81": (5, 4_742_961),
    },
}
#: Counts of `dataset.json`, which must be equal where `prepare` made them of the hub's files.
COUNTED = {
    "TencentGR-1M": {
        "events_without_action": 790_581,
        "candidates_not_in_training": 148_971,
        "vectors_81_null": 9_678,
    },
}
#: Statistics, and how far they were rounded. The published lengths count the user's own record.
#: Shares of actions add up to 1 and name no share of unknown ones, so these were left out or taken
#: for exposures: either reading may agree.
STATISTICS = {
    "TencentGR-1M": {
        "events per user": (90.06, 0.01),
        "clicks, share of actions": (0.0981, 0.0001),
        "candidates not in training, share": (0.2257, 0.0002),
    },
    "TencentGR-10M": {
        "events per user": (96.29, 0.01),
        "clicks, share of actions": (0.0285, 0.0001),
        "conversions, share of actions": (0.0252, 0.0001),
    },
}
#: The reference hold-out of TencentGR-1M, which must be equal: the same users are drawn.
HOLD_OUT = {
    "held_out": 100_184,
    "held_out_without_click": 1_745,
    "held_out_target_outside_pool": 19_518,
    "held_out_evaluated": 78_921,
    "held_out_of_0_to_20_events": 1_125,
    "held_out_of_21_to_50_events": 4_366,
    "held_out_of_51_to_80_events": 23_339,
    "held_out_of_81_events": 50_091,
}


@dataclass(frozen=True)
class Comparison:
    """A count beside the published one.

    Attributes:
        what: is counted.
        found: in the dataset or its split.
        published: by others.
        tolerance: how far apart they may be.
    """

    what: str
    found: float
    published: float
    tolerance: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether they are as near as they should be."""
        return abs(self.found - self.published) <= self.tolerance + 1e-12

    def __str__(self) -> str:
        """`users 1,001,845, as published`."""
        near = "about " if self.tolerance else ""
        end = f", {near}as published" if self.found != self.published else ", as published"
        if not self.agrees:
            end = f", published {_number(self.published)}"
        return f"{self.what} {_number(self.found)}{end}"


def compare_dataset(
    dataset: Dataset,
    *,
    counts: Mapping[str, Mapping[str, int]] = COUNTS,
    statistics: Mapping[str, Mapping[str, tuple[float, float]]] = STATISTICS,
    tables: Mapping[str, Mapping[str, tuple[int, int]]] = TABLES,
    counted: Mapping[str, Mapping[str, int]] = COUNTED,
) -> tuple[str, list[Comparison]]:
    """What a dataset has beside what was published of it.

    Args:
        dataset: that `prepare tencentgr` made of the training files.
        counts: published counts of each download.
        statistics: published statistics, and how far the dataset's may be from them.
        tables: published numbers of files and rows of each table.
        counted: published counts among those of `dataset.json`.

    Returns:
        Name of the download, and the comparisons; nothing where no count is a published one.
    """
    found = _counts(dataset)
    for name, published in counts.items():
        if any(found.get(what) == count for what, count in published.items()):
            exact = [Comparison(what, found[what], n) for what, n in published.items()]
            measured = _statistics(dataset)
            near = [
                Comparison(what, _nearest(measured[what], n), n, apart)
                for what, (n, apart) in statistics.get(name, {}).items()
                if what in measured
            ]
            read = _read(dataset, tables.get(name, {}), counted.get(name, {}))
            return name, exact + read + near
    return "", []


def compare_split(
    info: Mapping[str, Any],
    *,
    published: Mapping[str, int] = HOLD_OUT,
    users: int = COUNTS["TencentGR-1M"]["users"],
) -> list[Comparison]:
    """Counts of the reference hold-out beside the published ones.

    Args:
        info: of a split `last-click`.
        published: counts, `held_out` among them.
        users: of the dataset that they are of.

    Returns:
        Nothing for another dataset, or another draw, cut or target than the reference's.
    """
    reference = {
        "users": users,
        "seed": SEED,
        "share": SHARE,
        "cut": CUTS[0],
        "actions": [CLICK],
    }
    if any(info.get(key) != value for key, value in reference.items()):
        return []
    return [
        Comparison(what.replace("_", " "), int(info[what]), count)
        for what, count in published.items()
    ]


def _counts(dataset: Dataset) -> dict[str, int]:
    columns = dataset.catalog.columns
    if "reid" not in columns or "retrieval_id" not in columns:
        return {}
    known = dataset.info.get("counts", {})
    table = dataset.catalog.table
    return {
        "users": len(dataset.histories) + int(known.get("users_without_events_dropped", 0)),
        "items in training": int((np.asarray(table.column("reid")) > 0).sum()),
        "candidates": int((np.asarray(table.column("retrieval_id")) >= 0).sum()),
    }


def _read(
    dataset: Dataset, tables: Mapping[str, tuple[int, int]], counted: Mapping[str, int]
) -> list[Comparison]:
    """What was read of each file, of those that were; files only where rows are missing."""
    read = dataset.info.get("tencentgr", {}).get("tables", {})
    found = []
    for table, (files, rows) in tables.items():
        if table in read:
            mine = Comparison(f"rows of {table}", read[table]["rows"], rows)
            found.append(mine)
            if not mine.agrees:
                found.append(Comparison(f"files of {table}", read[table]["files"], files))
    counts = dataset.info.get("counts", {})
    return found + [
        Comparison(what.replace("_", " "), counts[what], count)
        for what, count in counted.items()
        if what in counts
    ]


def _statistics(dataset: Dataset) -> dict[str, tuple[float, ...]]:
    """Each statistic, in all readings that what was published may have."""
    of, table = dataset.histories, dataset.catalog.table
    found: dict[str, tuple[float, ...]] = {"events per user": (of.num_events / max(1, len(of)),)}
    pool = np.asarray(table.column("retrieval_id")) >= 0
    if pool.any():
        cold = (np.asarray(table.column("reid")) == 0) & pool
        found["candidates not in training, share"] = (float(cold.sum() / pool.sum()),)
    if of.actions is not None:
        counts = np.bincount(of.actions, minlength=1 + len(of.action_names))[1:]
        for action, what in ((1, "clicks"), (2, "conversions")):
            if action in of.action_names:
                count = int(counts[of.action_names.index(action)])
                readings = (count / int(counts.sum()), count / of.num_events)
                found[f"{what}, share of actions"] = readings
    return found


def _nearest(readings: tuple[float, ...], published: float) -> float:
    return readings[int(np.argmin(np.abs(np.array(readings) - published)))]


def _number(value: float) -> str:
    return f"{value:,}" if value == int(value) else f"{value:,.4f}"
