"""Parts by name: one is known once its file is there.

A new part is one file in the package of its kind: a class, or of sources a function, under
`@register("name")`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from genrec.errors import ConfigError

P = TypeVar("P", bound=Callable[..., Any])


def registrar(parts: dict[str, Any]) -> Callable[[str], Callable[[P], P]]:
    """The decorator that adds classes or functions to `parts`, each under its name.

    Raises:
        ConfigError: where it is used, if another part has the name.
    """

    def register(name: str) -> Callable[[P], P]:
        def add(part: P) -> P:
            known = parts.get(name, part)
            if known.__qualname__ != part.__qualname__:
                raise ConfigError(
                    f"{part.__qualname__}: {known.__qualname__} is called {name!r} already; "
                    "register it under another name"
                )
            parts[name] = part
            return part

        return add

    return register


def import_parts(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that the parts in them are known.

    So none may need an extra, or take long: what does stands beside the package.

    Args:
        package: its name.
        path: its `__path__`.
    """
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
