"""Measure what each process holds of a large embedding table in training, and its speed.

    accelerate launch --multi_gpu --num_processes 2 scripts/bench_sharding.py --rows 1000000

Trains a small transformer with item ids on random histories, sampled softmax, in three ways: each
process with the whole model (DDP), all parameters sharded (FSDP), and the table split by rows as
well. Prints, for one process: bytes of weights, gradients and optimiser between steps; the peaks
of main memory (Linux, mapped files included) while the model is built, in the steps, and in
validation, which searches the whole catalogue, and saving, each above what the process had before
and the largest of any process; and histories per second of all processes after the first step.
Peaks compare best where each way runs by itself:

    accelerate launch --multi_gpu --num_processes 2 scripts/bench_sharding.py --rows 2000000 --way 3
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from genrec.data import Histories, TrainingSequences, leave_one_out
from genrec.models import Recommender, RecommenderConfig
from genrec.processes import largest, processes
from genrec.training import TrainingConfig, train_model
from genrec.training.trainer import RecommenderTrainer


class Meter(TrainerCallback):
    """Time and memory at the end of each step."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.held: dict[str, int] = {}
        self.start, self.peaks = peak(), {"built": 0, "steps": 0, "validated and saved": 0}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The model is built."""
        self.note("built")

    def note(self, phase: str) -> None:
        """The peak since the last note is of this phase."""
        self.peaks[phase] = max(self.peaks[phase], peak() - self.start)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gradients are there only now."""
        self.held["gradients"] = sum(
            size(one.grad) for one in kwargs["model"].parameters() if one.grad is not None
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Weights and the optimiser's state, and the time."""
        self.moments.append(time.perf_counter())
        self.note("steps")
        self.held["weights"] = sum(map(size, kwargs["model"].parameters()))
        states = kwargs["optimizer"].state.values()
        self.held["optimiser"] = sum(size(part) for one in states for part in one.values())


def size(value: torch.Tensor) -> int:
    local = value.to_local() if isinstance(value, DTensor) else value
    return local.numel() * local.element_size()


def peak() -> int:
    """The most main memory this process had since this was asked before, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    Path("/proc/self/clear_refs").write_text("5")
    return int(status["VmHWM"].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--d_model", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--way", type=int, choices=(1, 2, 3), help="only this one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    users, length = args.steps * args.batch_size, 23
    rng = np.random.default_rng(0)
    histories = Histories(
        np.arange(users + 1) * length,
        rng.integers(0, args.rows, users * length),
        timestamps=np.tile(np.arange(length), users),
    )
    config = RecommenderConfig(
        num_items=args.rows,
        d_model=args.d_model,
        max_history=length,
        item_encoder={"type": "id"},
        backbone={"type": "transformer", "layers": 1},
        head={"type": "dense", "loss": "sampled"},
    )
    ways: list[tuple[str, dict[str, Any]]] = [
        ("whole in each process", {}),
        ("fsdp", {"fsdp": True}),
        ("fsdp, table split by rows", {"fsdp": True, "shard_tables": args.rows}),
    ]
    for name, options in ways[args.way - 1 : args.way] if args.way else ways:
        measure(name, config, histories, args.batch_size, options)


def measure(
    name: str, config: RecommenderConfig, histories: Histories, batch: int, options: dict[str, Any]
) -> None:
    peak()
    meter, real = Meter(), RecommenderTrainer.train

    def metered(self: RecommenderTrainer, *args: Any, **kwargs: Any) -> Any:
        self.add_callback(meter)
        return real(self, *args, **kwargs)

    training = TrainingConfig(epochs=1, batch_size=batch, **options)
    sequences = TrainingSequences(histories, leave_one_out(histories), max_length=20)
    # Of the launcher, so that all processes mean one folder.
    folder = Path(tempfile.gettempdir(), f"bench-sharding-{os.getppid()}")
    with mock.patch.object(RecommenderTrainer, "train", metered):
        train_model(
            lambda: Recommender(config),
            sequences,
            lambda model: searched(model, histories),
            folder,
            training,
            resume=False,
            progress=False,
        )
    team = processes()
    meter.note("validated and saved")
    peaks = {phase: largest(value) for phase, value in meter.peaks.items()}
    if team.is_main_process:
        shutil.rmtree(folder)
        spent = meter.moments[-1] - meter.moments[0]
        rate = batch * (len(meter.moments) - 1) / spent
        held = ", ".join(f"{key} {value / 1e6:.1f} MB" for key, value in sorted(meter.held.items()))
        print(
            f"{name}: {held}, {sum(meter.held.values()) / 1e6:.1f} MB in all; "
            f"{rate:.0f} histories a second; peaks: "
            + ", ".join(f"{phase} {value / 1e6:.0f} MB" for phase, value in peaks.items()),
            flush=True,
        )
    team.wait_for_everyone()


def searched(model: Recommender, histories: Histories) -> dict[str, float]:
    """A validation that searches the whole catalogue for 8 users."""
    items = torch.from_numpy(np.asarray(histories.items[: 8 * 20])).view(8, 20)
    training = model.training
    model.eval().search({"items": items, "mask": torch.ones_like(items).bool()}, k=10)
    model.train(training)
    return {"ndcg@10": 0.0}


if __name__ == "__main__":
    main()
