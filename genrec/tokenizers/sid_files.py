"""Files of semantic IDs that somebody else made.

| file | holds |
|---|---|
| `.json` | item -> tokens or codes (LETTER, LC-Rec, MiniOneRec `*.index.json`, UniGenRec) |
| `.npy` | integers [N, L] (UniGenRec) |
| `.pt`, `.pth` | a tensor of integers [N, L] or [L, N] (GRID) |
| `.parquet` | `item_id`, and one list of codes or one column of codes a level |
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from genrec.errors import ConfigError, DataError
from genrec.tokenizers.index_json import read_index_json
from genrec.tokenizers.ties import as_item_ids

FORMATS = (".json", ".npy", ".parquet", ".pt", ".pth")
SIZES = b"genrec.codebook_sizes"
Names = Literal["numbers", "ids"]
Layout = Literal["auto", "items", "levels"]

_LEVEL = re.compile(r"(.*?)(\d+)")
_INTEGER = re.compile(r"0|-?[1-9]\d{0,18}")
_NUMBER = re.compile(r"0|[1-9]\d{0,17}")


@dataclass(frozen=True)
class ForeignSids:
    """What a file of SIDs says.

    Attributes:
        path: the file.
        codes: `int64 [N, L]`.
        keys: what the file calls the items: numbers `int64 [N]`, or ids as `as_item_ids` gives.
        numbered: the keys are item numbers, places in a list of ids that is kept elsewhere.
        codebook_sizes: if the file says them.
    """

    path: Path
    codes: np.ndarray
    keys: np.ndarray
    numbered: bool
    codebook_sizes: tuple[int, ...] | None = None


def read_sids(
    path: Path,
    *,
    names: Names = "numbers",
    layout: Layout = "auto",
    columns: Sequence[str] | None = None,
    num_items: int | None = None,
) -> ForeignSids:
    """Read a file of SIDs by its suffix; see `import_vocabulary`.

    Raises:
        DataError: if the file is missing, of another format, or does not hold SIDs.
        ConfigError: if an option belongs to another format.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise DataError(f"{path}: unknown format; expected one of {', '.join(FORMATS)}")
    if columns is not None and kind != ".parquet":
        raise ConfigError(f"columns: {path} has none; the option is for .parquet files")
    if layout != "auto" and kind in (".json", ".parquet"):
        raise ConfigError(f"layout: {path} names its items; the option is for .npy and .pt files")
    if names != "numbers" and kind != ".json":
        raise ConfigError(f"names: {path} has no keys; the option is for .json files")
    if kind == ".parquet":
        return _read_parquet(path, columns)
    if kind == ".json":
        keys, codes = read_index_json(path)
        numbered = names == "numbers"
        return ForeignSids(path, codes, _numbers(path, keys) if numbered else _ids(keys), numbered)
    array = _read_npy(path) if kind == ".npy" else _read_tensor(path)
    codes = _upright(path, array, layout, num_items).astype(np.int64)
    return ForeignSids(path, codes, np.arange(len(codes)), numbered=True)


def _numbers(path: Path, keys: list[str]) -> np.ndarray:
    wrong = next((key for key in keys if not _NUMBER.fullmatch(key)), None)
    if wrong is not None:
        raise DataError(
            f"{path}: item {wrong!r}: is no item number; if the keys are item ids, say names 'ids'"
        )
    return np.array(keys, dtype=np.int64)


def _ids(keys: list[str]) -> np.ndarray:
    """Integers if all keys are written as integers are, else strings: JSON has no other keys."""
    if all(map(_INTEGER.fullmatch, keys)):
        with contextlib.suppress(OverflowError):
            return np.array(list(map(int, keys)), dtype=np.int64)
    return np.array(keys, dtype=object)


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a .npy file ({error})") from error


def _read_tensor(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            # About the protocols of pickles; those that cannot be read are an error below.
            warnings.simplefilter("ignore", UserWarning)
            value = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # torch's own message advises to load it without this check, which could run anything.
        raise DataError(
            f"{path}: does not hold one plain tensor, and anything else could run code when it is "
            "read, so it was not; have it saved with torch.save(codes, ...), codes being a tensor"
        ) from error
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{path}: is not a tensor that can be read safely ({reason[0]}); write it with "
            "torch.save(codes, ...) and nothing else in the file"
        ) from error
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        raise DataError(
            f"{path}: holds a {type(value).__name__}; expected one dense tensor of codes, "
            "items by levels or levels by items"
        )
    if value.is_floating_point() or value.is_complex():
        raise DataError(f"{path}: holds {value.dtype}; expected integers, the codes")
    return np.asarray(value.detach().numpy())


