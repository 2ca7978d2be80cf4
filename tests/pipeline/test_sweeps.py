from __future__ import annotations

import json
from pathlib import Path

import pytest

from genrec.errors import ConfigError, GenrecError
from genrec.pipeline.sweeps import (
    asked_runs,
    planned_runs,
    print_summary,
    runs_of_best,
    runs_to_test,
    summary,
    variants,
    write_summary,
)
from genrec.quantization import QUANTIZERS, Quantizer


def test_a_sweep_is_the_product_of_its_lists() -> None:
    run = {
        "d_model": 8,
        "backbone": {"type": "transformer", "dropout": 0.5},
        "sweep": {
            "backbone.dropout": [0.1, 0.3],
            "head.dropout": [0.0],
            "training.last_only": [True, False],
        },
    }
    found = variants("sid", run)
    assert list(found) == [
        f"sid-backbone.dropout{dropout}-head.dropout0-last_only{last}"
        for dropout in ("0.1", "0.3")
        for last in ("true", "false")
    ]
    chosen = found["sid-backbone.dropout0.3-head.dropout0-last_onlyfalse"]
    assert chosen == {
        "d_model": 8,
        "backbone": {"type": "transformer", "dropout": 0.3},
        "head": {"dropout": 0.0},
        "training": {"last_only": False},
    }
    assert run["backbone"]["dropout"] == 0.5
    assert variants("plain", {"d_model": 4}) == {"plain": {"d_model": 4}}


def test_names_of_large_and_near_values_are_names_of_folders() -> None:
    rates = [1e6, 1000001.0, 2e-7, 0.1234567, 0.1234568, 3, 2.5e9]
    found = variants("a", {"sweep": {"d": rates}})
    assert [name[3:] for name in found] == [
        "1e06", "1000001.0", "2e-07", "0.1234567", "0.1234568", "3", "2.5e09",
    ]  # fmt: skip


def test_null_and_lists_are_values() -> None:
    found = variants("a", {"sweep": {"backbone.windows": [[2, 1], [4], None], "d_model": [8]}})
    assert {name: one["backbone"]["windows"] for name, one in found.items()} == {
        "a-windows2_1-d_model8": [2, 1], "a-windows4-d_model8": [4], "a-windowsnull-d_model8": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"d_model": 8}, "d_model: 8; expected a list"),
        ({"d_model": []}, "expected a list"),
        ({"backbone": [{"type": "hstu"}]}, "expected a list of numbers"),
        ({"backbone.windows": [[[1]]]}, "expected a list of numbers"),
        ({"backbone.windows": [[]]}, "expected a list of numbers"),
        ({"d_model": ["8", 8]}, "two combinations are called 'a-d_model8'"),
        ({"training.eval_masked": [True, False]}, "eval_masked: defines the validation"),
        ({"training.eval_users": [100, None]}, "eval_users: defines the validation"),
        ({"training.seed": [0, 1]}, "would pick a seed; list them under `seeds`"),
    ],
)
def test_sweeps_that_make_no_sense(sweep: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        variants("a", {"sweep": sweep})


def test_validations_of_one_kind_stand_together(tmp_path: Path) -> None:
    planned = planned_runs({"a": {}, "b": {}, "c": {}, "d": {}})
    validated(tmp_path, {"a": 0.2, "b": 0.4, "c": 0.3, "d": 0.1})
    kinds = {"a": (False, None), "b": (True, None), "c": (False, None), "d": (True, 1500)}
    for name, (masked, users) in kinds.items():
        path = tmp_path / "runs" / name / "run.json"
        training = {"eval_masked": masked, "eval_users": users}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"training": training}))
    assert [(row[0], row[2]) for row in summary(tmp_path, planned, evaluated=[])] == [
        ("b", ".4000 masked"),
        ("d", ".1000 masked, 1,500 users"),
        ("c", ".3000 unmasked"),
        ("a", ".2000 unmasked"),
    ]


def test_runs_of_one_variant_differ_in_the_seed_alone() -> None:
    runs = {"a": {"seeds": [3, 4], "sweep": {"d_model": [8, 16]}}, "b": {"d_model": 2}}
    planned = planned_runs(runs)
    assert list(planned) == [
        "a-d_model8-seed3", "a-d_model8-seed4", "a-d_model16-seed3", "a-d_model16-seed4", "b",
    ]  # fmt: skip
    assert planned["a-d_model16-seed4"].variant == "a-d_model16"
    assert planned["a-d_model16-seed4"].options == {"d_model": 16, "training": {"seed": 4}}
    assert planned["b"].options == {"d_model": 2, "training": {}}


