from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot

from genrec.errors import ArtefactError
from genrec.pipeline.run_life import held, plot_learning_curve, start


def test_a_learning_curve_leaves_the_callers_pyplot_alone(tmp_path: Path):
    log = [{"epoch": 1.0, "loss": 2.0}, {"epoch": 1.0, "eval_ndcg@10": 0.1}]
    with mpl.rc_context():
        pyplot.switch_backend("svg")
        own = pyplot.figure()
        plot_learning_curve(log, tmp_path / "curve.png")
        assert mpl.get_backend() == "svg" and pyplot.gcf() is own
        pyplot.close(own)
        pyplot.switch_backend("agg")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_nothing_came_of_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, record: object) -> None:
        raise ArtefactError(f"{path}: no space")

    monkeypatch.setattr("genrec.pipeline.run_life.write_json", full)
    with pytest.raises(ArtefactError, match="no space"), held(tmp_path / "a"):
        start(tmp_path / "a", {}, resume=True)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    with held(tmp_path / "b"):
        pass
    assert (tmp_path / "b").exists()
