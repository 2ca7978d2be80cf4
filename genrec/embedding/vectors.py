"""`ItemVectors`: one vector per item, with the ids they belong to, as a folder on disk.

vectors.npy     float32 [N, d]
items.parquet   item_id, in the order of the rows
embedding.json  how the vectors were made, and their fingerprint
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artefacts import atomic_folder, check_folder, read_json, vectors_fingerprint, write_json
from genrec.data import Catalog
from genrec.errors import ArtefactError, DataError

KIND = "vectors"
_BLOCK = 1 << 16


class ItemVectors:
    """Vectors of items: float32 [N, d], finite, one row per distinct item id.

    Args:
        vectors: [N, d], any real dtype.
        item_ids: N distinct ids, all strings or all integers: a list, numpy or Arrow array.
        config: how the vectors were made; anything that JSON can hold.
        source: what error messages call the vectors (a file, an embedder).

    Raises:
        DataError: if the counts differ, an id is missing or comes twice, or a value is NaN or
            infinite; the message names the item.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        item_ids: Any,
        config: Mapping[str, Any] | None = None,
        *,
        source: str = "vectors",
    ) -> None:
        self.item_ids = as_ids(item_ids, source)
        self.vectors = as_vectors(vectors, self.item_ids, source)
        self.config: dict[str, Any] = dict(config or {})

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        kind = self.config.get("type", "unknown")
        return f"ItemVectors({len(self)} items x {self.dim}, {kind}, {self.fingerprint})"

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any value, any id or the order of the items."""
        return vectors_fingerprint(self.vectors, self.item_ids.to_numpy(zero_copy_only=False))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder, whole or not at all.

        Raises:
            ArtefactError: if it cannot be written.
        """
        with atomic_folder(folder, kind=KIND) as temporary:
            np.save(temporary / "vectors.npy", self.vectors)
            pq.write_table(pa.table({"item_id": self.item_ids}), temporary / "items.parquet")
            write_json(
                temporary / "embedding.json",
                {
                    "config": self.config,
                    "fingerprint": self.fingerprint,
                    "num_items": len(self),
                    "dim": self.dim,
                },
            )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> ItemVectors:
        """Open a folder that `save_pretrained` wrote.

        The vectors stay on disk and come into memory as they are read; the array cannot be
        written to.

        Raises:
            ArtefactError: if it is missing, truncated, edited or of another kind.
        """
        folder = check_folder(folder, kind=KIND)
        meta = read_json(folder / "embedding.json")
        try:
            values = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
            ids = pq.read_table(folder / "items.parquet")["item_id"]
            vectors = cls(values, ids, meta["config"], source=str(folder / "vectors.npy"))
            expected = meta["fingerprint"]
        except (OSError, ValueError, KeyError, EOFError, pa.ArrowException) as error:
            raise ArtefactError(
                f"{folder}: the vectors cannot be read ({error}); embed again"
            ) from error
        if vectors.fingerprint != expected:
            raise ArtefactError(
                f"{folder}: the vectors have the fingerprint {vectors.fingerprint}, embedding.json "
                f"says {expected}; the folder was edited, embed again"
            )
        return vectors

    def aligned_to(self, catalog: Catalog) -> ItemVectors:
        """The same vectors, rows in the order of `catalog`.

        Raises:
            DataError: if the two do not hold the same items; the message counts and names them.
        """
        rows = catalog.index(self.item_ids)
        unknown = np.flatnonzero(rows < 0)
        order = np.full(len(catalog), -1, dtype=np.int64)
        order[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        missing = np.flatnonzero(order < 0)
        if len(unknown) or len(missing):
            raise DataError(
                f"the vectors hold {len(self)} items and the catalog {len(catalog)}: "
                f"{len(missing)} items of the catalog have no vector"
                f"{examples(catalog.item_ids, missing)}, "
                f"{len(unknown)} vectors belong to no item of the catalog"
                f"{examples(self.item_ids, unknown)}; embed this catalog again"
            )
        if np.array_equal(order, np.arange(len(order))):
            return self
        return ItemVectors(self.vectors[order], self.item_ids.take(pa.array(order)), self.config)


def as_ids(ids: Any, source: str = "items") -> pa.Array:
    """Ids as one Arrow array of int64 or large_string, checked to be present and distinct.

    Raises:
        DataError: naming the row or the id.
    """
    try:
        table = pa.table({"item_id": ids})
    except pa.ArrowException as error:
        raise DataError(
            f"{source}: item ids must be all strings or all integers ({error})"
        ) from error
    return Catalog(table, name=source).item_ids


def as_vectors(vectors: np.ndarray, ids: pa.Array, source: str = "vectors") -> np.ndarray:
    """Vectors as float32 [N, d], C order, checked to be finite and as many as the ids.

    Raises:
        DataError: naming the item.
    """
    values = np.asarray(vectors)
    if values.dtype.kind not in "fiu":
        raise DataError(f"{source}: expected numbers, found dtype {values.dtype}")
    if values.ndim != 2 or values.shape[1] == 0:
        raise DataError(f"{source}: expected the shape [items, dimensions], found {values.shape}")
    if len(values) != len(ids):
        raise DataError(
            f"{source}: {len(values)} vectors for {len(ids)} items; give one vector per item"
        )
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, dtype=np.float32)
    for start in range(0, len(values), _BLOCK):
        finite = np.isfinite(values[start : start + _BLOCK]).all(axis=1)
        if not finite.all():
            row = start + int(np.flatnonzero(~finite)[0])
            column = int(np.flatnonzero(~np.isfinite(values[row]))[0])
            raise DataError(
                f"{source}: item {ids[row].as_py()!r} (row {row + 1}) has {values[row, column]} in "
                f"dimension {column}; every value must be finite in float32, so mend or leave out "
                "the item"
            )
    return values


def examples(ids: pa.Array, rows: np.ndarray) -> str:
    """` ('a', 'b', ...)` for an error message, empty if there are no rows."""
    if not len(rows):
        return ""
    names = [repr(name) for name in ids.take(pa.array(rows[:3])).to_pylist()]
    return f" ({', '.join(names)}{', ...' if len(rows) > 3 else ''})"


def read_ids(path: str | os.PathLike[str]) -> pa.Array:
    """Item ids from a file: .parquet (column `item_id`), .npy, or text with one id a line.

    Raises:
        DataError: if it cannot be read or holds no such column.
    """
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            return as_ids(pq.read_table(path, columns=["item_id"])["item_id"], str(path))
        if path.suffix == ".npy":
            return as_ids(np.load(path, allow_pickle=False), str(path))
        return as_ids(path.read_text(encoding="utf-8").splitlines(), str(path))
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{path}: has no column 'item_id'") from error
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        raise DataError(f"{path}: item ids cannot be read ({error})") from error
