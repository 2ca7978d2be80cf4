"""Models order on planted structure as they should, by the rows of the recipe, made small."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from genrec.artefacts import read_json
from genrec.data import evaluation_batches
from genrec.data.tencentgr import generate_tencentgr
from genrec.decoding import Filter
from genrec.evaluation import Evaluation, paired_difference
from genrec.evaluation.tencentgr import HIT_SHARE, NDCG_SHARE
from genrec.pipeline import run
from genrec.pipeline.runs import Run

RECIPE = Path(__file__).parents[2] / "recipes" / "tencentgr-generated.yaml"
#: From the worst to the best, and by how much each is at least above the one before: about half of
#: what was measured (.17, .18 and .06). `hstu` is told when the target happens: of what HSTU is
#: ahead of InfoNCE that is nearly all, and `hstu-event`, which is not told, is level with it here
#: as on docs/results/tencentgr.md.
ORDER = {"popularity": 0.0, "baseline-published": 0.08, "infonce": 0.08, "hstu": 0.025}
WRITES = "rq-target"


def smaller(plan: dict[str, Any]) -> dict[str, Any]:
    """Half of 800 users are asked; histories of 50 and batches of 32; models stay as they are."""
    plan["split"]["share"] = 0.5
    plan["runs"] = {name: plan["runs"][name] for name in (*list(ORDER)[1:], WRITES)}
    for row in plan["runs"].values():
        row["seeds"], row["max_history"] = [0], 50
        row["training"] = {**row["training"], "batch_size": 32}
    del plan["vocabularies"]["mhq"]
    plan["vocabularies"]["rq"]["quantizer"]["codebook_sizes"] = [16, 16, 16]
    plan["evaluate"] |= {"bootstrap": 0, "examples": 0, "beams": [10]}
    return plan


def scores(found: Evaluation, mask: str) -> np.ndarray:
    """The contest's score of each user."""
    hit, gain = (found.per_user(mask, f"{metric}@10") for metric in ("recall", "ndcg"))
    return np.asarray(HIT_SHARE * hit + NDCG_SHARE * gain)


@pytest.mark.slow
def test_models_order_as_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("GENREC_DATA", str(tmp_path))
    generate_tencentgr(
        tmp_path / "tencentgr-generated", users=800, items=1_500, candidates=400, max_length=50
    )
    plan = smaller(yaml.safe_load(RECIPE.read_text()))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plan))
    out = run(str(tmp_path / "recipe.yaml"), out=str(tmp_path / "out"), progress=False)

    ranks = {path.parents[1].name: path for path in out.rglob("ranks/test.parquet")}
    found = {name.removesuffix("-seed0"): Evaluation.load(path) for name, path in ranks.items()}
    assert found.keys() == {*ORDER, WRITES} and all(len(one) > 300 for one in found.values())
    for mask in ("unmasked", "masked"):
        for worse, better in itertools.pairwise(ORDER):
            apart = paired_difference(
                scores(found[better], mask), scores(found[worse], mask), replicates=1_000, seed=0
            )
            # Masked all are lower, and so are the differences.
            least = ORDER[better] if mask == "unmasked" else 0.5 * ORDER[better]
            assert apart.value > least and apart.low > 0, (mask, worse, better, apart)
        assert scores(found[WRITES], mask).mean() > 1.5 * scores(found["popularity"], mask).mean()

    written = Run.open(ranks[f"{WRITES}-seed0"].parents[1])
    assert read_json(written.folder / "metrics.json")["candidates"] == 400
    only_candidates_come_out(written)


def only_candidates_come_out(written: Run) -> None:
    data, split = written.data
    assert split.candidates is not None and written.vocabulary is not None
    trie = written.vocabulary.trie()
    assert len(split.candidates) == 400 < trie.num_items
    pool = Filter.allow(trie, split.candidates)
    asked = split.test.take(split.test.end > split.test.start)
    lists = [
        written.model.eval().search(batch, trie=trie, filter=pool, k=10, beam_width=10).items
        for _, batch in evaluation_batches(data.histories, asked, max_length=50, batch_size=128)
    ]
    items = torch.cat(lists).numpy()
    assert items.shape == (len(asked), 10) and np.isin(items, split.candidates).all()
    assert all(len(set(row)) == 10 for row in items.tolist())