VOCABULARIES = {
    "rq": {"vectors": "text", "quantizer": {"type": "rq-kmeans", "codebook_sizes": [4, 4]}},
    "other": {"vectors": "text", "quantizer": {"type": "opq", "seed": 7}, "collisions": "allow"},
}


def test_seeds_fit_the_vocabulary_where_a_run_says_so() -> None:
    shared = {"vocabulary": "rq", "seeds": [0, 2]}
    runs = {
        "a": {**shared, "reseed_vocabulary": True},
        "b": {**shared, "reseed_vocabulary": True, "vocabulary": "other", "seeds": [7, 0]},
        "plain": {**shared, "reseed_vocabulary": False},
        "off": {**shared, "reseed_vocabulary": True, "vocabulary": None, "seeds": []},
    }
    planned = planned_runs(runs, VOCABULARIES)
    assert {name: one.options["vocabulary"] for name, one in planned.items()} == {
        "a-seed0": "rq", "a-seed2": "rq-seed2", "b-seed7": "other", "b-seed0": "other-seed0",
        "plain-seed0": "rq", "plain-seed2": "rq", "off": None,
    }  # fmt: skip
    made = {name: options for one in planned.values() for name, options in one.reseeded.items()}
    assert made == {
        "rq-seed2": {
            "vectors": "text",
            "quantizer": {"type": "rq-kmeans", "codebook_sizes": [4, 4], "seed": 2},
        },
        "other-seed0": {
            "vectors": "text",
            "quantizer": {"type": "opq", "seed": 0},
            "collisions": "allow",
        },
    }
    # What a training is told is what it was told before there was the option.
    assert planned["a-seed0"].options == planned["plain-seed0"].options
    assert planned["a-seed2"].options == {"vocabulary": "rq-seed2", "training": {"seed": 2}}
    assert VOCABULARIES["rq"]["quantizer"] == {"type": "rq-kmeans", "codebook_sizes": [4, 4]}


def test_each_vocabulary_of_a_sweep_is_fitted_with_the_seeds() -> None:
    run = {"seeds": [7], "reseed_vocabulary": True, "sweep": {"vocabulary": ["rq", "other"]}}
    planned = planned_runs({"a": run}, VOCABULARIES)
    read = [(name, one.options["vocabulary"]) for name, one in planned.items()]
    assert read == [("a-vocabularyrq-seed7", "rq-seed7"), ("a-vocabularyother-seed7", "other")]


class Seedless(Quantizer):
    """Draws nothing."""

    type = "seedless"
    codebook_sizes = (4,)

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": "rq"}, "a: reseed_vocabulary needs `seeds`"),
        ({"seeds": [1]}, "a: reseed_vocabulary: the run reads no vocabulary"),
        ({"seeds": [1], "vocabulary": None}, "reads no vocabulary"),
        ({"seeds": [1], "reseed_vocabulary": 1}, "reseed_vocabulary=1; expected true or false"),
        ({"seeds": [3], "vocabulary": "rq"}, "'rq-seed3', which is another vocabulary"),
        ({"seeds": [-1], "vocabulary": "rq"}, "seed: is -1; expected an integer of 0 or more"),
        (
            {"seeds": [1], "vocabulary": "fixed"},
            "quantizer 'seedless' of vocabulary 'fixed' has no",
        ),
    ],
)
def test_reseeding_that_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, options: dict, message: str
) -> None:
    monkeypatch.setattr(Seedless, "__abstractmethods__", frozenset())
    monkeypatch.setitem(QUANTIZERS, "seedless", Seedless)
    others = {"rq-seed3": VOCABULARIES["other"], "fixed": {"quantizer": {"type": "seedless"}}}
    with pytest.raises(ConfigError, match=message):
        planned_runs({"a": {"reseed_vocabulary": True, **options}}, VOCABULARIES | others)


