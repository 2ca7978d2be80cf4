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

    Early on the decay is `(1 + step) / (10 + step)`, so that the start is forgotten. The trainer
    writes the average into every checkpoint and reads it back on resume.

    Memory: one more copy of the parameters.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model, self.decay = model, decay
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Follow the model to its device."""
        for name, value in self.model.named_parameters():
            self.values[name] = self.values[name].to(value.device)

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the average towards the weights."""
        step = state.global_step
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [value.detach() for _, value in self.model.named_parameters()]
        torch._foreach_lerp_(list(self.values.values()), current, 1 - decay)

    def save(self, checkpoint: Path) -> None:
        """Write the average into a checkpoint."""
        temporary = checkpoint / f".{AVERAGE_FILE}"
        save_file(self.values, temporary)
        temporary.replace(checkpoint / AVERAGE_FILE)

    def load(self, checkpoint: Path) -> None:
        """Read the average from a checkpoint."""
        values = load_file(checkpoint / AVERAGE_FILE)
        # In the order of the parameters: the file has its own.
        self.values = {name: values[name] for name in self.values}

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
