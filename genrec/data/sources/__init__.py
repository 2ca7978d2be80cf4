"""Where datasets come from: one file per source, each ending in `write_dataset`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from genrec.data.dataset import Dataset
from genrec.data.sources.tables import tables
from genrec.errors import ConfigError

# Every source is called as source(folder, path, **options) and returns the dataset it wrote.
SOURCES: dict[str, Callable[..., Dataset]] = {
    "tables": tables,
}


def prepare(
    source: str,
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Dataset:
    """Write a dataset folder from one of the SOURCES.

    Args:
        source: name in SOURCES.
        folder: dataset folder to write.
        path: file or folder to read.
        options: what the source takes besides.

    Raises:
        ConfigError: if there is no such source.
        DataError: if the data are not what the source expects.
    """
    if source not in SOURCES:
        raise ConfigError(f"source {source!r} is unknown; choose one of {sorted(SOURCES)}")
    return SOURCES[source](folder, path, **options)


__all__ = ["SOURCES", "prepare", "tables"]
