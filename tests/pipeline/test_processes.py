from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genrec import cli
from genrec.pipeline import Recipe, evaluate, recommend, run, train
from genrec.training import TrainingConfig
from tests.launching import in_two_processes


def accelerate_launched(*arguments: str, how: Sequence[str] = ("--multi_gpu",)) -> str:
    """Run a verb by `accelerate launch` in two processes; returns what they said on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *how, "--num_processes=2",
         "--main_process_port=0", "-m", "genrec", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def losses(folder: Path) -> list[float]:
    return [
        entry["loss"] for entry in json.loads((folder / "log.json").read_text()) if "loss" in entry
    ]


RECIPE = """
name: two
prepare: {source: generated, num_items: 150, num_users: 130}
vectors:
  text: {type: lexical, template: "{title}. {category}", dim: 16}
vocabularies:
  rq:
    vectors: text
    quantizer: {type: rq-kmeans, codebook_sizes: [8, 8]}
runs:
  sid:
    vocabulary: rq
    d_model: 16
    backbone: {type: transformer, layers: 1, dropout: 0.0}
    head: {type: autoregressive, dropout: 0.0}
    training: {epochs: 2, batch_size: 32}
  infonce: &dense
    item_encoder: {type: id}
    d_model: 16
    backbone: {type: transformer, layers: 1, dropout: 0.0}
    head: {type: dense, loss: infonce, negatives: 20, in_batch: 30, negative_power: 0.5}
    training: {epochs: 2, batch_size: 31}
  sampled: {<<: *dense, head: {type: dense, loss: sampled, negatives: 20}}
  bce: {<<: *dense, head: {type: dense, loss: bce}}
evaluate: {batch_size: 20, beams: [5], examples: 1}
"""
OWN_OF_A_RUN = ("seconds", "peak_memory_mb", "processes")


def comparable(folder: Path) -> dict[str, Any]:
    """`metrics.json` without times and memory."""
    found = json.loads((folder / "metrics.json").read_text())
    for row in found.get("beams", {}).get("rows", []):
        del row["seconds"]
    return {key: value for key, value in found.items() if not key.endswith(OWN_OF_A_RUN)}


# A loss that draws, and one that does not. Each process draws its own dropout, so that only
# without it the losses can be the same.
LOSSES = """
name: losses
prepare: {source: generated, num_items: 120, num_users: 60}
vectors:
  text: {type: lexical, template: "{title}. {category}", dim: 8}
vocabularies:
  rq:
    vectors: text
    quantizer: {type: rq-kmeans, codebook_sizes: [8, 8]}
runs:
  sid:
    vocabulary: rq
    d_model: 8
    backbone: &backbone {type: transformer, layers: 1, dropout: 0.0}
    head: {type: autoregressive, dropout: 0.0}
    training: &training
      {epochs: 2, batch_size: 15, crop: 0.5, by_length: 2, learning_rate: 0.01, eval_epochs: 2,
       gradient_accumulation: 2}
  infonce:
    item_encoder: {type: id}
    d_model: 8
    backbone: *backbone
    head: {type: dense, loss: infonce, negatives: 5, in_batch: 8, negative_power: 0.5}
    training: *training
