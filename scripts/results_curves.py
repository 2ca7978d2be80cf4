"""Learning curves of a recipe's runs, and how long each trained: sections of a page of results.

`scripts/results.py` draws and writes them from the logs that trainings leave in their run folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from genrec.artefacts import read_json, replacing
from genrec.evaluation.report import number

# The first that all logs of a page know: time of processors, which others on the machine do not add
# to; by the clock without validations; by the clock with them, as the oldest logs have it.
TIMES = {
    "training_cpu_seconds": "minutes of processors",
    "training_seconds": "minutes of training",
    "seconds": "minutes of training with validations",
}
Logs = dict[Path, list[dict[str, float]]]


def read_logs(folders: list[Path]) -> Logs:
    """The evaluations of every run with a log, by its folder."""
    logs = {}
    for folder in folders:
        for log in sorted((folder / "runs").glob("*/log.json")):
            entries = [entry for entry in read_json(log) if "eval_ndcg@10" in entry]
            if entries:
                logs[log.parent] = entries
    return logs


def time_of(logs: Logs) -> str:
    """The key of `TIMES` by which runs are compared."""
    entries = [entry for log in logs.values() for entry in log]
    return next(key for key in TIMES if all(key in entry for entry in entries))


def draw_curves(folders: list[Path], path: Path) -> bool:
    """Draw validation NDCG@10 by epoch and by minutes, a line per run, a style per order of events.

    Returns:
        Whether any run left a log to draw.
    """
    folders = folders[:2]
    logs = read_logs(folders)
    if not logs:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    colours: dict[str, Any] = {}
    try:
        for run, entries in logs.items():
            style = ("-", "--")[folders.index(run.parents[1])]
            label = run.name if run.name not in colours else None
            look = {
                "color": colours.setdefault(run.name, f"C{len(colours) % 10}"),
                "marker": "osv^"[len(colours) // 11 % 4],
                "ms": 4,
            }
            values = [entry["eval_ndcg@10"] for entry in entries]
            epochs = [entry["epoch"] for entry in entries]
            minutes = [entry[time_of(logs)] / 60 for entry in entries]
            panels[0].plot(epochs, values, style, label=label, **look)
            panels[1].plot(minutes, values, style, **look)
        panels[0].set(xlabel="epoch", ylabel="validation NDCG@10", ylim=(0, None))
        panels[1].set(xlabel=TIMES[time_of(logs)])
        for axes in panels:
            axes.grid(color="#e5e7eb")
            axes.spines[["top", "right"]].set_visible(False)
        if len({run.parents[1] for run in logs}) > 1:
            panels[0].plot([], [], "--", color="#6b7280", label="dashed: day shuffled")
        figure.legend(loc="outside right upper", frameon=False)
        with replacing(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "genrec"}):
            figure.savefig(temporary, format="svg", metadata={"Date": None})
    finally:
        pyplot.close(figure)
    return True


def picture(curves: str | None) -> list[str]:
    """The section of the learning curves."""
    if curves is None:
        return []
    text = "Validation NDCG@10 by epoch and by minutes; the best epoch of each run was kept."
    return ["## Learning curves", "", text, "", f"![Validation by epoch]({curves})", ""]


def compared(folders: list[Path]) -> list[str]:
    """The section of every run's best validation, if some runs were not tested."""
    logs = read_logs(folders)
    tested = {run: (run / "metrics.json").is_file() for run in logs}
    if all(tested.values()):
        return []
    lines = [
        "## Validation of all runs",
        "",
        "The best validation NDCG@10 of every run, by lists with the history masked or not, and "
        "the epoch it was reached in. "
        + (
            "Of a sweep the best was tested; those without a mark were trained and not tested."
            if any(tested.values())
            else "None was tested."
        ),
        "",
        "| run | validation | epoch | of | history | tested |",
        "|---|---:|---:|---:|---|---|",
    ]
    for run, entries in logs.items():
        best = max(entries, key=lambda entry: entry["eval_ndcg@10"])
        name = run.name if len(folders) == 1 else f"{run.parents[1].name}/{run.name}"
        about = read_json(run / "run.json") if (run / "run.json").is_file() else {}
        training = about.get("training", {})
        masked = training.get("eval_masked")
        kind = "" if masked is None else "masked" if masked else "unmasked"
        epochs = f"{best['epoch']:.0f} | {training.get('epochs', '')}"
        value = number(best["eval_ndcg@10"])
        lines.append(f"| {name} | {value} | {epochs} | {kind} | {'yes' if tested[run] else ''} |")
    return [*lines, ""]


def reached(folder: Path, run: str) -> list[str]:
    """A table of how long each run trained until its validation was that of the best of `run`."""
    found = read_logs([folder])
    logs = {place.name: entries for place, entries in found.items()}
    if not logs.get(run):
        raise SystemExit(f"--reach {run}: no such run with a log; there are {', '.join(logs)}")
    best = max(logs[run], key=lambda entry: entry["eval_ndcg@10"])
    time = time_of(found)
    aim, spent = best["eval_ndcg@10"], best[time]
    lines = [
        f"### Training until validation NDCG@10 is {run}'s best, {number(aim)}",
        "",
        f"{TIMES[time].capitalize()}, by which all its runs can be compared"
        + ("" if time == "seconds" else "; validations are left out")
        + ".",
        "",
        "| method | best validation | epoch | minutes | share of the time |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, entries in logs.items():
        top = number(max(entry["eval_ndcg@10"] for entry in entries))
        first = next((entry for entry in entries if entry["eval_ndcg@10"] >= aim), None)
        when = ["never", "", ""]
        if first is not None:
            seconds = first[time]
            when = [f"{first['epoch']:.0f}", f"{seconds / 60:.1f}", f"{seconds / spent:.1%}"]
        lines.append(f"| {name} | {top} | {' | '.join(when)} |")
    return [*lines, ""]
