"""Write docs/results/table.md: every method on every data set, from the pages of results.

A picture stands above the table of each data set (`scripts/results_picture.py`).

    python scripts/results_table.py

Reads the tables that `scripts/results.py` wrote into docs/results, so the pages stay the record.
Runs that differ in their seed alone become one row: mean and standard deviation of the results as
the page has them, which knows all digits, mean of the minutes and of the share certified, most of
the memory; other columns are listed where they differ. Best first within each data set and order of
events.
"""

from __future__ import annotations

import argparse
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from results_picture import draw_results

from genrec.artefacts import read_json
from genrec.evaluation import BASELINES
from genrec.evaluation.report import number

DOCS = Path(__file__).parent.parent / "docs" / "results"
GLOSSARY = Path(__file__).with_name("methods.json")
RESULTS = ("N@10", "R@10", "masked N@10", "masked R@10")
# Runs that repeat a seed of another page to stand beside the other methods of theirs.
REPEATED = {
    ("amazon2014-beauty-liger", "sasrec"): "seed 0 of amazon2014-beauty's sasrec",
    ("amazon2014-beauty-tiger", "item-level"): "seed 0 of amazon2014-beauty-asymrec's opq-output",
    ("amazon2014-beauty-asymrec-shuffled-day", "asymrec"): "amazon2014-beauty-asymrec's",
    ("amazon2014-beauty-asymrec-shuffled-day", "rpg-items"): "amazon2014-beauty-asymrec's",
    ("amazon2014-beauty-rpg-shuffled-day", "rpg"): "amazon2014-beauty-rpg's",
}
# A page belongs to the data set that its name starts with.
DATASETS = {
    "amazon2014-beauty": "Amazon 2014 Beauty",
    "amazon2014-clothing": "Amazon 2014 Clothing",
    "amazon2014-sports": "Amazon 2014 Sports",
    "ml-latest-small": "MovieLens ml-latest-small",
    "steam-100k": "Steam-100K",
    "tencentgr-generated": "TencentGR, generated",
}
HEAD = (
    "method",
    "order",
    "seeds",
    *RESULTS,
    "told",
    "chosen by",
    "ranked by",
    "beam",
    "certified",
    "parameters",
    "vectors",
    "minutes",
    "CPU minutes",
    "memory",
    "published",
    "page",
)

# Columns that stand only where a method has something in them.
SOME = ("told", "chosen by", "ranked by", "CPU minutes")


@dataclass
class Method:
    """The runs of one method on one page."""

    dataset: str
    page: str
    name: str
    order: str
    runs: list[dict[str, str]]
    seeds: dict[str, str]  # its row of the page's table over seeds

    def mean(self, column: str) -> float:
        """Mean of a column over the seeds."""
        return statistics.mean(value(run[column]) for run in self.runs)

    def cells(self) -> list[str]:
        """Its row."""
        first = self.runs[0]
        certified = [float(run["certified"].removesuffix("%")) for run in self.runs]
        memory = [run["memory"] for run in self.runs if run.get("memory")]
        baseline = not first["seed"]
        return [
            self.name,
            self.order,
            "" if baseline else str(len(self.runs)),
            *(self.spread(column) for column in RESULTS),
            self.listed("told"),
            self.listed("chosen by"),
            self.listed("ranked by"),
            self.listed("beam"),
            f"{statistics.mean(certified):.1f}%",
            self.listed("parameters"),
            self.listed("vectors"),
            self.minutes("training"),
            self.minutes("CPU"),
            max(memory, key=mebibytes, default=""),
            first.get("published", ""),
            f"[{self.page}]({self.page}.md)",
        ]

    def minutes(self, column: str) -> str:
        """Mean of a column of minutes; empty where no page of a seed has it."""
        found = [float(run[column].removesuffix(" min")) for run in self.runs if run.get(column)]
        return f"{statistics.mean(found):.0f}" if found else ""

    def listed(self, column: str) -> str:
        """A column that the seeds agree on, or each of its values once; older pages lack some."""
        return "; ".join(dict.fromkeys(run[column] for run in self.runs if run.get(column)))

    def spread(self, column: str) -> str:
        """Mean of a result, with the standard deviation where there are several seeds."""
        return number(self.mean(column)) if len(self.runs) == 1 else self.seeds[column]


def value(cell: str) -> float:
    """A figure of a page's cell."""
    return float(cell.strip("*"))


def mebibytes(cell: str) -> float:
    """The figure of a page's cell of memory."""
    return float(cell.removesuffix(" MiB").replace(",", ""))


def read_page(path: Path) -> list[dict[str, str]]:
    """The rows of a page's main table by column; none where the page has no such table.

    Older pages say in a sentence by which validation the epochs were chosen.
    """
    text = path.read_text()
    rows = first_table(text)
    if not rows or list(rows[0])[:3] != ["method", "order", "seed"]:
        return []
    chosen = choosers(text)
    for row in rows:
        named = (row["method"], without_seed(row["method"]), "")
        known = next((chosen[name] for name in named if name in chosen), "")
        row.setdefault("chosen by", known if row["seed"] else "")
    return rows


def without_seed(run: str) -> str:
    """Name of a run's method."""
    return run.rpartition("-seed")[0] or run


