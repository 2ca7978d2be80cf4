"""Recipes: one YAML file from source to report; every stage is skipped while it is up to date."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

import genrec
from genrec.artefacts import read_json, write_json
from genrec.data.sources import SOURCES
from genrec.errors import ConfigError
from genrec.pipeline.evaluate import evaluate
from genrec.pipeline.settings import SplitConfig, check_keys, expand_variables
from genrec.pipeline.train import train
from genrec.pipeline.vocabulary import embed, quantize
from genrec.training import TrainingConfig

SUPPLIED = ("dataset", "out", "runs", "split", "progress", "name", "resume")


@dataclass
class Recipe:
    """A configuration that reproduces a result.

    Attributes:
        name: of the recipe; the output folder is `runs/<name>` by default.
        prepare: `source` and its options.
        split: see `SplitConfig`.
        vectors: name -> embedder (`type` and options).
        vocabularies: name -> `vectors` (a name above), `quantizer`, `collisions`, `seed`.
        runs: name -> options of `train`; `vocabulary` and `vectors` are names above; `seeds`
            repeats the run, once per seed.
        evaluate: options of `evaluate`.
    """

    name: str
    prepare: dict[str, Any]
    split: dict[str, Any] = field(default_factory=dict)
    vectors: dict[str, dict[str, Any]] = field(default_factory=dict)
    vocabularies: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read and check a recipe before anything runs.

        Raises:
            ConfigError: naming the file and the key that is missing, misspelt or points nowhere.
        """
        path = Path(path)
        try:
            content = yaml.safe_load(path.read_text())
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such recipe") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is not valid YAML: {error}") from error
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path}: expected keys and values, found {type(content).__name__}")
        check_keys(str(path), content, [f.name for f in fields(cls)])
        for key in ("name", "prepare"):
            if key not in content:
                raise ConfigError(f"{path}: `{key}` is missing")
        recipe = cls(**expand_variables(dict(content), where=str(path)))
        recipe.check(str(path))
        return recipe

    def check(self, where: str) -> None:
        """Raise ConfigError for any key that no stage knows or reference that points nowhere."""
        source = self.prepare.get("source")
        if source not in SOURCES:
            raise ConfigError(
                f"{where}: prepare: unknown source {source!r}; expected one of {', '.join(SOURCES)}"
            )
        known = list(inspect.signature(SOURCES[source]).parameters)[1:]
        check_keys(f"{where}: prepare", (k for k in self.prepare if k != "source"), known)
        check_keys(f"{where}: split", self.split, [f.name for f in fields(SplitConfig)])
        for name, options in self.vocabularies.items():
            place = f"{where}: vocabularies: {name}"
            check_keys(place, options, _options(quantize))
            _refer(place, "vectors", options.get("vectors"), self.vectors, required=True)
        for name, options in self.runs.items():
            place = f"{where}: runs: {name}"
            check_keys(place, options, [*_options(train), "seeds"])
            training = options.get("training", {})
            check_keys(f"{place}: training", training, [f.name for f in fields(TrainingConfig)])
            _refer(place, "vocabulary", options.get("vocabulary"), self.vocabularies)
            _refer(place, "vectors", options.get("vectors"), self.vectors)
        check_keys(f"{where}: evaluate", self.evaluate, _options(evaluate))


