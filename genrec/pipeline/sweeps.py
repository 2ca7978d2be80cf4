"""Runs of a recipe that stand for several: grids of settings, and seeds; and their table."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich import box
from rich.table import Table

from genrec.artefacts import read_json, replacing
from genrec.consoles import output_console
from genrec.errors import ConfigError
from genrec.evaluation.report import number
from genrec.evaluation.results import told_of
from genrec.pipeline.reseeding import OPTION, check_reseeding, reseeded

UNTESTED = "not tested"
# Sweeps choose by validation, which these define: numbers under different ones do not compare.
UNSWEPT = ("training.eval_masked", "training.eval_users")
HEADINGS = ("run", "seeds", "validation", "unmasked", "masked", "parameters", "minutes")


@dataclass(frozen=True)
class PlannedRun:
    """One training.

    Attributes:
        run: name in the recipe.
        variant: name of its settings; the runs of one variant differ in the seed alone.
        options: of `train`.
        always_tested: also where another variant of a sweep has the better validation.
        reseeded: name -> options of the vocabulary it reads, if that is fitted for its seed.
        decides: whether its validation counts when a sweep is decided. One that does not is trained
            for the best variant alone.
    """

    run: str
    variant: str
    options: dict[str, Any]
    always_tested: bool = True
    reseeded: dict[str, dict[str, Any]] = field(default_factory=dict)
    decides: bool = True


def planned_runs(
    runs: Mapping[str, Mapping[str, Any]],
    vocabularies: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, PlannedRun]:
    """Every training of a recipe by the name of its folder.

    A run with a `sweep` becomes one variant per combination of its lists, named after their values
    (`sid-learning_rate0.001-dropout0.3`); a run with `seeds` one training per seed (`sid-seed1`).
    Those of `sweep_seeds` decide the sweep, all if there are none. With `reseed_vocabulary` each
    reads a vocabulary fitted with its seed (`rq-seed1`), which is the recipe's own where that has
    the seed.

    Args:
        runs: of the recipe.
        vocabularies: of the recipe, which those of runs that reseed are among.

    Raises:
        ConfigError: if two of them have one name, and so one folder, or a sweep or reseeding makes
            no sense.
    """
    planned: dict[str, PlannedRun] = {}
    for run, listed in runs.items():
        always = "sweep" not in listed or bool(listed.get("test_all", False))
        deciding = _deciding_seeds(run, listed)
        for variant, options in variants(run, listed).items():
            reseeds = check_reseeding(variant, options)
            options.pop(OPTION, None)
            seeds = options.pop("seeds", None)
            for seed in seeds if seeds else [None]:
                options_of_seed = {**options, "training": dict(options.get("training", {}))}
                fitted: dict[str, dict[str, Any]] = {}
                if seed is not None:
                    options_of_seed["training"]["seed"] = seed
                    if reseeds:
                        own, fitted = reseeded(variant, vocabularies, options["vocabulary"], seed)
                        options_of_seed["vocabulary"] = own
                name = variant if seed is None else f"{variant}-seed{seed}"
                if name in planned:
                    raise ConfigError(
                        f"two runs are called {name!r}, one by the seeds or the sweep of {run!r}; "
                        "choose another name or seed"
                    )
                decides = not deciding or seed in deciding
                planned[name] = PlannedRun(run, variant, options_of_seed, always, fitted, decides)
    return planned


def variants(run: str, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of each combination of a run's `sweep`, by name; without one the run itself.

    Args:
        run: its name.
        options: as in the recipe; `sweep` maps options (`training.learning_rate`) to lists.

    Raises:
        ConfigError: naming the key that is no option with parts, that defines the validation, or
            whose values are no list; or if two combinations have one name.
    """
    plain = copy.deepcopy(dict(options))
    sweep = plain.pop("sweep", None)
    every = plain.pop("test_all", None)
    plain.pop("sweep_seeds", None)
    if every is not None and (sweep is None or not isinstance(every, bool)):
        raise ConfigError(f"test_all={every!r}; expected true or false beside a sweep")
    if sweep is None:
        return {run: plain}
    if not isinstance(sweep, Mapping) or not sweep:
        raise ConfigError(f"sweep={sweep!r}; expected options with a list of values each")
    for key, values in sweep.items():
        if not isinstance(values, list) or not values or not all(map(_sweepable, values)):
            raise ConfigError(
                f"sweep: {key}: {values!r}; expected a list of numbers, words, truth values, null, "
                "or lists of these"
            )
        if key == "training.seed":
            raise ConfigError(
                "sweep: training.seed: a sweep tests what has the best validation, which would "
                "pick a seed; list them under `seeds`, of which all are tested"
            )
        if key in UNSWEPT:
            raise ConfigError(
                f"sweep: {key}: defines the validation that ranks a sweep, so its values do "
                "not compare; set it for the run, or name a run for each value"
            )
    last = [str(key).rpartition(".")[2] for key in sweep]
    shown = [
        end if last.count(end) == 1 else str(key) for key, end in zip(sweep, last, strict=True)
    ]
    found = {}
    for combination in itertools.product(*sweep.values()):
        chosen = copy.deepcopy(plain)
        for key, value in zip(sweep, combination, strict=True):
            _put(chosen, str(key), value)
        values = zip(shown, combination, strict=True)
        name = "-".join([run, *(f"{key}{_text(value)}" for key, value in values)])
        if name in found:
            raise ConfigError(f"sweep: two combinations are called {name!r}; give each value once")
        found[name] = chosen
    return found


