"""What a training prints: a bar with short lines, or one line per validation."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from transformers.trainer_callback import ProgressCallback, TrainerCallback

METRIC = "ndcg@10"


def epoch_line(epoch: float, logs: Mapping[str, Any]) -> str:
    """What is printed after a validation."""
    shown = [
        f"{name.removeprefix('eval_')} {value:.4f}"
        for name, value in logs.items()
        if name.startswith("eval_") and isinstance(value, float)
    ]
    return f"epoch {round(epoch, 2):g}  validation {'  '.join(shown)}"


class PlainLines(TrainerCallback):
    """One line per validation on stderr, for logs and pipes."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print validation metrics when a validation ends."""
        if state.is_world_process_zero and logs and f"eval_{METRIC}" in logs:
            print(epoch_line(state.epoch, logs), file=sys.stderr, flush=True)


class EpochLines(ProgressCallback):
    """The step bar, with one short line per validation instead of raw dictionaries."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print loss and validation metrics when a validation ends."""
        if not (state.is_world_process_zero and self.training_bar is not None and logs):
            return
        if "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4f}")
        if f"eval_{METRIC}" in logs:
            self.training_bar.write(epoch_line(state.epoch, logs), file=sys.stderr)