def choosers(text: str) -> dict[str, str]:
    """The validation that chose the epochs of each method an older page names, `""` of all."""
    sentence = re.search(r"Epochs were chosen (.*?) \(?validation NDCG@10", text)
    found = {}
    for part in sentence[1].split(" and ") if sentence else []:
        kind, _, names = part.removeprefix("by ").partition(" of ")
        found |= dict.fromkeys(names.split(", "), kind)
    return found


def read_seeds(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of a page's table over seeds, by method and order."""
    rows = first_table(path.read_text().partition("\n## Over seeds")[2].partition("\n## ")[0])
    return {(row["method"], row["order"]): row for row in rows}


def first_table(text: str) -> list[dict[str, str]]:
    """The rows of the first table of a text, by column."""
    rows: list[dict[str, str]] = []
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("| "):
            if rows:
                break
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if head:
            rows.append(dict(zip(head, cells, strict=True)))
        else:
            head = cells
    return rows


def methods(pages: list[Path]) -> list[Method]:
    """The methods of all pages but repeated ones; a baseline once for each data set and order."""
    found: dict[tuple[str, str, str, str], Method] = {}
    for path in pages:
        dataset = next((name for name in DATASETS if path.stem.startswith(name)), None)
        if dataset is None:
            continue
        seeds = read_seeds(path)
        for row in read_page(path):
            name = without_seed(row["method"])
            if (path.stem, name) in REPEATED:
                continue
            page = "" if name in BASELINES else path.stem
            key = (dataset, page, name, row["order"])
            if key not in found:
                over = seeds.get((name, row["order"]), {})
                found[key] = Method(dataset, path.stem, name, row["order"], [row], over)
            elif name not in BASELINES:
                found[key].runs.append(row)
    return list(found.values())


def glossary(entries: list[Method]) -> dict[str, str | None]:
    """What the methods are in `scripts/methods.json`, by name; None where it does not say."""
    known = read_json(GLOSSARY)
    names = sorted({entry.name.partition("-learning_rate")[0] for entry in entries})
    return {name: known.get(name) for name in names}


def picture(dataset: str) -> str:
    """File name of the picture of a data set, beside the page."""
    return f"table-{dataset}.svg"


def table(pages: list[Path]) -> str:
    """Text of the page."""
    entries = methods(pages)
    lines = [
        "# All data sets and methods",
        "",
        "By `python scripts/results_table.py` from the tables of the pages it links, where "
        "machines, intervals, paired differences, settings and fingerprints stand. Item level on "
        "the test split, all items ranked (generated TencentGR: the pool), collisions by "
        "expectation; mean, with the standard deviation in brackets where there are several seeds. "
        "Runs of one page share data and protocol; training budgets differ between pages. A row of "
        "one seed may stand above another by the luck of its seed: the deviations of those with "
        "three say by how much.",
        "",
        "- Pictures: means over seeds, the best unmasked in file order on top. A line is as long "
        "as the order of a day matters.",
        "- Method: [below](#methods).",
        "- Told: what a method knew of the event to be predicted, its time or its action, and "
        "others did not.",
        "- Chosen by: the validation that chose the epochs, masked or not.",
        "- Ranked by: whose scores order the lists, items', codes', or items' among those that "
        "codes proposed; older pages do not say it.",
        "- Certified: share of users whose whole list, unmasked, the search proved exact: of 20 "
        "items unless the page says another length; lists in studies of beams are shorter.",
        "- Vectors: what the model read, or (codes) what its codes were made from.",
        "- Minutes: by the clock, on machines that did other work too.",
        *["- CPU minutes: of processors, which others do not add to; older pages have none."]
        * any(entry.minutes("CPU") for entry in entries),
        "- Memory: peak of the training process; older pages do not say it.",
        "- Published: figures that had other texts, encoders and budgets.",
        *(
            f"- Left out, as it repeats {what}: {name} of {page}."
            for (page, name), what in REPEATED.items()
        ),
        "",
    ]
    for dataset, title in DATASETS.items():
        chosen = [entry for entry in entries if entry.dataset == dataset]
        if not chosen:
            continue
        chosen.sort(key=lambda entry: (entry.order, -entry.mean("N@10")))
        rows = [dict(zip(HEAD, entry.cells(), strict=True)) for entry in chosen]
        head = [name for name in HEAD if name not in SOME or any(row[name] for row in rows)]
        lines += [f"## {title}", "", f"![{title}: NDCG@10 of every method]({picture(dataset)})", ""]
        lines.append(f"| {' | '.join(head)} |")
        lines.append(f"|{'|'.join('---' if c in ('method', 'page') else '---:' for c in head)}|")
        lines += [f"| {' | '.join(row[name] for name in head)} |" for row in rows]
        lines.append("")
    told = {name: words for name, words in glossary(entries).items() if words}
    lines += ["## Methods", "", *(f"- `{name}`: {words}" for name, words in told.items()), ""]
    return "\n".join(lines)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    path = DOCS / "table.md"
    pages = sorted(page for page in DOCS.glob("*.md") if page.name != "table.md")
    entries = methods(pages)
    if unknown := [name for name, words in glossary(entries).items() if not words]:
        raise SystemExit(f"{GLOSSARY}: say what these methods are: {', '.join(unknown)}")
    for dataset in {entry.dataset: None for entry in entries}:
        draw_results([one for one in entries if one.dataset == dataset], DOCS / picture(dataset))
    path.write_text(table(pages))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
