"""One small shop, prepared once: dataset, vectors, SID vocabulary, two trained runs."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

# Triton's kernels run in its interpreter, without a GPU; it reads this when it is imported. With a
# GPU, TRITON_INTERPRET=0 runs them there.
os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_finish() -> None:
    """Let each full round of the collector pass over what the imports made, which stays."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter clear them at its end."""
    gc.unfreeze()


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


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must fail: exit code 2, a message that says these things, no output."""

    from genrec import cli

    def run(args: Sequence[Any], *expected: Any, out: Path | None = None) -> str:
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(arg) for arg in args])
        captured = capsys.readouterr()
        message = captured.err.replace("\n", " ")
        assert end.value.code == 2
        assert "Traceback" not in message
        assert "error: " in message
        for words in expected:
            assert str(words) in message
        if out is not None:
            assert not out.exists()
        left = [p for p in tmp_path.rglob("*") if p not in before and p.name.startswith(".")]
        assert left == []
        return message

    return run
