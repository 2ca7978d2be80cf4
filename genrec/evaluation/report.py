"""`metrics.json` of a run folder, and the printed comparison of rankers."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import genrec
from genrec.artefacts import read_json, write_json
from genrec.consoles import output_console, screen_width
from genrec.errors import ArtefactError, ConfigError
from genrec.evaluation.examples import Example
from genrec.evaluation.intervals import Difference, Interval
from genrec.evaluation.results import Evaluation, best_first

_BARE: Any = {"show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
DAY_ORDERS = ("file", "shuffled-day")


def metrics_record(
    evaluations: Sequence[Evaluation],
    *,
    seed: int | None = None,
    day_order: str | None = None,
    fingerprints: Mapping[str, str] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """What `metrics.json` holds: flat metric keys, and beside them how they came about.

    Args:
        evaluations: one ranker on one or more splits.
        seed: seed of the training run.
        day_order: how events of one day are ordered, `file` or `shuffled-day`.
        fingerprints: of the dataset, the vectors, the SID vocabulary, the model.
        **extra: anything else worth keeping, for example `beams` or `vocabulary`.

    Returns:
        `test/unmasked/ndcg@10` and the like to `{"value", "low", "high"}`; `test/users`,
        `test/seconds`, `test/masked/seconds` and the share of targets that occur in the history;
        `ranker`, `seed`, `day_order`, `fingerprints`, `parameters`, `beam_width`, `exact`, peak
        memory, and `certificate_rate` of the last split's first mask.

    Raises:
        ConfigError: if the evaluations are of different rankers, or the order of a day is unknown.
    """
    if not evaluations:
        raise ConfigError("there is no evaluation to report")
    names = sorted({evaluation.ranker for evaluation in evaluations})
    if len(names) > 1:
        raise ConfigError(f"metrics.json is about one ranker, got {', '.join(names)}")
    if day_order is not None and day_order not in DAY_ORDERS:
        raise ConfigError(f"day_order={day_order!r}: expected one of {', '.join(DAY_ORDERS)}")
    last = evaluations[-1]
    record: dict[str, Any] = {
        "genrec_version": genrec.__version__,
        "ranker": last.ranker,
        "seed": seed,
        "day_order": day_order,
        "fingerprints": dict(fingerprints or {}),
        "bootstrap": last.bootstrap,
        **{key: value for key, value in last.facts.items() if key != "seconds"},
        "seconds": round(sum(e.facts.get("seconds", 0.0) for e in evaluations), 3),
        **extra,
    }
    record["certificate_rate"] = last.value(next(iter(last.searches)), "certificate_rate")
    for evaluation in evaluations:
        split = evaluation.split
        record[f"{split}/users"] = len(evaluation)
        record[f"{split}/seconds"] = round(evaluation.facts.get("seconds", 0.0), 3)
        record[f"{split}/targets_in_history"] = evaluation.facts.get("targets_in_history")
        for mask, search in evaluation.searches.items():
            record[f"{split}/{mask}/seconds"] = round(search.seconds, 3)
            record[f"{split}/{mask}/mean_evaluations"] = float(search.evaluations.mean())
        record.update({key: found.as_dict() for key, found in evaluation.metrics.items()})
    return record


def write_metrics(
    folder: str | os.PathLike[str], evaluations: Sequence[Evaluation], **facts: Any
) -> Path:
    """Write `metrics.json` and the per-user ranks (`ranks/SPLIT.parquet`) into a run folder.

    Args:
        folder: the run folder, made if it is not there.
        evaluations: one ranker on one or more splits.
        **facts: as for `metrics_record`.

    Returns:
        The path of `metrics.json`.

    Raises:
        ArtefactError: if the folder cannot be written.
    """
    record = metrics_record(evaluations, **facts)
    folder = Path(folder)
    for evaluation in evaluations:
        evaluation.save(folder / "ranks" / f"{evaluation.split}.parquet")
    write_json(folder / "metrics.json", record)
    return folder / "metrics.json"


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `metrics.json` as it stands, of an earlier version too.

    Those called the order of events of one day `tie_order`, as that of items of equal score is
    called everywhere else.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise ArtefactError(f"{path}: expected an object of metrics; evaluate again")
    if "day_order" not in record:
        record["day_order"] = record.pop("tie_order", None)
    return record


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `metrics.json`, with `{"value", "low", "high"}` entries as `Interval`."""
    return {
        key: Interval(**value)
        if isinstance(value, dict) and value.keys() == {"value", "low", "high"}
        else value
        for key, value in read_record(path).items()
    }


def headline_metric(evaluation: Evaluation) -> str:
    """The metric rankers are ordered by: NDCG@10, or at the longest list below that."""
    below = [k for k in evaluation.ks if k <= 10]
    return f"ndcg@{below[-1] if below else evaluation.ks[0]}"


