"""Files that vector search programs exchange: `.fbin` vectors, `.u64bin` ids and results.

    *.fbin      uint32 n, uint32 d, float32 [n, d]
    *.u64bin    uint32 n, uint32 k, uint64 [n, k]   (ids have k = 1, results the list's length)

Little endian. Files are read memory-mapped.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from genrec.artefacts import replacing
from genrec.errors import DataError


def write_fbin(path: str | os.PathLike[str], vectors: np.ndarray) -> None:
    """Write vectors `[n, d]` as float32.

    Raises:
        DataError: if they are not a matrix of finite real numbers.
        ArtefactError: if the file cannot be written.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: vectors of shape {vectors.shape} and type {vectors.dtype}; expected real "
            "numbers [n, d]"
        )
    _write(path, vectors, "<f4")


def read_fbin(path: str | os.PathLike[str]) -> np.ndarray:
    """Vectors float32 `[n, d]`, memory-mapped.

    Raises:
        DataError: if the file is missing, cannot be read, or its size is not what it says.
    """
    return _read(path, "<f4")


def write_u64bin(path: str | os.PathLike[str], ids: np.ndarray) -> None:
    """Write ids `[n]` or lists of ids `[n, k]` as uint64.

    Raises:
        DataError: if they are no whole numbers of at least 0.
        ArtefactError: if the file cannot be written.
    """
    ids = np.asarray(ids)
    ids = ids[:, None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or (ids.size and int(ids.min()) < 0):
        raise DataError(
            f"{path}: {ids.dtype} of shape {ids.shape}; expected whole numbers from 0 on, [n] or "
            "[n, k]"
        )
    _write(path, ids, "<u8")


def read_u64bin(path: str | os.PathLike[str]) -> np.ndarray:
    """Ids uint64 `[n, k]`, memory-mapped.

    Raises:
        DataError: if the file is missing, cannot be read, or its size is not what it says.
    """
    return _read(path, "<u8")


def _write(path: str | os.PathLike[str], matrix: np.ndarray, kind: str) -> None:
    rows = max(1, (1 << 24) // max(1, matrix.shape[1]))
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(np.array(matrix.shape, dtype="<u4").tobytes())
        for low in range(0, len(matrix), rows):
            block = np.ascontiguousarray(matrix[low : low + rows], dtype=kind)
            if kind == "<f4" and not np.isfinite(block).all():
                row = low + int(np.argmin(np.isfinite(block).all(axis=1)))
                raise DataError(f"{path}: vector {row} holds NaN or infinity")
            file.write(block.tobytes())


def _read(path: str | os.PathLike[str], kind: str) -> np.ndarray:
    path = Path(path)
    try:
        size = path.stat().st_size
        shape = np.fromfile(path, dtype="<u4", count=2).astype(np.int64)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a file") from error
    expected = 8 + int(shape.prod()) * np.dtype(kind).itemsize if len(shape) == 2 else 8
    if len(shape) != 2 or size != expected:
        told = f" for {shape[0]} x {shape[1]}" if len(shape) == 2 else ""
        raise DataError(
            f"{path}: has {size:,} bytes, expected {expected:,}{told}; it is truncated or of "
            "another kind"
        )
    if shape.prod() == 0:
        return np.zeros(tuple(shape), dtype=kind)
    return np.memmap(path, dtype=kind, mode="r", offset=8, shape=tuple(shape))
