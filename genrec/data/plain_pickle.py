"""Pickle files that hold data only, read without the `pickle` module.

A pickle is a program for a small stack machine, and two of its instructions import and call any
function. The machine here knows the instructions that build dicts, lists, tuples, sets, integers
and text, and no others: what a file could run is not refused by a filter but does not exist.

    read_plain_pickle("seq_offsets.pkl")                  # Python objects
    read_plain_pickle("indexer.pkl", mapping=PairColumns) # dicts as columns, 16 bytes a pair
    read_plain_pickle("emb_81_32.pkl", arrays=True)       # arrays of numbers too

Arrays are read from their bytes by `genrec.data.pickled_arrays`. Keys are numbers and text, and
containers nested a hundred deep at most: what a file could make Python hash or walk is bounded.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from genrec.data.pickle_nesting import Nesting
from genrec.data.pickled_arrays import NotNumbers, built, called, named, places_read
from genrec.errors import DataError

_INT32 = struct.Struct("<i")
_UINT8 = struct.Struct("B")
_UINT16 = struct.Struct("<H")
_UINT32 = struct.Struct("<I")
_UINT64 = struct.Struct("<Q")
_DOUBLE = struct.Struct(">d")
_MARK = object()
_BUFFERED = 1 << 16
_KEYS = frozenset({int, str})
_ARRAY_KEYS = _KEYS | {float, bytes, bool, type(None)}


class Mapping(Protocol):
    """What a dict of the file becomes."""

    def put(self, keys: list[Any], values: list[Any]) -> None:
        """Add pairs; a later one replaces an earlier one of the same key."""
        ...


class PlainDict(dict[Any, Any]):
    """A dict."""

    def put(self, keys: list[Any], values: list[Any]) -> None:
        """See `Mapping`."""
        self.update(zip(keys, values, strict=True))


class PairColumns:
    """A large dict of integers as two columns; a dict of dicts keeps its parts in `parts`.

    Attributes:
        parts: values that are no integers, by key.

    Memory: 16 bytes a pair with integer keys, text keys take their length and 16.
    """

    def __init__(self) -> None:
        self.parts: dict[Any, Any] = {}
        self._keys: list[pa.Array] = []
        self._values: list[np.ndarray] = []
        self._waiting: tuple[list[Any], list[int]] = [], []
        self._pairs = 0
        self._wrong: TypeError | ValueError | OverflowError | None = None

    def put(self, keys: list[Any], values: list[Any]) -> None:
        """See `Mapping`."""
        if set(map(type, values)) - {int}:
            self.parts.update(zip(keys, values, strict=True))
            return
        self._pairs += len(keys)
        if self._wrong is not None:
            return
        self._waiting[0].extend(keys)
        self._waiting[1].extend(values)
        if len(self._waiting[0]) >= _BUFFERED:
            self._flush()

    def __len__(self) -> int:
        """Number of pairs of integers, and of parts."""
        return len(self.parts) + self._pairs

    def columns(self) -> tuple[pa.Array, np.ndarray]:
        """Keys (int64 or large_string) and values (int64), in the order of the file.

        A key that the file gives twice is there twice. Pairs that make no columns are an error
        here and not before: of a dict that nobody asks for, any key will do. The pairs are handed
        over, not kept beside the columns.

        Raises:
            TypeError: if keys are neither all integers nor all text.
            OverflowError: if one does not fit 64 bits.
            ValueError: if text is not Unicode.
        """
        self._flush()
        if self._wrong is not None:
            raise self._wrong
        if not self._keys:
            return pa.array([], pa.int64()), np.zeros(0, np.int64)
        if len({chunk.type for chunk in self._keys}) > 1:
            raise TypeError("keys are both integers and text")
        keys, self._keys = pa.concat_arrays(self._keys), []
        values, self._values = np.concatenate(self._values), []
        return keys, values

    def _flush(self) -> None:
        keys, values = self._waiting
        self._waiting = [], []
        if not keys:
            return
        kinds = set(map(type, keys))
        try:
            if len(kinds) > 1 or kinds - {int, str}:
                raise TypeError("keys are neither all integers nor all text")
            columns = (
                pa.array(keys, pa.int64() if kinds == {int} else pa.large_string()),
                np.array(values, dtype=np.int64),
            )
        except (TypeError, ValueError, OverflowError) as error:
            self._wrong, self._keys, self._values = error, [], []
            return
        self._keys.append(columns[0])
        self._values.append(columns[1])


def read_plain_pickle(
    path: str | os.PathLike[str],
    *,
    mapping: Callable[[], Mapping] = PlainDict,
    arrays: bool = False,
) -> Any:
    """The object of a pickle file of plain data, of any protocol.

    Nothing in the file can be imported, called or run. The file is read twice, so that what it does
    not read again is not kept; together it takes about a second per million values.

    Args:
        path: the file.
        mapping: makes the object for each dict.
        arrays: accept floating point numbers, bytes, None, True and False too, and arrays of
            numbers as numpy pickles them, which become a `PickledArray` each.

    Raises:
        DataError: if the file is missing, truncated or no pickle, or holds anything else than
            dicts, lists, tuples, sets, integers, text and those, a key or a set's member that is a
            container, or containers nested too deep; says at which byte.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _run(data, path, mapping, arrays)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read ({error}); fetch it again") from error