def _deciding_seeds(run: str, options: Mapping[str, Any]) -> list[int]:
    """The `sweep_seeds` of a run; none, where all its seeds decide.

    Raises:
        ConfigError: where there is nothing to decide, or they are none of its seeds.
    """
    found, seeds = options.get("sweep_seeds"), options.get("seeds") or []
    if found is None:
        return []
    if found and (not options.get("sweep") or options.get("test_all")):
        raise ConfigError(
            f"{run}: sweep_seeds needs a `sweep` of which the best is tested, so not `test_all`"
        )
    if not isinstance(found, list) or any(seed not in seeds for seed in found):
        raise ConfigError(
            f"{run}: sweep_seeds={found!r}; expected a list of some of its seeds: {seeds}"
        )
    return found


def asked_runs(planned: Mapping[str, PlannedRun], asked: Collection[str]) -> dict[str, PlannedRun]:
    """Those of the runs that are asked for, among which a sweep is then decided.

    Of a variant without its deciding runs all that are asked for decide, so that none is left out.
    """
    chosen = {name: planned[name] for name in planned if name in asked}
    decided = {one.variant for one in chosen.values() if one.decides}
    return {
        name: one if one.variant in decided else replace(one, decides=True)
        for name, one in chosen.items()
    }


def runs_of_best(
    folder: Path, planned: Mapping[str, PlannedRun], failed: Collection[str] = ()
) -> dict[str, PlannedRun]:
    """The runs that wait for their sweep, of the variants that won it; see `runs_to_test`."""
    best = _best_variants(folder, planned, failed)
    return {name: one for name, one in planned.items() if not one.decides and one.variant in best}


def runs_to_test(
    folder: Path, planned: Mapping[str, PlannedRun], failed: Collection[str] = ()
) -> dict[str, PlannedRun]:
    """The runs that may read the test set: of a sweep, the best variant by validation alone.

    Args:
        folder: of the recipe's output.
        planned: the runs of one call, trained or failed.
        failed: those without a result; a variant with one of them is chosen only where every
            variant of its sweep has one.

    Returns:
        The trained runs without a sweep, and all seeds of the variant of each sweep whose mean
        validation NDCG@10 is the highest, over the seeds that decide; the first of equal ones.
    """
    best = _best_variants(folder, planned, failed)
    return {
        name: one
        for name, one in planned.items()
        if name not in failed and (one.always_tested or one.variant in best)
    }


def _best_variants(
    folder: Path, planned: Mapping[str, PlannedRun], failed: Collection[str]
) -> set[str]:
    groups: dict[str, dict[str, list[str]]] = {}
    for name, one in planned.items():
        if not one.always_tested and one.decides:
            groups.setdefault(one.run, {}).setdefault(one.variant, []).append(name)
    chosen = set()
    for group in groups.values():
        ranked = []
        for variant, members in group.items():
            found = [_validation(folder, name) for name in members if name not in failed]
            if found:
                ranked.append((len(found) == len(members), statistics.mean(found), variant))
        if ranked:
            chosen.add(max(ranked, key=lambda one: one[:2])[2])
    return chosen


def _validation(folder: Path, name: str) -> float:
    return float(read_json(folder / "runs" / name / "run.json")["validation"]["ndcg@10"])