@pytest.mark.parametrize("own", [True, False])
def test_the_table_has_mean_and_spread_best_validation_first(tmp_path: Path, own: bool) -> None:
    planned = planned_runs({"low": {"seeds": [0, 1]}, "high": {}})
    figures = {"low-seed0": 0.02, "low-seed1": 0.04, "high": 0.05}
    for name, value in figures.items():
        run = tmp_path / "runs" / name
        place = run if own else tmp_path / "report" / name
        for folder in (run, place):
            folder.mkdir(parents=True, exist_ok=True)
        about = {"validation": {"ndcg@10": value}, "parameters": 1200, "seconds": 90}
        (run / "run.json").write_text(json.dumps(about))
        metrics = {
            f"validation/unmasked/{metric}@{k}": {"value": value + k / 1000}
            for metric in ("ndcg", "recall")
            for k in (5, 10, 20)
        }
        (place / "metrics.json").write_text(json.dumps(metrics))
    rows = summary(tmp_path, planned, split="validation", own=own)
    high, low = rows
    assert high == ("high", "1", ".0500", "R@10 .0600, N@10 .0600", "", "1,200", "1.5")
    spread = "R@10 .0400 (.0141), N@10 .0400 (.0141)"
    assert low == ("low", "2", ".0300 (.0141)", spread, "", "1,200", "1.5")
    write_summary(tmp_path / "runs.md", rows)
    assert "| high | 1 | .0500 |" in (tmp_path / "runs.md").read_text()


def test_long_names_leave_the_figures_whole_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    metrics = "R@10 .1300 (.0000), N@10 .0633 (.0119)"
    rows = [
        (f"sasrec-learning_rate{rate}", "2", ".0463 (.0273) unmasked, .0656 decided", metrics)
        for rate in ("0.001", "0.01")
    ]
    print_summary([(*row, metrics, "116,096", "0.0") for row in rows])
    shown = capsys.readouterr().out
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80
    assert "0.001" in shown and ".0656 decided" in shown
    assert shown.count("N@10 .0633 (.0119)") == 4


def validated(folder: Path, figures: dict[str, float]) -> None:
    for name, value in figures.items():
        run = folder / "runs" / name
        run.mkdir(parents=True)
        about = {"validation": {"ndcg@10": value}, "parameters": 10, "seconds": 60}
        (run / "run.json").write_text(json.dumps(about))


def test_of_a_sweep_the_best_mean_validation_is_tested(tmp_path: Path) -> None:
    sweep = {"seeds": [0, 1], "sweep": {"d_model": [8, 16, 32]}}
    planned = planned_runs({"a": sweep, "b": {}, "c": {"sweep": {"d_model": [4, 8]}}})
    figures = {
        "a-d_model8-seed0": 0.9, "a-d_model8-seed1": 0.1, "a-d_model16-seed0": 0.6,
        "a-d_model16-seed1": 0.5, "b": 0.0, "c-d_model4": 0.2, "c-d_model8": 0.2,
        "a-d_model32-seed0": 0.8,
    }  # fmt: skip
    validated(tmp_path, figures)
    failed = {"a-d_model32-seed1": GenrecError("diverged")}
    found = runs_to_test(tmp_path, planned, failed)
    # The third width is incomplete, the first has the better seed but not the better mean.
    assert list(found) == ["a-d_model16-seed0", "a-d_model16-seed1", "b", "c-d_model4"]
    incomplete = {name: planned[name] for name in planned if name.startswith("a-d_model32")}
    assert list(runs_to_test(tmp_path, incomplete, failed)) == ["a-d_model32-seed0"]
    assert runs_to_test(tmp_path, {"a-d_model32-seed1": planned["a-d_model32-seed1"]}, failed) == {}
    everything = planned_runs({"a": {**sweep, "test_all": True}})
    assert "test_all" not in everything["a-d_model8-seed0"].options
    assert len(runs_to_test(tmp_path, everything, failed)) == 5


def test_seeds_that_decide_a_sweep_leave_the_others_to_the_best(tmp_path: Path) -> None:
    sweep = {"seeds": [0, 1, 2], "sweep_seeds": [1], "sweep": {"d_model": [8, 16]}}
    planned = planned_runs({"a": sweep, "b": {"seeds": [0, 1]}})
    assert [name for name, one in planned.items() if one.decides] == [
        "a-d_model8-seed1", "a-d_model16-seed1", "b-seed0", "b-seed1",
    ]  # fmt: skip
    assert "sweep_seeds" not in planned["a-d_model8-seed1"].options
    # The seeds that came later do not count, though the narrow one has the better mean by them.
    validated(tmp_path, {
        "a-d_model8-seed1": 0.2, "a-d_model16-seed1": 0.3, "b-seed0": 0.1, "b-seed1": 0.1,
        "a-d_model8-seed0": 0.9, "a-d_model16-seed0": 0.0, "a-d_model16-seed2": 0.1,
    })  # fmt: skip
    others = ["a-d_model16-seed0", "a-d_model16-seed2"]
    assert list(runs_of_best(tmp_path, planned)) == others
    trained = {
        name: one for name, one in planned.items() if one.decides or one.variant == "a-d_model16"
    }
    tested = ["a-d_model16-seed0", "a-d_model16-seed1", "a-d_model16-seed2", "b-seed0", "b-seed1"]
    assert list(runs_to_test(tmp_path, trained)) == tested
    failed = {"a-d_model16-seed1": GenrecError("diverged")}
    assert list(runs_of_best(tmp_path, planned, failed)) == ["a-d_model8-seed0", "a-d_model8-seed2"]


