"""Sources by name: a new one is one file in this package, a function under `@register("name")`."""

from __future__ import annotations

from collections.abc import Callable

from genrec.data.dataset import Dataset
from genrec.registry import registrar

# Called as source(folder, path, **options), without path where nothing is read; each returns the
# dataset it wrote.
SOURCES: dict[str, Callable[..., Dataset]] = {}
register = registrar(SOURCES)
