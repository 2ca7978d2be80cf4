"""Write docs/results/quantizers.md: the vocabularies of a recipe, and what its runs make of them.

    genrec run recipes/amazon2014-beauty-quantizers.yaml
    python scripts/quantizer_table.py runs/amazon2014-beauty-quantizers

Vocabularies are looked at by `genrec inspect`; the ranking figures are those of `log.json`
(validation) and `metrics.json` (test) of the runs, mean and standard deviation over their seeds.
Runs that have not ended are left out, and counted. With `--keep`, rows that the page already has
and the folder does not stay, under the date they were made.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from pathlib import Path
from typing import Any

import torch

from genrec.artefacts import read_json
from genrec.data import Dataset
from genrec.embedding import ItemVectors
from genrec.errors import ArtefactError
from genrec.evaluation.report import number
from genrec.pipeline.settings import SplitConfig
from genrec.tokenizers import SidVocabulary, inspect_vocabulary

DOCS = Path(__file__).parent.parent / "docs" / "results"
COLUMNS = (
    "vocabulary",
    "vectors",
    "collided",
    "collide",
    "used",
    "distortion",
    "overlap@20",
    "co-bought@20",
    "validation N@10",
    "test N@10",
    "masked N@10",
    "seeds",
    "build",
    "date",
)
PAGE = DOCS / "quantizers.md"


def spread(values: list[float]) -> str:
    if not values:
        return ""
    mean = number(statistics.mean(values))
    return f"{mean} ({number(statistics.stdev(values))})" if len(values) > 1 else mean


def look(folder: Path, name: str) -> tuple[str, dict[str, Any]]:
    """The vectors a vocabulary was built from, and its figures."""
    vocabulary = SidVocabulary.from_pretrained(folder / "vocabularies" / name)
    data, split = SplitConfig().apply(Dataset.load(folder / "dataset"))
    for place in sorted((folder / "vectors").iterdir()):
        vectors = ItemVectors.from_pretrained(place).aligned_to(data.catalog)
        try:
            vocabulary.check_vectors(vectors.vectors)
        except ArtefactError:
            continue
        break
    else:
        raise SystemExit(f"{folder}: none of its vectors are those of vocabulary {name!r}")
    figures = inspect_vocabulary(
        vocabulary, vectors.vectors, catalog=data.catalog, histories=data.histories, split=split
    )
    return place.name, figures


def row(folder: Path, name: str, runs: list[dict[str, Any]]) -> tuple[float, list[str]]:
    vectors, figures = look(folder, name)
    near = figures["neighbours"]
    build = read_json(folder / ".stages" / f"vocabularies.{name}.json")["seconds"]
    collisions = figures["build"]["collisions"]
    before = collisions.get("colliding_items_before", figures["colliding_items"])
    validation = [run["validation"] for run in runs]
    has_distortion = "distortion" in figures
    return (
        statistics.mean(validation) if validation else 0.0,
        [
            name.removesuffix(f"-{vectors}"),
            vectors,
            f"{before / figures['items']:.1%}",
            f"{figures['collision_share']:.1%}",
            f"{min(level['utilisation'] for level in figures['levels']):.0%}",
            f"{figures['distortion']['all']['relative_to_variance']:.3f}" if has_distortion else "",
            f"{near['vectors'].get('reconstruction', near['vectors']['prefix']):.3f}",
            f"{near['co_consumption'].get('reconstruction', near['co_consumption']['prefix']):.3f}",
            spread(validation),
            f"**{spread([run['unmasked'] for run in runs])}**",
            spread([run["masked"] for run in runs]),
            str(len(runs)),
            f"{build:.0f} s",
            str(datetime.date.today()),
        ],
    )


def kept(page: Path, made: list[tuple[float, list[str]]]) -> list[tuple[float, list[str]]]:
    """Rows of the page, with their validation, of vocabularies that were not made anew."""
    names = {tuple(cells[:2]) for _, cells in made}
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    head, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    if tuple(head) != COLUMNS:
        raise SystemExit(f"{page}: columns {head}; expected {list(COLUMNS)}: run without --keep")
    validation = COLUMNS.index("validation N@10")
    return [
        (float(cells[validation].split()[0]), cells)
        for cells in rows
        if tuple(cells[:2]) not in names
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--note", default="", help="what else a reader must know")
    parser.add_argument(
        "--keep", action="store_true", help="keep rows of the page that the folder does not have"
    )
    arguments = parser.parse_args()
    folder = arguments.folder
    runs: dict[str, list[dict[str, Any]]] = {}
    missing = 0
    for place in sorted((folder / "runs").iterdir()):
        if not (place / "metrics.json").is_file():
            missing += 1
            continue
        about, metrics = read_json(place / "run.json"), read_json(place / "metrics.json")
        runs.setdefault(Path(about["vocabulary"]).name, []).append(
            {
                "validation": about["validation"]["ndcg@10"],
                "unmasked": metrics["test/unmasked/ndcg@10"]["value"],
                "masked": metrics["test/masked/ndcg@10"]["value"],
            }
        )
    names = sorted(place.name for place in (folder / "vocabularies").iterdir())
    rows = [row(folder, name, runs.get(name, [])) for name in names]
    if arguments.keep:
        rows += kept(PAGE, rows)
    rows.sort(reverse=True)
    lines = [
        f"# Quantizers: {folder.name}",
        "",
        f"`genrec run recipes/{folder.name}.yaml`, then `python scripts/quantizer_table.py`, "
        f"CPU, torch {torch.__version__}; each row has its date. {arguments.note}".rstrip(),
        "",
        "Ordered by validation NDCG@10, unmasked. `collided`: items that shared their tuple as "
        "quantized; `collide`: items that share it after the collision policy. "
        "`used`: share of the codes in use on the level with fewest. `distortion`: mean squared "
        "error over the variance of these vectors, so not to be compared between vectors. "
        "`overlap@20` and `co-bought@20`: share of the 20 nearest items in these vectors, and of "
        "the 20 most often bought by the same users, among the 20 nearest by code. Ranking "
        "figures: mean (standard deviation) over seeds.",
        *(["", f"{missing} runs have not ended and are left out."] if missing else []),
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'|'.join('---' if c in ('vocabulary', 'vectors') else '---:' for c in COLUMNS)}|",
        *(f"| {' | '.join(cells)} |" for _, cells in rows),
        "",
    ]
    PAGE.write_text("\n".join(lines))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
