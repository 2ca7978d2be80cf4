"""A SID vocabulary in figures that cost little: what `genrec quantize` prints and reports show."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from genrec.consoles import output_console
from genrec.data import Catalog
from genrec.errors import ConfigError
from genrec.quantization.vectors import block_rows
from genrec.tokenizers.collisions import squared_distances
from genrec.tokenizers.figures import code_usage
from genrec.tokenizers.vocabulary import SidVocabulary

TITLES_SHOWN = 5


def summarize(
    vocabulary: SidVocabulary,
    vectors: np.ndarray | None = None,
    *,
    catalog: Catalog | None = None,
    title_column: str = "title",
) -> dict[str, Any]:
    """Figures about a SID vocabulary, JSON-able.

    Args:
        vocabulary: what to look at.
        vectors: `float32 [N, d]` it was built from, for the distortion (needs its quantizer).
        catalog: for the titles of the largest bucket; its ids otherwise.
        title_column: the catalog's column of titles; ids are shown where there is none.

    Returns:
        `levels` (per level: codes, used, utilisation, perplexity, gini, dead, trie_nodes),
        `tuples`, `colliding_items`, `collision_share`, `largest_bucket` (size, codes, items),
        `flattery`, `search_bytes_per_item` (what a search without exclusions reads of the trie),
        `bytes_per_item` (the whole trie), and with vectors `distortion`: per set of items (all,
        fitted, unseen) the mean squared distance to the decoded codes and the same relative to
        the variance of all items. `flattery` is the factor by which tuple-level hits exceed
        item-level hits if every item is the target equally often and one item is drawn at random
        from the tuple's bucket.

    Raises:
        ArtefactError: if catalog or vectors belong to other items.
        ConfigError: if vectors are given but the vocabulary has no quantizer.
    """
    if catalog is not None:
        vocabulary.check_catalog(catalog)
    sizes = vocabulary.bucket_sizes
    trie = vocabulary.trie()
    colliding = int((sizes > 1).sum())
    summary: dict[str, Any] = {
        "items": len(vocabulary),
        "codebook_sizes": list(vocabulary.codebook_sizes),
        "collision_policy": vocabulary.collision_policy,
        "levels": [
            {**code_usage(vocabulary.codes[:, level], size), "trie_nodes": int(nodes)}
            for level, (size, nodes) in enumerate(
                zip(vocabulary.codebook_sizes, trie.num_nodes[1:], strict=True)
            )
        ],
        "tuples": vocabulary.num_tuples,
        "colliding_items": colliding,
        "collision_share": colliding / len(vocabulary),
        "largest_bucket": largest_buckets(vocabulary, 1, catalog, title_column)[0],
        "flattery": len(vocabulary) / vocabulary.num_tuples,
        "search_bytes_per_item": trie.index_nbytes / len(vocabulary),
        "bytes_per_item": trie.nbytes / len(vocabulary),
        "fingerprint": vocabulary.fingerprint,
        "build": vocabulary.config,
    }
    if vectors is not None:
        vocabulary.check_vectors(vectors)
        summary["distortion"] = _distortion(vocabulary, vectors)
    return summary


def largest_buckets(
    vocabulary: SidVocabulary,
    count: int,
    catalog: Catalog | None = None,
    title_column: str = "title",
) -> list[dict[str, Any]]:
    """The `count` largest buckets: `size`, `codes` and the titles of their first items (`items`).

    Of buckets of one size those come first that hold the first item in the tie order.
    """
    trie = vocabulary.trie()
    starts = trie.item_starts[-1].numpy()
    sizes = np.diff(starts)
    first = trie.leaf_items.numpy()[starts[:-1]]
    found = []
    for leaf in np.lexsort((vocabulary.tie_order[first], -sizes))[:count]:
        items = trie.bucket(int(leaf)).numpy()
        found.append(
            {
                "size": int(sizes[leaf]),
                "codes": vocabulary.codes[first[leaf]].tolist(),
                "items": item_titles(vocabulary, items[:TITLES_SHOWN], catalog, title_column),
            }
        )
    return found


def item_titles(
    vocabulary: SidVocabulary,
    items: np.ndarray,
    catalog: Catalog | None = None,
    title_column: str = "title",
) -> list[str]:
    """Titles of some items (`int [n]`); their ids without a catalog or where it has no title."""
    if catalog is None:
        return [str(name) for name in vocabulary.item_ids[items].tolist()]
    return catalog.titles(items, title_column)


def _distortion(vocabulary: SidVocabulary, vectors: np.ndarray) -> dict[str, dict[str, float]]:
    quantizer = vocabulary.quantizer
    if quantizer is None:
        raise ConfigError(
            "vectors: the SID vocabulary has no quantizer to compare them with; leave them out"
        )
    codes = vocabulary.codes[:, : quantizer.num_levels]
    distances = squared_distances(quantizer, codes, vectors)
    variance = _variance(vectors)
    sets = {"all": np.ones(len(codes), dtype=bool)}
    if vocabulary.fitted is not None and not vocabulary.fitted.all():
        sets |= {"fitted": vocabulary.fitted, "unseen": ~vocabulary.fitted}
    result = {}
    for name, chosen in sets.items():
        distance = float(distances[chosen].mean(dtype=np.float64))
        result[name] = {
            "items": int(chosen.sum()),
            "mean_squared_distance": distance,
            "relative_to_variance": distance / variance if variance > 0 else 0.0,
        }
    return result


def _variance(vectors: np.ndarray) -> float:
    """Mean squared distance of vectors `[N, d]` to their mean; `var` would copy them all."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    rows = block_rows(vectors.shape[1])
    blocks = (vectors[start : start + rows] for start in range(0, len(vectors), rows))
    total = sum(float(np.square(block - mean).sum()) for block in blocks)
    return total / len(vectors)


