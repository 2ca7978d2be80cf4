"""What `genrec bench decode` shows: lines, tables, a page and a plot."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

NAMES = {
    "hf": "HF dict",
    "static": "STATIC",
    "brute": "brute force",
    "unconstrained": "no constraint",
    "torch": "torch",
    "compiled": "compiled",
    "torch+shared": "torch, one filter",
    "compiled+shared": "compiled, one filter",
    "torch+users": "torch, filter per user",
    "compiled+users": "compiled, filter per user",
}


def summary(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each ratio ``a/b`` of two methods' times the median, least and largest over the cells."""
    pairs = [("compiled", "unconstrained"), ("torch", "unconstrained")]
    pairs += [
        (other, ours) for other in ("hf", "static", "brute") for ours in ("compiled", "torch")
    ]
    for ours in ("compiled", "torch"):
        pairs += [(f"{ours}+{kind}", ours) for kind in ("shared", "users")]
    found = {}
    for above, below in pairs:
        ratios = [c["ms"][above] / c["ms"][below] for c in cells if {above, below} <= {*c["ms"]}]
        if ratios:
            found[f"{above}/{below}"] = {
                "median": statistics.median(ratios),
                "min": min(ratios),
                "max": max(ratios),
            }
    return found


def print_line(console: Console, cell: dict[str, Any]) -> None:
    """One cell, as soon as it is there."""
    head = f"{cell['items']:>10,} x {cell['levels']}  batch {cell['batch']:>3} "
    times = "  ".join(f"{name} {value:.3g}" for name, value in cell["ms"].items())
    times += "".join(f"  {name} too large" for name in cell["too_large"])
    console.print(f"{head} beam {cell['beam']:>3}  {times}", highlight=False, soft_wrap=True)


def print_result(console: Console, result: dict[str, Any]) -> None:
    """The tries, and the ratios over all cells."""
    table = Table(title="tries")
    columns = list(dict.fromkeys(key for row in result["tries"] for key in row))
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for row in result["tries"]:
        cells = (row.get(column, "") for column in columns)
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else f"{v:,}" for v in cells))
    console.print(table)
    table = Table("ratio of times", "median", "least", "most", title="over all cells")
    for name, found in result["summary"].items():
        table.add_row(name, *(f"{found[key]:.3g}" for key in ("median", "min", "max")))
    console.print(table)


def plot(cells: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds of every method over the cells, as an SVG file."""
    from matplotlib.figure import Figure

    from genrec.evaluation.plots import COLOURS

    figure = Figure(figsize=(max(6.0, 0.32 * len(cells) + 3), 4.5), layout="constrained")
    axes = figure.subplots()
    names = [name for name in NAMES if any(name in cell["ms"] for cell in cells)]
    gaps = {name for cell in cells for name in cell["too_large"]}
    for i, name in enumerate(names):
        axes.plot(
            [cell["ms"].get(name, math.nan) for cell in cells],
            marker="o",
            markersize=3,
            linewidth=1,
            linestyle="--" if "+" in name else "-",
            color=COLOURS[i % len(COLOURS)],
            label=NAMES[name] + (" (gaps: too large)" if name in gaps else ""),
        )
    axes.set_yscale("log")
    axes.set_ylabel("milliseconds per decode, without the first step")
    axes.set_xticks(
        range(len(cells)),
        [f"{c['items']:,} x {c['levels']}, {c['batch']} x {c['beam']}" for c in cells],
        rotation=90,
        fontsize=7,
    )
    axes.set_xlabel("items x levels, batch x beam", fontsize=8)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, format="svg", metadata={"Date": None})


def markdown(result: dict[str, Any]) -> str:
    """The machine, the ratios, the tries and the cells as a Markdown page."""
    machine, names = result["machine"], list(NAMES)
    shown = {name for cell in result["cells"] for name in (*cell["ms"], *cell["too_large"])}
    names = [name for name in names if name in shown]
    ratios = [[name, *found.values()] for name, found in result["summary"].items()]
    columns = list(dict.fromkeys(key for row in result["tries"] for key in row))
    tries = [[row.get(column, "") for column in columns] for row in result["tries"]]
    cells = [
        [
            *(cell[key] for key in ("items", "levels", "batch", "beam")),
            *_times(cell, names),
            NAMES.get(cell["reference"], ""),
            f"{cell['difference']:.0e}",
        ]
        for cell in result["cells"]
    ]
    head = ["items", "levels", "batch", "beam", *(NAMES[name] for name in names)]
    head += ["scores compared with", "largest difference"]
    return (
        "\n\n".join(
            [
                f"{machine['threads']} of {machine['cpus']} threads, {machine['capability']}, load "
                f"average {machine['load']} at the start, {machine['clock']} time, torch "
                f"{machine['torch']}, seed "
                f"{result['seed']}, {machine['date']}.",
                "## Ratios of times over all cells",
                _rows(["ratio", "median", "least", "most"], ratios),
                "## Tries",
                _rows([column.replace("_", " ") for column in columns], tries),
                "## Milliseconds",
                _rows(head, cells),
            ]
        )
        + "\n"
    )


def _times(cell: dict[str, Any], names: list[str]) -> list[Any]:
    return [
        "too large" if name in cell["too_large"] else cell["ms"].get(name, "") for name in names
    ]


def _rows(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    lines += [
        [f"{v:.3g}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else v for v in row]
        for row in rows
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
