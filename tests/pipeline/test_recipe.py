from __future__ import annotations

import json
import os
import shutil

import pandas as pd
import pytest

from genrec.artefacts import read_json
from genrec.errors import ConfigError, GenrecError
from genrec.pipeline import Run, run
from genrec.quantization import RQKMeans

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


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_best_of_a_sweep_alone_gets_the_other_seeds(recipe, plan, tmp_path, jobs):
    del plan["runs"]["sid"], plan["vocabularies"], plan["vectors"]
    sweep = {"sweep": {"training.learning_rate": [1.0e-6, 0.01]}, "seeds": [1, 2]}
    plan["runs"]["ids"] |= {**sweep, "sweep_seeds": [2]}
    chosen = [f"runs.ids-learning_rate0.01-seed{seed}" for seed in (1, 2)]
    trained = [name for name in recipe(jobs=jobs) if name.startswith("runs.")]
    assert sorted(trained) == [*chosen, "runs.ids-learning_rate1e-06-seed2"]
    found = (tmp_path / "out/runs").glob("*/metrics.json")
    assert sorted(f"runs.{one.parent.name}" for one in found) == chosen
    table = (tmp_path / "out/report/runs.md").read_text()
    assert "| ids-learning_rate0.01 | 2 | ." in table
    assert "| ids-learning_rate1e-06 | 1 | ." in table
    assert recipe(jobs=jobs) == []
    # The other rate's second seed was not asked for until it is named.
    assert recipe(only="ids-learning_rate1e-06") == ["report", "runs.ids-learning_rate1e-06-seed1"]


def test_vocabularies_of_other_seeds_wait_for_the_choice(recipe, plan, tmp_path):
    del plan["runs"]["ids"]
    plan["vocabularies"]["other"] = {**plan["vocabularies"]["rq"], "seed": 5}
    plan["runs"]["sid"].pop("vocabulary")
    plan["runs"]["sid"] |= {
        "sweep": {"vocabulary": ["rq", "other"]},
        "seeds": [0, 1],
        "sweep_seeds": [0],
        "reseed_vocabulary": True,
    }
    recipe()
    made = {path.name for path in (tmp_path / "out/vocabularies").iterdir()}
    best = {path.parent.name for path in (tmp_path / "out/runs").glob("*/metrics.json")}
    (chosen,) = {name.removeprefix("sid-vocabulary")[: -len("-seed0")] for name in best}
    assert len(best) == 2
    assert made == {"rq", "other", f"{chosen}-seed1"}


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


def test_neighbours_by_vectors_that_no_run_reads(recipe, plan, tmp_path):
    plan["vectors"]["other"] = {"type": "lexical", "dim": 5}
    plan["evaluate"]["neighbours"] = "other"
    assert recipe(only="ids") == ["dataset", "report", "runs.ids", "vectors.other"]
    record = read_json(tmp_path / "out/report/last-item/metrics.json")
    assert record["vectors"] == "other"
    plan["vectors"]["other"]["dim"] = 4
    assert recipe(only="ids") == ["report", "vectors.other"]


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
