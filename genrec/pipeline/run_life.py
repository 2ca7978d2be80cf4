"""The life of a run folder: begun, resumed, finished, found finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genrec.artefacts import (
    check_folder,
    check_folder_place,
    read_json,
    replacing,
    write_json,
)
from genrec.errors import ArtefactError, ConfigError
from genrec.models import BACKBONES, HEADS, ITEM_ENCODERS
from genrec.models.registry import with_defaults
from genrec.pipeline.runs import (
    OF_THE_MODEL,
    RUN_FILE,
    UNFINISHED_FILE,
    Run,
    model_fingerprint,
    record_fingerprint,
)
from genrec.training import TrainingConfig
from genrec.training.best import MODEL_KIND

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def check_out(out: str) -> Path:
    """The folder of a run to be, checked: new, empty, or a run of genrec."""
    folder = check_folder_place(out)
    known = any((folder / name).is_file() for name in (RUN_FILE, UNFINISHED_FILE))
    if folder.is_dir() and any(folder.iterdir()) and not known:
        raise ArtefactError(
            f"{folder}: the folder exists and is no run of genrec; choose another output folder "
            "or remove it first"
        )
    return folder


def is_finished(folder: Path, resolved: dict[str, Any]) -> bool:
    """Whether the folder holds the whole run of just these settings, and none begun after it."""
    if not (folder / RUN_FILE).is_file():
        return False
    # A kill in the last moment leaves both files.
    notes = [folder / name for name in (RUN_FILE, UNFINISHED_FILE)]
    for found in [read_json(path) for path in notes if path.is_file()]:
        if any(_noted(found, key) != read_back(value) for key, value in resolved.items()):
            return False
    try:
        check_folder(Run.open(folder).folder / "model", kind=MODEL_KIND)
    except ArtefactError:
        return False
    return True


def _noted(record: dict[str, Any], key: str) -> Any:
    """What a run noted; an older one left out defaults of its parts and newer settings."""
    value = record.get(key)
    if key == "training" and isinstance(value, dict):
        return read_back(asdict(TrainingConfig())) | value
    if key != "model" or not isinstance(value, dict):
        return value
    kinds: dict[str, Any] = {"item_encoder": ITEM_ENCODERS, "backbone": BACKBONES, "head": HEADS}
    parts = {name: value[name] for name in kinds if isinstance(value.get(name), dict)}
    return (
        {"initial": "parts"}
        | value
        | {name: read_back(with_defaults(kinds[name], part)) for name, part in parts.items()}
    )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder for one training, made if it is not there; removed again if nothing came of it.

    The lock is on the folder itself, and ends with the process however that ends. Where a system or
    a file system has none, nothing is locked.

    Raises:
        ArtefactError: if another process trains in it, or it cannot be made.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = None if fcntl is None else os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ArtefactError(f"{folder}: cannot be written ({error.strerror})") from error
    try:
        if place is not None:
            _lock(place, folder)
        yield
    finally:
        if place is not None:
            os.close(place)
        if made:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _lock(place: int, folder: Path) -> None:
    with suppress(OSError):
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtefactError(
                f"{folder}: another process trains in this folder; wait for it, or choose another "
                "output folder"
            ) from error


def start(folder: Path, resolved: dict[str, Any], *, resume: bool) -> None:
    """Note the configuration of the training, unless checkpoints of another one are there."""
    note = folder / UNFINISHED_FILE
    if resume and note.is_file() and any((folder / "checkpoints").glob("checkpoint-*")):
        before = read_json(note)
        for key in resolved:
            # Folders may have moved; fingerprints say whether it is the same thing.
            if key in ("genrec_version", "name", "dataset", "vocabulary", "vectors"):
                continue
            if _noted(before, key) != read_back(resolved[key]):
                raise ConfigError(
                    f"{folder}: holds an unfinished run with another {key}; finish that one with "
                    "its own settings, start over with --resume false, or choose another folder"
                )
    elif (folder / "checkpoints").is_dir():
        shutil.rmtree(folder / "checkpoints")
    try:
        write_json(note, resolved)
    except OSError as error:
        raise ArtefactError(f"{folder}: cannot be written ({error.strerror})") from error


def finish(folder: Path, record: dict[str, Any]) -> None:
    """Put the best model into its place and describe it; killed half-way, it can be repeated."""
    best = check_folder(folder / "checkpoints" / "best", kind=MODEL_KIND)
    copy = folder / "checkpoints" / "model"
    try:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(best, copy)
        for name in OF_THE_MODEL:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        copy.rename(folder / "model")
    except OSError as error:
        raise ArtefactError(
            f"{folder}: writing the model failed ({error.strerror or error}); free some space and "
            "run the same command again: nothing has to be trained anew"
        ) from error
    validation = read_json(folder / "model" / "validation.json")
    identity = model_fingerprint(folder / "model")
    record = {**record, "validation": validation, "model_fingerprint": identity}
    write_json(folder / RUN_FILE, {**record, "fingerprint": record_fingerprint(record)})
    shutil.rmtree(folder / "checkpoints")
    (folder / UNFINISHED_FILE).unlink(missing_ok=True)


def read_back(value: Any) -> Any:
    """The value as JSON would return it (tuples as lists)."""
    if isinstance(value, dict):
        return {str(key): read_back(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [read_back(item) for item in value]
    return value


def plot_learning_curve(log: list[dict[str, Any]], path: Path) -> None:
    """Draw training loss and validation NDCG@10 over epochs as a PNG."""
    from matplotlib.figure import Figure  # slow to import; no pyplot, whose back end is the user's

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    left = figure.subplots()
    loss = [(entry["epoch"], entry["loss"]) for entry in log if "loss" in entry]
    metric = [(entry["epoch"], entry["eval_ndcg@10"]) for entry in log if "eval_ndcg@10" in entry]
    left.plot(*zip(*loss, strict=True), color="tab:blue", label="training loss")
    left.set(xlabel="epoch", ylabel="training loss")
    right = left.twinx()
    right.plot(*zip(*metric, strict=True), color="tab:orange", label="validation NDCG@10")
    right.set(ylabel="validation NDCG@10", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
