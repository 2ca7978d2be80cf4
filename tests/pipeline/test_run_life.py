from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot

from genrec.errors import ArtefactError
from genrec.pipeline.run_life import plot_learning_curve, started

HOLDER = """
import sys
from pathlib import Path
from genrec.pipeline.run_life import started

with started(Path(sys.argv[1]), {"name": "first"}, resume=True):
    print("in it", flush=True)
    sys.stdin.read()
"""


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


@pytest.mark.skipif(sys.platform == "win32", reason="needs file locks of Unix")
def test_a_folder_is_for_one_training_until_its_process_is_gone(tmp_path: Path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == b"in it\n"
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with (
            pytest.raises(ArtefactError, match="another process trains in this folder"),
            started(folder, {"name": "second"}, resume=True),
        ):
            pass
        assert {path: path.read_bytes() for path in folder.rglob("*")} == before
        first.kill()
    for name in ("second", "third"):  # and one after another in one process
        with started(folder, {"name": name}, resume=True):
            assert name in (folder / "unfinished.json").read_text()


def test_a_folder_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(path: Path, record: object) -> None:
        raise ArtefactError(f"{path}: no space")

    monkeypatch.setattr("genrec.pipeline.run_life.write_json", full)
    with pytest.raises(ArtefactError, match="no space"), started(tmp_path / "a", {}, resume=True):
        pass
    assert not (tmp_path / "a").exists()
