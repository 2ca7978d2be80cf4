from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from genrec.data import Dataset, write_dataset


@pytest.fixture
def items() -> pd.DataFrame:
    return pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "B", None]})


@pytest.fixture
def events() -> pd.DataFrame:
    """Two users, out of order; u has a and b at the same moment."""
    return pd.DataFrame(
        {
            "user_id": ["u", "v", "u", "v", "u", "v"],
            "item_id": ["c", "a", "b", "b", "a", "c"],
            "timestamp": [300, 10, 200, 30, 200, 20],
        }
    )


@pytest.fixture
def small(tmp_path: Path, items: pd.DataFrame, events: pd.DataFrame) -> Dataset:
    return write_dataset(tmp_path / "small", items, events, {"name": "small"})


@pytest.fixture
def real() -> Path:
    """The folder of the real datasets."""
    folder = os.environ.get("GENREC_DATA")
    if not folder:
        pytest.skip("GENREC_DATA does not name the folder of the real datasets")
    return Path(folder)
