from __future__ import annotations

import json
import os
import shutil

import pandas as pd
import pytest
import yaml

from genrec.errors import ConfigError, GenrecError
from genrec.pipeline import Recipe, Run, run
from genrec.quantization import RQKMeans

TRAINING = {"epochs": 1, "batch_size": 64}


@pytest.fixture
def plan(tmp_path):
    """A recipe over a user's own tables; small enough to run in a second or two."""
    export = tmp_path / "export"
    export.mkdir()
    rows = [
        (f"u{user}", f"i{(user * 7 + 3 * step) % 40}", 1_600_000_000 + 86_400 * step)
        for user in range(40)
        for step in range(6)
    ]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    events.to_csv(export / "interactions.csv", index=False)
    words = ["red", "blue", "lamp", "chair", "desk", "soap"]
    items = [(f"i{n}", f"{words[n % 6]} {words[n % 5]} {words[n % 4]}") for n in range(40)]
    pd.DataFrame(items, columns=["item_id", "title"]).to_csv(export / "items.csv", index=False)
    return {
        "name": "small",
        "prepare": {"source": "tables", "path": "${EXPORT}"},
        "vectors": {"text": {"type": "lexical", "dim": 6}},
        "vocabularies": {
            "rq": {
                "vectors": "text",
                "quantizer": {"type": "rq-kmeans", "codebook_sizes": [4, 4, 4]},
            }
        },
        "runs": {
            "sid": {
                "vocabulary": "rq",
                "head": {"type": "parallel"},
                "d_model": 8,
                "training": dict(TRAINING),
            },
            "ids": {
                "item_encoder": {"type": "id"},
                "head": {"type": "dense"},
                "d_model": 8,
                "training": dict(TRAINING),
            },
        },
        "evaluate": {"bootstrap": 10, "beams": [], "examples": 1},
    }


@pytest.fixture
def recipe(plan, tmp_path, monkeypatch):
    """Writes the plan, runs it and tells which stages were done."""
    monkeypatch.setenv("EXPORT", str(tmp_path / "export"))
    path = tmp_path / "recipe.yaml"

    def go(**options):
        path.write_text(yaml.safe_dump(plan))
        notes = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/.stages").glob("*.json")}
        folder = run(str(path), out=str(tmp_path / "out"), **{"progress": False, **options})
        assert folder == tmp_path / "out"
        after = (tmp_path / "out/.stages").glob("*.json")
        return sorted(p.stem for p in after if notes.get(p) != p.stat().st_mtime_ns)

    go.path = path
    return go


ALL = ["dataset", "report", "runs.ids", "runs.sid", "vectors.text", "vocabularies.rq"]


def test_stages_are_done_once_and_again_where_their_settings_or_inputs_change(
    recipe, plan, tmp_path
):
    assert recipe() == ALL
    for place in ("dataset", "vectors/text", "vocabularies/rq", "runs/sid", "runs/ids"):
        assert (tmp_path / "out" / place).is_dir()
    assert (tmp_path / "out/report/report.html").is_file()
    assert recipe() == []
    plan["runs"]["ids"]["training"]["epochs"] = 2
    assert recipe() == ["report", "runs.ids"]
    assert Run.open(tmp_path / "out/runs/ids").config["training"]["epochs"] == 2
    plan["vocabularies"]["rq"]["collisions"] = "append"
    assert recipe() == ["report", "runs.sid", "vocabularies.rq"]
    plan["evaluate"]["ks"] = [5, 10]
    assert recipe() == ["report"]
    items = tmp_path / "export/items.csv"
    items.write_text(items.read_text() + "i99,green lamp\n")
    assert recipe() == ALL
    plan["split"] = {"order": "shuffled-day"}
    assert recipe() == [stage for stage in ALL if stage != "dataset"]
    assert recipe() == []


def test_a_default_that_changes_counts_like_a_setting(recipe, plan, monkeypatch):
    assert recipe() == ALL
    assert RQKMeans.__init__.__kwdefaults__["balanced"] is True
    monkeypatch.setitem(RQKMeans.__init__.__kwdefaults__, "balanced", False)
    assert recipe() == ["report", "runs.sid", "vocabularies.rq"]
    plan["vocabularies"]["rq"]["quantizer"]["balanced"] = False
    assert recipe() == []


def test_a_result_that_is_gone_is_made_again(recipe, tmp_path):
    recipe()
    (tmp_path / "out/report").rename(tmp_path / "elsewhere")
    assert recipe() == ["report"]


def test_what_was_made_from_a_result_that_is_gone_is_made_again_too(recipe, tmp_path):
    recipe()
    shutil.rmtree(tmp_path / "out/runs/sid")
    assert recipe() == ["report", "runs.sid"]
    shutil.rmtree(tmp_path / "out/vectors/text")
    assert recipe() == ["report", "runs.sid", "vectors.text", "vocabularies.rq"]
    assert recipe() == []


