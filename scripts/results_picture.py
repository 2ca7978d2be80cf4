"""One picture per data set of the table of all results: every method in both orders of a day.

`scripts/results_table.py` draws it beside the table, from the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

from genrec.artefacts import replacing
from genrec.evaluation import BASELINES

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from results_table import Method

MASKS = (("N@10", "unmasked"), ("masked N@10", "history masked"))
# Filled in the file's order of events, hollow where those of a day are shuffled.
ORDERS = {"file": "file order", "shuffled-day": "day shuffled"}
# Letters stay text, which is smaller and can be searched.
LOOK = {"svg.hashsalt": "genrec", "svg.fonttype": "none"}
INK = "#111827"
RANKED = {
    "codes": "#2563eb",
    "items, of codes": "#9333ea",
    "items": "#ea580c",
    "": "#6b7280",  # nothing was trained
}
KINDS = {
    "codes": "ranked by codes",
    "items, of codes": "items that codes proposed",
    "items": "ranked by items",
    "": "no training",
}


def ranked_by(entry: Method) -> str:
    """Whose scores order a method's lists; empty where its seeds differ or do not say."""
    kind = entry.listed("ranked by")
    return kind if kind in RANKED else ""


def draw_results(entries: Sequence[Method], path: Path) -> None:
    """Draw `figure_of` as SVG."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = figure_of(entries)
    try:
        with replacing(path) as temporary, matplotlib.rc_context(LOOK):
            figure.savefig(temporary, format="svg", metadata={"Date": None})
    finally:
        pyplot.close(figure)


def figure_of(entries: Sequence[Method]) -> Figure:
    """NDCG@10 of the methods of one data set, the best in the first panel's file order on top.

    A method of two pages, one of which is of the shuffled order alone, has one line, and so has a
    baseline, whatever pages it is on.
    """
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    methods: dict[tuple[str, str], dict[str, Method]] = {}
    for entry in entries:
        page = "" if entry.name in BASELINES else entry.page.removesuffix("-shuffled-day")
        methods.setdefault((page, entry.name), {})[entry.order] = entry

    def height(orders: dict[str, Method]) -> float:
        return (orders.get("file") or next(iter(orders.values()))).mean(MASKS[0][0])

    rows = sorted(methods.items(), key=lambda row: height(row[1]))
    repeated = [name for _, name in methods if sum(name == other for _, other in methods) > 1]
    labels = [f"{name} ({page})" if name in repeated else name for (page, name), _ in rows]
    figure, panels = pyplot.subplots(
        1,
        len(MASKS),
        figsize=(11, 1.2 + 0.24 * len(rows)),
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for axes, (column, mask) in zip(panels, MASKS, strict=True):
        for place, (_, orders) in enumerate(rows):
            values = [one.mean(column) for one in orders.values()]
            axes.plot([min(values), max(values)], [place, place], color="#d1d5db", zorder=1)
            for order, one in orders.items():
                colour = RANKED[ranked_by(one)]
                face = colour if order == "file" else "white"
                axes.scatter(one.mean(column), place, 28, face, edgecolors=colour, zorder=2)
        axes.set(title=mask, xlabel="test NDCG@10")
        axes.grid(axis="x", color="#e5e7eb")
        axes.grid(axis="y", color="#f3f4f6")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_xlim(left=0)  # of both, once all points are there
    panels[0].set_ylim(-0.7, len(rows) - 0.3)
    panels[0].set_yticks(range(len(rows)), labels, fontsize=8)
    known = {entry.order for entry in entries}
    marks = [
        Line2D([], [], ls="", marker="o", color=INK, mfc=face, label=ORDERS[order])
        for order, face in (("file", INK), ("shuffled-day", "white"))
        if order in known
    ]
    kinds = {ranked_by(entry) for entry in entries}
    marks += [
        Line2D([], [], ls="", marker="o", color=colour, label=KINDS[kind])
        for kind, colour in RANKED.items()
        if kind in kinds
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
    return figure
