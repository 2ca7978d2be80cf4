"""Whether items that are near in the vectors, or taken by the same users, are near in codes.

Nearness in codes is measured in two ways: by the vectors the codes stand for (`reconstruction`)
and by the number of leading codes in common (`prefix`). Codes give many ties, so every overlap is
the expectation over a random order among equals, and no item number decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec.data import Histories, Split
from genrec.data.histories import ranges
from genrec.tokenizers.vocabulary import SidVocabulary

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_CANDIDATES = 50_000
MAX_USERS = 200_000
_ROWS = 64  # queries at a time; a block of 64 x 50,000 distances has 26 MB


@dataclass(frozen=True)
class Sample:
    """Which items are asked about, and among which items neighbours are looked for.

    Attributes:
        candidates: `int64 [M]`, sorted item indices.
        queries: `int64 [Q]`, sorted positions in `candidates`.
        pairs: `int64 [P, 2]`, positions in `candidates` of two different items.
    """

    candidates: np.ndarray
    queries: np.ndarray
    pairs: np.ndarray

    @classmethod
    def draw(
        cls,
        num_items: int,
        *,
        queries: int,
        pairs: int,
        seed: int,
        candidates: int = MAX_CANDIDATES,
    ) -> Sample:
        """At most so many candidates, queries and pairs; everything where there are fewer."""
        rng = np.random.default_rng(seed)
        chosen = _some(rng, num_items, candidates)
        asked = _some(rng, len(chosen), queries)
        left = rng.integers(0, len(chosen), pairs)
        right = (left + rng.integers(1, max(len(chosen), 2), pairs)) % len(chosen)
        both = np.column_stack([left, right])
        return cls(chosen, asked, both[left != right])


def _some(rng: np.random.Generator, population: int, count: int) -> np.ndarray:
    if count >= population:
        return np.arange(population)
    return np.sort(rng.choice(population, size=count, replace=False))


def neighbours(
    vocabulary: SidVocabulary,
    vectors: np.ndarray | None,
    sample: Sample,
    *,
    k: int = 20,
    histories: Histories | None = None,
    split: Split | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """How far neighbours in codes are neighbours in the vectors and in the histories.

    Args:
        vocabulary: N items.
        vectors: `float32 [N, d]` it was built from.
        sample: the items looked at.
        k: neighbours per item.
        histories: what users took, for the items most co-consumed: those that occur in the
            training histories of most users who have the item too.
        split: which events are training; all of them without it.
        seed: of the sample of users, of which at most 200,000 are read.

    Returns:
        `k`, `queries`, `candidates` and, where there is what they need, `vectors` and
        `co_consumption`: a mapping from `reconstruction` (if the vocabulary has a quantizer) and
        `prefix` to the mean share of true neighbours among the k nearest in codes, and from
        `chance` to what a random order would reach. `vectors` also has `spearman`, the rank
        correlation of the distances of `pairs` pairs before and after quantization (`None` if
        all distances are equal). `co_consumption` also has `vectors`, what the vectors
        themselves reach, the number of `queries` that were taken together with anything (the
        means are over those, `None` if there are none), and `users`.
    """
    positions, count = sample.candidates, len(sample.candidates)
    k = min(k, count - 1)
    found: dict[str, Any] = {"k": k, "queries": len(sample.queries), "candidates": count}
    if k < 1:
        return found
    codes = vocabulary.codes[positions]
    spaces: dict[str, np.ndarray] = {}
    if vocabulary.quantizer is not None:
        decoded = vocabulary.quantizer.decode(codes[:, : vocabulary.quantizer.num_levels])
        spaces["reconstruction"] = decoded.astype(np.float64)
    if vectors is not None:
        spaces["vectors"] = np.asarray(vectors[positions], dtype=np.float64)
    together, users = None, 0
    if histories is not None:
        asked_items = positions[sample.queries]
        together, users = _co_consumed(
            histories, split, positions, asked_items, len(vocabulary), seed
        )
    of_vectors: dict[str, list[np.ndarray]] = {name: [] for name in (*spaces, "prefix")}
    of_taken: dict[str, list[np.ndarray]] = {name: [] for name in (*spaces, "prefix")}
    for start in range(0, len(sample.queries), _ROWS):
        rows = sample.queries[start : start + _ROWS]
        near = {
            name: nearest_shares(*_squared(space, rows), rows, k) for name, space in spaces.items()
        }
        near["prefix"] = nearest_shares(-_common_prefix(codes, rows), 0.0, rows, k)
        if vectors is not None:
            for name, shares in near.items():
                of_vectors[name].append(_overlap(near["vectors"], shares))
        if together is not None:
            counts = together[start : start + _ROWS].toarray()
            taken = nearest_shares(-counts, 0.0, rows, k) * (counts > 0)
            for name, shares in near.items():
                of_taken[name].append(_overlap(taken, shares))
    chance = {"chance": k / (count - 1)}
    if vectors is not None:
        found["vectors"] = _means(of_vectors)[0] | chance
        del found["vectors"]["vectors"]
    if vectors is not None and "reconstruction" in spaces:
        found["vectors"] |= {
            "pairs": len(sample.pairs),
            "spearman": _spearman(spaces["vectors"], spaces["reconstruction"], sample.pairs),
        }
    if together is not None:
        means, asked = _means(of_taken)
        found["co_consumption"] = means | chance | {"queries": asked, "users": users}
    return found


def nearest_shares(
    distances: np.ndarray, slack: np.ndarray | float, own: np.ndarray, k: int
) -> np.ndarray:
    """Probability of each candidate to be among the k nearest, equals in random order.

    Args:
        distances: `[Q, M]`, smaller is nearer.
        slack: distances that differ by less are equal; a number, or one per query `[Q, 1]`.
        own: `int [Q]`, the column of each query itself, which is never its own neighbour.
        k: 1 to M - 1.

    Returns:
        `float64 [Q, M]`; each row sums to k.
    """
    distances = distances.astype(np.float64)
    distances[np.arange(len(own)), own] = np.inf
    edge = np.partition(distances, k - 1, axis=1)[:, k - 1 : k]
    inside = distances < edge - slack
    equal = ~inside & (distances <= edge + slack)
    left = k - inside.sum(axis=1, keepdims=True)
    return inside + equal * (left / equal.sum(axis=1, keepdims=True))


def _squared(space: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances `[Q, M]` of some rows to all, and how much of them is rounding `[Q, 1]`."""
    norms = np.einsum("nd,nd->n", space, space)
    squares = norms[rows, None] + norms - 2 * (space[rows] @ space.T)
    return squares, 1e-13 * (norms[rows, None] + norms.max())


