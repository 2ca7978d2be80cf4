"""Draw docs/images/demo.svg and fill the README's table from the folder `make demo` leaves behind.

    python scripts/demo_figure.py runs/demo

Left: NDCG@10 of every ranker with its 95% interval. Right: what a beam width returns of the exact
list, and for how many users the search proves its list. Both from the runs' `metrics.json`.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

from genrec.artefacts import read_json
from genrec.evaluation.report import number

ROOT = Path(__file__).resolve().parents[1]
IMAGE = ROOT / "docs" / "images" / "demo.svg"
BLOCK = re.compile(r"<!-- results -->\n.*?<!-- /results -->", re.DOTALL)
COLOURS = {"unmasked": "#0072b2", "masked": "#d55e00"}


def collect(folder: Path) -> dict[str, dict[str, Any]]:
    """Metrics of every ranker of the demo, best first."""
    paths = [*(folder / "runs").glob("*/metrics.json"), folder / "report/popularity/metrics.json"]
    found = {path.parent.name: read_json(path) for path in paths}
    best = sorted(found.items(), key=lambda entry: -entry[1]["test/unmasked/ndcg@10"]["value"])
    return dict(best)


def draw(rankers: dict[str, dict[str, Any]], path: Path) -> None:
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "demo", "font.size": 9, "font.family": "sans-serif"}
    )
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.6, 2.7), layout="constrained")
    for shift, mask in ((-0.13, "unmasked"), (0.13, "masked")):
        found = [metrics[f"test/{mask}/ndcg@10"] for metrics in rankers.values()]
        values = [entry["value"] for entry in found]
        low = [entry["value"] - entry["low"] for entry in found]
        high = [entry["high"] - entry["value"] for entry in found]
        places = [place + shift for place in range(len(found))]
        left.errorbar(
            values, places, xerr=[low, high], fmt="o", ms=4, capsize=2, color=COLOURS[mask],
            label="history left in" if mask == "unmasked" else "history left out",
        )  # fmt: skip
    left.set_yticks(range(len(rankers)), rankers)
    left.invert_yaxis()
    left.set(xlim=(0, None), title="NDCG@10, test users, 95% intervals")
    left.legend(frameon=False, loc="lower right")
    for name, metrics in rankers.items():
        rows = [row for row in metrics.get("beams", {}).get("rows", []) if row["beam_width"]]
        if rows:
            widths = [row["beam_width"] for row in rows]
            found = [row["list_recall"] for row in rows]
            proven = [row["certificate_rate"] for row in rows]
            right.plot(widths, found, "o-", ms=4, color="#0072b2", label="exact top 10 found")
            right.plot(
                widths, proven, "s--", ms=4, color="#009e73", label="users whose top 10 is proven"
            )
            right.set_xscale("log")
            right.set_xticks(widths, [str(width) for width in widths])
            right.minorticks_off()
            right.set(
                xlabel="beam width", ylim=(0, 1.05), title=f"{name}: beam against exact search"
            )
            right.legend(frameon=False, loc="lower right")
            break
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="both", alpha=0.25, linewidth=0.6)
    figure.savefig(path, metadata={"Date": None})


def table(rankers: dict[str, dict[str, Any]]) -> str:
    first = next(iter(rankers.values()))
    users = first["test/users"]
    longest = max(int(k) for key in first for k in re.findall(r"^test/unmasked/ndcg@(\d+)$", key))
    lines = [
        f"`make demo`, test split, {users:,} users, item level, the whole catalog ranked, 95%",
        "intervals from a bootstrap over users:",
        "",
        "| | Recall@10 | NDCG@10 | history left out: Recall@10 | NDCG@10 | beam | "
        f"top {longest} proven exact |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, metrics in rankers.items():
        cells = []
        for mask in ("unmasked", "masked"):
            recall, ndcg = (metrics[f"test/{mask}/{key}@10"] for key in ("recall", "ndcg"))
            cells.append(number(recall["value"]))
            cells.append(
                f"{number(ndcg['value'])} ({number(ndcg['low'])} to {number(ndcg['high'])})"
            )
        beam = metrics.get("beam_width") or ""
        proven = f"{metrics['certificate_rate']:.0%}"
        lines.append(f"| {name} | {' | '.join(cells)} | {beam} | {proven} |")
    return "\n".join([*lines, "", "![The demo's metrics and beam widths](docs/images/demo.svg)"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/demo"))
    rankers = collect(parser.parse_args().folder)
    draw(rankers, IMAGE)
    readme = ROOT / "README.md"
    block = f"<!-- results -->\n{table(rankers)}\n<!-- /results -->"
    readme.write_text(BLOCK.sub(lambda _: block, readme.read_text()))
    print(f"wrote {IMAGE.relative_to(ROOT)} and the table of {readme.name}")


if __name__ == "__main__":
    main()
