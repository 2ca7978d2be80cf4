"""Where datasets come from: one file per source, each ending in `write_dataset`."""

from __future__ import annotations

import os
from typing import Any

from genrec.data.dataset import Dataset
from genrec.data.sources.amazon import prepare_amazon
from genrec.data.sources.generated import prepare_generated
from genrec.data.sources.movielens import prepare_movielens
from genrec.data.sources.registry import SOURCES, register
from genrec.data.sources.tables import prepare_tables
from genrec.data.sources.tencentgr import prepare_tencentgr
from genrec.errors import ConfigError
from genrec.registry import import_parts

import_parts(__name__, __path__)


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
        path: file or folder to read, if the source reads any.
        options: what the source takes besides.

    Raises:
        ConfigError: if there is no such source.
        DataError: if the data are not what the source expects.
    """
    if source not in SOURCES:
        raise ConfigError(f"source {source!r} is unknown; choose one of {sorted(SOURCES)}")
    where = () if path is None else (path,)
    return SOURCES[source](folder, *where, **options)


__all__ = [
    "SOURCES",
    "prepare",
    "prepare_amazon",
    "prepare_generated",
    "prepare_movielens",
    "prepare_tables",
    "prepare_tencentgr",
    "register",
]
