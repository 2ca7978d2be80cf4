"""Stages that are skipped while they are up to date, and the files that decide whether they are."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

import genrec
from genrec.artefacts import read_json, write_json
from genrec.embedding.encoders import EncoderSource
from genrec.embedding.text import TextEmbedder
from genrec.processes import processes, summed


class Stages:
    """Runs stages and remembers, by a hash over settings and inputs, which are up to date."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.console = folder, console
        self.keys: dict[str, str] = {}
        self.made: dict[str, int | None] = {}

    def do(
        self,
        name: str,
        settings: Any,
        work: Callable[..., Any],
        *,
        after: list[str] | None = None,
        resumes: bool = False,
        shared: bool = False,
    ) -> bool:
        """Do `work` unless it is up to date: same key, and made from these very results.

        Args:
            name: of the stage and of the folder it writes.
            settings: whatever decides its result, beside its inputs.
            work: does it.
            after: stages whose results are its inputs.
            resumes: `work` takes `resume`, whether the same work was begun before and not ended.
            shared: all processes of `accelerate launch` do the work together; otherwise the first
                one does it while the others wait. The first one decides whether there is any.

        Returns:
            Whether there was work to do.
        """
        inputs = [self.keys[stage] for stage in after or []]
        plain = json.dumps([genrec.__version__, settings, inputs], sort_keys=True, default=str)
        key = hashlib.sha256(plain.encode()).hexdigest()[:16]
        self.keys[name] = key
        path = self.folder / ".stages" / f"{name.replace('/', '.')}.json"
        note = read_json(path) if path.is_file() else {}
        same, done = note.get("key") == key, note.get("done", True)
        made = {stage: self.made[stage] for stage in after or []}
        made_from = note.get("after", {})
        fresh = all(made_from.get(stage) == moment for stage, moment in made.items())
        self.made[name] = note.get("made")
        up_to_date = same and done and fresh and (self.folder / name).is_dir()
        team = processes()
        # Of the first process, which also writes the notes that the others may read too early.
        decided = np.array([up_to_date, same and not done]) & team.is_main_process
        up_to_date, begun = summed(decided).tolist()
        if up_to_date:
            self.console.print(f"[dim]{escape(name)}: up to date[/dim]")
            return False
        self.console.print(f"[bold]{escape(name)}[/bold]")
        if team.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"key": key, "done": False})
        started = time.perf_counter()
        if shared or team.is_main_process:
            work(**({"resume": begun} if resumes else {}))
        team.wait_for_everyone()
        seconds = time.perf_counter() - started
        # The moment tells the same work done twice apart, also after a kill in between.
        self.made[name] = time.time_ns()
        record = {"key": key, "done": True, "made": self.made[name], "after": made}
        if team.is_main_process:
            write_json(path, {**record, "seconds": round(seconds, 1)})
        self.console.print(f"[dim]{escape(name)}: {seconds:.1f} s[/dim]")
        return True


def prepared_from(options: Mapping[str, Any]) -> Any:
    """The files a source may read: those that are named, else `path` or those right in it too.

    What is downloaded is the publisher's; it is there after the first time only.
    """
    if not options.get("path") or options.get("download"):
        return None
    root = Path(options["path"])
    folder = root if root.is_dir() else root.parent
    pairs = (("interactions", "items"), ("reviews", "metadata"))
    named = {
        key: _files(folder / str(options[key]))
        for pair in pairs
        for key in pair
        if options.get(key)
    }
    if root.is_dir() and any(named.keys() >= set(pair) for pair in pairs):
        inside = []
    else:
        inside = _files(root, inner=False)
    return [*inside, *(files for files in named.values() if any(f not in inside for f in files))]


def embedded_from(config: Mapping[str, Any]) -> Any:
    """The files an embedder reads, what identifies its model, and those of its parts."""
    found: list[Any] = [_files(Path(config[key])) for key in ("path", "ids") if config.get(key)]
    if config.get("type") == TextEmbedder.type:
        source = EncoderSource.find_local(config.get("model", TextEmbedder.model))
        found.append(source and source.identity())
    nested = [embedded_from(part) for part in config.get("parts", [])]
    return [kept for kept in (*found, *nested) if kept] or None


def _files(root: Path, *, inner: bool = True) -> list[Any]:
    """Names, sizes and times of a file, or of a folder's files; nothing if it is not there."""
    found = [root] if root.is_file() else sorted(root.rglob("*") if inner else root.glob("*"))
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in found if p.is_file()]
