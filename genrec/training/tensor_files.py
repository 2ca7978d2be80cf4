"""Safetensors files written a block at a time, for tensors that are whole in no memory.

The library's own writer takes whole tensors and makes bytes of all of them first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_WIDTHS = {name: dtype.itemsize for dtype, name in _NAMES.items()}
_COPIED = 1 << 24  # bytes copied at a time


@dataclass(frozen=True)
class Blocks:
    """A tensor to be written.

    Attributes:
        dtype: of its numbers.
        shape: of the whole.
        blocks: tensors that make it up, one after another along the first dimension.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Iterable[torch.Tensor]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Blocks:
        """A tensor that is there, as one block."""
        return cls(tensor.dtype, tuple(tensor.shape), (tensor,))


def write_tensors(path: Path, tensors: Mapping[str, Blocks]) -> None:
    """Write a safetensors file.

    Memory: the largest block.

    Raises:
        ValueError: if the blocks of a tensor have more or fewer numbers than its shape.
    """
    with path.open("wb") as file:
        _write(file, [_Entry.of(name, one) for name, one in tensors.items()], {})


def add_tensors(path: Path, tensors: Mapping[str, Blocks]) -> None:
    """Write a safetensors file anew with further tensors, whose names are not in it yet.

    Memory: the largest block.

    Raises:
        ValueError: see `write_tensors`; the file is then left as it was.
    """
    longer = path.with_name(f".{path.name}")
    with path.open("rb") as old, longer.open("wb") as new:
        size = int.from_bytes(old.read(8), "little")
        header = json.loads(old.read(size))
        metadata = header.pop("__metadata__", {})
        entries = [_Entry.read(name, one, old, 8 + size) for name, one in header.items()]
        entries += [_Entry.of(name, one) for name, one in tensors.items()]
        _write(new, entries, metadata)
    longer.replace(path)


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Iterable[Any]  # its bytes

    @classmethod
    def of(cls, name: str, tensor: Blocks) -> _Entry:
        return cls(name, _NAMES[tensor.dtype], tensor.shape, _bytes(tensor.blocks))

    @classmethod
    def read(cls, name: str, entry: dict[str, Any], file: BinaryIO, start: int) -> _Entry:
        low, high = entry["data_offsets"]
        pieces = _copied(file, start + low, start + high)
        return cls(name, entry["dtype"], tuple(entry["shape"]), pieces)

    @property
    def width(self) -> int:
        return _WIDTHS[self.dtype]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.width


def _write(file: BinaryIO, entries: Iterable[_Entry], metadata: dict[str, str]) -> None:
    # Wide types first, so that each tensor begins at a multiple of its type's size.
    order = sorted(entries, key=lambda entry: (-entry.width, entry.name))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for entry in order:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.size],
        }
        at += entry.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for entry in order:
        written = sum(file.write(piece) for piece in entry.pieces)
        if written != entry.size:
            raise ValueError(f"{entry.name}: its blocks do not make up {entry.shape}")


def _bytes(blocks: Iterable[torch.Tensor]) -> Iterator[Any]:
    for block in blocks:
        flat = block.detach().cpu().contiguous().view(-1)
        yield flat.view(torch.uint8).numpy().data


def _copied(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    file.seek(start)
    while start < stop:
        piece = file.read(min(_COPIED, stop - start))
        start += len(piece)
        yield piece