def summary(
    folder: Path,
    planned: Mapping[str, PlannedRun],
    *,
    evaluated: Collection[str] | None = None,
    split: str = "test",
    own: bool = True,
) -> list[tuple[str, ...]]:
    """One row per variant, best validation first: mean (standard deviation) over its seeds.

    Where some seeds decide a sweep, its variants stand in the order of these.

    Validations of another kind (masked or not, on how many users) do not compare, and those of one
    kind stand together.

    A variant that knew the time or the action of the target says so after its name.

    Args:
        folder: of the recipe's output.
        planned: the runs that were trained.
        evaluated: those of them that were evaluated, all by default; the others have no results.
        split: which split was.
        own: whether their `metrics.json` are in the run folders, not below the report.
    """
    groups: dict[str, list[str]] = {}
    for name, one in planned.items():
        groups.setdefault(one.variant, []).append(name)
    rows = []
    for variant, members in groups.items():
        about = [read_json(folder / "runs" / name / "run.json") for name in members]
        place = "runs" if own else "report"
        known = [name for name in members if evaluated is None or name in evaluated]
        metrics = [read_json(folder / place / name / "metrics.json") for name in known]
        validation = [record["validation"]["ndcg@10"] for record in about]
        deciding = [
            value for name, value in zip(members, validation, strict=True) if planned[name].decides
        ]
        told = told_of(metrics[0]) if metrics else ""
        shown = f"{variant} (told the {told.replace(', ', ' and ')})" if told else variant
        kind = _validated(about[0])
        cells = [shown, str(len(members)), f"{mean_and_spread(validation)} {kind}".rstrip()]
        if 0 < len(deciding) < len(validation):
            cells[2] += f", {number(statistics.mean(deciding))} decided"
        for mask in ("unmasked", "masked"):
            found = _headlines(metrics[0], f"{split}/{mask}/") if metrics else []
            results = [
                f"{name} " + mean_and_spread([record[key]["value"] for record in metrics])
                for name, key in found
            ]
            cells.append(", ".join(results) if metrics else UNTESTED)
        cells.append(f"{about[0]['parameters']:,}")
        cells.append(f"{statistics.mean(record['seconds'] for record in about) / 60:.1f}")
        rows.append((kind, -statistics.mean(deciding or validation), tuple(cells)))
    return [cells for *_, cells in sorted(rows, key=lambda row: row[:2])]


def write_summary(
    path: Path,
    rows: Sequence[Sequence[str]],
    failed: Mapping[str, Exception] = MappingProxyType({}),
) -> None:
    """Write the rows of `summary` as a Markdown table, and below it the runs that failed."""
    some = any(UNTESTED in row for row in rows)
    lines = [
        "Mean (standard deviation) over seeds, best validation NDCG@10 first among those of one "
        "kind."
        + (
            " Of a sweep, only the best variant by validation was tested; where a recipe has "
            "`sweep_seeds`, by that of these seeds (`decided`), whose order this is."
            if some
            else ""
        ),
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|---|{'---:|' * (len(HEADINGS) - 1)}",
        *(f"| {' | '.join(cells)} |" for cells in rows),
    ]
    if failed:
        lines += ["", "Failed, and in no row:", ""]
        lines += [f"- `{name}`: {error}" for name, error in failed.items()]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def print_summary(rows: Sequence[Sequence[str]]) -> None:
    """Print the results in the rows of `summary`, in 80 columns; long names take lines."""
    title = "validation NDCG@10 and results over seeds"
    table = Table(box=box.SIMPLE_HEAD, title=title, padding=(0, 1, 0, 0))
    shown = HEADINGS[:5]
    for heading in shown:
        named = heading == "run"
        table.add_column(
            heading, justify="left" if named else "right", overflow="fold", no_wrap=not named
        )
    for cells in rows:
        # A metric a line.
        lines = [cell.replace(", ", "\n") for cell in cells[: len(shown)]]
        lines[2] = lines[2].replace(" masked", "\nmasked").replace(" unmasked", "\nunmasked")
        table.add_row(*lines)
    output_console().print(table)


def mean_and_spread(values: Sequence[float]) -> str:
    """`.0477 (.0005)`, or the value alone where there is one."""
    mean = number(statistics.mean(values))
    return f"{mean} ({number(statistics.stdev(values))})" if len(values) > 1 else mean


def _validated(record: Mapping[str, Any]) -> str:
    """How a run was validated: `masked`, or `unmasked, 500 users`; empty where it does not say."""
    training = record.get("training", {})
    if "eval_masked" not in training:
        return ""
    kind = "masked" if training["eval_masked"] else "unmasked"
    return f"{kind}, {training['eval_users']:,} users" if training.get("eval_users") else kind


def _headlines(record: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Recall and NDCG at 10, or at the longest list there is below, else at the shortest."""
    lengths = [int(key.rpartition("@")[2]) for key in record if key.startswith(f"{prefix}ndcg@")]
    if not lengths:
        return []
    k = max((k for k in lengths if k <= 10), default=min(lengths))
    return [(f"R@{k}", f"{prefix}recall@{k}"), (f"N@{k}", f"{prefix}ndcg@{k}")]


def _put(options: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    place = options
    for depth, parent in enumerate(parents, 1):
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ConfigError(f"sweep: {key}: {'.'.join(parents[:depth])} has no options below it")
    place[last] = value


def _sweepable(value: Any) -> bool:
    """Whether it is a plain value, or a list of such."""
    plain = (str, int, float, type(None))
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, plain) for one in value)
    return isinstance(value, plain)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "_".join(map(_text, value))
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    # A name of a folder holds no `+`, and two values are never one name.
    return (short if float(short) == value else repr(value)).replace("e+", "e")
