from __future__ import annotations

from pathlib import Path

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
