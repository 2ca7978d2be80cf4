"""Figures over codes alone: use of the codes, fan-out, purity of prefixes, effective rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genrec.decoding import PrefixTrie
from genrec.errors import ConfigError
from genrec.tokenizers.keys import TupleKeys

BLOCK = 65_536


def code_usage(codes: np.ndarray, size: int) -> dict[str, Any]:
    """How evenly the codes of one level are used.

    Args:
        codes: `int [N]`, each below `size`.
        size: number of codes the level has.

    Returns:
        `codes`, `used`, `utilisation` (share of the codes that an item has), `perplexity`
        (exp of the entropy: as many equally used codes would be as uneven), `gini` (over all
        codes, the dead included: 0 if all are used equally often, near 1 if one has everything)
        and `dead`.
    """
    counts = np.bincount(codes, minlength=size)
    share = counts[counts > 0] / len(codes)
    used = len(share)
    return {
        "codes": size,
        "used": used,
        "utilisation": used / size,
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        "gini": gini(counts),
        "dead": size - used,
    }


def gini(counts: np.ndarray) -> float:
    """Mean absolute difference of two counts over twice their mean, in [0, 1)."""
    ordered = np.sort(counts).astype(np.float64)
    total = ordered.sum()
    if total == 0:
        return 0.0
    weights = 2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1
    return float((weights * ordered).sum() / (len(ordered) * total))


def facet_usage(
    codes: np.ndarray, codebook_sizes: Sequence[int], levels_per_facet: int
) -> list[dict[str, Any]]:
    """The levels of each facet taken together.

    A facet is a run of levels that code one subspace, as in multi-faceted hierarchical
    quantization; the levels of the first facet come first.

    Args:
        codes: `int [N, L]`.
        codebook_sizes: codes per level.
        levels_per_facet: levels of each facet; it divides L.

    Returns:
        Per facet: `first_level`, `levels`, the sums `codes`, `used` and `dead`, `utilisation`,
        the means of `perplexity` and `gini` over its levels, and `tuples`, the number of distinct
        tuples of its levels.

    Raises:
        ConfigError: if the facets do not divide the levels.
    """
    num_levels = len(codebook_sizes)
    if levels_per_facet < 1 or num_levels % levels_per_facet:
        raise ConfigError(
            f"facets: {levels_per_facet} levels each do not divide the {num_levels} levels of this "
            "SID vocabulary; give the number of levels that one facet has"
        )
    facets = []
    for first in range(0, num_levels, levels_per_facet):
        chosen = slice(first, first + levels_per_facet)
        sizes = tuple(codebook_sizes[chosen])
        parts = [code_usage(codes[:, first + i], size) for i, size in enumerate(sizes)]
        used = sum(part["used"] for part in parts)
        facets.append(
            {
                "first_level": first,
                "levels": levels_per_facet,
                "codes": sum(sizes),
                "used": used,
                "utilisation": used / sum(sizes),
                "perplexity": float(np.mean([part["perplexity"] for part in parts])),
                "gini": float(np.mean([part["gini"] for part in parts])),
                "dead": sum(sizes) - used,
                "tuples": TupleKeys(codes[:, chosen], sizes).num_tuples,
            }
        )
    return facets


def fan_out(trie: PrefixTrie) -> list[dict[str, Any]]:
    """Children per node at each level of the trie.

    Returns:
        Per level: `nodes` above it, `mean`, `median`, `max` of their number of children,
        `single_child_share` (of the nodes) and `histogram`, as `histogram` gives it.
    """
    levels = []
    for pointers in trie.pointers:
        children = np.diff(pointers.cpu().numpy())
        levels.append(
            {
                "nodes": len(children),
                "mean": float(children.mean()),
                "median": float(np.median(children)),
                "max": int(children.max()),
                "single_child_share": float((children == 1).mean()),
                "histogram": histogram(children),
            }
        )
    return levels


def histogram(counts: np.ndarray) -> list[list[int]]:
    """Positive integers in bins 1, 2, 3..4, 5..8, ...: `[low, high, how many]` per bin."""
    counts = np.asarray(counts, dtype=np.int64)
    # ceil(log2) of integers, exact below 2**53.
    mantissa, exponent = np.frexp(counts.astype(np.float64))
    bins = np.bincount(exponent - (mantissa == 0.5), minlength=1).tolist()
    return [
        [(1 << place >> 1) + 1 if place else 1, 1 << place, number]
        for place, number in enumerate(bins)
    ]


def prefix_nodes(trie: PrefixTrie, depth: int) -> np.ndarray:
    """The node at `depth` of every sorted position of the trie, `int64 [N]`, not decreasing."""
    sizes = np.diff(trie.item_starts[depth].cpu().numpy())
    return np.repeat(np.arange(len(sizes)), sizes)


def prefix_purity(trie: PrefixTrie, labels: np.ndarray, *, seed: int = 0) -> list[dict[str, Any]]:
    """How far items of one prefix are of one category.

    Small prefixes are pure by themselves (one item is always pure), so the purity of the same
    prefixes with the labels shuffled over the items stands beside it.

    Args:
        trie: of N items.
        labels: `int [N]`, category of every item; negative where unknown, which is left out.
        seed: of the shuffle.

    Returns:
        Per number of codes in the prefix, 0 to L: `codes`, `prefixes` that hold a labelled item,
        `purity` (share of the labelled items that are of the largest category of their prefix)
        and `shuffled`. Empty if no item is labelled.
    """
    in_order = labels[trie.leaf_items.cpu().numpy()]
    known = in_order >= 0
    found = in_order[known].astype(np.int64)
    if not len(found):
        return []
    shuffled = np.random.default_rng(seed).permutation(found)
    levels = []
    for depth in range(trie.num_levels + 1):
        nodes = prefix_nodes(trie, depth)[known]
        prefixes, purity = _purity(nodes, found)
        chance = _purity(nodes, shuffled)[1]
        levels.append({"codes": depth, "prefixes": prefixes, "purity": purity, "shuffled": chance})
    return levels


def _purity(nodes: np.ndarray, labels: np.ndarray) -> tuple[int, float]:
    """Number of distinct nodes, and the share of labels that are their node's most frequent."""
    width = int(labels.max()) + 1
    pairs, counts = np.unique(nodes * width + labels, return_counts=True)
    owner = pairs // width
    first = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    return len(first), float(np.maximum.reduceat(counts, first).sum() / len(labels))


def effective_rank(vectors: np.ndarray) -> float:
    """Exp of the entropy of the singular values of the centred vectors `[n, d]`.

    With singular values s and p = s / sum(s), exp(-sum p log p): d if all directions weigh the
    same, 1 if there is only one, 0 if all vectors are equal.

    Reference: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), BLOCK):
        centred = vectors[start : start + BLOCK] - mean
        scatter += centred.T @ centred
    squares = np.linalg.eigvalsh(scatter).clip(min=0)
    # Rounding leaves about eps of the largest square where there is nothing.
    squares[squares < squares.max() * len(squares) * np.finfo(np.float64).eps] = 0
    if not squares.any() or squares.max() <= np.square(mean).sum() * 1e-24 * len(vectors):
        return 0.0
    singular = np.sqrt(squares[squares > 0])
    share = singular / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
