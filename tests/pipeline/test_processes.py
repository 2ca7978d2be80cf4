from __future__ import annotations

import os
import subprocess
import sys

from genrec.pipeline import Run


def test_two_processes_train_one_run(shop, tmp_path):
    out = tmp_path / "run"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    train = ["-m", "genrec.cli", "train", str(shop / "dataset"), str(out)]
    train += ["--vocabulary", str(shop / "vocabulary"), "--d_model=16", "--max_history=12"]
    train += ["--training.epochs=2", "--training.batch_size=16"]
    done = subprocess.run(
        [sys.executable, *launch, *train],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = Run.open(out)
    assert found.config["processes"] == 2
    assert found.model.config.d_model == 16
    assert done.stderr.count("kept epoch") == 1
    assert {path.name for path in out.iterdir()} == {
        "run.json", "model", "log.json", "learning_curve.png",
    }  # fmt: skip
