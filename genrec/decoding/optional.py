"""Which packages that are not required are there."""

from __future__ import annotations

import functools
import importlib.util


@functools.cache
def installed(module: str) -> bool:
    """Whether a module can be imported; looked up once."""
    return importlib.util.find_spec(module) is not None
