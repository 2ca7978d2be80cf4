"""Recipes: one YAML file from source to report; every stage is skipped while it is up to date."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from genrec.artefacts import check_folder_place
from genrec.data.sources import SOURCES
from genrec.errors import ConfigError, GenrecError, expected_one_of
from genrec.evaluation import BASELINES
from genrec.models import RecommenderConfig
from genrec.pipeline.checks import check_keys, check_types, expand_variables, read_yaml
from genrec.pipeline.evaluate import check_evaluation, evaluate
from genrec.pipeline.features import assumed_features
from genrec.pipeline.jobs import train_all
from genrec.pipeline.notes import plural
from genrec.pipeline.reseeding import OPTION
from genrec.pipeline.resolved import options_of, resolved, resolved_embedder, resolved_vocabulary
from genrec.pipeline.scales import scaled
from genrec.pipeline.settings import SplitConfig, names
from genrec.pipeline.stages import Stages, embedded_from, prepared_from
from genrec.pipeline.sweeps import (
    PlannedRun,
    asked_runs,
    planned_runs,
    print_summary,
    runs_of_best,
    runs_to_test,
    summary,
    variants,
    write_summary,
)
from genrec.pipeline.train import (
    BACKBONE_DEFAULT,
    ENCODER_DEFAULT,
    HEAD_DEFAULT,
    check_parts,
    train,
)
from genrec.pipeline.vocabulary import (
    QUANTIZER_DEFAULT,
    build_embedder,
    build_quantizer,
    check_collaborative,
    embed,
    quantize,
)
from genrec.processes import processes
from genrec.training import TrainingConfig

_NAME = re.compile(r"[\w-][\w.-]*")
SUPPLIED_TO_EVALUATE = ("runs", "out", "dataset", "vocabulary", "progress")


@dataclass
class Recipe:
    """A configuration that reproduces a result.

    Attributes:
        name: of the recipe; the output folder is `runs/<name>` by default.
        prepare: `source` and its options.
        split: see `SplitConfig`.
        vectors: name -> embedder (`type` and options).
        vocabularies: name -> `vectors` (a name above), `quantizer`, `collisions`, `seed`, and for a
            quantizer that learns from them `collaborative` (a name above).
        runs: name -> options of `train`; `vocabulary` and `vectors` are names above; `seeds`
            repeats the run, once per seed (with `reseed_vocabulary: true` each reads a vocabulary
            fitted with its seed, `rq-seed1`), and `sweep` tries a grid of settings, of which the
            best by validation is tested (all of them with `test_all: true`); with `sweep_seeds`
            these seeds decide, and the others are trained for the best alone.
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
        content = read_yaml(path)
        check_keys(str(path), content, [f.name for f in fields(cls)])
        for key in ("name", "prepare"):
            if key not in content:
                raise ConfigError(f"{path}: `{key}` is missing")
        content = {key: value for key, value in content.items() if value is not None}
        check_types(str(path), content, cls)
        recipe = cls(**expand_variables(content, where=str(path)))
        recipe.check(str(path))
        return recipe

    def check(self, where: str) -> None:
        """Try every setting before any stage runs.

        Raises:
            ConfigError: for a key that no stage knows, a reference that points nowhere, a value of
                another type or range than its stage takes, parts of a model that do not fit.
        """
        _check_name(where, "name", self.name)
        for key in ("vectors", "vocabularies", "runs"):
            for name in getattr(self, key):
                _check_name(where, key, name)
        source = self.prepare.get("source")
        if source not in SOURCES:
            raise ConfigError(
                f"{where}: prepare: unknown source {source!r}; {expected_one_of(source, SOURCES)}"
            )
        options = {key: value for key, value in self.prepare.items() if key != "source"}
        known = list(inspect.signature(SOURCES[source]).parameters)[1:]
        check_keys(f"{where}: prepare", options, known)
        check_types(f"{where}: prepare", options, SOURCES[source])
        _try(f"{where}: split", self.split, SplitConfig)
        for name, config in self.vectors.items():
            with _naming(f"{where}: vectors: {name}"):
                build_embedder(config)
        sizes = {
            name: self._check_vocabulary(f"{where}: vocabularies: {name}", options)
            for name, options in self.vocabularies.items()
        }
        for name, options in self.runs.items():
            with _naming(f"{where}: runs: {name}"):
                each = variants(name, options)
            for variant, chosen in each.items():
                self._check_run(f"{where}: runs: {variant}", variant, chosen, sizes)
        with _naming(f"{where}: runs"):
            for name in planned_runs(self.runs, self.vocabularies):
                _check_name(where, "runs", name)
        check_keys(f"{where}: evaluate", self.evaluate, options_of(evaluate, SUPPLIED_TO_EVALUATE))
        check_types(f"{where}: evaluate", self.evaluate, evaluate)
        with _naming(where):
            check_evaluation(self.evaluate)
        _refer(f"{where}: evaluate", "neighbours", self.evaluate.get("neighbours"), self.vectors)

    def needed_by(self, runs: Mapping[str, dict[str, Any]]) -> Recipe:
        """The recipe with the vectors and vocabularies only that these of its runs read."""

        def reads(options: Mapping[str, Any], *keys: str) -> set[Any]:
            return {options[key] for key in keys if options.get(key)}

        read = set().union(*(reads(run, "vocabulary") for run in runs.values()))
        vocabularies = {name: self.vocabularies[name] for name in self.vocabularies if name in read}
        users = [reads(run, "vectors") for run in runs.values()]
        users += [reads(one, "vectors", "collaborative") for one in vocabularies.values()]
        users.append(reads(self.evaluate, "neighbours"))
        read = set().union(*users)
        vectors = {name: self.vectors[name] for name in self.vectors if name in read}
        return replace(self, vectors=vectors, vocabularies=vocabularies)

    def _check_vocabulary(self, place: str, options: dict[str, Any]) -> tuple[int, ...]:
        """Check one vocabulary and return its codebook sizes (with one of any size appended)."""
        check_keys(place, options, options_of(quantize))
        check_types(place, options, quantize)
        _refer(place, "vectors", options.get("vectors"), self.vectors, required=True)
        _refer(place, "collaborative", options.get("collaborative"), self.vectors)
        with _naming(place):
            quantizer = build_quantizer(options.get("quantizer", QUANTIZER_DEFAULT))
            check_collaborative(quantizer, options.get("collaborative"))
        sizes = quantizer.codebook_sizes
        return (*sizes, 2) if options.get("collisions") == "append" else sizes

    def _check_run(
        self, place: str, name: str, options: dict[str, Any], sizes: Mapping[str, tuple[int, ...]]
    ) -> None:
        others = ("seeds", "sweep", "sweep_seeds", "test_all", OPTION)
        check_keys(place, options, [*options_of(train), *others])
        if name in BASELINES:
            raise ConfigError(f"{place}: is the name of a baseline; choose another name")
        seeds = options.get("seeds", [])
        if not isinstance(seeds, list) or any(type(seed) is not int for seed in seeds):
            raise ConfigError(f"{place}: seeds={seeds!r}; expected a list of integers")
        _try(f"{place}: training", options.get("training", {}), TrainingConfig)
        plain = {key: value for key, value in options.items() if key != "training"}
        check_types(place, plain, train)
        _refer(place, "vocabulary", options.get("vocabulary"), self.vocabularies)
        _refer(place, "vectors", options.get("vectors"), self.vectors)
        shape = ("max_history", "input_norm", "input_dropout", "initial")
        with _naming(place):
            d_model, backbone = scaled(
                options.get("scale"),
                options.get("d_model"),
                options.get("backbone", BACKBONE_DEFAULT),
            )
            check_parts(
                RecommenderConfig(
                    **assumed_features(options.get("item_encoder", {})),
                    num_items=2,
                    codebook_sizes=sizes.get(options.get("vocabulary") or "", ()),
                    vector_dim=2 if options.get("vectors") else 0,
                    item_encoder=options.get("item_encoder", ENCODER_DEFAULT),
                    backbone=backbone,
                    d_model=d_model,
                    head=options.get("head", HEAD_DEFAULT),
                    **{key: options[key] for key in shape if key in options},
                )
            )


