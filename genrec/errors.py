"""Errors a user can act on; the command line prints their message and exits with code 2."""

from __future__ import annotations


class GenrecError(ValueError):
    """Base class: bad input, named (file, column, row or id), with what to do about it."""


class DataError(GenrecError):
    """A table, a dataset folder or a vector file does not hold what it should."""


class ArtefactError(GenrecError):
    """A saved artefact is truncated, edited, or does not belong to what it is used with."""


class ConfigError(GenrecError):
    """A recipe or an argument is misspelt, missing or contradictory."""
