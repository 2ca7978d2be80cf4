"""One small shop, prepared once: dataset, vectors, SID vocabulary, two trained runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

SMALL = {"d_model": 16, "max_history": 12, "backbone": {"type": "transformer", "layers": 1}}


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `dataset`, `vectors`, `vocabulary`, `sid` and `ids`; not to be changed."""
    import torch

    from genrec.data.sources import prepare_generated
    from genrec.pipeline import embed, quantize, train
    from genrec.training import TrainingConfig

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("shop")
    dataset, vectors, vocabulary = (
        str(root / name) for name in ("dataset", "vectors", "vocabulary")
    )
    prepare_generated(dataset, num_items=150, num_users=200, max_length=14)
    embed(dataset, vectors, embedder={"type": "lexical", "dim": 16})
    quantizer = {"type": "rq-kmeans", "codebook_sizes": [8, 8, 8]}
    quantize(vectors, vocabulary, dataset=dataset, quantizer=quantizer, progress=False)
    plan: dict[str, Any] = {**SMALL, "training": TrainingConfig(epochs=2, batch_size=64)}
    train(dataset, str(root / "sid"), vocabulary=vocabulary, progress=False, **plan)
    plan |= {"item_encoder": {"type": "id"}, "head": {"type": "dense"}}
    train(dataset, str(root / "ids"), progress=False, **plan)
    return root


@pytest.fixture
def own_shop(shop: Path, tmp_path: Path) -> Path:
    """A copy of the shop that a test may spoil."""
    return Path(shutil.copytree(shop, tmp_path / "shop"))
