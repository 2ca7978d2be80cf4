"""Write docs/results/<recipe>.md from the folders that `genrec run` leaves behind.

    python scripts/results.py runs/amazon2014-beauty runs/amazon2014-beauty-shuffled-day

Every figure in docs/results comes from here: each row is one `metrics.json`. Folders of one recipe
(its orders of same-day events) go into one page; a page starts with the command that made it, and
the machine is the one each run noted. Published figures stand beside methods of the same name
(`scripts/published.json`); their texts, encoders and protocols differ. Beside the page it draws the
validation of every run over its epochs (`scripts/results_curves.py`); the cells of a row are those
of `scripts/results_rows.py`, and `scripts/results_checks.py` refuses folders that one page may not
hold. With `--against RUN ...` it has the paired differences of every method and those runs
(`scripts/results_against.py`). `scripts/results_table.py` puts the pages into one table.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from results_against import against
from results_checks import check_folders, check_one_dataset, check_seeds
from results_curves import compared, draw_curves, picture, reached, read_logs
from results_rows import COLUMNS, row, told, vectors_of

from genrec.artefacts import read_json, replacing
from genrec.errors import GenrecError
from genrec.evaluation import BASELINES
from genrec.evaluation.report import number, read_record

PUBLISHED = Path(__file__).with_name("published.json")
DOCS = Path(__file__).parent.parent / "docs" / "results"
SHUFFLED = "shuffled-day"


def certified_of(records: Iterable[dict[str, Any]]) -> str:
    """A sentence on what `certified` is a share of: lists as long as the largest metric asks."""
    longest = {
        max(
            int(key.rpartition("@")[2]) for key in record if key.startswith("test/unmasked/recall@")
        )
        for record in records
    }
    return (
        "Certified: share of users whose list of the top "
        f"{' or '.join(map(str, sorted(longest)))}, unmasked, the search proved exact."
    )


def machines(rows: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """Where the runs were trained, as each of them noted it: one sentence for those that agree."""
    groups: dict[str, list[str]] = {}
    for name, metrics in rows:
        noted = metrics.get("trained_on")
        if noted is None:
            continue
        plural = "" if noted.get("threads") == 1 else "s"
        text = (
            f"{noted.get('machine', 'an unknown machine')}, {noted.get('threads')} thread{plural}"
        )
        if noted.get("processes", 1) > 1:
            text += f", {noted['processes']} processes"
        groups.setdefault(f"{text}, torch {noted.get('torch_version')}", []).append(name)
    if len(groups) == 1:
        return f"Trained on {next(iter(groups))}."
    return " ".join(f"Trained on {text}: {', '.join(names)}." for text, names in groups.items())


def over_seeds(rows: list[tuple[float, str, dict[str, Any]]]) -> list[str]:
    """Mean and standard deviation of the methods that were trained with several seeds.

    Where they read codes, of how many vocabularies: the chance of one is in no spread.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _, method, metrics in rows:
        run, found, _ = method.rpartition("-seed")
        if found:
            groups.setdefault((run, str(metrics["day_order"])), []).append(metrics)
    names = [f"{mask}/{name}@10" for mask in ("unmasked", "masked") for name in ("recall", "ndcg")]
    lines = []
    for (run, order), found in groups.items():
        if len(found) > 1:
            cells = []
            for name in names:
                values = [metrics[f"test/{name}"]["value"] for metrics in found]
                spread = number(statistics.stdev(values))
                cells.append(f"{number(statistics.mean(values))} ({spread})")
            read = {one["fingerprints"].get("vocabulary") for one in found} - {None, ""}
            cells = [run, order, str(len(found)), str(len(read) or ""), *cells]
            lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        return []
    return [
        "## Over seeds: mean (standard deviation)",
        "",
        "| method | order | seeds | vocabularies | R@10 | N@10 | masked R@10 | masked N@10 |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *lines,
        "",
    ]


