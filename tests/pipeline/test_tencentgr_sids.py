"""Semantic IDs of advertisements: as a feature of items, as what is written, and as both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec.data import Dataset, evaluation_batches
from genrec.data.sources import prepare
from genrec.data.tencentgr import generate_tencentgr
from genrec.decoding import Filter
from genrec.evaluation import ModelRanker
from genrec.pipeline import Run, embed, evaluate, quantize, train
from genrec.pipeline.settings import SplitConfig
from genrec.tokenizers import SidVocabulary
from genrec.training import TrainingConfig

SPLIT = SplitConfig(type="last-click", share=0.3)
QUANTIZERS: dict[str, dict[str, Any]] = {
    "rq": {"type": "rq-kmeans", "codebook_sizes": [8, 8, 8]},
    "mhq": {"type": "mhq", "num_subspaces": 2, "levels": 2, "codebook_size": 8, "epochs": 1},
}
FEATURES: dict[str, Any] = {
    "item": {"type": "features", "columns": ["reid", "101", "121"], "vectors": ["mm_81"]},
    "user": {"type": "user", "columns": ["103"]},
    "action": {"type": "action", "num_actions": 2},
}
CODES = {"codes": {"type": "sid", "pool": "sum"}}
DENSE = {"type": "dense", "loss": "infonce", "similarity": "cosine", "temperature": 0.1}


@pytest.fixture(scope="module")
def ads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ads")
    files = generate_tencentgr(
        root / "files", users=300, items=480, max_length=20, vectors=("emb_81_8",)
    )
    prepare("tencentgr", root / "dataset", files, progress=False)
    embed(
        str(root / "dataset"),
        str(root / "vectors"),
        embedder={"type": "precomputed", "column": "mm_81"},
        split=SPLIT,
        progress=False,
    )
    for name, quantizer in QUANTIZERS.items():
        quantize(
            str(root / "vectors"),
            str(root / name),
            quantizer=quantizer,
            dataset=str(root / "dataset"),
            split=SPLIT,
            progress=False,
        )
    return root


def trained(ads: Path, out: Path, vocabulary: str, parts: dict[str, Any], head: Any) -> Run:
    torch.set_num_threads(1)
    return train(
        str(ads / "dataset"),
        str(out),
        vocabulary=str(ads / vocabulary),
        item_encoder={"type": "sum", "parts": parts},
        backbone={"type": "hstu", "layers": 1, "heads": 1},
        head=head,
        d_model=16,
        max_history=20,
        training=TrainingConfig(epochs=1, batch_size=64, learning_rate=0.01),
        split=SPLIT,
        name="run",
        progress=False,
    )


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("vocabulary", "parts"), [("rq", FEATURES), ("mhq", FEATURES | CODES)])
def test_written_ids_are_those_of_candidates_alone(
    ads: Path, tmp_path: Path, vocabulary: str, parts: dict[str, Any], exact: bool
):
    run = trained(ads, tmp_path / "run", vocabulary, parts, {"type": "autoregressive"})
    data, split = run.data
    assert split.candidates is not None and run.vocabulary is not None
    pool = split.candidates
    trie = run.vocabulary.trie()
    outside = np.setdiff1d(np.arange(trie.num_items), pool)
    smaller = run.vocabulary.trie().remove(outside)
    assert smaller.num_live == len(pool) < trie.num_items
    model, asked = run.model.eval(), split.test
    asked = asked.take(asked.end > asked.start)  # no model reads an empty history
    for _, batch in evaluation_batches(data.histories, asked, max_length=20, batch_size=64):
        history = torch.where(batch["mask"], batch["items"], -1)
        for exclude in (None, history):
            options: dict[str, Any] = {
                "k": 10,
                "exclude": exclude,
                "beam_width": 12,
                "exact": exact,
            }
            found = model.search(batch, trie=trie, filter=Filter.allow(trie, pool), **options)
            # A trie of the pool alone finds the same: nothing else is there to be written.
            other = model.search(batch, trie=smaller, **options)
            assert bool((found.items >= 0).all())
            assert np.isin(found.items.numpy(), pool).all()
            assert torch.equal(found.items, other.items)
            torch.testing.assert_close(found.scores, other.scores)
            if exclude is not None:
                assert not (found.items[:, :, None] == history[:, None, :]).any()


def test_ids_as_a_feature_change_what_a_dense_head_finds(ads: Path, tmp_path: Path):
    run = trained(ads, tmp_path / "run", "rq", FEATURES | CODES, DENSE)
    found = evaluate(
        str(run.folder), str(tmp_path / "report"), bootstrap=0, examples=0, progress=False
    )["run"]
    data, split = run.data
    assert found.facts["users_without_history"] == (split.test.end == split.test.start).sum() > 0
    assert found.facts["candidates"] == len(split.candidates) == len(np.unique(split.candidates))
    model = run.model.eval()
    table = model.item_encoder.get_submodule("parts.codes").table.weight
    asked = split.test.take(split.test.end > split.test.start)
    batch = next(iter(evaluation_batches(data.histories, asked, max_length=20, batch_size=8)))
    ranker = ModelRanker(model)
    pool = Filter.allow(ranker.filters_for, split.candidates)
    before = model.search(batch[1], k=10, filter=pool)
    assert np.isin(before.items.numpy(), split.candidates).all()
    with torch.no_grad():
        table.copy_(torch.randn_like(table))
    assert not torch.equal(model.search(batch[1], k=10, filter=pool).items, before.items)


def test_an_item_without_a_vector_has_codes_and_is_found(ads: Path):
    """Zeros stand for missing vectors; collisions are resolved, so every item has its own tuple."""
    catalog = Dataset.load(ads / "dataset").catalog
    known = np.asarray(catalog.table.column("mm_81_known"))
    assert 0 < (~known).sum() < len(known) / 5
    for name in QUANTIZERS:
        codes = SidVocabulary.from_pretrained(ads / name).codes
        assert len(np.unique(np.asarray(codes), axis=0)) == len(known)
