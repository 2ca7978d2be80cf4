"""Fingerprint of a dataset: what its tables say, whatever the file format or chunking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.artefacts import fingerprint
from genrec.data.catalog import Catalog
from genrec.data.columns import one_array
from genrec.data.histories import Histories


def dataset_fingerprint(
    catalog: Catalog, histories: Histories, users: pa.Table | None = None
) -> str:
    """SHA-256 over ids, content and events, 16 hexadecimal digits (about 1 s per GB).

    Args:
        catalog: the items.
        histories: the events.
        users: what is known of each user; without columns of its own it changes nothing.
    """

    def parts() -> Iterator[Any]:
        for name in sorted(catalog.columns):
            if name != "item_id":
                yield name
                yield from _column(catalog.table.column(name))
        yield from _column(catalog.item_ids)
        yield from _column(histories.user_ids)
        yield histories.offsets
        yield histories.items
        yield None if histories.timestamps is None else histories.timestamps
        yield None if histories.actions is None else histories.actions
        yield histories.action_names
        if users is not None:
            for name in sorted(set(users.column_names) - {"user_id"}):
                yield name
                yield from _column(users.column(name))

    return fingerprint(parts())


def _column(values: pa.ChunkedArray | pa.Array) -> Iterator[Any]:
    """Type, validity and content of a column, nested lists and structs flattened."""
    array = one_array(values)
    kind = array.type
    yield np.asarray(array.is_valid())
    if pa.types.is_struct(kind):
        for field, part in zip(kind, array.flatten(), strict=True):
            yield field.name
            yield from _column(part)
    elif (
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    ):
        yield np.asarray(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)
        yield from _column(pc.list_flatten(array))
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        plain = pc.fill_null(array, b"" if pa.types.is_binary(kind) else "")
        plain = plain.cast(pa.large_binary())
        yield np.asarray(pc.binary_length(plain)).astype(np.int64)
        yield _bytes(plain)
    elif pa.types.is_primitive(kind) and not pa.types.is_null(kind):
        yield str(kind)
        zero = pa.scalar(0).cast(pa.int64()) if not pa.types.is_boolean(kind) else pa.scalar(False)
        yield np.asarray(_fill_primitive(array, zero))
    elif not pa.types.is_null(kind):
        yield [str(value) for value in array.to_pylist()]


def _fill_primitive(array: pa.Array, zero: pa.Scalar) -> pa.Array:
    if pa.types.is_temporal(array.type):
        width = pa.int32() if array.type.bit_width == 32 else pa.int64()
        array = array.view(width)
    return pc.fill_null(array, zero.cast(array.type)) if array.null_count else array


def _bytes(array: pa.Array) -> np.ndarray:
    """The concatenated bytes of a large_binary array, honouring its offset."""
    _, offsets, data = array.buffers()
    if data is None:
        return np.zeros(0, dtype=np.uint8)
    ends = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]]
