"""Embedders by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from genrec.embedding.base import Embedder
from genrec.embedding.collaborative import CollaborativeEmbedder
from genrec.embedding.fused import FusedEmbedder
from genrec.embedding.lexical import LexicalEmbedder
from genrec.embedding.precomputed import PrecomputedEmbedder
from genrec.embedding.text import TextEmbedder
from genrec.errors import ConfigError, expected_one_of

EMBEDDERS: dict[str, type[Embedder]] = {
    cls.type: cls
    for cls in (
        TextEmbedder,
        LexicalEmbedder,
        PrecomputedEmbedder,
        CollaborativeEmbedder,
        FusedEmbedder,
    )
}


def make_embedder(type: str, **kwargs: Any) -> Embedder:
    """Build an embedder from its name and its keyword arguments.

    The parts of a fused embedder may be configurations: `{"type": "lexical", "dim": 64}`.

    Raises:
        ConfigError: for an unknown name, a misspelt, missing or impossible argument.
    """
    if type not in EMBEDDERS:
        raise ConfigError(f"embedder type {type!r} is unknown; {expected_one_of(type, EMBEDDERS)}")
    cls = EMBEDDERS[type]
    fields = dataclasses.fields(cls)
    names = [field.name for field in fields]
    for key in kwargs:
        if key not in names:
            raise ConfigError(
                f"embedder {type!r} has no argument {key!r}; {expected_one_of(key, names)}"
            )
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in kwargs:
            raise ConfigError(f"embedder {type!r} needs the argument {field.name!r}")
    if "parts" in kwargs:
        kwargs["parts"] = [_part(part, number) for number, part in enumerate(kwargs["parts"])]
    try:
        return cls(**kwargs)
    except TypeError as error:
        raise ConfigError(f"embedder {type!r}: an argument has the wrong type ({error})") from error


def _part(part: Any, number: int) -> Embedder:
    if isinstance(part, Embedder):
        return part
    if not isinstance(part, Mapping) or "type" not in part:
        raise ConfigError(
            f"embedder 'fused': part {number} is {part!r}; expected a mapping with a 'type'"
        )
    return make_embedder(**part)
