"""`metrics.json` of a run folder, and the printed comparison of rankers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import genrec
from genrec.artefacts import read_json, write_json
from genrec.errors import ArtefactError, ConfigError
from genrec.evaluation.examples import Example
from genrec.evaluation.intervals import Difference, Interval
from genrec.evaluation.results import Evaluation, best_first

TIE_ORDERS = ("file", "shuffled-day")


def metrics_record(
    evaluations: Sequence[Evaluation],
    *,
    seed: int | None = None,
    tie_order: str | None = None,
    fingerprints: Mapping[str, str] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """What `metrics.json` holds: flat metric keys, and beside them how they came about.

    Args:
        evaluations: one ranker on one or more splits.
        seed: seed of the training run.
        tie_order: how events of one day are ordered, `file` or `shuffled-day`.
        fingerprints: of the dataset, the vectors, the SID vocabulary, the model.
        **extra: anything else worth keeping, for example `beams` or `vocabulary`.

    Returns:
        `test/unmasked/ndcg@10` and the like to `{"value", "low", "high"}`; `test/users`,
        `test/seconds`, `test/masked/seconds` and the share of targets that occur in the history;
        `ranker`, `seed`, `tie_order`, `fingerprints`, `parameters`, `beam_width`, `exact`, peak
        memory, and `certificate_rate` of the last split's first mask.

    Raises:
        ConfigError: if the evaluations are of different rankers, or the tie order is unknown.
    """
    if not evaluations:
        raise ConfigError("there is no evaluation to report")
    names = sorted({evaluation.ranker for evaluation in evaluations})
    if len(names) > 1:
        raise ConfigError(f"metrics.json is about one ranker, got {', '.join(names)}")
    if tie_order is not None and tie_order not in TIE_ORDERS:
        raise ConfigError(f"tie_order={tie_order!r}: expected one of {', '.join(TIE_ORDERS)}")
    last = evaluations[-1]
    record: dict[str, Any] = {
        "genrec_version": genrec.__version__,
        "ranker": last.ranker,
        "seed": seed,
        "tie_order": tie_order,
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
    try:
        (folder / "ranks").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(
            f"{folder}: cannot be written ({error.strerror}); choose a folder you may write to"
        ) from error
    for evaluation in evaluations:
        evaluation.save(folder / "ranks" / f"{evaluation.split}.parquet")
    write_json(folder / "metrics.json", record)
    return folder / "metrics.json"


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `metrics.json`, with `{"value", "low", "high"}` entries as `Interval`."""
    record = read_json(path)
    if not isinstance(record, dict):
        raise ArtefactError(f"{path}: expected an object of metrics; evaluate again")
    return {
        key: Interval(**value)
        if isinstance(value, dict) and value.keys() == {"value", "low", "high"}
        else value
        for key, value in record.items()
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


def span(found: Interval | Difference) -> str:
    """The ends of an interval."""
    return f"{number(found.low)} to {number(found.high)}"


def comparison_table(evaluations: Sequence[Evaluation], mask: str, *, title: str = "") -> Table:
    """Rankers ordered by result; the best value of each column is bold.

    Args:
        evaluations: rankers on one split.
        mask: `unmasked` or `masked`.
        title: above the table.
    """
    first = evaluations[0]
    metric = headline_metric(first)
    columns = [f"{name}@{k}" for name in ("recall", "ndcg") for k in first.ks]
    table = Table(
        title=title or f"{first.split}, {mask}: {len(first):,} users", title_justify="left"
    )
    table.add_column("ranker", no_wrap=True)
    for name in columns:
        table.add_column(name.replace("recall", "R").replace("ndcg", "N"), justify="right")
    table.add_column(f"{metric}, 95%", justify="right", no_wrap=True)
    table.add_column("to the best", justify="right", no_wrap=True)
    table.add_column("certified", justify="right")
    table.add_column("seconds", justify="right")
    rows = comparison(evaluations, mask)
    best = {name: max(e.value(mask, name) for e, _ in rows) for name in columns}
    for place, (evaluation, difference) in enumerate(rows):
        cells = []
        for name in columns:
            value = evaluation.value(mask, name)
            text = number(value)
            cells.append(f"[bold]{text}[/bold]" if value == best[name] else text)
        interval = evaluation.metrics[f"{evaluation.split}/{mask}/{metric}"]
        table.add_row(
            evaluation.ranker,
            *cells,
            span(interval),
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
    console = console or Console()
    for mask in evaluations[0].searches:
        console.print(comparison_table(evaluations, mask))
    console.print(
        "Item level, full ranking, ties by expectation. Intervals: bootstrap over users. "
        "~ means the paired difference to the best could be zero.",
        style="dim",
    )


def print_examples(
    examples: Sequence[Example], *, console: Console | None = None, last: int = 8
) -> None:
    """Print histories (their last events) beside what was recommended; hits are marked."""
    console = console or Console()
    for example in examples:
        table = Table(title=f"user {example.user}", title_justify="left", show_lines=False)
        table.add_column("history, oldest first", overflow="fold")
        for name in example.lists:
            table.add_column(f"recommended by {name}", overflow="fold")
        history = example.history[-last:]
        lists = list(example.lists.values())
        for row in range(max(len(history) + 1, *(len(items) for items in lists))):
            left = ""
            if row < len(history):
                left = history[row]
            elif row == len(history):
                left = f"[bold]next: {example.target}[/bold]"
            cells = [items[row] if row < len(items) else None for items in lists]
            table.add_row(
                left,
                *(
                    ""
                    if cell is None
                    else f"[green]{cell.title} <[/green]"
                    if cell.hit
                    else cell.title
                    for cell in cells
                ),
            )
        console.print(table)
