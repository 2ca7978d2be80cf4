"""Errors a user can act on; the command line prints their message and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GenrecError(ValueError):
    """Base class: bad input, named (file, column, row or id), with what to do about it."""


class DataError(GenrecError):
    """A table, a dataset folder or a vector file does not hold what it should."""


class ArtefactError(GenrecError):
    """A saved artefact is truncated, edited, or does not belong to what it is used with."""


class ConfigError(GenrecError):
    """A recipe or an argument is misspelt, missing or contradictory."""


def expected_one_of(given: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, then all of them."""
    known = list(known)
    near = difflib.get_close_matches(str(given), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}expected one of {', '.join(known)}" if known else "expected none"
