"""A training run killed with SIGKILL half-way and resumed ends as one left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genrec.errors import ArtefactError, ConfigError
from genrec.pipeline import Run, evaluate, train
from genrec.training import TrainingConfig
from genrec.training.checkpoints import log_of

EPOCHS = 14
OPTIONS = {"d_model": 16, "max_history": 12, "backbone": {"type": "transformer", "layers": 1}}


def run(shop: Path, out: Path, *, progress: bool = False, **training) -> Run:
    torch.set_num_threads(1)
    settings = {"epochs": EPOCHS, "batch_size": 16, "learning_rate": 1e-2, **training}
    return train(
        str(shop / "dataset"),
        str(out),
        vocabulary=str(shop / "vocabulary"),
        training=TrainingConfig(**settings),
        name="run",
        progress=progress,
        **OPTIONS,
    )


def kill_half_way(shop: Path, out: Path, **training) -> None:
    """The same training in a process of its own, killed once a third checkpoint is there."""
    settings = {"epochs": EPOCHS, "batch_size": 16, "learning_rate": 1e-2, **training}
    options = [f"--training.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "genrec.cli", "train", str(shop / "dataset"), str(out)]
    command += ["--vocabulary", str(shop / "vocabulary"), "--name", "run", "--progress=false"]
    command += ["--d_model=16", "--max_history=12", "--backbone.layers=1", *options]
    with subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            numbers = [int(p.name[11:]) for p in out.glob("checkpoints/checkpoint-*")]
            if any(number >= 3 * STEPS for number in numbers):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
    assert not (out / "run.json").exists()
    with pytest.raises(ArtefactError, match="finish it with the same `genrec train`"):
        Run.open(out)


STEPS = 13  # of one epoch: 200 users in batches of 16


@pytest.mark.parametrize(
    "training", [{}, {"average": 0.9, "patience": 4}], ids=["plain", "average and patience"]
)
def test_killed_and_resumed_is_left_alone(shop, tmp_path, training):
    whole = run(shop, tmp_path / "whole", **training)
    kill_half_way(shop, tmp_path / "killed", **training)
    # The newest may have been killed as it was written.
    spent = [log_of(folder) for folder in (tmp_path / "killed" / "checkpoints").glob("*")]
    killed_at = max(entry.get("seconds", 0) for log in spent for entry in log)
    resumed = run(shop, tmp_path / "killed", **training)

    one, other = (load_file(r.folder / "model" / "model.safetensors") for r in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.config["validation"] == resumed.config["validation"]
    assert resumed.config["seconds"] > killed_at > 0
    trained_at = max(entry.get("training_seconds", 0) for log in spent for entry in log)
    assert resumed.config["seconds"] > resumed.config["training_seconds"] > trained_at > 0
    assert trained_at < killed_at
    for name in ("cpu_seconds", "training_cpu_seconds"):
        spent_at = max(entry.get(name, 0) for log in spent for entry in log)
        assert resumed.config[name] > spent_at > 0
    assert resumed.config["cpu_seconds"] > resumed.config["training_cpu_seconds"]
    logs = [json.loads((r.folder / "log.json").read_text()) for r in (whole, resumed)]
    for key in ("loss", "eval_ndcg@10", "eval_recall@10"):
        found = [[(e["epoch"], e[key]) for e in log if key in e] for log in logs]
        assert found[0] == found[1]
    metrics = [
        evaluate(str(r.folder), str(tmp_path / "report"), beams=[], bootstrap=0, progress=False)
        for r in (whole, resumed)
    ]
    values = [{key: found.value for key, found in each["run"].metrics.items()} for each in metrics]
    assert values[0] == values[1]
    record = json.loads((resumed.folder / "metrics.json").read_text())
    assert record["run_cpu_seconds"] == round(resumed.config["cpu_seconds"], 1)
    assert {p.name for p in resumed.folder.iterdir()} == {
        "run.json", "model", "log.json", "learning_curve.png", "metrics.json", "ranks",
    }  # fmt: skip


def interrupt(shop, out, monkeypatch, **training):
    """Stop the training at its second validation, as Ctrl-C would."""
    import genrec.pipeline.train  # noqa: F401

    module = sys.modules["genrec.pipeline.train"]
    calls, real = [], module.evaluate

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "evaluate", stop)
        run(shop, out, **training)


def test_checkpoints_of_another_configuration_are_refused(shop, tmp_path, monkeypatch):
    out = tmp_path / "run"
    interrupt(shop, out, monkeypatch, epochs=3)
    with pytest.raises(ConfigError, match=r"unfinished run with another training.*--resume false"):
        run(shop, out, epochs=4)
    with pytest.raises(ConfigError, match=r"unfinished run with another model"):
        train(
            str(shop / "dataset"),
            str(out),
            vocabulary=str(shop / "vocabulary"),
            training=TrainingConfig(epochs=3, batch_size=16, learning_rate=1e-2),
            progress=False,
            **{**OPTIONS, "d_model": 32},
        )
    assert run(shop, out, epochs=3).config["training"]["epochs"] == 3


def test_a_finished_run_stays_whole_until_the_next_is_finished(shop, tmp_path, monkeypatch):
    out = tmp_path / "run"
    first = run(shop, out, epochs=1)
    evaluate(str(out), str(tmp_path / "report"), beams=[], bootstrap=0, progress=False)
    before = (out / "model" / "model.safetensors").read_bytes()
    interrupt(shop, out, monkeypatch, epochs=3, seed=1)
    assert Run.open(out).config == first.config
    assert (out / "model" / "model.safetensors").read_bytes() == before
    assert (out / "metrics.json").is_file()
    again = run(shop, out, epochs=3, seed=1)
    assert again.config["training"]["seed"] == 1
    # What was said of the first model is not said of the second.
    assert not (out / "metrics.json").exists()
    assert not (out / "ranks").exists()


def test_a_disk_that_fills_up_at_the_very_end_costs_nothing(shop, tmp_path, monkeypatch):
    whole = run(shop, tmp_path / "whole", epochs=2)
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch, pytest.raises(ArtefactError, match="No space left"):
        patch.setattr("shutil.copytree", _raise(full))
        run(shop, tmp_path / "full", epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer.training_step", _raise(AssertionError("trains")))
        done = run(shop, tmp_path / "full", epochs=2)
    assert done.config["model_fingerprint"] == whole.config["model_fingerprint"]


def test_a_finished_run_is_not_trained_again_unless_asked(shop, tmp_path, monkeypatch):
    out = tmp_path / "run"
    first = run(shop, out, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer.training_step", _raise(AssertionError("trains")))
        # As a kill between the last two writes leaves it.
        (out / "unfinished.json").write_bytes((out / "run.json").read_bytes())
        assert run(shop, out, epochs=1).config == first.config
        assert not (out / "unfinished.json").exists()
        with pytest.raises(AssertionError, match="trains"):
            run(shop, out, epochs=1, seed=1)
    (out / "model" / "model.safetensors").write_bytes(b"")
    assert run(shop, out, epochs=1).config["model_fingerprint"] == first.config["model_fingerprint"]


HOLDER = """
import sys
from pathlib import Path
from genrec.pipeline.run_life import held