def comparison(
    evaluations: Sequence[Evaluation], mask: str
) -> list[tuple[Evaluation, Difference | None]]:
    """Rankers best first, each with its paired difference to the best (None for the best).

    The difference is left out for rankers that were evaluated on other users.
    """
    metric = headline_metric(evaluations[0])
    ranked = best_first([e for e in evaluations if mask in e.searches], mask, metric)
    rows: list[tuple[Evaluation, Difference | None]] = []
    for evaluation in ranked:
        same = evaluation is not ranked[0] and evaluation.same_users(ranked[0])
        rows.append((evaluation, evaluation.minus(ranked[0], mask, metric) if same else None))
    return rows


def number(value: float) -> str:
    """A metric as tables print it: four decimals without the leading zero."""
    text = f"{value:.4f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def span(found: Interval | Difference, joint: str = " to ") -> str:
    """The ends of an interval."""
    return f"{number(found.low)}{joint}{number(found.high)}"


def comparison_table(
    evaluations: Sequence[Evaluation], mask: str, *, wide: bool = True, title: str = ""
) -> Table:
    """Rankers ordered by result; the best value of each column is bold.

    Args:
        evaluations: rankers on one split.
        mask: `unmasked` or `masked`.
        wide: show all list lengths; otherwise only those up to the ordering metric's, which fits
            80 columns.
        title: above the table.
    """
    first = evaluations[0]
    metric = headline_metric(first)
    length = int(metric.partition("@")[2])
    ks = [k for k in first.ks if wide or length // 2 <= k <= length]
    columns = [f"{name}@{k}" for name in ("recall", "ndcg") for k in ks]
    title = title or f"{first.split}, {mask}, {len(first):,} users"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, **_BARE)
    table.add_column("ranker", overflow="fold", min_width=12)
    for name in columns:
        table.add_column(_short(name), justify="right", no_wrap=True)
    last = ("certified", "seconds") if wide else ("cert.", "sec.")
    for heading in (f"{_short(metric)} 95%", "to best", *last):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = comparison(evaluations, mask)
    best = {name: max(e.value(mask, name) for e, _ in rows) for name in columns}
    for place, (evaluation, difference) in enumerate(rows):
        cells = []
        for name in columns:
            value = evaluation.value(mask, name)
            cells.append(Text(number(value), style="bold" if value == best[name] else ""))
        interval = evaluation.metrics[f"{evaluation.split}/{mask}/{metric}"]
        table.add_row(
            Text(f"* {evaluation.ranker}" if evaluation.told else evaluation.ranker),
            *cells,
            span(interval, "-"),
            "best" if place == 0 else describe(difference),
            f"{evaluation.value(mask, 'certificate_rate'):.1%}",
            f"{evaluation.searches[mask].seconds:.1f}",
        )
    return table


def describe(difference: Difference | None) -> str:
    """A paired difference in a table cell; `~` where zero lies in its interval."""
    if difference is None:
        return "other users"
    return ("" if difference.significant else "~ ") + number(difference.value)


def print_comparison(evaluations: Sequence[Evaluation], *, console: Console | None = None) -> None:
    """Print one table per mask."""
    console = console or output_console()
    for mask in evaluations[0].searches:
        console.print(comparison_table(evaluations, mask, wide=console.width >= 100))
        console.print()
    told = [f"{one.ranker} ({one.told})" for one in evaluations if one.told]
    if told:
        text = f"* knew of the event to be predicted, which the others did not: {'; '.join(told)}"
        console.print(Text(text, style="dim"))
    pool = evaluations[0].facts.get("candidates")
    ranking = "full ranking" if pool is None else f"ranking within a pool of {pool:,} items"
    console.print(
        f"Item level, {ranking}, collisions by expectation, intervals by bootstrap over users. "
        "~ marks a paired difference to the best that could be zero.",
        style="dim",
        highlight=False,
    )


def print_examples(
    examples: Sequence[Example], *, console: Console | None = None, rows: int = 8
) -> None:
    """Print the last events of histories beside the first places of lists; hits are marked.

    Shows as many rankers as the console has room for, in their order.
    """
    console = console or output_console()
    width = screen_width(console)
    shown = max(1, width // 26 - 1)
    for example in examples:
        lists = dict(itertools.islice(example.lists.items(), shown))
        title = Text(f"user {example.user}; took next: {example.target}", overflow="ellipsis")
        title.truncate(width - 1)
        table = Table(
            title=title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            width=width,
            **_BARE,
        )
        for heading in ("history", *lists):
            table.add_column(Text(heading), no_wrap=True, overflow="ellipsis", ratio=1)
        columns = [[Text(title) for title in example.history[-rows:]]]
        columns += [
            [Text(f"* {r.title}", "bold green") if r.hit else Text(r.title) for r in items[:rows]]
            for items in lists.values()
        ]
        for cells in itertools.zip_longest(*columns, fillvalue=Text("")):
            table.add_row(*cells)
        console.print(table)
        console.print()


def _short(metric: str) -> str:
    return metric.replace("recall", "R").replace("ndcg", "N")