def _upright(path: Path, array: np.ndarray, layout: Layout, num_items: int | None) -> np.ndarray:
    """The codes with a row per item."""
    if array.dtype.kind not in "iu":
        raise DataError(f"{path}: holds {array.dtype}; expected integers, the codes")
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(
            f"{path}: has the shape {array.shape}; expected items by levels, or levels by items"
        )
    if layout != "auto":
        return array if layout == "items" else array.T
    rows, columns = array.shape
    if num_items is None:
        if rows == columns:
            raise DataError(
                f"{path}: has the shape {array.shape}, which does not tell items from levels; "
                "say layout 'items' (a row is an item) or 'levels'"
            )
        return array if rows > columns else array.T
    if num_items not in array.shape:
        raise DataError(
            f"{path}: has the shape {array.shape}, and there are {num_items:,} items; expected one "
            "row or one column per item"
        )
    if rows == columns:
        raise DataError(
            f"{path}: has the shape {array.shape}, as many levels as items; "
            "say layout 'items' (a row is an item) or 'levels'"
        )
    return array if rows == num_items else array.T


def _read_parquet(path: Path, columns: Sequence[str] | None) -> ForeignSids:
    try:
        schema = pq.read_schema(path)
        for name in ("item_id", *(columns or ())):
            if name not in schema.names:
                raise DataError(f"{path}: has no column {name!r}, only {schema.names}")
        chosen = list(columns) if columns else _code_columns(path, schema)
        table = pq.read_table(path, columns=["item_id", *chosen])
        sizes = json.loads((schema.metadata or {}).get(SIZES, b"null"))
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as a .parquet file ({error})") from error
    try:
        ids = as_item_ids(table["item_id"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    lists = [name for name in chosen if _is_list(schema.field(name).type)]
    if lists and len(chosen) > 1:
        raise ConfigError(f"columns: {chosen} mix lists and codes; name one list, or levels")
    if lists:
        codes = _list_column(path, table[lists[0]], lists[0], ids)
    else:
        parts = [_integer_column(path, table[name], name, ids) for name in chosen]
        codes = np.column_stack(parts)
    return ForeignSids(path, codes, ids, numbered=False, codebook_sizes=sizes and tuple(sizes))


def _code_columns(path: Path, schema: pa.Schema) -> list[str]:
    """The only list of integers, or the only run of columns such as code_0, code_1 ..."""
    lists = [f.name for f in schema if _is_list(f.type) and pa.types.is_integer(f.type.value_type)]
    runs: dict[str, dict[int, str]] = {}
    for field in schema:
        match = _LEVEL.fullmatch(field.name)
        if match and pa.types.is_integer(field.type):
            runs.setdefault(match.group(1), {})[int(match.group(2))] = field.name
    found = [[name] for name in lists]
    for run in runs.values():
        numbers = sorted(run)
        if numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            found.append([run[number] for number in numbers])
    if len(found) != 1:
        raise DataError(
            f"{path}: columns that may hold codes: {found or 'none'} (all columns: "
            f"{schema.names}); name one list, or one column a level, with columns"
        )
    return found[0]


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _list_column(path: Path, column: pa.ChunkedArray, name: str, ids: np.ndarray) -> np.ndarray:
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), -1).to_numpy())
    expected = int(np.bincount(lengths[lengths > 0], minlength=1).argmax())
    wrong = np.flatnonzero((lengths != expected) | (lengths < 1))
    if len(wrong):
        row = int(wrong[0])
        found = "is null" if lengths[row] < 0 else f"has {lengths[row]} codes"
        raise DataError(
            f"{path}: column {name!r}, item {ids.item(row)!r} (row {row + 1}) {found}, most have "
            f"{expected}; every item needs one code per level"
        )
    flat = pc.list_flatten(column)
    codes = _integer_column(path, flat, name, np.repeat(ids, expected), expected)
    return codes.reshape(len(ids), expected)


def _integer_column(
    path: Path, column: pa.ChunkedArray, name: str, ids: np.ndarray, each: int = 1
) -> np.ndarray:
    """`int64 [n]`; `each` values belong to one row of the table."""
    if not pa.types.is_integer(column.type):
        raise DataError(f"{path}: column {name!r} holds {column.type}; expected integers")
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise DataError(
            f"{path}: column {name!r}, item {ids.item(row)!r} (row {row // each + 1}) is null; "
            "every item needs one code per level"
        )
    # A number too large for int64 becomes negative, and is refused as any negative number is.
    return np.asarray(column.to_numpy()).astype(np.int64)
