"""Checks and orders of codes: what building a trie and adding to it share. Plain numpy."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.optional import installed
from genrec.errors import ConfigError, DataError

MAX_LEVELS = 64
MAX_CODES = 65_536
_SIGNED = (torch.int64, torch.int32, torch.int16, torch.int8)
_INTEGERS = (*_SIGNED, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
_WORD = 2**62  # several codes are packed into one int64 sort key as long as they stay below
_MANY = 2**21  # numbers that are worth a compiled sort
_DIGIT = 10  # most bits of its digits
_BLOCK = 2**16  # rows of a pass over a catalog


def checked_count(value: Any, name: str, least: int = 1) -> int:
    """``value`` as an int; integers of numpy and tensors of one count too.

    Raises:
        ConfigError: naming ``name``, for what is no integer, or less than ``least``.
    """
    try:
        count = operator.index(value)
    except TypeError as error:
        raise ConfigError(f"{name}={value!r}: expected an integer") from error
    if count < least:
        raise ConfigError(f"{name}={count}: expected at least {least}")
    return count


def default_tie_order(num_items: int) -> np.ndarray:
    """A fixed pseudo-random permutation, int64 ``[num_items]`` (SplitMix64 of the index)."""
    rank = np.empty(num_items, dtype=np.int64)
    rank[default_items_by_tie(num_items)] = np.arange(num_items)
    return rank


def default_items_by_tie(num_items: int) -> np.ndarray:
    """The items in the order of `default_tie_order`, int32 ``[num_items]``."""
    # sorted with the index in the low bits, which is much faster than an argsort
    index = max(1, num_items - 1).bit_length()
    low = np.uint64((1 << index) - 1)
    packed = np.empty(num_items, dtype=np.uint64)
    for part in blocks(num_items):
        items = np.arange(part.start, part.stop)
        packed[part] = (item_hashes(items) & ~low) | items.astype(np.uint64)
    packed = sort_numbers(packed, index, 64)
    order = np.empty(num_items, dtype=np.int32)
    same = [np.empty(0, dtype=np.int64)]
    for part in blocks(num_items):
        order[part] = packed[part] & low
        near = packed[part.start : part.stop + 1]
        equal = np.flatnonzero((near[1:] ^ near[:-1]) <= low) + part.start
        same += [equal, equal + 1]
    some = np.unique(np.concatenate(same))  # those few whose order lies in the low bits
    if len(some):
        order[some] = order[some][np.argsort(item_hashes(order[some]))]
    return order


def sort_numbers(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """uint64 in ascending order; where numba is installed, many of them are sorted by it.

    Args:
        values: overwritten. Those that are equal from bit ``low`` on ascend already.
        low: first bit that counts.
        high: end of the bits that are used.
    """
    if len(values) < _MANY or not installed("numba"):
        values.sort()
        return values
    from genrec.decoding.radix import sorted_by_digits

    passes = -(-(high - low) // _DIGIT)
    width = -(-(high - low) // passes)
    found: np.ndarray = sorted_by_digits(values, np.empty_like(values), low, high, width)
    return found


def blocks(count: int) -> Iterator[slice]:
    """``0 .. count - 1`` in parts, so small that what is made of one stays in the cache."""
    for start in range(0, count, _BLOCK):
        yield slice(start, min(count, start + _BLOCK))


def default_tie_ranks(num_items: int, added: int) -> np.ndarray:
    """The last ``added`` ranks of ``default_tie_order(num_items + added)``, without a full sort.

    The other items keep their order among themselves, so growing a trie step by step ends in the
    default order of its size.
    """
    new = _mixed(num_items, num_items + added)
    order = np.argsort(new, kind="stable")
    smaller = np.searchsorted(new[order], _mixed(0, num_items))  # new items before each old one
    old_before = np.bincount(smaller, minlength=added + 1)[:added].cumsum()
    rank = np.empty(added, dtype=np.int64)
    rank[order] = old_before + np.arange(added)
    return rank


def _mixed(start: int, stop: int) -> np.ndarray:
    return item_hashes(np.arange(start, stop, dtype=np.int64))


def item_hashes(items: np.ndarray) -> np.ndarray:
    """What the default order of ties sorts by: uint64, different for different items."""
    with np.errstate(over="ignore"):
        z = (items + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z


def pack_tokens(codes: np.ndarray, size: int) -> np.ndarray:
    """Codes as uint8, or as the bits of a uint16 in an int16 where the codebook is larger."""
    return codes.astype(np.uint8) if size <= 256 else codes.astype(np.uint16).view(np.int16)


def sort_keys(codes: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Pack the columns, most significant first, into as few int64 keys as they fit."""
    keys: list[np.ndarray] = []
    room = 0
    for level, size in enumerate(sizes):
        if room >= size:
            keys[-1] = keys[-1] * size + codes[:, level]
            room //= size
        else:
            keys.append(codes[:, level].astype(np.int64))
            room = _WORD // size
    return keys