def test_a_run_per_seed(recipe, plan, tmp_path):
    del plan["runs"]["ids"]
    plan["runs"]["sid"]["seeds"] = [1, 2]
    assert recipe() == [
        "dataset", "report", "runs.sid-seed1", "runs.sid-seed2", "vectors.text", "vocabularies.rq",
    ]  # fmt: skip
    for seed in (1, 2):
        config = Run.open(tmp_path / f"out/runs/sid-seed{seed}").config
        assert config["training"]["seed"] == seed
        assert config["name"] == f"sid-seed{seed}"
    page = (tmp_path / "out/report/report.html").read_text()
    assert "sid-seed1" in page
    assert "sid-seed2" in page


def test_the_table_over_seeds_is_printed_where_the_report_is_not_all(recipe, plan, capsys):
    recipe(progress=True, only="ids")
    assert "results over seeds" not in capsys.readouterr().out
    plan["runs"]["ids"]["seeds"] = [1, 2]
    recipe(progress=True, only="ids")
    assert "results over seeds" in capsys.readouterr().out


def test_seeds_that_fit_the_vocabulary_too(recipe, plan, tmp_path):
    del plan["runs"]["ids"]
    plan["runs"]["sid"]["seeds"] = [0, 1, 2]
    assert "vocabularies.rq" in recipe(only="sid-seed0,sid-seed1")
    plan["runs"]["sid"]["reseed_vocabulary"] = True
    # Seed 0 is what it was; of the other seeds only the one asked for has its vocabulary made.
    assert recipe(only="sid-seed0,sid-seed1") == [
        "report",
        "runs.sid-seed1",
        "vocabularies.rq-seed1",
    ]
    assert recipe(only="sid-seed1") == ["report"]
    shutil.rmtree(tmp_path / "out/vocabularies/rq")
    assert recipe(only="sid-seed1") == []
    everything = recipe()
    assert [name for name in everything if "vocab" in name] == [
        "vocabularies.rq", "vocabularies.rq-seed2",
    ]  # fmt: skip
    assert recipe() == []
    runs = [Run.open(tmp_path / f"out/runs/sid-seed{seed}") for seed in (0, 1, 2)]
    kinds = [run.vocabulary for run in runs]
    assert [one.quantizer.seed for one in kinds] == [0, 1, 2]
    assert len({run.config["vocabulary_fingerprint"] for run in runs}) == 3
    assert len({run.config["tie_order_fingerprint"] for run in runs}) == 1
    assert not (kinds[1].codes == kinds[2].codes).all()
    assert {os.path.basename(run.config["vocabulary"]) for run in runs} == {
        "rq", "rq-seed1", "rq-seed2",
    }  # fmt: skip


def test_a_grid_of_settings_with_seeds_several_at_a_time(recipe, plan, tmp_path):
    del plan["runs"]["ids"]
    plan["runs"]["sid"]["sweep"] = {"training.learning_rate": [0.01, 0.001], "d_model": [8]}
    plan["runs"]["sid"]["seeds"] = [1, 2]
    plan["runs"]["sid"]["test_all"] = True
    names = [
        f"sid-d_model8-learning_rate{rate}-seed{seed}"
        for rate in ("0.001", "0.01")
        for seed in (1, 2)
    ]
    before = [f"runs.{name}" for name in names]
    first = recipe(only=names[2])
    assert before[2] in first and before[0] not in first
    assert recipe(jobs=2) == ["report", before[0], before[1], before[3]]
    assert recipe(jobs=2) == []
    for name, rate in zip(names, (0.001, 0.001, 0.01, 0.01), strict=True):
        config = Run.open(tmp_path / "out/runs" / name).config
        assert config["training"]["learning_rate"] == rate
        assert config["training"]["seed"] == int(name[-1])
    table = (tmp_path / "out/report/runs.md").read_text()
    assert table.count("| sid-d_model8") == 2
    assert "| sid-d_model8-learning_rate0.001 | 2 | ." in table
    # The same seeds and settings give the same models, each in a process of its own or not.
    alone = (
        run(str(recipe.path), out=str(tmp_path / "alone"), only=names[0], progress=False)
        / "runs"
        / names[0]
    )
    together = tmp_path / "out/runs" / names[0]
    assert (
        Run.open(alone).config["model_fingerprint"]
        == Run.open(together).config["model_fingerprint"]
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_fails_stops_no_other(recipe, plan, tmp_path, jobs):
    del plan["runs"]["sid"], plan["vocabularies"], plan["vectors"]
    plan["runs"]["ids"]["sweep"] = {"training.learning_rate": [1.0e39, 0.001, 0.01]}
    with pytest.raises(GenrecError) as raised:
        recipe(jobs=jobs)
    bad, *good = (f"ids-learning_rate{rate}" for rate in ("1e39", "0.001", "0.01"))
    assert f"1 of 3 runs failed: {bad} (" in str(raised.value)
    assert f"runs/{bad}: the training diverged before step" in str(raised.value)
    out = tmp_path / "out"
    validation = {n: Run.open(out / "runs" / n).config["validation"]["ndcg@10"] for n in good}
    best = max(validation, key=validation.get)
    assert [(out / "runs" / name / "metrics.json").is_file() for name in good] == [
        name == best for name in good
    ]
    table = (out / "report/runs.md").read_text()
    assert f"- `{bad}`: " in table and table.count("not tested") == 2
    before = [(out / "runs" / name / "run.json").stat().st_mtime_ns for name in good]
    with pytest.raises(GenrecError, match="1 of 3 runs failed"):
        recipe()
    assert before == [(out / "runs" / name / "run.json").stat().st_mtime_ns for name in good]
    plan["runs"]["ids"]["sweep"] = {"training.learning_rate": [0.001, 0.01]}
    assert recipe() == ["report"]
    assert "Failed" not in (out / "report/runs.md").read_text()


def test_jobs_below_one_are_refused(recipe):
    with pytest.raises(ConfigError, match="jobs=0; expected at least 1"):
        recipe(jobs=0)


def test_only_some_runs(recipe, plan, tmp_path):
    plan["runs"]["ids"]["seeds"] = [1, 2]
    recipe(only="ids-seed2")
    assert [p.name for p in (tmp_path / "out/runs").iterdir()] == ["ids-seed2"]
    assert not (tmp_path / "out/vectors").exists()
    plan["vectors"]["other"] = {"type": "lexical", "dim": 5}
    plan["vocabularies"]["other"] = {**plan["vocabularies"]["rq"], "vectors": "other"}
    assert recipe(only="sid,ids") == [
        "report", "runs.ids-seed1", "runs.sid", "vectors.text", "vocabularies.rq",
    ]  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"--only: unknown key 'ids-seed3'; did you mean 'ids-seed2'"
    ):
        recipe(only="ids-seed3")


