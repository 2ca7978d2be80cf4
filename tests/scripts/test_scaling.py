from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from genrec.errors import ConfigError

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


def test_run_folders_are_read_fitted_and_drawn(scaling, tmp_path):
    for parameters in (10_000, 40_000, 160_000, 640_000, 2_560_000):
        run = tmp_path / "recipe/runs" / f"sid-{parameters}"
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"parameters": parameters}))
        loss = 2 + 30 * parameters**-0.4
        log = [
            {"epoch": 1.0, "loss": 9.0},
            {"epoch": 2.0, "loss": loss},
            {"epoch": 2.0, "eval_ndcg@10": 0.1},
        ]
        (run / "log.json").write_text(json.dumps(log))
    out = tmp_path / "scaling"
    found = scaling.main([str(tmp_path / "recipe"), f"--out={out}", "--samples=20"])
    assert found["exponent"] == pytest.approx(0.4, abs=0.01)
    assert found["floor"] == pytest.approx(2, abs=0.02)
    assert json.loads(out.with_suffix(".json").read_text())["points"][0]["run"] == "sid-10000"
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
