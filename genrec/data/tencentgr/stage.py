"""Units of work whose results stay in a folder, so that an interrupted reading goes on.

A unit is a function, its arguments and the name of the file that it writes: arrays, under a
temporary name until they are whole. Units are independent, so they run in as many processes as
there are to spare; what is in memory at once is one unit per process.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from genrec.artefacts import read_json, replacing, write_json
from genrec.errors import ArtefactError

PLAN = "plan.json"
_WORTH_PROCESSES = 128 << 20  # bytes of input below which starting processes costs more


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Attributes:
        name: of its file.
        work: called with `arguments`; returns the arrays to keep.
        arguments: picklable.
        size: bytes or rows, for the progress bar.
    """

    name: str
    work: Callable[..., dict[str, np.ndarray]]
    arguments: tuple[Any, ...]
    size: int


class Stage:
    """The folder of what is done so far.

    Args:
        folder: made if it is missing; emptied if it was made for another plan.
        plan: what decides the results: options, names, sizes and times of the input files.
        resume: keep what an interrupted run of the same plan left.
        workers: processes.
        progress: show a progress bar, on a terminal.
    """

    def __init__(
        self, folder: Path, plan: dict[str, Any], *, resume: bool, workers: int, progress: bool
    ) -> None:
        self.folder = folder
        self.workers = workers
        self.progress = progress
        self._pool: ProcessPoolExecutor | None = None
        if not (resume and (folder / PLAN).is_file() and read_json(folder / PLAN) == plan):
            if folder.exists() and not (folder / PLAN).is_file() and any(folder.iterdir()):
                raise ArtefactError(
                    f"{folder}: is in the way of what `prepare` keeps while it works; move it"
                )
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / PLAN, plan)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, what: str, units: Sequence[Unit]) -> list[Path]:
        """Do the units that are not done yet; their files, in order.

        Raises:
            GenrecError: what the first unit raised that failed; those that are done stay.
        """
        waiting = [unit for unit in units if not self.path(unit).is_file()]
        total = sum(unit.size for unit in units)
        bar = tqdm(
            total=total,
            initial=total - sum(unit.size for unit in waiting),
            desc=what,
            unit="B",
            unit_scale=True,
            disable=None if self.progress else True,
        )
        with bar:
            if self.workers < 2 or sum(unit.size for unit in waiting) < _WORTH_PROCESSES:
                for unit in waiting:
                    _perform(unit, self.path(unit))
                    bar.update(unit.size)
            else:
                self._run_in_processes(waiting, bar)
        return [self.path(unit) for unit in units]

    def _run_in_processes(self, waiting: Sequence[Unit], bar: tqdm) -> None:
        if self._pool is None:  # started once: a process takes seconds to import its modules
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_end_with_parent
            )
        todo = {self._pool.submit(_perform, unit, self.path(unit)): unit for unit in waiting}
        try:
            for future in as_completed(todo):
                future.result()
                bar.update(todo[future].size)
        finally:
            for future in todo:
                future.cancel()

    def path(self, unit: Unit) -> Path:
        """Where the arrays of a unit are."""
        return self.folder / f"{unit.name}.npz"

    def remove(self) -> None:
        """Remove the folder, when the dataset is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _end_with_parent() -> None:
    """End this process when the one that started it is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _perform(unit: Unit, path: Path) -> None:
    arrays = unit.work(*unit.arguments)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a unit."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def load_one(path: Path, name: str) -> np.ndarray:
    """One of the arrays of a unit; the others stay on disk."""
    with np.load(path) as file:
        return np.asarray(file[name])


def names_of(path: Path) -> list[str]:
    """The names of the arrays of a unit."""
    with np.load(path) as file:
        return list(file.files)
