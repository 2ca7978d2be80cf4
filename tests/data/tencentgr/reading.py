"""Files of TencentGR read into a dataset, and changed before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrec.data import Dataset
from genrec.data.sources import prepare


def ready(place: Path, source: Path, **options: Any) -> Dataset:
    return prepare("tencentgr", place, source, progress=False, **options)


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    path = sorted(folder.glob("*.parquet"))[0]
    pq.write_table(change(pq.read_table(path)), path)
    return path
