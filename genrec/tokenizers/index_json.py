"""SIDs as JSON: `*.index.json` of LETTER, LC-Rec, MiniOneRec, codebooks of UniGenRec, or codes.

One object: item -> list of tokens (`{"0": ["<a_183>", "<b_70>", "<c_232>"], ...}`), item -> tokens
with spaces between them (`{"0": "<L0_183> <L1_70> <L2_232>", ...}`), or item -> list of codes
(`{"0": [183, 70, 232], ...}`). The key is an item's number in the files that LETTER and the others
ship, and an item's id elsewhere.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrec.errors import DataError
from genrec.tokenizers.tokens import item_tokens, level_name, parse_token
from genrec.tokenizers.vocabulary import SidVocabulary

EXPECTED = (
    'expected one object such as {"0": ["<a_183>", "<b_70>"]}, {"0": "<L0_183> <L1_70>"} or '
    '{"0": [183, 70]}'
)


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of a JSON object in their order, keys that come twice included."""


def read_index_json(path: Path) -> tuple[list[str], np.ndarray]:
    """Keys (N strings, in the order of the file) and codes `int64 [N, L]`.

    No Python loop runs over the items: each distinct token is parsed once.

    Raises:
        DataError: naming the line, the key or the token that is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Pairs)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError
        raise DataError(f"{path}: is not JSON ({error}); {EXPECTED}") from error
    if not isinstance(content, _Pairs):
        raise DataError(f"{path}: holds {_kind(content)}; {EXPECTED}")
    if not content:
        raise DataError(f"{path}: holds no items; {EXPECTED}")
    keys = [key for key, _ in content]
    rows = [row for _, row in content]
    _check_distinct(path, keys)
    if set(map(type, rows)) == {str}:
        rows = list(map(str.split, rows))
    num_levels = _check_rows(path, keys, rows)
    flat = list(itertools.chain.from_iterable(rows))
    kinds = set(map(type, flat))
    if kinds == {str}:
        codes = _parse(path, keys, flat, num_levels)
    elif kinds == {int}:
        codes = _integers(path, keys, flat, num_levels)
    else:
        first = type(flat[0]) if type(flat[0]) in (str, int) else str
        place = next(n for n, value in enumerate(flat) if type(value) is not first)
        raise DataError(
            f"{path}: item {keys[place // num_levels]!r}: code {place % num_levels + 1} is "
            f"{_kind(flat[place])}; expected a token such as '<a_183>' everywhere, or an integer "
            "everywhere"
        )
    return keys, codes.reshape(len(keys), num_levels)


def write_index_json(vocabulary: SidVocabulary, path: Path, keys: Sequence[str]) -> None:
    """Write item -> list of tokens, one key per item in the order of the items."""
    content = dict(zip(keys, item_tokens(vocabulary).tolist(), strict=True))
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_distinct(path: Path, keys: list[str]) -> None:
    if len(set(keys)) == len(keys):
        return
    seen: set[str] = set()
    for place, key in enumerate(keys):
        if key in seen:
            raise DataError(
                f"{path}: item {key!r} comes twice, as entry {keys.index(key) + 1} and again as "
                f"entry {place + 1}; keep one entry per item"
            )
        seen.add(key)


def _check_rows(path: Path, keys: list[str], rows: list[Any]) -> int:
    """The number of levels, the same for all items."""
    if set(map(type, rows)) != {list}:
        place = next(n for n, row in enumerate(rows) if type(row) is not list)
        raise DataError(
            f"{path}: item {keys[place]!r}: is {_kind(rows[place])}; expected a list, or for every "
            "item a text of tokens with spaces between them"
        )
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    expected = int(np.bincount(lengths).argmax())
    wrong = np.flatnonzero((lengths != expected) | (lengths == 0))
    if len(wrong):
        place = int(wrong[0])
        raise DataError(
            f"{path}: item {keys[place]!r}: has {lengths[place]} codes, most items have "
            f"{expected}; every item needs one code per level"
        )
    return expected


def _parse(path: Path, keys: list[str], flat: list[str], num_levels: int) -> np.ndarray:
    table = {token: parse_token(token) for token in set(flat)}
    # -1 stands for what is no token; it is no level either.
    level_of = {token: -1 if pair is None else pair[0] for token, pair in table.items()}
    code_of = {token: -1 if pair is None else pair[1] for token, pair in table.items()}
    levels = np.fromiter(map(level_of.__getitem__, flat), dtype=np.int64, count=len(flat))
    wrong = np.flatnonzero(levels != np.tile(np.arange(num_levels), len(keys)))
    if len(wrong):
        place = int(wrong[0])
        level = place % num_levels
        raise DataError(
            f"{path}: item {keys[place // num_levels]!r}: token {level + 1} is {flat[place]!r}; "
            f"expected '<{level_name(level)}_CODE>' or '<L{level}_CODE>', its level and a number"
        )
    return np.fromiter(map(code_of.__getitem__, flat), dtype=np.int64, count=len(flat))


def _integers(path: Path, keys: list[str], flat: list[int], num_levels: int) -> np.ndarray:
    try:
        return np.array(flat, dtype=np.int64)
    except OverflowError:
        place = next(n for n, code in enumerate(flat) if not -(2**63) <= code < 2**63)
        raise DataError(
            f"{path}: item {keys[place // num_levels]!r}: code {place % num_levels + 1} is "
            f"{flat[place]}; expected a code, which fits 31 bits"
        ) from None


def _kind(value: Any) -> str:
    if isinstance(value, _Pairs):
        return "an object"
    return "a list" if isinstance(value, list) else json.dumps(value)
