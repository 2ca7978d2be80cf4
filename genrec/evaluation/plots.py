"""Plots of a report, as SVG text that stands in a page without any other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genrec.evaluation.beams import BeamStudy
from genrec.evaluation.intervals import Interval
from genrec.evaluation.markup import metric_name
from genrec.evaluation.results import Evaluation
from genrec.evaluation.slices import Slice

# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6b7280")
_WIDTH = 10.6  # inches; fills the width of the page
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3af",
    "axes.labelcolor": "#374151",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": "#111827",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "genrec",
}


def data_uri(figure: Figure) -> str:
    """The figure as an SVG data URI; the same figure gives the same text."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def metric_bars(
    evaluations: Sequence[Evaluation], masks: Sequence[str], metrics: Sequence[str]
) -> Figure:
    """One panel per metric: a bar with its interval per ranker, grouped by mask."""
    with mpl.rc_context(_STYLE):
        rows = len(evaluations) * len(masks)
        figure = Figure(
            figsize=(_WIDTH, 1.0 + 0.30 * rows + 0.15 * len(masks)), layout="constrained"
        )
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            place, ticks, labels = 0.0, [], []
            for mask in masks:
                for index, evaluation in enumerate(evaluations):
                    found = evaluation.metrics[f"{evaluation.split}/{mask}/{metric}"]
                    _bar(axes, place, found, COLOURS[index % len(COLOURS)])
                    ticks.append(place)
                    labels.append(f"{evaluation.ranker}, {mask}")
                    place += 1.0
                place += 0.6
            axes.set_yticks(ticks, labels)
            axes.tick_params(axis="y", length=0)
            axes.grid(False, axis="y")
            axes.set_title(metric_name(metric))
            axes.set_xlim(left=0)
            axes.margins(x=0.16)
        panels[0].invert_yaxis()
    return figure


def slice_bars(
    slices: Mapping[str, Sequence[Slice]], key: str, *, title: str, xlabel: str
) -> Figure:
    """Bars with intervals by slice, one colour per ranker.

    Args:
        slices: ranker to its slices; all rankers were cut alike.
        key: `mask/metric` shown.
        title: of the plot.
        xlabel: what the slices are.
    """
    names: list[str] = []
    users: dict[str, int] = {}
    for parts in slices.values():
        for part in parts:
            if part.name not in users:
                names.append(part.name)
                users[part.name] = part.users
    width = 0.8 / len(slices)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        for index, (ranker, parts) in enumerate(slices.items()):
            offset = (index - (len(slices) - 1) / 2) * width
            place = np.array([names.index(part.name) for part in parts]) + offset
            found = [part.metrics[key] for part in parts]
            value = np.array([interval.value for interval in found])
            errors = np.hstack([_errors(interval) for interval in found])
            axes.bar(
                place,
                value,
                width * 0.92,
                yerr=errors,
                color=COLOURS[index % len(COLOURS)],
                label=ranker,
                error_kw={"ecolor": "#374151", "elinewidth": 1, "capsize": 2},
            )
        axes.set_xticks(range(len(names)), [f"{name}\n{users[name]:,} users" for name in names])
        axes.tick_params(axis="x", length=0)
        axes.grid(False, axis="x")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(metric_name(key.split("/")[-1]))
        axes.set_title(title)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=min(4, len(slices)))
    return figure


def beam_curves(study: BeamStudy) -> Figure:
    """Left: what a beam width keeps of the exact list and certifies. Right: what it costs."""
    beams = [row for row in study.rows if row.beam_width is not None]
    exact = study.rows[-1]
    place = np.arange(len(beams))
    ticks = [str(row.beam_width) for row in beams]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 3.1), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(
            place,
            [row.list_recall for row in beams],
            marker="o",
            color=COLOURS[0],
            label=f"recall of the exact top {study.k}",
        )
        left.plot(
            place,
            [row.certificate_rate for row in beams],
            marker="s",
            color=COLOURS[1],
            label="certified users",
        )
        left.set_ylim(0, 1.05)
        left.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        left.set_title("Exactness")
        left.legend(loc="lower right")
        per_user = 1000.0 / study.users
        right.plot(
            place,
            [row.seconds * per_user for row in beams],
            marker="o",
            color=COLOURS[2],
            label="beam search",
        )
        right.axhline(
            exact.seconds * per_user, color=COLOURS[6], linestyle="--", label="exact search"
        )
        right.set_ylim(bottom=0)
        right.margins(y=0.2)
        right.set_ylabel("milliseconds per user")
        right.set_title("Time of the search")
        right.legend(loc="best")
        for axes in (left, right):
            axes.set_xticks(place, ticks)
            axes.set_xlabel("beam width")
    return figure


def _errors(found: Interval) -> np.ndarray:
    """Lengths [2, 1] of the error bar; few resamples may leave the value out of its interval."""
    return np.maximum([[found.value - found.low], [found.high - found.value]], 0)


def _bar(axes: Axes, place: float, found: Interval, colour: str) -> None:
    axes.barh(
        place,
        found.value,
        0.78,
        color=colour,
        xerr=_errors(found),
        error_kw={"ecolor": "#374151", "elinewidth": 1, "capsize": 2},
    )
    axes.annotate(
        f"{found.value:.4f}".replace("0.", ".", 1),
        (found.high, place),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color="#374151",
    )