def test_an_order_in_place_of_the_recipes(recipe, tmp_path, monkeypatch):
    recipe(order="shuffled-day", only="ids")
    assert Run.open(tmp_path / "out/runs/ids").config["split"]["order"] == "shuffled-day"
    with pytest.raises(ConfigError, match="order='random'"):
        recipe(order="random")


def test_an_interrupted_training_goes_on_and_one_whose_settings_changed_starts_over(
    recipe, plan, tmp_path, monkeypatch
):
    import sys

    module = sys.modules["genrec.pipeline.train"]
    real, calls = module.evaluate, []

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    plan["runs"] = {"ids": plan["runs"]["ids"]}
    plan["runs"]["ids"]["training"]["epochs"] = 3
    monkeypatch.setattr(module, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        recipe()
    recipe()
    assert len(calls) == 4  # one before the interruption, one lost to it, two afterwards

    calls.clear()
    plan["runs"]["ids"]["training"]["epochs"] = 4
    with pytest.raises(KeyboardInterrupt):
        recipe()
    plan["runs"]["ids"]["d_model"] = 16
    recipe()
    assert len(calls) == 6
    assert Run.open(tmp_path / "out/runs/ids").config["model"]["d_model"] == 16


def set_at(plan, path, value):
    *parents, last = path.split("/", 1) if path.endswith("../x") else path.split("/")
    last = int(last) if last.isdigit() else last
    for key in parents:
        plan = plan[key]
    plan[last] = value


WRONG = [
    ("pepare", {}, "unknown key 'pepare'; did you mean 'prepare'"),
    ("runs", [], "runs=[]; expected dict"),
    ("prepare/source", "table", "unknown source 'table'"),
    ("prepare/pth", "x", "prepare: unknown key 'pth'; did you mean 'path'"),
    ("prepare/drop_unknown", "yes", "prepare: drop_unknown='yes'; expected bool"),
    ("prepare/path", "${NOT_SET}", "environment variable NOT_SET is not set"),
    ("split", {"ordr": "file"}, "split: unknown key 'ordr'; did you mean 'order'"),
    ("split", {"order": "day"}, "split: order='day'"),
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
    ("evaluate/masks", ["mask"], "evaluate: masks=['mask']; expected list"),
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
    from genrec.errors import ArtefactError

    with pytest.raises(ArtefactError, match=f"{tmp_path / 'out'}"):
        recipe()


def test_files_beside_the_interactions_and_of_embedders_count_as_inputs(recipe, plan, tmp_path):
    export = tmp_path / "export"
    plan["prepare"].update(path=str(export / "interactions.csv"), items="items.csv")
    table = pd.DataFrame(
        {"item_id": [f"i{n}" for n in range(40)], "v": [[n, n * n % 7] for n in range(40)]}
    )
    table["v"] = [[float(x) for x in row] for row in table["v"]]
    table.to_parquet(tmp_path / "v.parquet")
    part = {"type": "precomputed", "path": str(tmp_path / "v.parquet")}
    plan["vectors"]["text"] = {"type": "fused", "parts": [part, {"type": "lexical", "dim": 4}]}
    del plan["runs"], plan["vocabularies"]
    assert recipe() == ["dataset", "vectors.text"]
    os.utime(tmp_path / "v.parquet")
    assert recipe() == ["vectors.text"]
    os.utime(export / "items.csv")
    assert recipe() == ["dataset", "vectors.text"]
    assert json.loads((tmp_path / "out/.stages/dataset.json").read_text())["done"] is True
