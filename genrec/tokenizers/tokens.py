"""Semantic IDs as tokens of a language model: one special token per level and code, `<a_183>`.

The notation is that of LC-Rec (arXiv 2311.09049), which LETTER and MiniOneRec share: the letter is
the level, the number the code. The 27th level is `aa`, as the columns of a spreadsheet go on.
UniGenRec writes the level as a number, `<L0_183>`; that is read, not written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from genrec.tokenizers.vocabulary import SidVocabulary

_TOKEN = re.compile(r"<(?:([a-z]{1,3})|L(0|[1-9][0-9]{0,3}))_(0|[1-9][0-9]{0,9})>")


def sid_tokens(vocabulary: SidVocabulary) -> list[str]:
    """Special tokens of all levels and codes, those that no item has included.

    Example:
        `tokenizer.add_special_tokens({"additional_special_tokens": sid_tokens(vocabulary)})` of
        transformers, or `tokenizer.add_special_tokens(sid_tokens(vocabulary))` of tokenizers.

    Returns:
        `sum(codebook_sizes)` strings, level by level and code by code: code c of level l stands at
        `sum(codebook_sizes[:l]) + c`, whatever the items are.
    """
    return np.concatenate(token_table(vocabulary.codebook_sizes)).tolist()


def item_tokens(vocabulary: SidVocabulary) -> np.ndarray:
    """The tokens of every item, `object [N, L]` of `str`."""
    table = token_table(vocabulary.codebook_sizes)
    return np.column_stack([table[n][vocabulary.codes[:, n]] for n in range(len(table))])


def item_texts(vocabulary: SidVocabulary) -> list[str]:
    """The tokens of every item as one string, such as `<a_183><b_70><c_232>`; N strings."""
    return item_tokens(vocabulary).sum(axis=1).tolist()


def token_table(sizes: Sequence[int]) -> list[np.ndarray]:
    """Per level the tokens of its codes, `object [K_l]` of `str`."""
    return [
        np.array([f"<{level_name(level)}_{code}>" for code in range(size)], dtype=object)
        for level, size in enumerate(sizes)
    ]


def parse_token(token: str) -> tuple[int, int] | None:
    """Level and code of a token, `<b_70>` or `<L1_70>`; None if it is none."""
    found = _TOKEN.fullmatch(token)
    if found is None:
        return None
    letters, number, code = found.groups()
    if number is not None:
        return int(number), int(code)
    level = 0
    for letter in letters:
        level = level * 26 + ord(letter) - ord("a") + 1
    return level - 1, int(code)


def level_name(level: int) -> str:
    """`a` to `z`, then `aa`, `ab` ..."""
    name = ""
    number = level + 1
    while number:
        number, letter = divmod(number - 1, 26)
        name = chr(ord("a") + letter) + name
    return name