def run(
    recipe: str,
    *,
    out: str | None = None,
    only: str | list[str] | None = None,
    order: str | None = None,
    jobs: int = 1,
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
            that lists `seeds`), with commas between them, and make the vectors and
            vocabularies that they read only.
        order: order of events of one day, in place of the recipe's: `file` or `shuffled-day`.
        jobs: train so many of the runs at a time, each in a process of its own that has its share
            of the cores, and one GPU where there are several.
        progress: show progress bars and tables.

    Returns:
        The output folder.

    Raises:
        ConfigError: for anything wrong with the recipe, or that this machine cannot do, before
            any stage runs.
        GenrecError: naming the runs that failed, once the others were trained and evaluated.
    """
    if jobs < 1 or (jobs > 1 and processes().num_processes > 1):
        raise ConfigError(
            f"run: jobs={jobs}; expected at least 1, and 1 where several processes were launched"
        )
    plan = Recipe.load(recipe)
    planned = planned_runs(plan.runs, plan.vocabularies)
    for one in planned.values():
        plan.vocabularies = plan.vocabularies | one.reseeded
    if wanted := set(names(only or [])):
        answers = {name: {name, one.variant, one.run} for name, one in planned.items()}
        known = dict.fromkeys(sorted(set().union(*answers.values())))
        check_keys(f"{recipe}: --only", wanted, known)
        planned = asked_runs(planned, [name for name in planned if answers[name] & wanted])
        plan = plan.needed_by(_options(planned))
    if order is not None:
        plan.split = {**plan.split, "order": order}
    suffix = f"-{order}" if order not in (None, "file") else ""
    folder = Path(out or f"runs/{plan.name}{suffix}")
    check_folder_place(folder)
    for name, one in planned.items():
        with _naming(f"{recipe}: runs: {name}"):
            TrainingConfig(**one.options["training"]).check_machine()
    progress = progress and processes().is_main_process
    stages = Stages(folder, Console(stderr=True, quiet=not progress))
    split = SplitConfig(**plan.split)
    dataset = str(folder / "dataset")

    options = dict(plan.prepare)
    source = options.pop("source")
    stages.do(
        "dataset",
        [source, resolved(SOURCES[source], options, ("out",)), prepared_from(options)],
        partial(SOURCES[source], dataset, **options),
    )
    for name, embedder in plan.vectors.items():
        stages.do(
            f"vectors/{name}",
            ["dataset", resolved_embedder(embedder), split.describe(), embedded_from(embedder)],
            partial(
                embed,
                dataset,
                str(folder / "vectors" / name),
                embedder=embedder,
                split=split,
                progress=progress,
            ),
            after=["dataset"],
        )
    first = {name: one for name, one in planned.items() if one.decides}
    waiting = {name for one in planned.values() if not one.decides for name in one.reseeded}
    waiting -= {one.options.get("vocabulary") for one in first.values()}
    all_of_them = plan.vocabularies
    at_once = {name: all_of_them[name] for name in all_of_them if name not in waiting}
    _quantize_all(stages, at_once, split, progress)
    failed = train_all(stages, _options(first), split, jobs, progress)
    later = runs_of_best(folder, planned, failed)
    needed = {name for one in later.values() for name in one.reseeded} & waiting
    _quantize_all(stages, {name: all_of_them[name] for name in sorted(needed)}, split, progress)
    failed |= train_all(stages, _options(later), split, jobs, progress)
    planned = {name: one for name, one in planned.items() if name in first or name in later}
    trained = [f"runs/{name}" for name in planned if name not in failed]
    if trained:
        # Another variant may be the best without those that failed, or with them.
        about = [sorted(failed)] if failed else []
        options = dict(plan.evaluate)
        read = [f"vectors/{options['neighbours']}"] if options.get("neighbours") else []
        if read:
            options["neighbours"] = str(folder / read[0])
        evaluated = stages.do(
            "report",
            [resolved(evaluate, plan.evaluate, SUPPLIED_TO_EVALUATE), *about],
            partial(_report, folder, planned, failed, options, progress),
            after=["dataset", *read, *trained],
            shared=True,
        )
        if progress and not evaluated:
            Console(soft_wrap=True).print(f"report: {folder / 'report' / 'report.html'}")
    if failed:
        reasons = "; ".join(f"{name} ({error})" for name, error in failed.items())
        raise GenrecError(
            f"{recipe}: {len(failed)} of {plural(len(planned), 'run')} failed: {reasons}; "
            + ("the others are evaluated; " if trained else "")
            + "the same command tries again those that failed"
        )
    return folder


def _quantize_all(
    stages: Stages,
    vocabularies: Mapping[str, Mapping[str, Any]],
    split: SplitConfig,
    progress: bool,
) -> None:
    for name, options in vocabularies.items():
        inputs = {key: options[key] for key in ("vectors", "collaborative") if options.get(key)}
        places = {key: str(stages.folder / "vectors" / value) for key, value in inputs.items()}
        stages.do(
            f"vocabularies/{name}",
            [resolved_vocabulary(options), split.describe()],
            partial(
                quantize,
                out=str(stages.folder / "vocabularies" / name),
                dataset=str(stages.folder / "dataset"),
                split=split,
                progress=progress,
                **{**options, **places},
            ),
            after=["dataset", *(f"vectors/{value}" for value in inputs.values())],
        )


def _options(planned: Mapping[str, PlannedRun]) -> dict[str, dict[str, Any]]:
    return {name: one.options for name, one in planned.items()}


def _report(
    folder: Path,
    planned: Mapping[str, PlannedRun],
    failed: Mapping[str, GenrecError],
    options: Mapping[str, Any],
    progress: bool,
) -> None:
    """Evaluate the runs, and put mean and spread over their seeds beside the report."""
    split = options.get("split", "test")
    trained = {name: one for name, one in planned.items() if name not in failed}
    chosen = runs_to_test(folder, planned, failed) if split == "test" else trained
    runs = [str(folder / "runs" / name) for name in chosen]
    evaluate(runs, str(folder / "report"), progress=progress, **options)
    if not processes().is_main_process:
        return
    own = split == "test" and not options.get("candidates")
    rows = summary(folder, trained, evaluated=chosen, split=split, own=own)
    write_summary(folder / "report" / "runs.md", rows, failed)
    # Without seeds, sweeps and failures the report has just said all of it.
    if progress and (failed or len(chosen) < len(trained) or len(rows) < len(trained)):
        print_summary(rows)


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """Put the place in the recipe before the message of an error."""
    try:
        yield
    except GenrecError as error:
        raise ConfigError(f"{where}: {error}") from error


def _try(where: str, options: Any, kind: type) -> None:
    """Check keys, types and values of a configuration class."""
    if not isinstance(options, Mapping):
        raise ConfigError(f"{where}: expected keys and values, found {options!r}")
    check_keys(where, options, [f.name for f in fields(kind)])
    check_types(where, options, kind)
    with _naming(where):
        kind(**options)


def _check_name(where: str, key: str, name: Any) -> None:
    """Names become folders of the output."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {key}: {name!r} names a folder; expected letters, digits, `_`, `-` and `.`, "
            "not a `.` first"
        )


def _refer(
    where: str, key: str, name: Any, known: Mapping[str, Any], *, required: bool = False
) -> None:
    if (name is None and required) or (name is not None and name not in known):
        raise ConfigError(
            f"{where}: {key} is {name!r}; expected one of the recipe's: "
            f"{', '.join(known) or 'none'}"
        )