def print_summary(summary: dict[str, Any], console: Console | None = None) -> None:
    """Print what `summarize` returned as tables."""
    console = console or output_console()
    levels = Table(title=f"SID vocabulary of {summary['items']:,} items")
    for heading in ("level", "codes", "used", "dead", "perplexity", "Gini", "trie nodes"):
        levels.add_column(heading, justify="right")
    for number, level in enumerate(summary["levels"]):
        levels.add_row(
            str(number),
            f"{level['codes']:,}",
            f"{level['used']:,} ({level['utilisation']:.1%})",
            f"{level['dead']:,}",
            f"{level['perplexity']:,.1f}",
            f"{level['gini']:.2f}",
            f"{level['trie_nodes']:,}",
        )
    console.print(levels)

    facts = Table(show_header=False)
    report = summary["build"].get("collisions", {})
    facts.add_row("collision policy", summary["collision_policy"])
    facts.add_row("distinct tuples", f"{summary['tuples']:,}")
    if "colliding_items_before" in report:
        facts.add_row("colliding items as quantized", f"{report['colliding_items_before']:,}")
    facts.add_row(
        "colliding items", f"{summary['colliding_items']:,} ({summary['collision_share']:.2%})"
    )
    if "distortion_increase" in report:
        change = report["distortion_increase"]
        cost = (
            f"{report['distortion_before']:.3g} to {report['distortion_after']:.3g}"
            if change is None
            else f"{change:+.2%}"
        )
        facts.add_row(
            f"items moved by {summary['collision_policy']}",
            f"{report['moved_items']:,}, distortion {cost}",
        )
    largest = summary["largest_bucket"]
    if largest["size"] > 1:
        more = ", ..." if largest["size"] > len(largest["items"]) else ""
        facts.add_row(f"largest bucket ({largest['size']})", "; ".join(largest["items"]) + more)
    facts.add_row("tuple-level hits flatter by", f"{summary['flattery']:.3f}x")
    for name, figures in summary.get("distortion", {}).items():
        facts.add_row(
            f"distortion, {name} items ({figures['items']:,})",
            f"{figures['relative_to_variance']:.1%} of the variance",
        )
    facts.add_row(
        "trie, bytes per item",
        f"{summary['search_bytes_per_item']:.1f} searched, {summary['bytes_per_item']:.1f} in all",
    )
    facts.add_row("fingerprint", summary["fingerprint"])
    console.print(facts)
