"""Arrays of numbers inside a pickle, put together without a call of anything that the file names.

numpy writes an array as the names of a few functions, their arguments, and its numbers as bytes.
Here each of these names is an inert record, and what its call would make is made from the bytes,
after every argument was compared with those that numpy writes. Any other name, argument or type of
number is refused. `genrec.data.plain_pickle` follows the instructions.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import numpy as np

_UINT32 = struct.Struct("<I")
_UINT64 = struct.Struct("<Q")
_AXES = 64  # the most that numpy's arrays have


class NotNumbers(ValueError):
    """Says what a pickle holds in place of an array of numbers."""


class Name(Enum):
    """A name that numpy's pickles of arrays hold; nothing is looked up by it."""

    RECONSTRUCT = "numpy.core.multiarray._reconstruct"
    FROM_BUFFER = "numpy.core.numeric._frombuffer"
    SCALAR = "numpy.core.multiarray.scalar"
    ARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    ENCODE = "_codecs.encode"
    BYTES = "__builtin__.bytes"


@dataclass(eq=False, slots=True)
class Dtype:
    """A type of numbers: `f4` and, once it is known, its byte order."""

    code: str
    numbers: np.dtype[Any] | None = None


@dataclass(eq=False, slots=True)
class PickledArray:
    """An array of a pickle.

    Attributes:
        numbers: the array, read-only; None while the file has not said what is in it.
    """

    numbers: np.ndarray | None = None


_NAMES = {name.value: name for name in Name}
_CODES = {
    f"{kind}{size}"
    for kind, sizes in (("f", "248"), ("i", "1248"), ("u", "1248"))
    for size in sizes
}


def named(module: Any, name: Any) -> Name:
    """The record of a name.

    Raises:
        NotNumbers: if numpy's pickles of arrays do not hold it.
    """
    if isinstance(module, str) and isinstance(name, str):
        # numpy 2 moved its modules.
        found = _NAMES.get(f"{module}.{name}".replace("numpy._core.", "numpy.core."))
        if found is not None:
            return found
    # A container could be written out for ever.
    shown = ".".join(str(one)[:40] if type(one) in (str, int) else "?" for one in (module, name))
    raise NotNumbers(f"the name of a class or function ({shown})")


def called(name: Any, arguments: Any) -> Any:
    """What a call of a name makes: a `Dtype`, a `PickledArray`, a number or bytes.

    Raises:
        NotNumbers: if numpy does not write such a call, or it makes no numbers.
    """
    if not isinstance(name, Name) or type(arguments) is not tuple:
        raise NotNumbers("a call of a function")
    if name is Name.RECONSTRUCT and arguments == (Name.ARRAY, (0,), b"b"):
        return PickledArray()
    if name is Name.FROM_BUFFER and len(arguments) == 4 and arguments[3] in ("C", "F"):
        data, dtype, shape, order = arguments
        return PickledArray(_array(shape, dtype, order == "F", data))
    if name is Name.SCALAR and len(arguments) == 2:
        return _array((), arguments[0], False, arguments[1]).item()
    if name is Name.DTYPE and len(arguments) == 3 and type(arguments[0]) is str:
        if arguments[0] not in _CODES:
            raise NotNumbers(f"an array of the type {arguments[0][:20]!r}")
        return Dtype(arguments[0])
    if name is Name.BYTES and arguments == ():  # so the first protocols write none
        return b""
    if name is Name.ENCODE and len(arguments) == 2 and type(arguments[0]) is str:
        try:
            if arguments[1] in ("latin1", "latin-1"):
                return arguments[0].encode("latin1")
        except UnicodeEncodeError as error:
            raise NotNumbers(f"bytes that are none ({error.reason})") from error
    raise NotNumbers(f"a call of {name.value} with arguments that numpy does not write")


def built(what: Any, state: Any) -> None:
    """Tell an array or a type what numpy wrote of it.

    Raises:
        NotNumbers: if numpy does not write this, or it is not of an array of numbers.
    """
    if type(state) is tuple and isinstance(what, Dtype) and len(state) == 8:
        order = state[1]
        whole = order in ("<", ">") or (order == "|" and what.code.endswith("1"))
        if state[0] == 3 and whole and state[2:5] == (None, None, None):
            what.numbers = np.dtype(f"{order}{what.code}")
            return
    elif type(state) is tuple and isinstance(what, PickledArray) and len(state) == 5:
        version, shape, dtype, fortran, data = state
        if version == 1 and fortran in (0, 1):
            what.numbers = _array(shape, dtype, bool(fortran), data)
            return
    elif not isinstance(what, (Dtype, PickledArray)):
        raise NotNumbers("an instance of a class")
    raise NotNumbers("the state of an array as numpy does not write it")


def _array(shape: Any, dtype: Any, fortran: bool, data: Any) -> np.ndarray:
    """The array of `data`, which is not copied."""
    if not isinstance(dtype, Dtype) or dtype.numbers is None or type(data) is not bytes:
        raise NotNumbers("an array without its type or its bytes")
    whole = type(shape) is tuple and len(shape) <= _AXES
    if not whole or any(type(n) is not int or not 0 <= n < 2**63 for n in shape):
        raise NotNumbers("an array of no shape")
    # Compared in Python's integers: a shape that lies takes no memory.
    if prod(shape) * dtype.numbers.itemsize != len(data):
        raise NotNumbers(
            f"an array of the shape {str(shape)[:60]} with {len(data):,} bytes of {dtype.code}"
        )
    try:
        return np.ndarray(shape, dtype.numbers, data, order="F" if fortran else "C")
    except (ValueError, OverflowError) as error:
        raise NotNumbers(f"an array of the shape {str(shape)[:60]} ({error})") from error


_OPERANDS = {
    **dict.fromkeys(b"(NRabdelstu]})\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94", 0),
    **dict.fromkeys(b"Khq\x80", 1),
    **dict.fromkeys(b"M", 2),
    **dict.fromkeys(b"Jjr", 4),
    **dict.fromkeys(b"G\x95", 8),
}
_LINES = {**dict.fromkeys(b"FILVgp", 1), ord("c"): 2}
_LENGTHS = {
    **dict.fromkeys(b"C\x8a\x8c", struct.Struct("B")),
    **dict.fromkeys(b"BX\x8b", _UINT32),
    **dict.fromkeys(b"\x8d\x8e\x96", _UINT64),
}


def places_read(data: mmap.mmap) -> set[int]:
    """Places of a pickle's memory that it reads again.

    A pickle puts every array, its bytes and its tuples there, five places a vector, and reads few
    of them: what is at the others need not be kept until the end.
    """
    found = set()
    at = 0
    try:
        while (op := data[at]) != 0x2E:  # STOP
            size = _OPERANDS.get(op)
            if size is not None:
                if op == 0x68:  # BINGET
                    found.add(data[at + 1])
                elif op == 0x6A:  # LONG_BINGET
                    found.add(_UINT32.unpack_from(data, at + 1)[0])
                at += 1 + size
            elif op in _LENGTHS:
                length = _LENGTHS[op]
                at += 1 + length.size + length.unpack_from(data, at + 1)[0]
            else:
                start = at + 1
                for _ in range(_LINES[op]):
                    at = data.find(b"\n", at + 1)
                    if at < 0:
                        return found
                if op == 0x67:  # GET
                    found.add(int(data[start:at]))
                at += 1
    except (IndexError, KeyError, ValueError, struct.error):
        pass  # a damaged file: it is refused where its instructions are followed
    return found
