from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genrec.errors import ConfigError
from genrec.pipeline import evaluate, train
from genrec.training import TrainingConfig, as_launched
from genrec.training.checkpoints import last_checkpoint
from tests.launching import in_two_processes
from tests.training.sharded_worker import CONTENT, HALF, OPTIMIZED, SETTINGS, SHARDED, TRAINING


def losses(folder: Path) -> list[float]:
    log = json.loads((folder / "log.json").read_text())
    return [entry["loss"] for entry in log if "loss" in entry]


def assert_same_weights(one: Path, other: Path, *, within: float = 1e-3) -> None:
    states = [load_file(folder / "model" / "model.safetensors") for folder in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=within, rtol=0)


def evaluated(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "metrics.json").read_text())
    assert len(list((folder / "ranks").iterdir())) == 1
    return {key: one["value"] for key, one in found.items() if "recall@" in key or "ndcg@" in key}


def test_a_sharded_training_that_was_resumed_is_that_of_one_process(shop, tmp_path):
    worker = Path(__file__).with_name("sharded_worker.py")
    in_two_processes(str(worker), str(shop), str(tmp_path / "two"))
    one, two = tmp_path / "one", tmp_path / "two"
    train(
        str(shop / "dataset"), str(one), training=TrainingConfig(**TRAINING), progress=False,
        **SETTINGS,
    )  # fmt: skip
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert losses(two)[-1] < losses(two)[0]
    assert_same_weights(one, two)
    half = tmp_path / "half-of-one"
    train(
        str(shop / "dataset"), str(half), vectors=str(shop / "vectors"),
        training=TrainingConfig(**HALF), progress=False, **CONTENT,
    )  # fmt: skip
    assert losses(tmp_path / "half") == pytest.approx(losses(half), abs=5e-3)
    optimized = tmp_path / "optimized-of-one"
    train(
        str(shop / "dataset"), str(optimized),
        training=TrainingConfig(**{**TRAINING, **OPTIMIZED, "epochs": 1}), progress=False,
        **SETTINGS,
    )  # fmt: skip
    assert losses(tmp_path / "optimized") == pytest.approx(losses(optimized), abs=1e-4)
    assert losses(optimized) != losses(one)[:1]
    # Muon works in bfloat16, which magnifies other roundings.
    assert_same_weights(optimized, tmp_path / "optimized", within=5e-3)
    configs = [json.loads((folder / "model" / "config.json").read_text()) for folder in (one, two)]
    assert configs[0] == configs[1]
    written = {path.name for path in two.iterdir()}
    assert {path.name for path in one.iterdir()} == written - {"metrics.json", "ranks"}
    noted = json.loads((two / "run.json").read_text())
    assert noted["processes"] == 2 and noted["training"]["shard_tables"] == 100
    together = evaluated(two)
    evaluate(str(two), str(tmp_path / "alone"), bootstrap=0, progress=False)
    assert evaluated(two) == together and len(together) > 4


def test_a_checkpoint_of_another_sharding_is_refused(tmp_path):
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    for name in ("shard-00000-of-00002.safetensors", "shard-00001-of-00002.safetensors"):
        (folder / name).touch()
    # Not whole yet: it is removed.
    assert last_checkpoint(tmp_path, TrainingConfig()) is None
    assert not folder.exists()
    folder.mkdir()
    for name in ("shard-00000-of-00002.safetensors", "shard-00001-of-00002.safetensors"):
        (folder / name).touch()
    (folder / "trainer_state.json").write_text('{"log_history": [{"loss": 1.0}]}')
    with pytest.raises(ConfigError, match="was written by 2 processes with FSDP; go on as"):
        last_checkpoint(tmp_path, TrainingConfig(**SHARDED))
    assert folder.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_tables": 9}, "shard_tables is set without fsdp"),
        ({"shard_tables": -1, "fsdp": True}, "shard_tables=-1; expected 0 or more"),
        ({"fsdp_config": {"reshard_after_forward": True}}, "fsdp_config is set without fsdp"),
        ({"fsdp": True, "fsdp_config": {"offload": True}}, "fsdp_config has offload: True; exp"),
        ({"fsdp": True, "fsdp_config": {"reshard_after_forward": 1}}, "expected true or false"),
        ({"fsdp": True, "precision": "fp16"}, "use 'bf16' or 'fp32'"),
        ({"fsdp": True, "average": 0.9}, "average=0.9 with fsdp"),
    ],
)
def test_settings_that_do_not_go_with_fsdp_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**options)


def test_tables_that_are_not_there_are_refused_before_anything_is_written(shop, tmp_path):
    config = TrainingConfig(fsdp=True, shard_tables=151)
    with pytest.raises(ConfigError, match="largest embedding table of the model has 150 rows"):
        train(str(shop / "dataset"), str(tmp_path / "run"), training=config, **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_what_accelerate_was_told_of_fsdp_is_done(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    plain = TrainingConfig(seed=3)
    assert as_launched(plain) is plain
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    asked = {"reshard_after_forward": False, "activation_checkpointing": True}
    assert as_launched(plain) == TrainingConfig(seed=3, fsdp=True, fsdp_config=asked)
    own = TrainingConfig(fsdp=True)
    assert as_launched(own) is own
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(ConfigError, match="fsdp_offload_params"):
        as_launched(plain)
