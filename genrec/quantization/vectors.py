"""Input vectors as the quantizers read them: block by block, float32, checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.errors import DataError

# Squares and sums over a few thousand columns stay below the largest float32.
LARGEST = 1e15
_BLOCK = 2**22  # numbers


def block_rows(width: int) -> int:
    """Rows of `width` numbers in a block of 16 MiB: memory that is used again, not fetched anew."""
    return max(1, min(65_536, _BLOCK // width))


class Vectors:
    """A matrix of item vectors [n, d], numpy (memory-mapped too) or torch, read as float32 blocks.

    Args:
        source: numpy array or torch tensor [n, d] of floats or integers.
        width: number of columns it must have, `None` for any.
        name: what errors call it.
        rows: numbers int64 of the rows that count, which stay where they are; all by default.

    Raises:
        DataError: if it is not a matrix of numbers, or has another width.
    """

    def __init__(
        self,
        source: Any,
        *,
        width: int | None = None,
        name: str = "vectors",
        rows: np.ndarray | None = None,
    ) -> None:
        if isinstance(source, Tensor):
            source = source.detach()
            numeric = source.dtype.is_floating_point or source.dtype in _INTEGERS
        else:
            source = np.asarray(source)
            numeric = source.dtype.kind in "fiu"
        if not numeric:
            raise DataError(f"{name}: have dtype {source.dtype}; expected floats, e.g. float32")
        if source.ndim != 2:
            raise DataError(f"{name}: have shape {tuple(source.shape)}; expected [items, features]")
        if source.shape[1] == 0:
            raise DataError(f"{name}: have no columns; expected at least one feature")
        if width is not None and source.shape[1] != width:
            raise DataError(
                f"{name}: have {source.shape[1]} columns; this quantizer was fitted on {width}; "
                "use vectors of the same embedder, or fit again"
            )
        self.source = source
        self.name = name
        self.rows = rows
        count = source.shape[0] if rows is None else len(rows)
        self.shape: tuple[int, int] = (int(count), int(source.shape[1]))

    @property
    def block_rows(self) -> int:
        """Rows of a block, see `block_rows`."""
        return block_rows(self.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def block(self, start: int, stop: int) -> Tensor:
        """Rows `start:stop` as a checked float32 tensor on the CPU.

        Raises:
            DataError: naming the row and column of the first value that is not usable.
        """
        return self._checked(self._read(slice(start, stop)), np.arange(start, stop))

    def blocks(self, size: int) -> Iterator[Tensor]:
        """All rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.block(start, min(start + size, len(self)))

    def take(self, rows: np.ndarray) -> Tensor:
        """Some rows as a new checked float32 tensor that the caller may overwrite."""
        return self._checked(self._read(rows), rows)  # a copy, as they are picked by number

    def choose(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Numbers int64 of at most `count` rows drawn without replacement, in ascending order."""
        if count >= len(self):
            return np.arange(len(self))
        return np.sort(rng.choice(len(self), size=count, replace=False))

    def sample(self, count: int, rng: np.random.Generator) -> Tensor:
        """At most `count` rows drawn without replacement, in their order in the matrix."""
        return self.take(self.choose(count, rng))

    def check(self) -> None:
        """Read every row once; see `block` for the error."""
        for _ in self.blocks(self.block_rows):
            pass

    def _read(self, rows: slice | np.ndarray) -> Tensor:
        place = rows if self.rows is None else self.rows[rows]
        if isinstance(self.source, Tensor):
            index = place if isinstance(place, slice) else torch.from_numpy(place)
            return self.source[index].to("cpu", torch.float32)
        with np.errstate(over="ignore"):
            block = np.ascontiguousarray(self.source[place], dtype=np.float32)
        if not block.flags.writeable:
            block = block.copy()
        return torch.from_numpy(block)

    def _checked(self, block: Tensor, rows: np.ndarray) -> Tensor:
        if block.numel() == 0:
            return block
        low, high = torch.aminmax(block)
        if bool(low >= -LARGEST) and bool(high <= LARGEST):
            return block
        row, column = (~(block.abs() <= LARGEST)).nonzero()[0].tolist()
        number = int(rows[row] if self.rows is None else self.rows[rows[row]])
        value = float(block[row, column])
        raise DataError(
            f"{self.name}: row {number}, column {column} is {value:g}; expected finite "
            f"numbers up to {LARGEST:g}; repair or leave out that item"
        )


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