def test_runs_asked_for_without_those_that_decide_decide_themselves(tmp_path: Path) -> None:
    sweep = {"seeds": [0, 1], "sweep_seeds": [0], "sweep": {"d_model": [8, 16]}}
    planned = planned_runs({"a": sweep})
    width = asked_runs(planned, ["a-d_model8-seed0", "a-d_model8-seed1"])
    assert [one.decides for one in width.values()] == [True, False]
    mixed = asked_runs(planned, ["a-d_model8-seed0", "a-d_model16-seed1"])
    assert [one.decides for one in mixed.values()] == [True, True]
    alone = asked_runs(planned, ["a-d_model8-seed1", "a-d_model16-seed1"])
    assert [one.decides for one in alone.values()] == [True, True]
    assert [one.options for one in alone.values()] == [planned[name].options for name in alone]


@pytest.mark.parametrize(
    "options",
    [
        {"sweep_seeds": [1]},
        {"sweep_seeds": [1], "sweep": {"d_model": [8]}, "test_all": True},
        {"sweep_seeds": [2], "sweep": {"d_model": [8]}},
        {"sweep_seeds": 1, "sweep": {"d_model": [8]}},
        {"sweep_seeds": 0, "sweep": {"d_model": [8]}},
        {"sweep_seeds": [1], "sweep": {"d_model": [8]}, "seeds": None},
    ],
)
def test_deciding_seeds_that_make_no_sense(options: dict) -> None:
    with pytest.raises(ConfigError, match="a: sweep_seeds"):
        planned_runs({"a": {"seeds": [0, 1], **options}})


@pytest.mark.parametrize("off", [[], None])
def test_without_deciding_seeds_all_decide(off: object) -> None:
    planned = planned_runs(
        {
            "a": {"seeds": [0, 1], "sweep": {"d_model": [8]}, "sweep_seeds": off},
            "b": {"sweep_seeds": off},
        }
    )
    assert [one.decides for one in planned.values()] == [True, True, True]
    assert not any("sweep_seeds" in one.options for one in planned.values())


def test_the_table_is_in_the_order_by_which_a_sweep_was_decided(tmp_path: Path) -> None:
    sweep = {"seeds": [0, 1], "sweep_seeds": [0], "sweep": {"d_model": [8, 16]}}
    planned = planned_runs({"a": sweep})
    del planned["a-d_model8-seed1"]
    validated(
        tmp_path, {"a-d_model8-seed0": 0.2, "a-d_model16-seed0": 0.3, "a-d_model16-seed1": 0.0}
    )
    assert [row[:3] for row in summary(tmp_path, planned, evaluated=[])] == [
        ("a-d_model16", "2", ".1500 (.2121), .3000 decided"), ("a-d_model8", "1", ".2000"),
    ]  # fmt: skip


def test_the_table_says_what_was_not_tested_and_what_failed(tmp_path: Path) -> None:
    planned = planned_runs({"a": {"sweep": {"d_model": [8, 16]}}})
    validated(tmp_path, {"a-d_model8": 0.2, "a-d_model16": 0.3})
    metrics = {
        f"test/{mask}/{m}@10": {"value": 0.1}
        for mask in ("unmasked", "masked")
        for m in ("ndcg", "recall")
    }
    (tmp_path / "runs/a-d_model16/metrics.json").write_text(json.dumps(metrics))
    rows = summary(tmp_path, planned, evaluated=["a-d_model16"])
    assert [row[:5] for row in rows] == [
        ("a-d_model16", "1", ".3000", "R@10 .1000, N@10 .1000", "R@10 .1000, N@10 .1000"),
        ("a-d_model8", "1", ".2000", "not tested", "not tested"),
    ]
    write_summary(tmp_path / "runs.md", rows, {"b": GenrecError("diverged")})
    text = (tmp_path / "runs.md").read_text()
    assert "only the best variant by validation was tested" in text
    assert text.endswith("Failed, and in no row:\n\n- `b`: diverged\n")


@pytest.mark.parametrize(
    "options", [{"test_all": True}, {"test_all": 1, "sweep": {"d_model": [8]}}]
)
def test_all_needs_a_sweep(options: dict) -> None:
    with pytest.raises(ConfigError, match="expected true or false beside a sweep"):
        variants("a", options)
