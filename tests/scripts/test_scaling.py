from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from genrec.errors import ConfigError
from genrec.evaluation.scaling import PowerLaw

SCRIPT = Path(__file__).parents[2] / "scripts" / "scaling.py"


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def write(folder: Path, name: str, parameters: int, *, loss: float, head: str = "dense") -> None:
    run = folder / "runs" / name
    run.mkdir(parents=True)
    record = {"parameters": parameters, "model": {"head": {"type": head}}}
    (run / "run.json").write_text(json.dumps(record))
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
            write(tmp_path, f"{head}-{parameters}", parameters, loss=2.0, head=head)
    write(tmp_path, "denser", 10_000, loss=2.0)
    with pytest.raises(ConfigError, match="dense-10000 and parallel-10000 differ in head"):
        scaling.read_points(tmp_path)
    points = scaling.read_points(tmp_path, ["dense"])
    assert [point["run"].rpartition("-")[0] for point in points] == ["dense"] * 4
    with pytest.raises(ConfigError, match="no finished runs of dens "):
        scaling.read_points(tmp_path, ["dens"])
    with pytest.raises(ConfigError, match="no finished runs "):
        scaling.read_points(tmp_path / "elsewhere")


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
