"""Sources by name: one is known once its file is there.

A new source is one file in this package: a function under `@register("name")`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from genrec.data.dataset import Dataset
from genrec.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Dataset])

# Called as source(folder, path, **options), without path where nothing is read; each returns the
# dataset it wrote.
SOURCES: dict[str, Callable[..., Dataset]] = {}


def register(name: str) -> Callable[[F], F]:
    """Function decorator: make a source known as `name`.

    Raises:
        ConfigError: where it is used, if another function has the name.
    """

    def add(source: F) -> F:
        known = SOURCES.get(name, source)
        if known.__qualname__ != source.__qualname__:
            raise ConfigError(
                f"{source.__qualname__}: {known.__qualname__} is the source {name!r} already; "
                "register it under another name"
            )
        SOURCES[name] = source
        return source

    return add