def as_integers(values: Any, what: str) -> np.ndarray:
    """``values`` as a numpy array of integers, or a `DataError` that names ``what``.

    Nothing is rounded, parsed or taken for a number: floats, strings and booleans are errors. An
    empty list has no type and passes.
    """
    if isinstance(values, Tensor):
        if values.dtype not in _INTEGERS:
            raise DataError(f"{what} of type {values.dtype}: expected integers")
        try:
            values = values.detach().cpu().numpy()
        except (TypeError, RuntimeError) as error:
            raise DataError(
                f"{what}: a tensor of layout {values.layout} on {values.device} cannot be read; "
                "give a dense one that holds its numbers"
            ) from error
    elif _has_bool(values):
        raise DataError(f"{what} of type bool: expected integers")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what}: rows of different lengths; give every row the same") from error
    if array.size == 0 and not isinstance(values, np.ndarray):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise DataError(f"{what} of type {array.dtype}: expected integers")
    return array


def _has_bool(values: Any) -> bool:
    """Whether nested lists hold a truth value, which numpy takes for 0 or 1 among integers."""
    kinds: set[type] = set()
    while isinstance(values, (list, tuple)):
        kinds = set(map(type, values))
        nested = kinds and kinds <= {list, tuple}
        values = list(chain.from_iterable(values)) if nested else None
    return bool(kinds & {bool, np.bool_})


def checked_sizes(codebook_sizes: Sequence[int] | np.ndarray | Tensor) -> tuple[int, ...]:
    """1 to 64 codebook sizes of 1 to 65,536 codes."""
    array = as_integers(codebook_sizes, "codebook_sizes")
    if array.ndim != 1:
        raise DataError(
            f"codebook_sizes of shape {array.shape}: expected a list, the number of codes of each "
            "level"
        )
    sizes = tuple(array.tolist())
    if not 1 <= len(sizes) <= MAX_LEVELS:
        raise DataError(f"{len(sizes)} codebook sizes: expected 1 to {MAX_LEVELS} levels")
    for level, size in enumerate(sizes):
        if not 1 <= size <= MAX_CODES:
            raise DataError(
                f"codebook size {size} of level {level}: expected 1 to {MAX_CODES} codes"
            )
    return sizes


def integer_tensor(values: Any, what: str, device: torch.device) -> Tensor:
    """`as_integers` as an int64 tensor on a device; a tensor that is there stays there."""
    plain = isinstance(values, Tensor) and values.layout == torch.strided
    if plain and values.dtype in (*_SIGNED, torch.uint8) and not values.is_meta:
        return values.to(device, torch.int64)
    return torch.from_numpy(as_integers(values, what).astype(np.int64)).to(device)


def checked_numbers(values: Any, what: str, end: int, device: torch.device) -> Tensor:
    """``values`` as int64 of 0 to ``end - 1``, any shape, on a device.

    Raises:
        DataError: naming ``what`` and the first number that is outside, or another type.
    """
    numbers = integer_tensor(values, what, device)
    outside = (numbers < 0) | (numbers >= end)
    if bool(outside.any()):
        raise DataError(f"{what} {int(numbers[outside][0])} is outside 0..{end - 1}")
    return numbers


def checked_codes(codes: Any, sizes: tuple[int, ...]) -> np.ndarray:
    """``codes`` as an array ``[N, L]``, N at least 1, of codes inside their codebooks."""
    table = as_integers(codes, "codes")
    if table.ndim != 2 or table.shape[0] == 0:
        raise DataError(f"codes of shape {table.shape}: expected one row of codes per item, [N, L]")
    if table.shape[1] != len(sizes):
        raise DataError(
            f"codes with {table.shape[1]} levels but {len(sizes)} codebook sizes: expected one "
            "size per level"
        )
    if table.shape[0] >= 2**31:
        raise DataError(f"{table.shape[0]} items: a trie holds fewer than {2**31}")
    columns = list(zip(table.T, sizes, strict=True))
    if any(column.min() < 0 or column.max() >= size for column, size in columns):
        outside = (table < 0) | (table >= np.asarray(sizes))
        row, level = (int(i) for i in np.argwhere(outside)[0])
        raise DataError(
            f"codes, row {row}, level {level}: code {table[row, level]} is outside "
            f"0..{sizes[level] - 1} ({int(outside.any(axis=1).sum())} such rows); "
            "check the codes or the codebook sizes"
        )
    wide = table.dtype.kind == "u" and table.dtype.itemsize == 8
    return table.astype(np.int64) if wide else table  # numpy adds int64 and uint64 as floats


def checked_ranks(ranks: Any, count: int, total: int, what: str) -> np.ndarray:
    """``ranks`` as int64 ``[count]``: different numbers of 0 to ``total - 1``."""
    array = as_integers(ranks, what)
    if array.shape != (count,):
        raise DataError(f"{what} of shape {array.shape}: expected one rank per item, {count}")
    array = array.astype(np.int64)
    inside = (array >= 0) & (array < total)
    if not inside.all():
        row = int(np.argmin(inside))
        raise DataError(f"{what}, row {row}: rank {array[row]} is outside 0..{total - 1}")
    counts = np.bincount(array, minlength=total)
    if counts.max() > 1:
        rank = int(np.argmax(counts))
        rows = np.flatnonzero(array == rank)[:2].tolist()
        raise DataError(
            f"{what}: rank {rank} in rows {rows[0]} and {rows[1]}; expected each rank once"
        )
    return array