evaluate: {batch_size: 20, beams: [5], beam_users: 20, examples: 0, bootstrap: 20}
"""


def test_two_processes_have_the_losses_and_the_metrics_of_one(tmp_path):
    recipe, two, one = tmp_path / "losses.yaml", tmp_path / "two", tmp_path / "one"
    recipe.write_text(LOSSES)
    said = in_two_processes("-m", "genrec", "run", str(recipe), f"--out={two}")
    assert said.count("kept epoch") == 2
    assert "find_unused_parameters" not in said
    assert {path.name for path in (two / "runs/sid").iterdir()} == {
        "run.json", "model", "log.json", "learning_curve.png", "metrics.json", "ranks",
    }  # fmt: skip
    places = ["runs/sid", "runs/infonce", "report/popularity"]
    noted = json.loads((two / "runs/sid/metrics.json").read_text())
    assert noted["processes"] == noted["trained_on"]["processes"] == 2
    together = [comparable(two / place) for place in places]
    shutil.rmtree(two / "report")
    run(str(recipe), out=str(two), progress=False)
    assert "processes" not in json.loads((two / "runs/sid/metrics.json").read_text())
    assert together == [comparable(two / place) for place in places]

    for name, options in Recipe.load(recipe).runs.items():
        settings = {**options, "training": TrainingConfig(**options["training"])}
        if "vocabulary" in options:
            settings["vocabulary"] = str(two / "vocabularies" / options["vocabulary"])
        train(str(two / "dataset"), str(one / name), progress=False, **settings)
        found, expected = losses(two / "runs" / name), losses(one / name)
        assert len(found) == 1
        assert found == pytest.approx(expected, abs=1e-4), name


@pytest.mark.slow
def test_accelerate_launch_gives_the_losses_and_metrics_of_one_process(tmp_path):
    recipe, out = tmp_path / "two.yaml", tmp_path / "out"
    recipe.write_text(RECIPE)
    said = accelerate_launched("run", str(recipe), f"--out={out}")
    assert said.count("kept epoch") == 4
    assert (out / "report" / "report.html").is_file()
    found = json.loads((out / "runs/sid/metrics.json").read_text())
    assert found["processes"] == found["trained_on"]["processes"] == 2
    together = [comparable(out / place) for place in ("runs/sid", "report/popularity")]
    shutil.rmtree(out / "report")
    run(str(recipe), out=str(out), progress=False)
    assert "processes" not in json.loads((out / "runs/sid/metrics.json").read_text())
    assert together == [comparable(out / place) for place in ("runs/sid", "report/popularity")]

    alone = tmp_path / "alone"
    run(str(recipe), out=str(alone), progress=False)
    for name in ("sid", "infonce", "sampled", "bce"):
        found, expected = losses(out / "runs" / name), losses(alone / "runs" / name)
        assert found == pytest.approx(expected, abs=1e-4), name
    for run_folder in (out / "runs/sid", alone / "runs/sid"):
        (run_folder / "metrics.json").unlink()
    options = ["--beams=[5]", "--batch_size=20", "--examples=1"]
    accelerate_launched("evaluate", str(out / "runs/sid"), str(tmp_path / "report"), *options)
    assert comparable(out / "runs/sid") == together[0]

    lists = [tmp_path / "two.csv", tmp_path / "one.csv"]
    users = ",".join(f"U{user:05d}" for user in range(7))
    asked = {"users": users, "k": 4, "batch_size": 2}
    accelerate_launched(
        "recommend", str(out / "runs/sid"), f"--out={lists[0]}",
        *(f"--{name}={value}" for name, value in asked.items()),
    )  # fmt: skip
    recommend(str(out / "runs/sid"), out=str(lists[1]), **asked)
    assert lists[0].read_text() == lists[1].read_text()
    assert len(lists[0].read_text().splitlines()) == 1 + 7 * 4


DECODERS = """
name: decoders
prepare: {source: generated, num_items: 150, num_users: 130}
vectors:
  text: {type: lexical, template: "{title}. {category}", dim: 16}
vocabularies:
  rq:
    vectors: text
    quantizer: {type: rq-kmeans, codebook_sizes: [8, 8]}
runs:
  qwen3:
    vocabulary: rq
    item_encoder: {type: sid-tokens}
    backbone: {type: hf, architecture: qwen3, layers: 2, heads: 2}
    head: {type: tokens}
    d_model: 16
    max_history: 8
    training: {epochs: 2, batch_size: 32}
  hstu:
    item_encoder: {type: id}
    backbone: {type: hstu, layers: 2, dropout: 0.0}
    head: {type: dense}
    d_model: 16
    max_history: 8
    training: {epochs: 2, batch_size: 32}
  t5:
    vocabulary: rq
    item_encoder: {type: sid-tokens}
    backbone: {type: t5, layers: 1, dropout: 0.0}
    head: {type: tokens}
    d_model: 16
    max_history: 8
    training: {epochs: 2, batch_size: 32}
