"""Checkpoints of an unfinished training: which one can be gone on from, and how they fail."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from genrec.errors import ArtefactError, ConfigError
from genrec.training.average import AVERAGE_FILE
from genrec.training.config import TrainingConfig
from genrec.training.sharding import is_sharded
from genrec.training.shards import shard_files

STATE_FILE, SCHEDULE_FILE = "trainer_state.json", "scheduler.pt"
CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", SCHEDULE_FILE, STATE_FILE)
_ZIP_WRITER = re.compile("PytorchStreamWriter|inline_container")


@contextlib.contextmanager
def writing(checkpoints: Path) -> Iterator[None]:
    """Say what to do where a checkpoint could not be written."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save has no error of its own: its zip writer raises a RuntimeError.
        if isinstance(error, RuntimeError) and not _ZIP_WRITER.search(str(error)):
            raise
        raise ArtefactError(
            f"{checkpoints}: writing a checkpoint failed ({error}); free some space and run the "
            "same command again: it goes on from the last whole checkpoint"
        ) from error


def last_checkpoint(checkpoints: Path, config: TrainingConfig) -> Path | None:
    """The newest checkpoint that was written to its end; unfinished ones are removed.

    `trainer_state.json` is written last, so where it can be read the other files are whole.

    Raises:
        ConfigError: if it is whole, but of a training that was sharded otherwise.
    """
    sharded = is_sharded(config)
    needed = [*shard_files(), SCHEDULE_FILE, STATE_FILE] if sharded else [*CHECKPOINT_FILES]
    if config.average:
        needed.append(AVERAGE_FILE)
    found = {
        int(folder.name.rpartition("-")[2]): folder
        for folder in checkpoints.glob("checkpoint-*")
        if folder.name.rpartition("-")[2].isdigit()
    }
    for _, folder in sorted(found.items(), reverse=True):
        if all((folder / name).is_file() for name in needed) and log_of(folder):
            return folder
        shards = len(list(folder.glob("shard-*.safetensors")))
        plain = sharded and all((folder / name).is_file() for name in CHECKPOINT_FILES)
        if (plain or shards not in (0, len(shard_files()) if sharded else 0)) and log_of(folder):
            raise ConfigError(
                f"{folder}: was written "
                + (f"by {shards} processes with FSDP" if shards else "without FSDP")
                + "; go on as it was begun, or start over with --resume false"
            )
        shutil.rmtree(folder)
    return None


def log_of(checkpoint: Path) -> list[dict[str, float]]:
    """The losses and metrics up to a checkpoint; none if it was not written to its end."""
    try:
        log = json.loads((checkpoint / STATE_FILE).read_text())["log_history"]
    except (OSError, ValueError):
        return []
    return list(log)
