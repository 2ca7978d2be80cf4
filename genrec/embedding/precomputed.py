"""Vectors that somebody else made: a parquet or npy file, or a column of the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec.artefacts import file_sha256
from genrec.embedding.base import Embedder, require
from genrec.embedding.linalg import normalize_rows
from genrec.embedding.vectors import ItemVectors, as_ids, examples, read_ids
from genrec.errors import DataError

if TYPE_CHECKING:
    from genrec.data import Catalog, Histories, Split


@dataclass(frozen=True, kw_only=True)
class PrecomputedEmbedder(Embedder):
    """Read vectors instead of computing them.

    Exactly one of `path` and `column` says where they are. A file that names its items may hold
    more of them than the catalog; the report in its config counts those that were not used.

    Args:
        path: .parquet with an id column and a vector column, or .npy [N, d] in catalog order or
            in the order of `ids`.
        ids: with .npy: .parquet (column `item_id`), .npy, or text with one id a line.
        column: vector column of the catalog.
        vector_column: with .parquet: which column; by default the only one that holds vectors.
        id_column: with .parquet: the column of the item ids.
        normalize: L2-normalise the vectors.
    """

    type = "precomputed"

    path: str | None = None
    ids: str | None = None
    column: str | None = None
    vector_column: str | None = None
    id_column: str = "item_id"
    normalize: bool = False

    def __post_init__(self) -> None:
        require(
            (self.path is None) != (self.column is None),
            "precomputed: give either path (a file) or column (of the catalog), "
            f"got path={self.path!r} and column={self.column!r}",
        )
        suffix = Path(self.path).suffix if self.path is not None else None
        require(
            suffix in (None, ".parquet", ".npy"),
            f"precomputed: {self.path}: expected a .parquet or .npy file",
        )
        require(
            self.ids is None or suffix == ".npy",
            f"precomputed: ids={self.ids!r} needs a .npy path; a .parquet file names its items",
        )
        require(
            self.vector_column is None or suffix == ".parquet",
            f"precomputed: vector_column={self.vector_column!r} needs a .parquet path",
        )

    def embed(
        self,
        catalog: Catalog,
        *,
        histories: Histories | None = None,
        split: Split | None = None,
    ) -> ItemVectors:
        """Read the vectors and put them into the order of the catalog.

        Raises:
            DataError: naming the file, and the item that is missing, comes twice or holds NaN.
        """
        report: dict[str, Any] = {}
        if self.path is None:
            assert self.column is not None
            vectors, source = catalog.vectors(self.column), f"column {self.column!r}"
        else:
            vectors, unused = self._read(Path(self.path), catalog)
            source = self.path
            report = {"sha256": file_sha256(self.path), "vectors_not_used": unused}
        config = self.describe(**report)
        result = ItemVectors(vectors, catalog.item_ids, config, source=source)
        if not self.normalize:
            return result
        return ItemVectors(normalize_rows(result.vectors), catalog.item_ids, config, source=source)

    def _read(self, path: Path, catalog: Catalog) -> tuple[np.ndarray, int]:
        if path.suffix == ".parquet":
            ids, vectors = read_parquet(path, self.id_column, self.vector_column)
        else:
            vectors = read_npy(path)
            if self.ids is None:
                if len(vectors) != len(catalog):
                    raise DataError(
                        f"{path}: {len(vectors)} vectors for {len(catalog)} items of the catalog; "
                        "give one vector per item in its order, or name their items with ids="
                    )
                return vectors, 0
            ids = read_ids(self.ids)
            if len(ids) != len(vectors):
                raise DataError(
                    f"{self.ids}: {len(ids)} ids for {len(vectors)} vectors in {path}; "
                    "give one id per vector"
                )
        rows = catalog.index(ids)
        order = np.full(len(catalog), -1, dtype=np.int64)
        order[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        missing = np.flatnonzero(order < 0)
        if len(missing):
            raise DataError(
                f"{path}: {len(missing)} of {len(catalog)} items of the catalog have no vector"
                f"{examples(catalog.item_ids, missing)}; add them or leave the items out"
            )
        return vectors[order], int((rows < 0).sum())


def read_npy(path: Path) -> np.ndarray:
    """A matrix [N, d] from a .npy file, memory-mapped.

    Raises:
        DataError: if it cannot be read or is not a matrix.
    """
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a .npy file ({error})") from error
    if vectors.ndim != 2:
        raise DataError(f"{path}: expected the shape [items, dimensions], found {vectors.shape}")
    return vectors


def read_parquet(
    path: Path, id_column: str = "item_id", vector_column: str | None = None
) -> tuple[pa.Array, np.ndarray]:
    """Ids [N] and vectors float32 [N, d] from two columns of a .parquet file.

    Raises:
        DataError: if a column is missing, no or several columns hold vectors, an id comes twice, or
            a vector is null or of another length than the others.
    """
    try:
        schema = pq.read_schema(path)
        found = [field.name for field in schema if _holds_vectors(field.type)]
        if vector_column is None and len(found) != 1:
            raise DataError(
                f"{path}: columns that hold vectors: {found or 'none'} (all columns: "
                f"{schema.names}); name one with vector_column="
            )
        name = vector_column or found[0]
        for column in (id_column, name):
            if column not in schema.names:
                raise DataError(f"{path}: has no column {column!r}, only {schema.names}")
        if name not in found:
            raise DataError(
                f"{path}: column {name!r} holds {schema.field(name).type}; "
                "expected a list of numbers per row"
            )
        table = pq.read_table(path, columns=[id_column, name])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as a .parquet file ({error})") from error
    ids = as_ids(table[id_column], f"{path}: column {id_column!r}")
    column = table[name]
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy().astype(np.int64)
    expected = int(np.bincount(np.maximum(lengths, 0)).argmax())
    wrong = np.flatnonzero((lengths != expected) | (lengths < 1))
    if len(wrong):
        row = int(wrong[0])
        what = "no vector" if lengths[row] < 1 else f"a vector of length {lengths[row]}"
        raise DataError(
            f"{path}: column {name!r}: item {ids[row].as_py()!r} (row {row + 1}) has {what}, "
            f"most have length {expected}; every item needs a vector of one length"
        )
    # A null inside a vector becomes NaN here, which `ItemVectors` reports with the item's name.
    flat = pc.list_flatten(column).cast(pa.float32(), safe=False).to_numpy()
    return ids, flat.reshape(len(ids), expected)


def _holds_vectors(kind: pa.DataType) -> bool:
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    return is_list and (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    )
