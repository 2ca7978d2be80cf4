"""Files of one JSON value a line, in pieces of whole lines; errors name file and line."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrec.errors import DataError

PIECE = 64 << 20
LARGEST_ID = 2**62


def pieces(path: Path, size: int = PIECE) -> list[tuple[int, int]]:
    """Byte ranges of whole lines, each of about `size`; reads no more than a line at each end.

    Raises:
        DataError: if the file is missing.
    """
    try:
        total = path.stat().st_size
        found, low = [], 0
        with path.open("rb") as file:
            while low < total:
                file.seek(min(low + size, total))
                file.readline()
                high = min(file.tell(), total)
                found.append((low, high))
                low = high
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return found


def parsed_lines(path: Path, low: int, high: int) -> Iterator[tuple[int, Any]]:
    """(number of the line in its piece, value) of the lines in a byte range, but empty ones.

    Raises:
        DataError: at a line that is not JSON; names its number in the file.
    """
    with path.open("rb") as file:
        file.seek(low)
        number = 0
        while file.tell() < high:
            text = file.readline()
            number += 1
            if not text.strip():
                continue
            try:
                yield number, json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}: line {line_in_file(path, low, number)} is not JSON ({error}); it is "
                    "truncated or damaged, fetch the file again"
                ) from error


def line_in_file(path: Path, low: int, number: int) -> int:
    """The number in the file of line `number` of the piece that begins at byte `low`."""
    before = 0
    with path.open("rb") as file:
        while low > 0 and (block := file.read(min(low, 1 << 20))):
            before += block.count(b"\n")
            low -= len(block)
    return before + number


def raw_id(value: Any) -> int:
    """A raw id of an item: a whole number from 0 to 2**62, or the digits of one as text.

    Raises:
        ValueError: for anything else; numbers with a fraction or exponent and true and false are no
            ids, though Python would make integers of them.
    """
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not 0 <= value <= LARGEST_ID:
        raise ValueError(
            f"{reprlib.repr(value)} is no raw id; expected a whole number from 0 to 2**62"
        )
    return value
