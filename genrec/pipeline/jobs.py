"""The training stages of a recipe, one after another or several at a time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from genrec.errors import GenrecError
from genrec.pipeline.resolved import resolved_run
from genrec.pipeline.settings import SplitConfig
from genrec.pipeline.stages import Stages
from genrec.pipeline.train import train
from genrec.processes import processes
from genrec.training import TrainingConfig

Known = tuple[dict[str, str], dict[str, int | None]]
# What ends a run of a sweep and no other: bad input, and a model too large for the machine.
FAILURES = (GenrecError, torch.OutOfMemoryError, MemoryError)


def train_all(
    stages: Stages,
    runs: Mapping[str, dict[str, Any]],
    split: SplitConfig,
    jobs: int,
    progress: bool,
) -> dict[str, GenrecError]:
    """Train the runs of a recipe that are not up to date; one that fails stops no other.

    With several jobs each run has a process of its own, with its share of the cores and, where
    there are several GPUs, one of them: the jobs take them in turn. Where several
    processes were launched to train one run, the first failure ends them all, because it may be of
    one of them alone.

    Args:
        stages: with the stages before in it; gets those of the runs.
        runs: name -> options of `train`, with the names of vocabulary and vectors.
        split: of the recipe.
        jobs: runs at a time.
        progress: show progress bars; with several jobs, one line per run.

    Returns:
        The runs that failed, in the recipe's order, each with what was wrong.
    """
    failed: dict[str, GenrecError] = {}
    if jobs == 1:
        for name, options in runs.items():
            try:
                _train(stages, name, options, split, progress)
            except FAILURES as error:
                if processes().num_processes > 1:
                    raise
                _note_failure(stages, name, error, failed)
        return failed
    context = multiprocessing.get_context("spawn")
    threads = max(1, usable_cores() // jobs)
    devices = context.Queue()
    for device in devices_of_jobs(jobs):
        devices.put(device)
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin_job, initargs=(threads, devices)
    )
    known: Known = (stages.keys, stages.made)
    try:
        begun = {
            pool.submit(_train_alone, stages.folder, known, name, options, split): name
            for name, options in runs.items()
        }
        for done in as_completed(begun):
            try:
                key, made, worked = done.result()
            except (*FAILURES, BrokenProcessPool) as error:
                _note_failure(stages, begun[done], error, failed)
                continue
            name = f"runs/{begun[done]}"
            stages.keys[name], stages.made[name] = key, made
            state = "trained" if worked else "up to date"
            stages.console.print(f"[dim]{escape(name)}: {state}[/dim]")
    finally:
        pool.shutdown(cancel_futures=True)
    return {name: failed[name] for name in runs if name in failed}


def _note_failure(
    stages: Stages, name: str, error: Exception, failed: dict[str, GenrecError]
) -> None:
    if isinstance(error, GenrecError):
        failed[name] = error
    elif isinstance(error, BrokenProcessPool):
        failed[name] = GenrecError(
            "a job was ended from outside, mostly for want of memory, and all others with it; run "
            "the recipe again with fewer jobs"
        )
    else:
        said = str(error).partition("\n")[0]
        failed[name] = GenrecError(f"out of memory ({said}); a smaller batch or model may fit")
    text = f"{escape(f'runs/{name}')}: failed: {escape(str(failed[name]))}"
    stages.console.print(f"[red]{text}[/red]")


def usable_cores() -> int:
    """Cores that this process may run on, which taskset and batch systems make fewer."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def devices_of_jobs(jobs: int) -> list[str | None]:
    """The GPU of each job as `CUDA_VISIBLE_DEVICES` names it; None where there is no choice."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    visible = [str(number) for number in range(count)]
    if named:
        visible = [name.strip() for name in named.split(",")][:count]
    if len(visible) < 2:
        return [None] * jobs
    return [visible[job % len(visible)] for job in range(jobs)]


def _begin_job(threads: int, devices: Any) -> None:
    """Give a job its share of the machine, before anything runs on a GPU."""
    torch.set_num_threads(threads)
    device = devices.get()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device


def _train_alone(
    folder: Path, known: Known, name: str, options: dict[str, Any], split: SplitConfig
) -> tuple[str, int | None, bool]:
    """One run in a process of its own: its key, moment, and whether there was work to do."""
    stages = Stages(folder, Console(quiet=True))
    stages.keys, stages.made = known
    worked = _train(stages, name, options, split, progress=False)
    return stages.keys[f"runs/{name}"], stages.made[f"runs/{name}"], worked


def _train(
    stages: Stages, name: str, options: dict[str, Any], split: SplitConfig, progress: bool
) -> bool:
    after, settings = ["dataset"], dict(options)
    for key, place in (("vocabulary", "vocabularies"), ("vectors", "vectors")):
        if settings.get(key):
            after.append(f"{place}/{settings[key]}")
            settings[key] = str(stages.folder / place / settings[key])
    settings["training"] = TrainingConfig(**settings.get("training", {}))
    return stages.do(
        f"runs/{name}",
        [resolved_run(options), split.describe()],
        partial(
            train,
            str(stages.folder / "dataset"),
            str(stages.folder / "runs" / name),
            name=name,
            split=split,
            progress=progress,
            **settings,
        ),
        after=after,
        resumes=True,
        shared=True,
    )
