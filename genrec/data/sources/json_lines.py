"""Large files of one record a line, read block by block: JSON, or the Python literals of 2014."""

from __future__ import annotations

import ast
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrec.errors import DataError

BLOCK = 32 << 20


def read_blocks(path: Path, size: int = BLOCK) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, bytes of whole lines) until the end of a file or .gz.

    Memory stays at a few times `size` (or the longest line, if that is longer).

    Raises:
        DataError: if the file is missing, cannot be read, or its compression is broken.
    """
    line, rest = 1, b""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            while block := file.read(size):
                end = block.rfind(b"\n") + 1
                if end == 0:
                    rest += block
                    continue
                whole = rest + block[:end]
                rest = block[end:]
                yield line, whole
                line += whole.count(b"\n")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read after line {line - 1:,} ({error}); it may be truncated: fetch "
            "it again"
        ) from error
    if rest.strip():
        yield line, rest


def is_literal(line: bytes) -> bool:
    """Whether a record is a Python dict in its own notation: keys stand in single quotes."""
    return line.lstrip().startswith(b"{'")


def parse_record(line: bytes, literal: bool) -> dict[str, Any]:
    """One line as a dict; literals are parsed, never run.

    Raises:
        ValueError: saying what is wrong with it.
    """
    try:
        text = line.decode()
        record = ast.literal_eval(text.strip()) if literal else json.loads(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        kind = "a Python literal" if literal else "JSON"
        raise ValueError(f"is not {kind} ({_first_words(error)})") from error
    if not isinstance(record, dict):
        raise ValueError(f"is a {type(record).__name__}, no record in braces")
    return record


def _first_words(error: Exception) -> str:
    words = str(error.msg if isinstance(error, SyntaxError) else error) or type(error).__name__
    return words if len(words) < 120 else f"{words[:117]}..."
