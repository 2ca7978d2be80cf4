"""A reading in stages: interrupted, repeated, by several processes, in small pieces."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genrec.artefacts import check_folder
from genrec.data.tencentgr import read_competition, vectors
from genrec.data.tencentgr import stage as stages
from genrec.data.tencentgr.lines import pieces
from tests.data.tencentgr.reading import ready, rewrite


def interrupted_after_seven(
    monkeypatch: pytest.MonkeyPatch, target: Path, source: Path
) -> list[str]:
    """The names of the units that were done when the reading of a download was interrupted."""
    done: list[str] = []
    real = stages._perform

    def interrupted(unit: stages.Unit, path: Path) -> None:
        if len(done) == 7:
            raise KeyboardInterrupt
        real(unit, path)
        done.append(unit.name)

    monkeypatch.setattr(stages, "_perform", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ready(target, source)
    return done


def test_an_interrupted_reading_goes_on(
    tmp_path: Path, huggingface: Path, monkeypatch: pytest.MonkeyPatch
):
    want = ready(tmp_path / "want", huggingface)
    real = stages._perform
    done = interrupted_after_seven(monkeypatch, tmp_path / "out", huggingface)
    assert not (tmp_path / "out").exists() and len(done) == 7
    again: list[str] = []
    monkeypatch.setattr(stages, "_perform", lambda u, p: (real(u, p), again.append(u.name)))
    dataset = ready(tmp_path / "out", huggingface)
    assert not set(done) & set(again) and dataset.fingerprint == want.fingerprint
    check_folder(tmp_path / "out", kind="dataset")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "want"], "nothing is left over"


def test_changed_files_are_read_again(tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stages.Stage, "remove", lambda self: None)
    before = ready(tmp_path / "out", copy)
    rewrite(copy / "seq", lambda table: table[:-1])
    assert len(ready(tmp_path / "out", copy).histories) == len(before.histories) - 1


@pytest.mark.slow
def test_several_processes_read_the_same(
    tmp_path: Path, huggingface: Path, monkeypatch: pytest.MonkeyPatch
):
    want = ready(tmp_path / "one", huggingface, workers=1)
    monkeypatch.setattr(stages, "_WORTH_PROCESSES", 0)
    assert ready(tmp_path / "two", huggingface, workers=2).fingerprint == want.fingerprint


@pytest.mark.slow
def test_processes_end_when_what_started_them_is_killed():
    code = (
        "import os, signal, time; from concurrent.futures import ProcessPoolExecutor as Pool;"
        "import multiprocessing; from genrec.data.tencentgr.stage import _end_with_parent;"
        "way = multiprocessing.get_context('spawn');"
        "pool = Pool(1, mp_context=way, initializer=_end_with_parent);"
        "print(pool.submit(os.getpid).result(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    place = Path("/proc", ended.stdout.decode().strip())
    assert ended.returncode == -signal.SIGKILL and place.name.isdigit()
    for _ in range(100):
        try:
            if "State:\tZ" in (place / "status").read_text():
                return
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {place.name} is still there")


def test_small_pieces_read_the_same(
    tmp_path: Path, competition: Path, monkeypatch: pytest.MonkeyPatch
):
    want = ready(tmp_path / "whole", competition, vectors=[81, 82])
    for module in (read_competition, vectors):
        monkeypatch.setattr(module, "pieces", lambda path: pieces(path, 4_000))
    real = read_competition._entries
    monkeypatch.setattr(read_competition, "_entries", lambda path: real(path, 700))
    made = ready(tmp_path / "parts", competition, vectors=[81, 82])
    assert made.fingerprint == want.fingerprint


def test_a_dataset_inside_the_download_goes_on(copy: Path, monkeypatch: pytest.MonkeyPatch):
    real = stages._perform
    done = interrupted_after_seven(monkeypatch, copy / "out", copy)
    (copy / "README.md").write_text("fetched later")
    again: list[str] = []
    monkeypatch.setattr(stages, "_perform", lambda u, p: (real(u, p), again.append(u.name)))
    ready(copy / "out", copy)
    assert again and not set(done) & set(again)


@pytest.mark.parametrize("name", ["indexer.pkl", "candidate", "mm_emb/emb_81_8_parquet"])
def test_each_file_that_is_read_counts(
    tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setattr(stages.Stage, "remove", lambda self: None)
    ready(tmp_path / "out", copy)
    place = copy / name
    path = place if place.is_file() else sorted(place.iterdir())[0]
    path.touch()
    again: list[str] = []
    real = stages._perform
    monkeypatch.setattr(stages, "_perform", lambda u, p: (real(u, p), again.append(u.name)))
    ready(tmp_path / "out", copy)
    assert any(unit.startswith("seq") for unit in again)