def run(
    recipe: str,
    *,
    out: str | None = None,
    only: list[str] | None = None,
    order: str | None = None,
    progress: bool = True,
) -> Path:
    """Run a recipe's stages in order: prepare, embed, quantize, train, evaluate.

    A stage whose settings and inputs have not changed since it last ended is skipped; an
    interrupted training goes on where it stopped.

    Example:
        genrec run recipes/demo.yaml

    Args:
        recipe: YAML file.
        out: output folder, `runs/<name of the recipe>` by default; with `--order shuffled-day`,
            `runs/<name>-shuffled-day`.
        only: train and evaluate only these of the recipe's runs (`sid`, or `sid-seed1` of a run
            that lists `seeds`).
        order: order of events of one day, in place of the recipe's: `file` or `shuffled-day`.
        progress: show progress bars and tables.

    Returns:
        The output folder.
    """
    plan = Recipe.load(recipe)
    planned = _with_seeds(plan.runs)
    if only:
        check_keys(f"{recipe}: --only", only, dict.fromkeys([*plan.runs, *planned]))
        chosen = _with_seeds({name: plan.runs[name] for name in plan.runs if name in only})
        planned = {name: planned[name] for name in planned if name in only or name in chosen}
    if order is not None:
        plan.split = {**plan.split, "order": order}
    suffix = f"-{order}" if order not in (None, "file") else ""
    folder = Path(out or f"runs/{plan.name}{suffix}")
    stages = _Stages(folder, Console(stderr=True, quiet=not progress))
    split = SplitConfig(**plan.split)
    dataset = str(folder / "dataset")

    options = dict(plan.prepare)
    source = options.pop("source")
    stages.do(
        "dataset",
        [source, options, _files(options.get("path"))],
        lambda: SOURCES[source](dataset, **options),
    )
    for name, embedder in plan.vectors.items():
        stages.do(
            f"vectors/{name}",
            ["dataset", embedder, split.describe(), _files(embedder.get("path"))],
            lambda embedder=embedder, name=name: embed(
                dataset, str(folder / "vectors" / name), embedder=embedder, split=split
            ),
            after=["dataset"],
        )
    for name, options in plan.vocabularies.items():
        vectors = options["vectors"]
        settings = {**options, "vectors": str(folder / "vectors" / vectors)}
        stages.do(
            f"vocabularies/{name}",
            [options, split.describe()],
            lambda settings=settings, name=name: quantize(
                out=str(folder / "vocabularies" / name),
                dataset=dataset,
                split=split,
                progress=progress,
                **settings,
            ),
            after=["dataset", f"vectors/{vectors}"],
        )
    trained = []
    for name, options in planned.items():
        after, settings = ["dataset"], dict(options)
        for key, place in (("vocabulary", "vocabularies"), ("vectors", "vectors")):
            if settings.get(key):
                after.append(f"{place}/{settings[key]}")
                settings[key] = str(folder / place / settings[key])
        settings["training"] = TrainingConfig(**settings.get("training", {}))
        trained.append(f"runs/{name}")
        stages.do(
            f"runs/{name}",
            [options, split.describe()],
            lambda settings=settings, name=name: train(
                dataset,
                str(folder / "runs" / name),
                name=name,
                split=split,
                progress=progress,
                **settings,
            ),
            after=after,
        )
    if trained:
        stages.do(
            "report",
            [plan.evaluate],
            lambda: evaluate(
                [str(folder / name) for name in trained],
                str(folder / "report"),
                progress=progress,
                **plan.evaluate,
            ),
            after=["dataset", *trained],
        )
    return folder


class _Stages:
    """Runs stages and remembers, by a hash over settings and inputs, which are up to date."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.console = folder, console
        self.keys: dict[str, str] = {}

    def do(
        self, name: str, settings: Any, work: Callable[[], Any], *, after: list[str] | None = None
    ) -> None:
        inputs = [self.keys[stage] for stage in after or []]
        plain = json.dumps([genrec.__version__, settings, inputs], sort_keys=True, default=str)
        key = hashlib.sha256(plain.encode()).hexdigest()[:16]
        self.keys[name] = key
        note = self.folder / ".stages" / f"{name.replace('/', '.')}.json"
        if note.is_file() and (self.folder / name).is_dir() and read_json(note)["key"] == key:
            self.console.print(f"[dim]{name}: up to date[/dim]")
            return
        self.console.print(f"[bold]{name}[/bold]")
        note.unlink(missing_ok=True)
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, {"key": key, "seconds": round(seconds, 1)})
        self.console.print(f"[dim]{name}: {seconds:.1f} s[/dim]")


def _options(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in SUPPLIED]


def _refer(
    where: str, key: str, name: Any, known: Mapping[str, Any], *, required: bool = False
) -> None:
    if (name is None and required) or (name is not None and name not in known):
        raise ConfigError(
            f"{where}: {key} is {name!r}; expected one of the recipe's: "
            f"{', '.join(known) or 'none'}"
        )


def _with_seeds(runs: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One run per seed, named `<run>-seed<n>`, for runs that list `seeds`."""
    expanded: dict[str, dict[str, Any]] = {}
    for name, options in runs.items():
        options = dict(options)
        seeds = options.pop("seeds", None)
        for seed in seeds if seeds else [None]:
            training = dict(options.get("training", {}))
            if seed is not None:
                training["seed"] = seed
            expanded[name if seed is None else f"{name}-seed{seed}"] = {
                **options,
                "training": training,
            }
    return expanded


def _files(path: Any) -> Any:
    """Names, sizes and times of the files a stage reads from outside the recipe's folder."""
    if not path:
        return None
    root = Path(str(path))
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
