from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot

from genrec.pipeline.run_life import plot_learning_curve


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
