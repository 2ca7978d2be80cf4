from __future__ import annotations

import json

from genrec.pipeline import inspect


def test_inspect_gives_figures_and_writes_them(shop, tmp_path, capsys):
    out = tmp_path / "new" / "figures.json"
    summary = inspect(
        str(shop / "vocabulary"),
        vectors=str(shop / "vectors"),
        dataset=str(shop / "dataset"),
        out=str(out),
    )
    assert "SID vocabulary of 150 items" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert written.keys() == summary.keys()