with held(Path(sys.argv[1])):
    print("in it", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs file locks of Unix")
def test_a_folder_is_for_one_training_until_its_process_is_gone(shop, tmp_path):
    """Also where a finished run of just these settings is trained again."""
    run(shop, tmp_path / "run", epochs=1)
    record = (tmp_path / "run/run.json").read_bytes()
    (tmp_path / "run/checkpoints").mkdir()
    (tmp_path / "run/unfinished.json").write_bytes(record)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == b"in it\n"
        for epochs in (1, 2):
            with pytest.raises(ArtefactError, match="another process trains in this folder"):
                run(shop, tmp_path / "run", epochs=epochs)
        assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before
        first.kill()
    run(shop, tmp_path / "run", epochs=1)
    assert (tmp_path / "run/run.json").read_bytes() == record
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_finished_run_is_replaced_with_a_note(shop, tmp_path, capsys):
    out = tmp_path / "run"
    first = run(shop, out, epochs=1, progress=True)
    assert "replaces" not in capsys.readouterr().err
    second = run(shop, out, epochs=1, learning_rate=2e-2, progress=True)
    assert "holds a finished run, which this one replaces" in capsys.readouterr().err.replace(
        "\n", " "
    )
    assert second.config["model_fingerprint"] != first.config["model_fingerprint"]


def test_a_finished_run_that_noted_no_defaults_is_of_the_same_settings(shop, tmp_path, monkeypatch):
    out = tmp_path / "run"
    run(shop, out, epochs=1)
    record = json.loads((out / "run.json").read_text())
    del record["fingerprint"]
    assert record["model"]["backbone"]["positions"] == "learned"
    record["model"]["backbone"] = OPTIONS["backbone"]
    (out / "run.json").write_text(json.dumps(record))
    monkeypatch.setattr("transformers.Trainer.training_step", _raise(AssertionError("trains")))
    run(shop, out, epochs=1)
    record["model"]["backbone"] = {**OPTIONS["backbone"], "positions": "rotary"}
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(AssertionError, match="trains"):
        run(shop, out, epochs=1)


def test_runs_with_and_without_a_vocabulary_break_ties_alike(shop):
    sid, ids = (Run.open(shop / name).config for name in ("sid", "ids"))
    assert sid["tie_order_fingerprint"] == ids["tie_order_fingerprint"]


def test_two_trainings_with_one_seed_are_identical(shop, tmp_path):
    one, other = (run(shop, tmp_path / name, epochs=2) for name in "ab")
    assert one.config["model_fingerprint"] == other.config["model_fingerprint"]
    assert one.config["validation"] == other.config["validation"]


def _raise(error):
    def call(*args, **kwargs):
        raise error

    return call
