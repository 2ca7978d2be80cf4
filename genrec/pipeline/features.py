"""What the parts of a model read of the tables of items and users, brought into its own tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data import Dataset
from genrec.errors import ConfigError, DataError
from genrec.pipeline.notes import note

MOST_VALUES = 32  # of a feature with several: the first ones count


def asked_columns(encoder: Mapping[str, Any]) -> dict[str, list[str]]:
    """What an item encoder and its parts read, in order: `features`, `vectors` and `user`."""
    found: dict[str, list[str]] = {"features": [], "vectors": [], "user": []}
    for part in _parts(encoder):
        if part.get("type") == "features":
            found["features"] += _names(part, "columns")
            found["vectors"] += _names(part, "vectors")
        elif part.get("type") == "user":
            found["user"] += _names(part, "columns")
    return {key: list(dict.fromkeys(names)) for key, names in found.items()}


def _parts(encoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield encoder
    nested = encoder.get("parts")
    for part in nested.values() if isinstance(nested, Mapping) else ():
        if isinstance(part, Mapping):
            yield from _parts(part)


def _names(part: Mapping[str, Any], key: str) -> list[str]:
    """Names of columns; YAML reads the name of a numbered column as a number."""
    given = part.get(key) or ()
    return [str(name) for name in ([given] if isinstance(given, (str, int)) else given)]


def assumed_features(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `RecommenderConfig` with which an item encoder is checked without a dataset."""
    asked = asked_columns(encoder)
    return {
        "feature_columns": [(name, 2, 1) for name in asked["features"]],
        "feature_vectors": [(name, 1) for name in asked["vectors"]],
        "user_columns": [(name, 2, 1) for name in asked["user"]],
    }


def feature_tables(
    dataset: Dataset, encoder: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and values of the tables that an item encoder reads.

    Args:
        dataset: with the columns.
        encoder: configuration of the item encoder.

    Returns:
        Arguments of `RecommenderConfig` and of `ItemTables.fill`, empty where nothing is read.

    Raises:
        ConfigError: naming a column that is not there, and those that are.
        DataError: naming the row of a value that is no number of at least 0.
    """
    asked = asked_columns(encoder)
    config: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    items = dataset.catalog.table
    if asked["features"]:
        sizes, tables["features"] = sparse_matrix(items, asked["features"], "items")
        config["feature_columns"] = sizes
    if asked["vectors"]:
        config["feature_vectors"], tables["more_vectors"], tables["known"] = _vectors(
            dataset, asked["vectors"]
        )
    if asked["user"]:
        if dataset.users is None:
            raise ConfigError(
                f"{dataset.name}: nothing is known of its users (no users.parquet); leave the item "
                "encoder 'user' out"
            )
        sizes, tables["user_features"] = sparse_matrix(dataset.users, asked["user"], "users")
        config |= {"user_columns": sizes, "num_users": len(dataset.users)}
    return config, tables


def sparse_matrix(
    table: pa.Table, names: list[str], what: str
) -> tuple[list[tuple[str, int, int]], np.ndarray]:
    """Columns of whole numbers, or of lists of them, as one matrix.

    Args:
        table: of items or users.
        names: of the columns.
        what: `items` or `users`, for messages.

    Returns:
        Name, rows of an embedding (largest value + 1) and columns in the matrix of each; int32
        `[N, W]`, 0 where a value is missing.
    """
    sizes: list[tuple[str, int, int]] = []
    parts = []
    for name in names:
        if name not in table.column_names:
            raise ConfigError(
                f"{what} have no column {name!r}; they have {table.column_names}: correct the "
                "columns of the item encoder"
            )
        column = table.column(name)
        kind = column.type
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if pa.types.is_null(kind.value_type if listed else kind):  # nothing is known of anyone
            kind = pa.list_(pa.int64()) if listed else pa.int64()
            column = column.cast(kind)
        if not pa.types.is_integer(kind.value_type if listed else kind):
            raise ConfigError(
                f"{what}: column {name!r} holds {kind}; a sparse feature is whole numbers or lists "
                "of them"
            )
        if listed and (cut := _longer(column)):
            note(
                f"{what}: column {name!r}: {cut:,} lists hold more than {MOST_VALUES} values, of "
                "which the first count"
            )
        part = _lists(column) if listed else np.asarray(pc.fill_null(column, 0))[:, None]
        if part.size and (int(part.min()) < 0 or int(part.max()) >= 2**31 - 1):
            row = int(np.argmax(((part < 0) | (part >= 2**31 - 1)).any(axis=1)))
            raise DataError(
                f"{what}: column {name!r} row {row + 1} has {part[row].tolist()}; expected numbers "
                "from 0 (unknown) on"
            )
        sizes.append((name, int(part.max(initial=0)) + 1, part.shape[1]))
        parts.append(part.astype(np.int32))
    return sizes, np.concatenate(parts, axis=1)


def _longer(column: pa.ChunkedArray) -> int:
    """How many lists are cut."""
    longer = pc.greater(pc.list_value_length(column), MOST_VALUES)
    return int(pc.sum(longer).as_py() or 0)


def _lists(column: pa.ChunkedArray) -> np.ndarray:
    """The first values of each list side by side, int64 `[N, W]`, 0 where it is shorter."""
    array = column.combine_chunks()
    counts = np.asarray(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)
    flat = np.asarray(pc.fill_null(pc.list_flatten(array), 0))
    width = min(MOST_VALUES, max(1, int(counts.max(initial=0))))
    place = np.arange(width)
    start = np.cumsum(counts) - counts
    index = np.minimum(start[:, None] + place, max(len(flat) - 1, 0))
    inside = place < counts[:, None]
    return np.where(inside, flat[index] if len(flat) else 0, 0)


def _vectors(
    dataset: Dataset, names: list[str]
) -> tuple[list[tuple[str, int]], np.ndarray, np.ndarray]:
    catalog = dataset.catalog
    found = [catalog.vectors(name) for name in names]
    known = np.ones((len(catalog), len(names)), dtype=bool)
    for place, name in enumerate(names):
        if f"{name}_known" in catalog.columns:
            known[:, place] = np.asarray(catalog.table.column(f"{name}_known"))
    widths = [(name, part.shape[1]) for name, part in zip(names, found, strict=True)]
    return widths, found[0] if len(found) == 1 else np.concatenate(found, axis=1), known
