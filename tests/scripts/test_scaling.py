from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "scaling.py"


def test_run_folders_are_read_fitted_and_drawn(tmp_path):
    spec = importlib.util.spec_from_file_location("scaling", SCRIPT)
    scaling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scaling)
    for parameters in (10_000, 40_000, 160_000, 640_000, 2_560_000):
        run = tmp_path / "recipe/runs" / f"sid-{parameters}"
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"parameters": parameters}))
        loss = 2 + 30 * parameters**-0.4
        log = [{"epoch": 1, "loss": 9.0}, {"epoch": 2, "loss": loss}, {"eval_ndcg@10": 0.1}]
        (run / "log.json").write_text(json.dumps(log))
    out = tmp_path / "scaling"
    found = scaling.main([str(tmp_path / "recipe"), f"--out={out}", "--samples=20"])
    assert found["exponent"] == pytest.approx(0.4, abs=0.01)
    assert found["floor"] == pytest.approx(2, abs=0.02)
    assert json.loads(out.with_suffix(".json").read_text())["points"][0]["run"] == "sid-10000"
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
