"""Everything that is known about the quality of a SID vocabulary: what `genrec inspect` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from genrec.consoles import output_console, screen_width
from genrec.data import Catalog, Histories, Split
from genrec.errors import ConfigError
from genrec.tokenizers.figures import (
    effective_rank,
    facet_usage,
    fan_out,
    histogram,
    prefix_purity,
)
from genrec.tokenizers.neighbours import MAX_CANDIDATES, Sample, neighbours
from genrec.tokenizers.summary import largest_buckets, print_summary, summarize
from genrec.tokenizers.vocabulary import SidVocabulary

BUCKETS_SHOWN = 10
RANK_SAMPLE = 100_000
PAIRS = 20_000
MAX_NUMBERS = 2**25  # of the vectors that neighbours are looked for among; 256 MB in float64


def inspect_vocabulary(
    vocabulary: SidVocabulary,
    vectors: np.ndarray | None = None,
    *,
    catalog: Catalog | None = None,
    histories: Histories | None = None,
    split: Split | None = None,
    title_column: str = "title",
    category_column: str | None = None,
    facets: int | None = None,
    k: int = 20,
    queries: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures about a SID vocabulary, JSON-able.

    Args:
        vocabulary: N items.
        vectors: `float32 [N, d]` it was built from, for distortion, neighbours and ranks.
        catalog: for titles and categories.
        histories: what users took, for popularity and co-consumption.
        split: which events are training; all of them without it.
        title_column: column of titles; ids are shown where there is none.
        category_column: column of categories (texts or lists of texts), for the purity.
        facets: levels of each facet, where the codes have facets; by default what the quantizer
            says (`mhq` has facets).
        k: neighbours per item.
        queries: at most so many items are asked for their neighbours.
        seed: of all samples.

    Returns:
        What `summarize` returns and: `fan_out` per level, `bucket_sizes` (a histogram),
        `largest_buckets` (those of more than one item), `effective_rank` (`vectors`, `dimensions`,
        `rows` and, per level, `codebooks`), `neighbours` and `seed`; with facets `facets`, with a
        category column `purity` (`column`, `categories`, `items`, `prefixes`), with histories
        `popularity`: `events`, how often items occur that collide (`colliding`) and that do not
        (`others`), `colliding_events` (share of the events) and `flattery`, as in `summarize` but
        with targets as frequent as the events have them.

    Raises:
        ArtefactError: if catalog or vectors belong to other items.
        ConfigError: if a column does not exist, the facets do not fit or `k` or `queries` is no
            positive number.
    """
    for name, value in (("k", k), ("queries", queries)):
        if value < 1:
            raise ConfigError(f"{name}: is {value}; expected 1 or more")
    quantizer = vocabulary.quantizer
    if facets is None and quantizer is not None and quantizer.num_levels == vocabulary.num_levels:
        facets = quantizer.levels_per_facet
    found = facet_usage(vocabulary.codes, vocabulary.codebook_sizes, facets) if facets else None
    if vectors is not None:
        vocabulary.check_vectors(vectors)
    figures = summarize(
        vocabulary,
        vectors if vocabulary.quantizer is not None else None,
        catalog=catalog,
        title_column=title_column,
    )
    trie = vocabulary.trie()
    buckets = largest_buckets(vocabulary, BUCKETS_SHOWN, catalog, title_column)
    figures |= {
        "fan_out": fan_out(trie),
        "bucket_sizes": histogram(np.diff(trie.item_starts[-1].numpy())),
        "largest_buckets": [bucket for bucket in buckets if bucket["size"] > 1],
        "effective_rank": _ranks(vocabulary, vectors, seed),
        "seed": seed,
    }
    if found is not None:
        figures["facets"] = found
    if category_column is not None:
        if catalog is None:
            raise ConfigError("category_column: needs the items; name the dataset")
        labels = category_labels(catalog, category_column)[0]
        figures["purity"] = {
            "column": category_column,
            "categories": int(labels.max() + 1),
            "items": int((labels >= 0).sum()),
            "prefixes": prefix_purity(trie, labels, seed=seed),
        }
    if histories is not None:
        figures["popularity"] = _popularity(vocabulary, train_counts(vocabulary, histories, split))
    width = 1 if vectors is None else vectors.shape[1]
    sample = Sample.draw(
        len(vocabulary),
        queries=queries,
        pairs=PAIRS,
        seed=seed,
        candidates=min(MAX_CANDIDATES, max(MAX_NUMBERS // width, 2)),
    )
    figures["neighbours"] = neighbours(
        vocabulary, vectors, sample, k=k, histories=histories, split=split, seed=seed
    )
    return figures


def category_labels(catalog: Catalog, column: str) -> tuple[np.ndarray, list[str]]:
    """Category of every item, `int64 [N]` (-1 where empty), and the names in sorted order."""
    encoded = pa.array(catalog.text([column]), type=pa.string()).dictionary_encode()
    found = encoded.dictionary.to_pylist()
    names = sorted(name for name in found if name)
    place = {"": -1} | {name: number for number, name in enumerate(names)}
    return np.array([place[name] for name in found])[encoded.indices.to_numpy()], names


def train_counts(
    vocabulary: SidVocabulary, histories: Histories, split: Split | None
) -> np.ndarray:
    """How often each item occurs in the training events, `int64 [N]`; in all without a split."""
    if split is None:
        return histories.counts(len(vocabulary))
    return split.train_counts(histories, len(vocabulary))


def _popularity(vocabulary: SidVocabulary, counts: np.ndarray) -> dict[str, Any]:
    sizes = vocabulary.bucket_sizes
    total = int(counts.sum())
    found: dict[str, Any] = {"events": total}
    for name, chosen in (("colliding", sizes > 1), ("others", sizes == 1)):
        part = counts[chosen]
        found[name] = {
            "items": len(part),
            "mean": float(part.mean()) if len(part) else None,
            "median": float(np.median(part)) if len(part) else None,
        }
    found["colliding_events"] = float(counts[sizes > 1].sum() / max(total, 1))
    found["flattery"] = float(total / (counts / sizes).sum()) if total else 1.0
    return found


def _ranks(vocabulary: SidVocabulary, vectors: np.ndarray | None, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if vectors is not None:
        chosen = Sample.draw(
            len(vectors), queries=1, pairs=0, seed=seed, candidates=RANK_SAMPLE
        ).candidates
        found["vectors"] = effective_rank(vectors[chosen])
        found |= {"dimensions": vectors.shape[1], "rows": len(chosen)}
    if vocabulary.quantizer is not None:
        found["codebooks"] = [effective_rank(book) for book in vocabulary.quantizer.codebooks()]
    return found


def print_inspection(
    figures: Mapping[str, Any], console: Console | None = None, *, name: str = ""
) -> None:
    """Print what `inspect_vocabulary` returned as tables, under a name where one is given."""
    console = console or output_console()
    if name:
        console.print(Rule(Text(name, style="bold")), width=screen_width(console))
    print_summary(dict(figures), console)
    if "facets" in figures:
        console.print(_facets(figures["facets"]))
    console.print(_levels(figures))
    if "vectors" in figures["neighbours"] or "co_consumption" in figures["neighbours"]:
        console.print(_neighbours(figures["neighbours"]))
    facts = Table(show_header=False)
    if "purity" in figures:
        column, count = (figures["purity"][key] for key in ("column", "categories"))
        facts.add_row("purity: the largest of", f"{count:,} categories in {column!r}")
    ranks = figures["effective_rank"]
    if "codebooks" in ranks:
        facts.add_row("rank", "effective rank of the codebook of the next code")
    if "vectors" in ranks:
        facts.add_row(
            "effective rank of the vectors",
            f"{ranks['vectors']:.1f} of {ranks['dimensions']:,} dimensions",
        )
    spearman = figures["neighbours"].get("vectors", {}).get("spearman")
    if spearman is not None:
        pairs = figures["neighbours"]["vectors"]["pairs"]
        facts.add_row("rank correlation of distances", f"{spearman:.3f} ({pairs:,} pairs)")
    if "popularity" in figures:
        for row in popularity_rows(figures["popularity"]):
            facts.add_row(*row)
    if facts.row_count:
        console.print(facts)


def popularity_rows(popularity: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what is known about the popularity of colliding items."""
    rows = []
    for name, label in (("colliding", "colliding items"), ("others", "other items")):
        part = popularity[name]
        if part["items"]:
            rows.append(
                (
                    f"events of {label}",
                    f"{part['mean']:,.1f} each, median {part['median']:,.0f} "
                    f"({part['items']:,} items)",
                )
            )
    rows.append(("events on colliding items", f"{popularity['colliding_events']:.2%}"))
    rows.append(("tuple-level hits flatter, by events", f"{popularity['flattery']:.3f}x"))
    return rows


def _facets(facets: list[dict[str, Any]]) -> Table:
    table = Table(title="Facets")
    headings = ("facet", "levels", "used", "dead", "perplexity", "Gini", "distinct tuples")
    for heading in headings:
        table.add_column(heading, justify="right")
    for number, facet in enumerate(facets):
        first = facet["first_level"]
        table.add_row(
            str(number),
            f"{first}-{first + facet['levels'] - 1}",
            f"{facet['used']:,} ({facet['utilisation']:.1%})",
            f"{facet['dead']:,}",
            f"{facet['perplexity']:,.1f}",
            f"{facet['gini']:.2f}",
            f"{facet['tuples']:,}",
        )
    return table


def _levels(figures: Mapping[str, Any]) -> Table:
    """Fan-out, and what else there is per level."""
    table = Table(title="Prefixes by their number of codes, and their children")
    purity = figures.get("purity", {}).get("prefixes")
    ranks = figures["effective_rank"].get("codebooks")
    headings = ["codes", "prefixes", "mean", "median", "max", "single"]
    headings += ["purity", "shuffled"] if purity else []
    headings += ["rank"] if ranks else []
    for heading in headings:
        table.add_column(heading, justify="right")
    for depth in range(len(figures["levels"]) + 1):
        cells = [str(depth)]
        if depth < len(figures["fan_out"]):
            level = figures["fan_out"][depth]
            cells += [f"{level['nodes']:,}", f"{level['mean']:,.1f}", f"{level['median']:,.0f}"]
            cells += [f"{level['max']:,}", f"{level['single_child_share']:.1%}"]
        else:
            cells += [f"{figures['tuples']:,}", "", "", "", ""]
        if purity:
            cells += [f"{purity[depth]['purity']:.1%}", f"{purity[depth]['shuffled']:.1%}"]
        if ranks:
            cells.append(f"{ranks[depth]:.1f}" if depth < len(ranks) else "")
        table.add_row(*cells)
    return table


def _neighbours(found: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"Overlap@{found['k']} of nearest items "
        f"({found['queries']:,} asked, {found['candidates']:,} searched)"
    )
    table.add_column("neighbours by")
    truths = [name for name in ("vectors", "co_consumption") if name in found]
    labels = {"vectors": "with the vectors", "co_consumption": "with items taken together"}
    for truth in truths:
        table.add_column(labels[truth], justify="right")
    for name in ("vectors", "reconstruction", "prefix", "chance"):
        values = [found[truth].get(name) for truth in truths]
        if any(value is not None for value in values):
            table.add_row(name, *("" if value is None else f"{value:.3f}" for value in values))
    return table
