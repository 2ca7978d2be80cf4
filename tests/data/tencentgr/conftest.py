from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from genrec.data.tencentgr import generate_tencentgr


@pytest.fixture(scope="session")
def huggingface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A download of 600 users in Hugging Face's layout."""
    place = tmp_path_factory.mktemp("tencentgr") / "huggingface"
    return generate_tencentgr(place, users=600, vectors=("emb_81_8", "emb_82_16"), seed=3)


@pytest.fixture(scope="session")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A download of 120 users in the contest's layout, with conversions."""
    place = tmp_path_factory.mktemp("tencentgr") / "competition"
    return generate_tencentgr(
        place,
        users=120,
        layout="competition",
        actions="10M",
        vectors=("emb_81_8", "emb_82_16"),
        max_length=40,
        seed=4,
    )


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Downloads of 30 users in both layouts, to be copied."""
    options: dict[str, Any] = {"users": 30, "items": 300, "max_length": 12, "seed": 1}
    return {
        layout: generate_tencentgr(
            tmp_path_factory.mktemp("small") / layout,
            layout=layout,
            vectors=("emb_81_4", "emb_82_6"),
            **options,
        )
        for layout in ("huggingface", "competition")
    }


@pytest.fixture
def files(tmp_path: Path, small: dict[str, Path]) -> Path:
    """A copy in Hugging Face's layout, to be damaged."""
    return Path(shutil.copytree(small["huggingface"], tmp_path / "files"))


@pytest.fixture
def contest(tmp_path: Path, small: dict[str, Path]) -> Path:
    """A copy in the contest's layout, to be damaged."""
    return Path(shutil.copytree(small["competition"], tmp_path / "contest"))


@pytest.fixture
def copy(tmp_path: Path, huggingface: Path) -> Path:
    return Path(shutil.copytree(huggingface, tmp_path / "files"))