def _run(data: mmap.mmap, path: Path, mapping: Callable[[], Mapping], arrays: bool) -> Any:
    """Follow the instructions; the most frequent ones come first."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    wanted = places_read(data)
    nesting = Nesting(type(mapping()))
    hashed = _ARRAY_KEYS if arrays else _KEYS
    at = start = memoized = 0

    def to_mark() -> list[Any]:
        for depth in range(len(stack) - 1, -1, -1):
            if stack[depth] is _MARK:
                items = stack[depth + 1 :]
                del stack[depth:]
                return items
        raise IndexError

    def text(low: int, length: int) -> bytes:
        if low + length > len(data):
            raise IndexError
        return data[low : low + length]

    def put(container: Any, pairs: list[Any]) -> None:
        keys, values = pairs[::2], pairs[1::2]
        scalars(keys, "a dict has", "key")
        container.put(keys, values)
        nesting.put(container, values)

    def scalars(members: list[Any], what: str, role: str) -> None:
        # Python hashes a nested tuple by recursion in C, and a shared one once for each mention.
        if strange := set(map(type, members)) - hashed:
            kind = min(one.__name__ for one in strange)
            raise TypeError(f"{what} a {role} of type {kind}; expected whole numbers or text")

    def line() -> bytes:
        end = data.find(b"\n", at)
        if end < 0:
            raise IndexError
        return data[at:end]

    try:
        while True:
            start = at
            op = data[at]
            at += 1
            if op == 0x4A:  # BININT
                stack.append(_INT32.unpack_from(data, at)[0])
                at += 4
            elif op == 0x8A:  # LONG1
                length = data[at]
                stack.append(int.from_bytes(text(at + 1, length), "little", signed=True))
                at += 1 + length
            elif op == 0x4D:  # BININT2
                stack.append(_UINT16.unpack_from(data, at)[0])
                at += 2
            elif op == 0x4B:  # BININT1
                stack.append(data[at])
                at += 1
            elif op == 0x8C:  # SHORT_BINUNICODE
                length = data[at]
                stack.append(text(at + 1, length).decode("utf-8", "surrogatepass"))
                at += 1 + length
            elif op == 0x94:  # MEMOIZE
                if memoized in wanted:
                    memo[memoized] = stack[-1]
                memoized += 1
            elif op == 0x28:  # MARK
                stack.append(_MARK)
            elif op == 0x75 or op == 0x73:  # SETITEMS, SETITEM
                pairs = to_mark() if op == 0x75 else [stack.pop(-2), stack.pop()]
                if len(pairs) % 2 or not hasattr(stack[-1], "put"):
                    raise IndexError
                put(stack[-1], pairs)
            elif op == 0x65 or op == 0x61:  # APPENDS, APPEND
                items = to_mark() if op == 0x65 else [stack.pop()]
                if type(stack[-1]) is not list:
                    raise IndexError
                nesting.put(stack[-1], items)
                stack[-1].extend(items)
            elif op == 0x71:  # BINPUT
                if data[at] in wanted:
                    memo[data[at]] = stack[-1]
                memoized += 1
                at += 1
            elif op == 0x72:  # LONG_BINPUT
                place = _UINT32.unpack_from(data, at)[0]
                if place in wanted:
                    memo[place] = stack[-1]
                memoized += 1
                at += 4
            elif op == 0x68:  # BINGET
                stack.append(memo[data[at]])
                at += 1
            elif op == 0x6A:  # LONG_BINGET
                stack.append(memo[_UINT32.unpack_from(data, at)[0]])
                at += 4
            elif op == 0x58 or op == 0x8D:  # BINUNICODE, BINUNICODE8
                size = _UINT32 if op == 0x58 else _UINT64
                length = size.unpack_from(data, at)[0]
                stack.append(text(at + size.size, length).decode("utf-8", "surrogatepass"))
                at += size.size + length
            elif op == 0x47 and arrays:  # BINFLOAT
                stack.append(_DOUBLE.unpack_from(data, at)[0])
                at += 8
            elif op == 0x7D:  # EMPTY_DICT
                stack.append(nesting.made(mapping()))
            elif op == 0x5D:  # EMPTY_LIST
                stack.append(nesting.made([]))
            elif op == 0x29:  # EMPTY_TUPLE
                stack.append(nesting.made(()))
            elif op == 0x8F:  # EMPTY_SET
                stack.append(set())
            elif op == 0x90:  # ADDITEMS
                items = to_mark()
                if type(stack[-1]) is not set:
                    raise IndexError
                scalars(items, "a set has", "member")
                stack[-1].update(items)
            elif op in (0x85, 0x86, 0x87):  # TUPLE1 to TUPLE3
                count = op - 0x84
                if len(stack) < count:
                    raise IndexError
                items = stack[-count:]
                stack[-count:] = [nesting.made(tuple(items), items)]
            elif op == 0x74:  # TUPLE
                items = to_mark()
                stack.append(nesting.made(tuple(items), items))
            elif op == 0x6C:  # LIST
                items = to_mark()
                stack.append(nesting.made(items, items))
            elif op == 0x91:  # FROZENSET
                items = to_mark()
                scalars(items, "a set has", "member")
                stack.append(frozenset(items))
            elif op == 0x64:  # DICT
                pairs = to_mark()
                if len(pairs) % 2:
                    raise IndexError
                stack.append(nesting.made(mapping()))
                put(stack[-1], pairs)
            elif op == 0x8B:  # LONG4
                length = _INT32.unpack_from(data, at)[0]
                if length < 0:
                    raise IndexError
                stack.append(int.from_bytes(text(at + 4, length), "little", signed=True))
                at += 4 + length
            elif op in (0x49, 0x4C):  # INT, LONG
                word = line()
                if word in (b"00", b"01"):  # protocol 0 writes its booleans so
                    if not arrays:
                        raise _refused(path, start, "True or False")
                    stack.append(word == b"01")
                else:
                    stack.append(int(word.rstrip(b"L")))
                at += len(word) + 1
            elif op == 0x56:  # UNICODE
                word = line()
                stack.append(word.decode("raw-unicode-escape"))
                at += len(word) + 1
            elif op in (0x70, 0x67):  # PUT, GET
                word = line()
                if op == 0x70:
                    if int(word) in wanted:
                        memo[int(word)] = stack[-1]
                    memoized += 1
                else:
                    stack.append(memo[int(word)])
                at += len(word) + 1
            elif op == 0x80:  # PROTO
                at += 1
            elif op == 0x95:  # FRAME
                at += 8
            elif op == 0x2E:  # STOP
                if len(stack) != 1 or stack[0] is _MARK:
                    raise IndexError
                return stack[0]
            elif not arrays:
                raise _refused(path, start, _OTHERS.get(op, f"instruction {op:#04x}"))
            elif op in (0x43, 0x42, 0x8E, 0x96):  # SHORT_BINBYTES to BYTEARRAY8
                size = {0x43: _UINT8, 0x42: _UINT32}.get(op, _UINT64)
                length = size.unpack_from(data, at)[0]
                stack.append(text(at + size.size, length))
                at += size.size + length
            elif op == 0x52:  # REDUCE
                arguments = stack.pop()
                stack[-1] = called(stack[-1], arguments)
            elif op == 0x62:  # BUILD
                state = stack.pop()
                built(stack[-1], state)
            elif op == 0x93:  # STACK_GLOBAL
                name = stack.pop()
                stack[-1] = named(stack[-1], name)
            elif op == 0x63:  # GLOBAL
                module = line()
                at += len(module) + 1
                name = line()
                at += len(name) + 1
                stack.append(named(module.decode(), name.decode()))
            elif op in (0x4E, 0x88, 0x89):  # NONE, NEWTRUE, NEWFALSE
                stack.append(None if op == 0x4E else op == 0x88)
            elif op == 0x46:  # FLOAT
                word = line()
                stack.append(float(word))
                at += len(word) + 1
            else:
                raise _refused(path, start, _OTHERS.get(op, f"instruction {op:#04x}"), arrays)
    except NotNumbers as error:
        raise _refused(path, start, str(error), arrays) from error
    except (IndexError, KeyError, struct.error) as error:
        raise DataError(
            f"{path}: is truncated or no pickle (byte {start:,}); fetch it again"
        ) from error
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: byte {start:,}: {error}; fetch it again") from error


_OTHERS = {
    0x63: "the name of a class or function",
    0x93: "the name of a class or function",
    0x69: "an instance of a class",
    0x6F: "an instance of a class",
    0x81: "an instance of a class",
    0x92: "an instance of a class",
    0x52: "a call of a function",
    0x62: "a call of a function",
    0x50: "a persistent reference",
    0x51: "a persistent reference",
    0x82: "a registered extension",
    0x83: "a registered extension",
    0x84: "a registered extension",
    0x4E: "None",
    0x88: "True or False",
    0x89: "True or False",
    0x47: "a floating point number",
    0x46: "a floating point number",
    0x42: "bytes",
    0x43: "bytes",
    0x8E: "bytes",
    0x96: "bytes",
    0x54: "bytes",
    0x55: "bytes",
}


def _refused(path: Path, at: int, what: str, arrays: bool = False) -> DataError:
    more = ", numbers and numpy's arrays of numbers" if arrays else ", integers"
    return DataError(
        f"{path}: holds {what} at byte {at:,}, where dicts, lists, tuples, sets{more} and text "
        "are expected; nothing of it was run: do not open it with other programs, fetch the file "
        "from its publisher"
    )
