"""What a training took: seconds by the clock and of processors, with and without validations."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from genrec.processes import summed


@dataclass(frozen=True)
class Spent:
    """Seconds of a training, resumed or not.

    The clock counts what others do on the machine too. Processors count this training alone: all
    threads of all processes that were launched together, and those of loaders that ended. Where an
    accelerator does the work they would say little, and are unknown (None), as they are of
    trainings begun by an earlier version.

    Attributes:
        seconds: by the clock.
        training_seconds: by the clock, without validations.
        cpu_seconds: of processors.
        training_cpu_seconds: of processors, without validations.
    """

    seconds: float = 0.0
    training_seconds: float = 0.0
    cpu_seconds: float | None = 0.0
    training_cpu_seconds: float | None = 0.0

    @classmethod
    def of(cls, log: Sequence[Mapping[str, float]]) -> Spent:
        """What the steps up to the last validation of a log took, repeated ones left out.

        A log of an earlier version counts validations always, or does not know processors.
        """
        entries = [entry for entry in log if "seconds" in entry]
        if not entries:
            return cls()
        last = max(entries, key=lambda entry: entry["seconds"])
        return cls(
            last["seconds"],
            last.get("training_seconds", last["seconds"]),
            last.get("cpu_seconds"),
            last.get("training_cpu_seconds"),
        )

    def known(self) -> dict[str, float]:
        """The seconds that are known, by name, to hundredths."""
        return {name: round(value, 2) for name, value in asdict(self).items() if value is not None}


class Clock:
    """Counts on from what a training took before it was interrupted.

    Args:
        spent: that.
    """

    def __init__(self, spent: Spent) -> None:
        self._before = spent
        self._begun = _now()
        self._paused = np.zeros(2)

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """What happens inside is a validation."""
        if _accelerated():  # what the steps began is theirs
            torch.accelerator.synchronize()
        started = _now()
        try:
            yield
        finally:
            self._paused += _now() - started

    def read(self) -> Spent:
        """The seconds until now; all processes that were launched together must call it."""
        whole = _now() - self._begun
        (seconds, cpu), (paused, cpu_paused) = whole, self._paused
        before = self._before
        total = float(before.seconds + seconds)
        training = float(before.training_seconds + seconds - paused)
        if before.cpu_seconds is None or before.training_cpu_seconds is None or _accelerated():
            return Spent(total, training, None, None)
        cpu, cpu_training = summed(np.array([cpu, cpu - cpu_paused]))
        return Spent(
            total,
            training,
            float(before.cpu_seconds + cpu),
            float(before.training_cpu_seconds + cpu_training),
        )


def _accelerated() -> bool:
    return torch.accelerator.is_available()


def _now() -> np.ndarray:
    """Float64 [2]: the clock, and the processors of this process and its children that ended."""
    return np.array([time.perf_counter(), sum(os.times()[:4])])
