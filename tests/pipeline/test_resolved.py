from __future__ import annotations

import json

import pytest

from genrec.embedding import LexicalEmbedder
from genrec.models import CausalTransformer, ParallelHead, SidEmbedding
from genrec.pipeline import evaluate, quantize, train
from genrec.pipeline.recipe import SUPPLIED_TO_EVALUATE
from genrec.pipeline.resolved import (
    resolved,
    resolved_embedder,
    resolved_run,
    resolved_vocabulary,
)
from genrec.pipeline.scales import SCALES
from genrec.quantization import RQKMeans
from genrec.training import TrainingConfig

RUN = {
    "item_encoder": {"type": "sum", "parts": {"codes": {"type": "sid"}}},
    "head": {"type": "parallel"},
    "training": {"epochs": 3},
}
FUSED = {"type": "fused", "parts": [{"type": "lexical", "dim": 8}]}


def of_evaluation(options):
    return resolved(evaluate, options, SUPPLIED_TO_EVALUATE)


@pytest.mark.parametrize(
    ("settings", "options", "function", "name", "value"),
    [
        (resolved_run, RUN, train, "max_history", 7),
        (resolved_run, RUN, SidEmbedding.__init__, "dropout", 0.7),
        (resolved_run, RUN, CausalTransformer.__init__, "layers", 7),
        (resolved_run, RUN, ParallelHead.__init__, "temperature", 0.7),
        (resolved_run, RUN, TrainingConfig.__init__, "batch_size", 7),
        (resolved_vocabulary, {"vectors": "text"}, quantize, "collisions", "append"),
        (resolved_vocabulary, {"vectors": "text"}, RQKMeans.__init__, "balanced", False),
        (resolved_embedder, FUSED, LexicalEmbedder.__init__, "template", "{title}"),
        (of_evaluation, {}, evaluate, "ks", [7]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_default_that_changes_shows(monkeypatch, settings, options, function, name, value):
    before = settings(options)
    assert settings(options) == before
    json.dumps(before)
    if function.__kwdefaults__ and name in function.__kwdefaults__:
        monkeypatch.setitem(function.__kwdefaults__, name, value)
    else:
        code, defaults = function.__code__, function.__defaults__
        first = code.co_argcount - len(defaults)
        place = code.co_varnames.index(name) - first
        changed = (*defaults[:place], value, *defaults[place + 1 :])
        monkeypatch.setattr(function, "__defaults__", changed)
    assert settings(options) != before


def test_a_default_that_is_written_out_changes_nothing():
    written = {**RUN, "max_history": 50, "head": {"type": "parallel", "temperature": 0.05}}
    assert resolved_run(written) == resolved_run(RUN)
    quantizer = {"type": "rq-kmeans", "balanced": True}
    expected = resolved_vocabulary({"vectors": "text"})
    assert resolved_vocabulary({"vectors": "text", "quantizer": quantizer}) == expected


def test_a_preset_that_changes_shows(monkeypatch):
    options = {**RUN, "scale": "xs"}
    before = resolved_run(options)
    assert before["d_model"] == SCALES["xs"][0] and before["backbone"]["layers"] == SCALES["xs"][1]
    monkeypatch.setitem(SCALES, "xs", (32, 3, 1))
    assert resolved_run(options)["backbone"] == {**before["backbone"], "layers": 3}


def test_what_run_gives_is_no_setting():
    given = {"dataset", "out", "split", "progress", "name", "resume"}
    assert not given & resolved_run(RUN).keys()
    assert not given & resolved_vocabulary({"vectors": "text"}).keys()
    assert not {"runs", "out", "dataset", "progress"} & of_evaluation({}).keys()
