"""The table of items: numbers, places among the candidates, features and vectors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.data.tencentgr.assemble import Items
from genrec.data.tencentgr.stage import Stage, load
from genrec.data.tencentgr.vectors import VectorSet, units, write_ids
from genrec.errors import DataError


def item_table(stage: Stage, items: Items, sets: list[VectorSet]) -> pa.Table:
    """The items with their features and vectors; vectors stay on disk.

    A vector that is missing is zeros, and its `mm_81_known` false. One that comes twice is counted.

    Raises:
        DataError: if an item has two vectors that differ.
    """
    columns: dict[str, Any] = {
        "item_id": pa.array(items.raw),
        "reid": pa.array(items.number),
        "retrieval_id": pa.array(items.retrieval),
    }
    for name, values in zip(items.names, items.features, strict=True):
        columns[name] = pa.array(values)
    if not sets:
        return pa.table(columns)
    ids = stage.folder / "ids.npy"
    write_ids(ids, items.raw)
    for one in sets:
        matrix = stage.folder / f"vectors-{one.number}.npy"
        if not matrix.is_file():
            _empty_matrix(matrix, len(items.raw), one.width)
        known = _place(stage, items, one, matrix, ids)
        flat = np.load(matrix, mmap_mode="r").reshape(-1)
        values = pa.Array.from_buffers(pa.float32(), len(flat), [None, pa.py_buffer(flat)])
        columns[f"mm_{one.number}"] = pa.FixedSizeListArray.from_arrays(values, one.width)
        columns[f"mm_{one.number}_known"] = pa.array(known)
    return pa.table(columns)


def _place(stage: Stage, items: Items, one: VectorSet, matrix: Path, ids: Path) -> np.ndarray:
    """Read the vectors of a set into a matrix; which items have one, bool `[N]`."""
    known = np.zeros(len(items.raw), dtype=bool)
    sums = np.zeros(len(items.raw), dtype=np.uint64)
    lost = np.zeros(3, dtype=np.int64)
    repeated = 0
    for path in stage.run(f"vectors {one.number}", units(one, matrix, ids)):
        part = load(path)
        rows, first, again = np.unique(part["rows"], return_index=True, return_inverse=True)
        differ = part["sums"] != part["sums"][first][again]
        differ |= known[part["rows"]] & (part["sums"] != sums[part["rows"]])
        if differ.any():
            row = part["rows"][np.argmax(differ)]
            raise DataError(
                f"vectors {one.number}: creative {int(items.raw[row])} has two that differ; fetch "
                "the folder again"
            )
        repeated += len(part["rows"]) - int((~known[rows]).sum())
        known[rows] = True
        sums[rows] = part["sums"][first]
        lost += part["lost"]
    name = f"vectors_{one.number}"
    items.counts[f"{name}_missing"] = int((~known).sum())
    items.counts[f"{name}_null"] = int(lost[1])
    items.counts[f"{name}_of_unknown_items"] = int(lost[0])
    items.counts[f"{name}_repeated"] = repeated
    items.rows_read[name] = int(lost[2])
    return known


def _empty_matrix(path: Path, rows: int, width: int) -> None:
    """A matrix of zeros that takes no room on disk until it is written to."""
    temporary = path.with_suffix(".tmp")
    np.lib.format.open_memmap(temporary, "w+", np.float32, (rows, width)).flush()
    os.replace(temporary, path)
