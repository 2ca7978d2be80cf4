from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate_tencentgr.py"


def test_what_was_written_is_compared_with_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    spec = importlib.util.spec_from_file_location("generate_tencentgr_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    out = tmp_path / "files"
    told = ["--users", "40", "--items", "300", "--max_length", "12", "--progress", "false"]
    monkeypatch.setattr(sys, "argv", ["generate", str(out), *told])
    script.main()
    size, head, *lines = capsys.readouterr().out.splitlines()
    assert size.startswith(f"{out}: ") and "s of processor time" in size
    assert "published of TencentGR-1M" in head
    rows = {line[:50].strip(): line[50:].split() for line in lines}
    assert rows["users"] == ["40"]
    # A short history is said to be no such one.
    assert rows["longest history"] == ["12", "100;", "OUTSIDE", "100", "to", "100"]
    assert rows["clicks, share of known actions"][1:3] == ["9.81", "%;"]
