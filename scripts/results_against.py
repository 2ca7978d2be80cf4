"""Sections of a page of results with paired differences of every method and one of them.

`scripts/results.py FOLDERS --against RUN [RUN ...]` writes them from the ranks that evaluations
leave beside their `metrics.json`; nothing is evaluated again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results_checks import check_seeds

from genrec.artefacts import read_json
from genrec.evaluation import BASELINES, Difference, Evaluation
from genrec.evaluation.report import number, read_record, span
from genrec.evaluation.results import difference_of_means

MASKS = ("unmasked", "masked")
METRICS = ("recall@10", "ndcg@10")


@dataclass(frozen=True)
class Ranked:
    """One run with the ranks of its targets.

    Attributes:
        name: of its folder.
        order: of the events of a day.
        pool: how many items were ranked; None for the catalog.
        found: where each user's target stood.
    """

    name: str
    order: str
    pool: Any
    found: Evaluation

    @property
    def method(self) -> str:
        """Its name without the seed."""
        return self.name.rpartition("-seed")[0] or self.name

    def comparable(self, other: Ranked) -> bool:
        """Whether both ranked the same items for the same targets of the same users."""
        same = self.order == other.order and self.pool == other.pool
        return same and self.found.same_users(other.found)


def read(run: Path) -> Ranked | None:
    """The ranks of a run's folder; None where it keeps none of the test split."""
    path = run / "ranks" / "test.parquet"
    if not path.is_file():
        return None
    metrics = read_record(run / "metrics.json")
    return Ranked(
        run.name, str(metrics["day_order"]), metrics.get("candidates"), Evaluation.load(path)
    )


def elsewhere(run: str) -> list[Ranked]:
    """The run of this folder, or the seeds of a method `FOLDER/runs/METHOD`, if any has ranks."""
    path = Path(run)
    places = (path, *sorted(path.parent.glob(f"{path.name}-seed*")))
    found = {place: one for place in places if (one := read(place)) is not None}
    check_seeds(
        {
            (place.name, one.order): read_json(place / "run.json")
            for place, one in found.items()
            if (place / "run.json").is_file()
        }
    )
    return list(found.values())


def against(folders: list[Path], run: str) -> list[str]:
    """Lines of the section: metrics of each method minus those of `run`, with intervals.

    Runs that differ in their seed alone are one method: each user's value is the mean over them.
    Methods in orders of events that `run` was not evaluated in are left out.

    Args:
        folders: of a recipe's output, one per order of events.
        run: name of a run in them or of its method; or the folder of a run elsewhere, or of a
            method there (`FOLDER/runs/METHOD` for its seeds).

    Raises:
        SystemExit: if there is no such run with ranks.
    """
    every = [
        one
        for folder in folders
        for place in (
            *sorted((folder / "runs").glob("*")),
            *(folder / "report" / name for name in BASELINES),
        )
        if (one := read(place)) is not None
    ]
    outside = elsewhere(run)
    chosen = outside or [one for one in every if one.name == run]
    chosen = chosen or [one for one in every if one.method == run]
    if not chosen:
        names = ", ".join(sorted({one.name for one in every}))
        raise SystemExit(f"--against {run}: no such run with ranks/test.parquet; there are {names}")
    methods: dict[tuple[str, str], list[Ranked]] = {}
    for one in every:
        if any(one.order == other.order for other in chosen):
            methods.setdefault((one.order, one.method), []).append(one)
    rows, left_out = [], []
    for (order, method), seeds in methods.items():
        base = [one for one in chosen if seeds[0].comparable(one)]
        same = [one for one in seeds if one.comparable(seeds[0])]
        if base == same:
            continue
        if not base or len(same) < len(seeds):
            left_out.append(f"{method} ({order} order)")
            continue
        found = [
            difference_of_means([o.found for o in same], [o.found for o in base], mask, metric)
            for mask in MASKS
            for metric in METRICS
        ]
        cells = [cell for one in found for cell in (shown(one), span(one))]
        count = "" if method in BASELINES else len(same)
        row = f"| {method} | {order} | {count} | {' | '.join(cells)} |"
        rows.append((order, -found[METRICS.index("ndcg@10")].value, row))
    title = chosen[0].name if len(chosen) == 1 else chosen[0].method
    if outside:
        title += f" of {Path(run).parent.parent.name}"
    seeds_of = f", of which there are {len(chosen)} seeds" if outside and len(chosen) > 1 else ""
    lines = [
        f"## Against {title}",
        "",
        f"Recall@10 and NDCG@10 minus those of {title}{seeds_of}, paired by user, with 95% "
        "intervals from a bootstrap over users; bold where the interval leaves out 0. Where there "
        "are several seeds, a user's value is their mean, and the interval says nothing of other "
        "seeds.",
        "",
        "| method | order | seeds | R@10 | 95% | N@10 | 95% | masked R@10 | 95% | masked N@10 | "
        "95% |",
        "|---|---|" + "---:|" * 9,
        *(row for *_, row in sorted(rows)),
        "",
    ]
    if left_out:
        lines += [f"Evaluated on other users or items: {', '.join(left_out)}.", ""]
    return lines


def shown(found: Difference) -> str:
    """A difference in a cell."""
    return f"**{number(found.value)}**" if found.significant else number(found.value)