evaluate: {batch_size: 20, beams: [], examples: 0}
"""


@pytest.mark.slow
def test_fsdp_by_accelerate_launch_gives_the_losses_and_metrics_of_one_process(tmp_path):
    recipe = tmp_path / "decoders.yaml"
    recipe.write_text(DECODERS)
    two, one = tmp_path / "two", tmp_path / "one"
    how = ["--use_fsdp", "--fsdp_version=2", "--fsdp_activation_checkpointing=true"]
    accelerate_launched("run", str(recipe), f"--out={two}", how=how)
    run(str(recipe), out=str(one), progress=False)
    for name in ("qwen3", "hstu", "t5"):
        folder = two / "runs" / name
        noted = json.loads((folder / "run.json").read_text())
        assert noted["training"]["fsdp"] and noted["processes"] == 2
        assert noted["training"]["fsdp_config"]["activation_checkpointing"]
        assert losses(folder) == pytest.approx(losses(one / "runs" / name), abs=1e-4)
        found, expected = (
            load_file(place / "runs" / name / "model/model.safetensors") for place in (two, one)
        )
        assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
        together = comparable(folder)
        shutil.rmtree(tmp_path / "report", ignore_errors=True)
        evaluate(
            str(folder), str(tmp_path / "report"), batch_size=20, beams=[], examples=0,
            progress=False,
        )  # fmt: skip
        assert comparable(folder) == together


def test_verbs_that_are_not_shared_are_the_first_process_s_work(monkeypatch, tmp_path):
    out = tmp_path / "shop"
    monkeypatch.setenv("RANK", "1")
    cli.main(["prepare", "generated", str(out), "--num_items=120", "--num_users=30"])
    assert not out.exists()
    monkeypatch.setenv("RANK", "0")
    cli.main(["prepare", "generated", str(out), "--num_items=120", "--num_users=30"])
    assert out.is_dir()


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}, True),
        ({"ACCELERATE_USE_CPU": "True"}, False),  # --num_processes 1
        ({"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500", "PMI_SIZE": "2"}, False),
        ({"MASTER_PORT": "29500"}, False),
    ],
)
def test_one_process_where_several_were_asked_for_is_said(known, told, monkeypatch, capsys):
    for name in ("ACCELERATE_USE_CPU", "MASTER_PORT", "WORLD_SIZE", *cli.MPI):
        monkeypatch.delenv(name, raising=False)
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert ("--multi_gpu" in capsys.readouterr().err) == told


@pytest.mark.slow
def test_two_processes_train_tables_and_matrices_as_one(shop, tmp_path):
    settings = {
        "item_encoder": {"type": "id"},
        "backbone": {"type": "hstu", "layers": 1, "heads": 1, "dropout": 0.0},
        "head": {"type": "dense"},
        "d_model": 16,
        "max_history": 12,
    }
    training = {"epochs": 2, "batch_size": 30, "learning_rate": 0.01, "table_learning_rate": 0.03}
    training |= {"table_optimizer": "sparse-adam"}
    training |= {"optimizer": "muon"} if hasattr(torch.optim, "Muon") else {}
    in_two_processes(
        "-m", "genrec", "train", str(shop / "dataset"), str(tmp_path / "run"),
        *(f"--{key}={json.dumps(value)}" for key, value in settings.items()),
        *(f"--training.{key}={value}" for key, value in training.items()),
    )  # fmt: skip
    train(
        str(shop / "dataset"),
        str(tmp_path / "alone"),
        training=TrainingConfig(**training),
        progress=False,
        **settings,
    )
    assert len(losses(tmp_path / "run")) == 2
    # Muon works in bfloat16.
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), abs=1e-2)
