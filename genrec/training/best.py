"""The best model of a training so far, as a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from transformers.utils import SAFE_WEIGHTS_NAME

from genrec.artefacts import atomic_folder, read_json, write_json
from genrec.models import Recommender
from genrec.processes import processes, summed
from genrec.training.progress import METRIC
from genrec.training.sharding import row_blocks, row_sharded
from genrec.training.tensor_files import Blocks, add_tensors

MODEL_KIND = "model"


def keep_if_best(
    folder: Path, model: Recommender, found: Mapping[str, float], *, epoch: float | None, step: int
) -> None:
    """Write the model to `folder` if it is better than the one there; asked in all processes.

    Args:
        folder: of the best model; `validation.json` in it says what it reached.
        model: whole, but for tables whose rows are split among the processes.
        found: its validation metrics.
        epoch: when it was validated.
        step: likewise.
    """
    first = processes().is_main_process
    known = read_json(folder / "validation.json") if first and folder.is_dir() else {}
    # The first process knows; what is split, all of them give away.
    better = first and not (known and found[METRIC] <= known[METRIC])
    if not summed(np.array([better]))[0]:
        return
    split = row_sharded(model)
    if not first:
        for table in split.values():
            for _ in row_blocks(table):
                pass
        return
    with atomic_folder(folder, kind=MODEL_KIND) as new:
        rows = {
            f"{name}.weight": Blocks(one.weight.dtype, (*one.weight.shape,), row_blocks(one))
            for name, one in split.items()
        }
        held = {name: one for name, one in model.state_dict().items() if name not in rows}
        model.save_pretrained(new, state_dict=held if split else None)
        if split:
            add_tensors(new / SAFE_WEIGHTS_NAME, rows)
        write_json(new / "validation.json", {**found, "epoch": epoch, "step": step})