def _common_prefix(codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Number of leading codes `[Q, M]` that some rows have in common with all."""
    same = np.ones((len(rows), len(codes)), dtype=bool)
    length = np.zeros(same.shape, dtype=np.int64)
    for level in range(codes.shape[1]):
        same &= codes[rows, level, None] == codes[:, level]
        length += same
    return length


def _overlap(truth: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Expected share of the true neighbours that are found, `[Q]`; NaN where there are none."""
    size = truth.sum(axis=1)
    hits = (truth * shares).sum(axis=1)
    return np.divide(hits, size, out=np.full(len(size), np.nan), where=size > 0)


def _means(parts: dict[str, list[np.ndarray]]) -> tuple[dict[str, float | None], int]:
    """Means over the queries that have true neighbours, and how many those are."""
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    known = int((~np.isnan(joined["prefix"])).sum())
    return {
        name: float(np.nanmean(values)) if known else None for name, values in joined.items()
    }, known


def _co_consumed(
    histories: Histories,
    split: Split | None,
    candidates: np.ndarray,
    queries: np.ndarray,
    num_items: int,
    seed: int,
) -> tuple[csr_matrix, int]:
    """Users who have both, `[Q, M]` sparse, and the number of users that were read."""
    from scipy.sparse import csr_matrix  # scipy is slow to import, and few commands use it

    start = histories.offsets[:-1] if split is None else split.train_start
    end = histories.offsets[1:] if split is None else split.train_end
    users = _some(np.random.default_rng(seed), len(histories), MAX_USERS)
    start, end = start[users], end[users]
    items = histories.items[ranges(start, end)]
    owner = np.repeat(np.arange(len(users)), np.maximum(end - start, 0))
    taken = csr_matrix(
        (np.ones(len(items), dtype=np.int32), (owner, items)), shape=(len(users), num_items)
    )
    taken.data[:] = 1  # duplicates were summed: a user counts once
    return (taken[:, queries].T @ taken[:, candidates]).tocsr(), len(users)


def _spearman(before: np.ndarray, after: np.ndarray, pairs: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    distances = []
    for space in (before, after):
        parts = [
            np.square(space[part[:, 0]] - space[part[:, 1]]).sum(axis=1)
            for part in np.array_split(pairs, len(pairs) // 4096 + 1)
        ]
        distances.append(np.concatenate(parts))
    if any(np.ptp(values) == 0 for values in distances):
        return None
    return float(spearmanr(*distances).statistic)
