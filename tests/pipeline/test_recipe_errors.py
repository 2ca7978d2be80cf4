"""Recipes that cannot be run are refused before anything is done."""

from __future__ import annotations

import pytest
import yaml

from genrec.errors import ArtefactError, ConfigError
from genrec.pipeline import Recipe


def set_at(plan, path, value):
    *parents, last = path.split("/", 1) if path.endswith("../x") else path.split("/")
    last = int(last) if last.isdigit() else last
    for key in parents:
        plan = plan[key]
    plan[last] = value


WRONG = [
    ("pepare", {}, "unknown key 'pepare'; did you mean 'prepare'"),
    ("runs", [], "runs=[]; expected dict"),
    ("prepare/source", "table", "unknown source 'table'; did you mean 'tables'"),
    ("prepare/pth", "x", "prepare: unknown key 'pth'; did you mean 'path'"),
    ("prepare/drop_unknown", "yes", "prepare: drop_unknown='yes'; expected bool"),
    ("prepare/path", "${NOT_SET}", "environment variable NOT_SET is not set"),
    ("split", {"ordr": "file"}, "split: unknown key 'ordr'; did you mean 'order'"),
    ("split", {"order": "day"}, "split: order='day'"),
    ("split", {"order": "shufled-day"}, "order='shufled-day'; did you mean 'shuffled-day'"),
    ("split", {"type": "leave_one_out"}, "type='leave_one_out'; did you mean 'leave-one-out'"),
    ("vectors/text/typ", "x", "vectors: text: embedder 'lexical' has no argument 'typ'"),
    ("vectors/text/type", "lexcal", "vectors: text: embedder type 'lexcal' is unknown"),
    ("vectors/text/dim", "6", "vectors: text: embedder 'lexical': dim='6'; expected int"),
    ("vectors/text", {"dim": 6}, "vectors: text: embedder: needs a `type`"),
    ("vocabularies/rq/vectors", "txt", "vectors is 'txt'; expected one of the recipe's: text"),
    (
        "vocabularies/rq/collaborative",
        "side",
        "collaborative is 'side'; expected one of the recipe",
    ),
    ("vocabularies/rq/collaborative", "text", "rq: collaborative: quantizer 'rq-kmeans' does not"),
    ("vocabularies/rq/colisions", "allow", "did you mean 'collisions'"),
    ("vocabularies/rq/collisions", "alow", "collisions='alow'; expected reassign or append"),
    ("vocabularies/rq/quantizer/codebook", [4], "vocabularies: rq: quantizer 'rq-kmeans' has no"),
    ("vocabularies/rq/quantizer/codebook_sizes", [4, 0], "vocabularies: rq: "),
    ("vocabularies/rq/quantizer/type", "rqkmeans", "quantizer type 'rqkmeans' is unknown"),
    ("runs/sid/vocabulry", "rq", "runs: sid: unknown key 'vocabulry'; did you mean 'vocabulary'"),
    ("runs/sid/vocabulary", "opq", "vocabulary is 'opq'; expected one of the recipe's: rq"),
    ("runs/sid/vocabulary", None, "runs: sid: item encoder 'sid': needs a SID vocabulary"),
    ("runs/sid/head/temprature", 1, "runs: sid: head 'parallel': unknown key 'temprature'"),
    ("runs/sid/head/temperature", "hot", "head 'parallel': temperature='hot'; expected float"),
    ("runs/sid/head/temperature", 0, "head 'parallel': temperature=0; expected above 0"),
    ("runs/ids/head", {"type": "dense", "loss": "sample"}, "'sample'; did you mean 'sampled'"),
    ("runs/sid/head/type", "paralel", "head: unknown type 'paralel'"),
    ("runs/sid/backbone", {"type": "transformer", "layer": 1}, "unknown key 'layer'; did you mean"),
    ("runs/sid/backbone", {"layers": 1}, "runs: sid: backbone: needs a `type`"),
    ("runs/sid/backbone", {"type": "transformer", "heads": 3}, "heads=3 does not divide d_model=8"),
    ("runs/sid/item_encoder", {"type": "semantic"}, "'semantic': needs item vectors"),
    ("runs/sid/item_encoder", {"type": "time-gap"}, "'time-gap': says nothing of items"),
    ("runs/ids/vocabulary", "rq", "vocabulary is given, but item encoder 'id' and head 'dense' re"),
    ("runs/sid/vectors", "text", "vectors is given, but item encoder 'sid' and head 'parallel' re"),
    ("runs/sid/scale", "m", "scale='m' sets d_model to 96, which is 8 here; leave one of them"),
    ("runs/sid/sweep", {"scale": ["s", "m"]}, "sid-scales: scale='s' sets d_model to 64, which"),
    (
        "runs/sid/item_encoder",
        {"type": "sum", "parts": {"a": {"type": "sid", "pol": "sum"}}},
        "unknown key 'pol'; did you mean 'pool'",
    ),
    ("runs/sid/training/epocs", 3, "runs: sid: training: unknown key 'epocs'; did you mean"),
    ("runs/sid/training/epochs", "3", "runs: sid: training: epochs='3'; expected int"),
    ("runs/sid/training/epochs", 0, "training: epochs=0; expected at least 1"),
    ("runs/sid/training/learning_rate", "fast", "learning_rate='fast'; expected float"),
    ("runs/sid/d_model", "8", "runs: sid: d_model='8'; expected int"),
    ("runs/sid/max_history", 0, "max_history=0; expected at least 1"),
    ("runs/sid/seeds", [1, "2"], "seeds=[1, '2']; expected a list of integers"),
    ("evaluate/neighbours", "none", "evaluate: neighbours is 'none'; expected one of the recipe's"),
    ("runs/sid/reseed_vocabulary", True, "runs: sid: reseed_vocabulary needs `seeds`"),
    ("runs/sid/seeds", [1, 1], "runs: two runs are called 'sid-seed1'"),
    ("runs/sid/sweep", [1], "runs: sid: sweep=[1]; expected options with a list of values"),
    ("runs/sid/sweep", {"d_model": 8}, "runs: sid: sweep: d_model: 8; expected a list"),
    ("runs/sid/sweep", {"d_model.x": [8]}, "sweep: d_model.x: d_model has no options below it"),
    ("runs/sid/sweep", {"d_modle": [8]}, "unknown key 'd_modle'"),
    ("runs/sid/sweep", {"training.epoch": [8]}, "unknown key 'epoch'"),
    ("runs/sid/sweep", {"vectors": ["a/b"]}, "runs: sid-vectorsa/b: vectors is 'a/b'; expected"),
    ("runs/popularity", {}, "runs: popularity: is the name of a baseline"),
    ("evaluate/beam", 3, "evaluate: unknown key 'beam'; did you mean 'beams'"),
    ("evaluate/masks", ["mask"], "evaluate: masks=['mask']; expected a list of unmasked or masked"),
    ("evaluate/beam_width", "3", "evaluate: beam_width='3'; expected int"),
    ("evaluate/beam_width", 0, "evaluate: beam_width=0; expected at least 1"),
    ("evaluate/ks", [0], "evaluate: ks=[0]; expected numbers of at least 1"),
    ("evaluate/ks", [], "evaluate: ks=[]; expected one or more"),
    ("evaluate/masks", [], "evaluate: masks=[]; expected one or both"),
    ("evaluate/popularity", {"a": 1}, "evaluate: popularity={'a': 1}; expected bool"),
    ("evaluate/examples", -1, "evaluate: examples=-1; expected at least 0"),
    ("split", {"type": "temporal", "validation_from": "soon", "test_from": 9}, "'soon' is no"),
    ("split", {"type": "temporal", "validation_from": 9, "test_from": 8}, "must be before"),
    ("split", {"type": "leave-one-out", "draw": 3}, "only with last-click"),
    ("split", {"type": "leave-one-out", "share": 0.3}, "only with last-click"),
    ("split", {"type": "last-click", "share": 1.0}, "above 0 and below 1"),
    ("split", {"type": "temporal", "cut": "time"}, "needs validation_from"),
    ("split", {"type": "leave-one-out", "cut": "time"}, "only with last-click"),
    ("split", {"type": "leave-one-out", "train_on": "others"}, "only with last-click"),
    ("split", {"type": "last-click", "cut": "day"}, "expected position or time"),
    ("split", {"type": "last-click", "train_on": "all"}, "expected others or prefixes"),
    ("split", {"type": "last-click", "validation_share": 0.0}, "above 0 and below 1"),
    ("split", {"type": "last-click", "targets": [1, 3]}, "one or more of 0, 1 and 2"),
    ("split", {"type": "last-click", "targets": [1, 1]}, "one or more of 0, 1 and 2"),
    ("name", "../x", "name: '../x' names a folder; expected letters"),
    ("name", ".x", "name: '.x' names a folder"),
    ("runs/../x", {}, "runs: '../x' names a folder"),
    ("vectors/a b", {"type": "lexical"}, "vectors: 'a b' names a folder"),
    ("vocabularies/7", {"vectors": "text"}, "vocabularies: 7 names a folder"),
]


