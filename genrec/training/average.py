"""A running average of the weights (Polyak and Juditsky 1992), used in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

AVERAGE_FILE = "average.safetensors"


class WeightAverage(TrainerCallback):
    """Keeps `average <- decay average + (1 - decay) weights` after every step.

    Early on the decay is `(1 + step) / (10 + step)`, so that the start is forgotten. The average is
    written into every checkpoint and read back on resume.

    Memory: one more copy of the parameters.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model, self.decay = model, decay
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the average towards the weights."""
        step = state.global_step
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [value.detach() for _, value in self.model.named_parameters()]
        torch._foreach_lerp_(list(self.values.values()), current, 1 - decay)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the average into the checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            temporary = folder / f".{AVERAGE_FILE}"
            save_file(self.values, temporary)
            temporary.replace(folder / AVERAGE_FILE)

    def load(self, checkpoint: Path) -> None:
        """Read the average from a checkpoint."""
        self.values = load_file(checkpoint / AVERAGE_FILE)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the average into the model for the block, then the weights back."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, value in self.model.named_parameters():
            held = value.detach().clone()
            value.copy_(self.values[name])
            self.values[name] = held