def by_popularity(rows: list[tuple[float, str, dict[str, Any]]]) -> list[str]:
    """NDCG@10 by how often the target occurs in training, cold items first.

    An order of events has targets of its own, so the numbers of users are rows of each.
    """
    lines: list[str] = []
    orders = set()
    for _, method, metrics in rows:
        slices = metrics.get("slices", {}).get("popularity")
        if not slices:
            continue
        order = metrics["day_order"]
        if not lines:
            names = [part["name"] for part in slices]
            lines = [
                "## By popularity of the target",
                "",
                "NDCG@10, unmasked / masked, by the number of training events of the target.",
                "",
                f"| method | order | {' | '.join(names)} |",
                f"|---|---|{'---:|' * len(names)}",
            ]
        if order not in orders:
            orders.add(order)
            counts = [f"{part['users']:,}" for part in slices]
            lines.append(f"| users | {order} | {' | '.join(counts)} |")
        cells = [
            " / ".join(number(part[f"{mask}/ndcg@10"]["value"]) for mask in ("unmasked", "masked"))
            for part in slices
        ]
        lines.append(f"| {method} | {order} | {' | '.join(cells)} |")
    return [*lines, ""] if lines else []


def beams(method: str, study: dict[str, Any]) -> list[str]:
    lines = [
        f"### Beam width against exact search: {method}",
        "",
        f"{study['users']:,} users, top {study['k']}, unmasked. List recall: share of the exact "
        f"list that the beam found. Certified: share of users whose top {study['k']} the search "
        "proved exact. A false certificate would be a proven list that differs.",
        "",
        "| beam | list recall | certified | false certificates | R@10 | N@10 | leaked mass | s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in study["rows"]:
        name = "exact" if entry["beam_width"] is None else entry["beam_width"]
        lines.append(
            f"| {name} | {entry['list_recall']:.4f} | {entry['certificate_rate']:.1%} | "
            f"{entry['false_certificates']} | {number(entry['recall'])} | "
            f"{number(entry['ndcg'])} | {entry['leaked_mass']:.3f} | {entry['seconds']:.1f} |"
        )
    return [*lines, ""]


def published_for(name: str) -> dict[str, Any]:
    """Published figures by method for a recipe, whose name starts with that of its dataset."""
    known: dict[str, dict[str, Any]] = read_json(PUBLISHED)
    return next((figures for data, figures in known.items() if name.startswith(data)), {})


def commands(folders: list[Path]) -> str:
    """The commands that made the output folders of a recipe, as `genrec run` names these."""
    recipe = folders[0].name.removesuffix(f"-{SHUFFLED}")
    if all(folder.name.endswith(f"-{SHUFFLED}") for folder in folders):
        return f"`genrec run recipes/{recipe}.yaml --order {SHUFFLED}`"
    same = f" and the same with `--order {SHUFFLED}`" if len(folders) > 1 else ""
    return f"`genrec run recipes/{recipe}.yaml`{same}"


def said(folders: list[Path], machine: str, note: str) -> str:
    """How a page was made, where its runs were trained, and what else a reader must know."""
    made = f"{commands(folders)}; page by `python scripts/results.py`, {datetime.date.today()}."
    return " ".join(part for part in (made, machine, note) if part)


def page(
    folders: list[Path],
    note: str,
    *,
    curves: str | None = None,
    reach: str | None = None,
    compare: Iterable[str] = (),
) -> tuple[str, str]:
    """Name and text of the page of one recipe's output folders.

    Where a recipe evaluates no test split, its page has validations alone.

    Args:
        folders: of the recipe, one per order of events; the page is named after the first.
        note: what else a reader must know.
        curves: file name of the learning curves beside the page.
        reach: a run whose best validation the others' times to are told.
        compare: runs that the others are compared with, user by user.

    Raises:
        SystemExit: for folders without runs, a run that stands in two of them, and runs that one
            table may not hold: of several datasets, or seeds with different settings.
    """
    check_folders(folders)
    name = folders[0].name
    published = published_for(name)
    rows, runs, studies, facts = [], {}, [], []
    for folder in folders:
        found = sorted((folder / "runs").glob("*/metrics.json"))
        for path in [*found, *(folder / "report" / name / "metrics.json" for name in BASELINES)]:
            if not path.is_file():
                continue
            metrics = read_record(path)
            if "test/unmasked/ndcg@10" not in metrics:  # of a recipe that evaluates validation
                continue
            if (path.parent.name, metrics["day_order"]) in runs:
                raise SystemExit(
                    f"{folder}: {path.parent.name} in {metrics['day_order']} order stands in "
                    "another folder too; a page is of one recipe, each order of events once"
                )
            about = path.parent / "run.json"
            run = read_json(about) if about.is_file() else {}
            run["vectors"] = metrics.get("vectors") or vectors_of(path.parent, run)
            runs[path.parent.name, metrics["day_order"]] = run
            study = metrics.get("beams")
            rows.append((metrics["test/unmasked/ndcg@10"]["value"], path.parent.name, metrics))
            if study:
                studies += beams(f"{path.parent.name}, {metrics['day_order']} order", study)
            fingerprints = ", ".join(f"{k} {v}" for k, v in metrics["fingerprints"].items() if v)
            if fingerprints:
                facts.append(f"- {path.parent.name}, {metrics['day_order']} order: {fingerprints}")
    if not rows:
        lines = [f"# {name}", "", said(folders, "", note), "", *compared(folders), *picture(curves)]
        return name, "\n".join(lines)
    check_one_dataset(rows)
    check_seeds(runs)
    rows.sort(key=lambda entry: (entry[2]["day_order"], -entry[0]))
    users, pool = rows[0][2]["test/users"], rows[0][2].get("candidates")
    ranked = "the whole catalog ranked" if pool is None else f"a pool of {pool:,} items ranked"
    columns = list(COLUMNS)
    cells = [row(method, one, runs[method, one["day_order"]], published) for _, method, one in rows]
    known = [told(metrics, runs[method, metrics["day_order"]]) for _, method, metrics in rows]
    if any(known):
        place = columns.index("beam")
        columns.insert(place, "told")
        for one, text in zip(cells, known, strict=True):
            one.insert(place, text)
    times_cpu = any(one[columns.index("CPU")] for one in cells)
    if not times_cpu:
        place = columns.index("CPU")
        for one in (columns, *cells):
            del one[place]
    lines = [
        f"# {name}",
        "",
        said(folders, machines((method, metrics) for _, method, metrics in rows), note),
        "",
        f"Test split, {users:,} users, item level, {ranked}, collisions by "
        "expectation; intervals from a bootstrap over users. Best first within each order. Rank of "
        "states: the effective rank of the users' hidden states. Memory: peak of the training "
        "process."
        + (" CPU: time of processors, which others on the machine do not add to." * times_cpu)
        + (" Told: what a method knew of the event to be predicted." if any(known) else "")
        + " Chosen by: the validation, masked or not, whose NDCG@10 chose the epochs. Ranked by: "
        "the scores that order the lists, of items, of codes, or of items among those that codes "
        f"proposed. {certified_of(metrics for *_, metrics in rows)}",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'|'.join('---' if c in ('method', 'order') else '---:' for c in columns)}|",
        *(f"| {' | '.join(one)} |" for one in cells),
        "",
        *over_seeds(rows),
        *(line for run in compare for line in against(folders, run)),
        *by_popularity(rows),
        *compared(folders),
        *picture(curves),
        *(reached(folders[0], reach) if reach else []),
        *studies,
        "## Fingerprints",
        "",
        *facts,
        "",
    ]
    return name, "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--note", default="", help="what else a reader must know")
    parser.add_argument("--reach", help="tell how long each run trained until this one's best")
    parser.add_argument(
        "--against",
        nargs="+",
        default=(),
        help="paired differences with these runs, methods, or folders of either",
    )
    arguments = parser.parse_args()
    folders = [folder.absolute() for folder in arguments.folders]
    curves = f"{folders[0].name}-curves.svg"
    try:
        name, text = page(
            folders,
            arguments.note,
            curves=curves if read_logs(folders) else None,
            reach=arguments.reach,
            compare=arguments.against,
        )
        drawn = draw_curves(folders, DOCS / curves)
    except GenrecError as error:
        raise SystemExit(f"error: {error}") from error
    with replacing(DOCS / f"{name}.md") as temporary:
        temporary.write_text(text)
    print(f"wrote {DOCS / name}.md" + (f" and {DOCS / curves}" if drawn else ""))


if __name__ == "__main__":
    main()