@pytest.mark.parametrize(
    ("path", "value", "expected"), WRONG, ids=[f"{p}={v}" for p, v, _ in WRONG]
)
def test_whatever_is_wrong_is_found_before_any_stage_runs(
    recipe, plan, tmp_path, path, value, expected
):
    set_at(plan, path, value)
    with pytest.raises(ConfigError) as raised:
        recipe()
    assert str(recipe.path) in str(raised.value)
    assert expected in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_run_named_as_another_with_its_seed(recipe, plan, tmp_path):
    plan["runs"]["sid"]["seeds"] = [0]
    plan["runs"]["sid-seed0"] = plan["runs"].pop("ids")
    with pytest.raises(ConfigError, match=r"recipe.yaml: runs: two runs are called 'sid-seed0'"):
        recipe()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["name", "prepare"])
def test_what_a_recipe_needs(recipe, plan, key):
    del plan[key]
    with pytest.raises(ConfigError, match=f"`{key}` is missing"):
        recipe()


def test_a_learning_rate_as_people_write_it(recipe, plan):
    recipe.path.write_text(yaml.safe_dump(plan).replace("batch_size: 64", "learning_rate: 1e-3"))
    loaded = Recipe.load(recipe.path)
    assert loaded.runs["sid"]["training"]["learning_rate"] == 0.001


def test_a_folder_that_cannot_be_written(recipe, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ArtefactError, match=f"{tmp_path / 'out'}"):
        recipe()
