"""Embedding tables: whole, or of several processes the rows that each one holds.

A table may be larger than the memory of a process, so one that is to be split is never built whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import nn

# Numbers drawn at a time: 16 MB. A multiple of 16, the unit in which torch draws normal numbers.
_BLOCK = 1 << 22
_UNIT = 16
STD = 0.02  # of the weights of tables
_split: ContextVar[tuple[int, int, int] | None] = ContextVar("split", default=None)


@contextlib.contextmanager
def held_rows(*, process: int, processes: int, least: int) -> Iterator[None]:
    """Build tables of at least `least` rows as the `HeldRows` of one process.

    Args:
        process: which of the processes, from 0.
        processes: among how many the rows are split.
        least: smaller tables are built whole.
    """
    token = _split.set((process, processes, least))
    try:
        yield
    finally:
        _split.reset(token)


def embedding(
    rows: int, width: int, *, std: float = STD, padding_idx: int | None = None
) -> nn.Embedding:
    """An embedding table with normal weights, whole or as `held_rows` says.

    The random numbers that are drawn, and the rows that come of them, are the same in both cases.

    Args:
        rows: number of rows.
        width: of a row.
        std: standard deviation of the weights.
        padding_idx: a row of zeros, which is not trained.
    """
    split = _split.get()
    if split is not None and rows >= split[2]:
        first, last = bounds(rows, *split[:2])
        _drawn(rows, width, std=1.0, first=0, last=0)  # what `nn.Embedding` draws by itself
        held = _drawn(rows, width, std=std, first=first, last=last)
        if padding_idx is not None and first <= padding_idx < last:
            held[padding_idx - first] = 0
        return HeldRows(rows, held, first=first, padding_idx=padding_idx)
    table = nn.Embedding(rows, width, padding_idx=padding_idx)
    nn.init.normal_(table.weight, std=std)
    if padding_idx is not None:
        with torch.no_grad():
            table.weight[padding_idx] = 0
    return table


class HeldRows(nn.Embedding):
    """The rows of a table that one process holds; what is split is looked up by all together.

    Its `weight` has the shape of the whole table and no values, and is no parameter.

    Args:
        rows: of the whole table.
        held: float `[n, width]`, the process's rows, see `bounds`.
        first: which row of the table the first of them is.
        padding_idx: a row of zeros.
    """

    def __init__(
        self, rows: int, held: torch.Tensor, *, first: int, padding_idx: int | None
    ) -> None:
        super().__init__(rows, held.shape[1], padding_idx=padding_idx, device="meta")
        del self.weight
        self.weight: torch.Tensor = torch.empty(rows, held.shape[1], device="meta")
        self.held, self.first = held, first


def share(rows: int, processes: int) -> int:
    """Rows of a process; the last ones may have fewer."""
    return -(-rows // processes)


def bounds(rows: int, process: int, processes: int) -> tuple[int, int]:
    """The first of a process's rows, and the row behind its last."""
    size = share(rows, processes)
    return min(process * size, rows), min((process + 1) * size, rows)


def _drawn(rows: int, width: int, *, std: float, first: int, last: int) -> torch.Tensor:
    """Rows `first` to `last - 1` of what `normal_` draws for `[rows, width]`.

    All of them are drawn, block by block, so the generator ends where that would leave it.

    Memory: the rows, and a block.
    """
    held = torch.empty(last - first, width)
    flat, start, stop = held.view(-1), first * width, last * width
    total, at = rows * width, 0
    while at < total:
        size = _BLOCK if total - at >= _BLOCK + _UNIT else total - at
        block = torch.empty(size).normal_(std=std)
        low, high = max(at, start), min(at + size, stop)
        if low < high:
            flat[low - start : high - start] = block[low - at : high - at]
        at += size
    return held
