from __future__ import annotations

import json
from pathlib import Path

import pytest

from genrec.errors import ConfigError
from genrec.evaluation.scaling import PowerLaw
from tests.scripts.pages import load


@pytest.fixture(scope="module")
def scaling():
    load("results_checks")  # which the script finds beside itself
    return load("scaling")


@pytest.mark.parametrize(
    ("noted", "end"),
    [([2.0], 3.0), ([2.0, 4.0], 4.0), ([2.0], 2.0), ([], 1.0)],
    ids=["earlier", "two epochs", "two epochs alone", "none"],
)
def test_a_loss_of_other_epochs_is_refused(scaling, noted, end, tmp_path):
    log = [{"epoch": epoch, "loss": 1.0} for epoch in noted]
    (tmp_path / "log.json").write_text(json.dumps([*log, {"epoch": end, "eval_ndcg@10": 0.1}]))
    with pytest.raises(ConfigError, match=r"log\.json: .*eval_epochs: 1"):
        scaling.loss_of_last_epoch(tmp_path / "log.json")


def write(folder: Path, name: str, parameters: int, *, loss: float, **settings: object) -> None:
    run = folder / "runs" / name
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"parameters": parameters, **settings}))
    log = [
        {"epoch": 1.0, "loss": 9.0},
        {"epoch": 2.0, "loss": loss},
        {"epoch": 2.0, "eval_ndcg@10": 0.1},
    ]
    (run / "log.json").write_text(json.dumps(log))


def test_run_folders_are_read_fitted_and_drawn(scaling, tmp_path, capsys):
    for parameters in (10_000, 40_000, 160_000, 640_000, 2_560_000):
        loss = 2 + 30 * parameters**-0.4
        write(tmp_path / "recipe", f"sid-{parameters}", parameters, loss=loss)
    out = tmp_path / "scaling"
    found = scaling.main([str(tmp_path / "recipe"), f"--out={out}", "--samples=20"])
    assert found["exponent"] == pytest.approx(0.4, abs=0.01)
    assert found["floor"] == pytest.approx(2, abs=0.02)
    assert json.loads(out.with_suffix(".json").read_text())["points"][0]["run"] == "sid-10000"
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "Few sizes" in capsys.readouterr().out


def test_a_law_is_of_one_method(scaling, tmp_path):
    for head in ("dense", "parallel"):
        for parameters in (10_000, 40_000, 160_000, 640_000):
            model = {"d_model": parameters, "head": {"type": head}, "backbone": {"layers": 2}}
            training = {"seed": parameters, "learning_rate": 1 / parameters}
            name = f"{head}-{parameters}"
            write(tmp_path, name, parameters, loss=2.0, model=model, training=training)
    write(tmp_path, "denser", 10_000, loss=2.0)
    with pytest.raises(
        ConfigError, match=r"dense-10000 and parallel-10000 are .* model\.head\.type is"
    ):
        scaling.read_points(tmp_path)
    points = scaling.read_points(tmp_path, ["dense-*"])
    assert [point["run"].rpartition("-")[0] for point in points] == ["dense"] * 4
    assert len(scaling.read_points(tmp_path, ["denser", "dense-10000"])) == 2
    with pytest.raises(ConfigError, match="no finished runs of dens "):
        scaling.read_points(tmp_path, ["dens"])
    with pytest.raises(ConfigError, match="no finished runs "):
        scaling.read_points(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"backbone": {"dropout": 0.5}}},
        {"model": {"max_history": 50}},
        {"training": {"epochs": 3}},
        {"vocabulary": "../../vocabularies/opq"},
        {"vectors_fingerprint": "v"},
        {"split": {"order": "shuffled-day"}},
    ],
)
def test_sizes_differ_in_nothing_else(scaling, tmp_path, settings):
    common = {
        "model": {"backbone": {"dropout": 0.0}, "max_history": 20},
        "training": {"epochs": 2},
        "vocabulary": "../../vocabularies/rq-seed1",
        "vectors_fingerprint": "w",
        "split": {"order": "file"},
    }
    write(tmp_path, "a", 10_000, loss=2.0, **common)
    write(tmp_path, "b", 20_000, loss=2.0, **{**common, "vocabulary": "rq"})
    assert len(scaling.read_points(tmp_path)) == 2
    write(tmp_path, "c", 30_000, loss=2.0, **settings)
    with pytest.raises(ConfigError, match=r"a and c are no sizes of one method: .* is .* and "):
        scaling.read_points(tmp_path)


def test_a_law_that_is_not_determined_says_so_in_valid_json(scaling, tmp_path, monkeypatch):
    for parameters in (10_000, 40_000, 160_000, 640_000):
        write(tmp_path, f"a-{parameters}", parameters, loss=2.0)
    law = scaling.ScalingFit(
        law=PowerLaw(floor=1.0, scale=2.0, exponent=0.5, error=0.1),
        intervals={"floor": (0.0, 1.0), "scale": (0.1, float("inf")), "exponent": (-2.0, 9.0)},
        level=0.95,
    )
    monkeypatch.setattr(scaling, "bootstrap_power_law", lambda *given, **options: law)
    out = tmp_path / "law"
    scaling.main([str(tmp_path), f"--out={out}"])
    found = json.loads(out.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert found["intervals"]["scale"] == [0.1, None]
    assert "(exponent not determined: -2.000 to 9.000, 95%)" in scaling.described(law)
