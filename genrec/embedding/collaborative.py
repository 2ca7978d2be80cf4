"""Vectors from what users do: positive PMI of items in one history, and a truncated SVD.

Levy and Goldberg, "Neural word embedding as implicit matrix factorization", NeurIPS 2014, and
Levy, Goldberg, Dagan, "Improving distributional similarity with lessons learned from word
embeddings", TACL 2015 (context smoothing, symmetric factorisation): skip-gram over histories, as
item2vec trains it, but in closed form and with one answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from genrec.embedding.base import Embedder, require, require_seed
from genrec.embedding.linalg import normalize_rows, truncated_svd
from genrec.embedding.vectors import ItemVectors
from genrec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from scipy import sparse as sp

    from genrec.data import Catalog, Histories, Split


@dataclass(frozen=True, kw_only=True)
class CollaborativeEmbedder(Embedder):
    """Positive pointwise mutual information of items near each other in training histories.

    Items without a training event, or never near another item, get the zero vector; the report in
    the config of the result counts them.

    Args:
        dim: dimensions kept.
        window: two events at most so many places apart count as a pair.
        weighting: `harmonic` counts a pair at distance o as 1/o, `flat` as 1.
        shift: number of negative samples k of the skip-gram it equals; log k is taken off the PMI.
        smoothing: exponent on context frequencies (1 = none); below 1 it tames rare items.
        normalize: L2-normalise the vectors.
        seed: seed of the randomised SVD.
    """

    type = "collaborative"

    dim: int = 64
    window: int = 5
    weighting: Literal["harmonic", "flat"] = "harmonic"
    shift: float = 1.0
    smoothing: float = 0.75
    normalize: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.dim >= 1, f"collaborative: dim must be at least 1, got {self.dim}")
        require(self.window >= 1, f"collaborative: window must be at least 1, got {self.window}")
        require(self.shift > 0, f"collaborative: shift must be above 0, got {self.shift}")
        require(
            0 < self.smoothing <= 1,
            f"collaborative: smoothing must be above 0 and at most 1, got {self.smoothing}",
        )
        require(
            self.weighting in ("harmonic", "flat"),
            f"collaborative: weighting must be 'harmonic' or 'flat', got {self.weighting!r}",
        )
        require_seed("collaborative", self.seed)

    @property
    def reads_histories(self) -> bool:
        """Always."""
        return True

    def embed(
        self,
        catalog: Catalog,
        *,
        histories: Histories | None = None,
        split: Split | None = None,
    ) -> ItemVectors:
        """Embed the items from the training events of `split`; other events are never read.

        Raises:
            ConfigError: without histories or without a split.
            DataError: if no two items are near each other in any training history.
        """
        if histories is None or split is None:
            raise ConfigError(
                "collaborative: needs histories and a split, so that it reads training events only"
            )
        positions, users = training_positions(split.train_start, split.train_end)
        items = np.asarray(histories.items)[positions]
        counts = cooccurrence(items, users, len(catalog), self.window, self.weighting)
        if counts.nnz == 0:
            raise DataError(
                "collaborative: no two different items are within "
                f"window={self.window} of each other in any training history; "
                "use another embedder or more data"
            )
        matrix = positive_pmi(counts, shift=self.shift, smoothing=self.smoothing)
        vectors = truncated_svd(matrix, self.dim, seed=self.seed, power=0.5, what="the PPMI matrix")
        if self.normalize:
            vectors = normalize_rows(vectors)
        trained = np.bincount(items, minlength=len(catalog)) > 0
        config = self.describe(
            split=split.name,
            training_events=len(items),
            items_without_training_events=int((~trained).sum()),
            zero_vectors=int((~vectors.any(axis=1)).sum()),
        )
        return ItemVectors(vectors, catalog.item_ids, config, source="collaborative")


def training_positions(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all training events in the flat array, and the user of each.

    Args:
        start: int64 [U], first training event of each user.
        end: int64 [U], one past the last.

    Returns:
        Two int64 arrays [events], user by user, in time order.
    """
    start = np.asarray(start, dtype=np.int64)
    lengths = np.maximum(np.asarray(end, dtype=np.int64) - start, 0)
    first = np.cumsum(lengths) - lengths
    users = np.repeat(np.arange(len(start), dtype=np.int64), lengths)
    positions = np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(start - first, lengths)
    return positions, users


def cooccurrence(
    items: np.ndarray, users: np.ndarray, num_items: int, window: int, weighting: str
) -> sp.csr_matrix:
    """Symmetric matrix [num_items, num_items] of weighted pairs within one user's window.

    Args:
        items: item of each event, users one after another, in time order.
        users: user of each event.
        num_items: size of the catalog.
        window: largest distance of a pair.
        weighting: `harmonic` or `flat`.

    A repeated item is no pair with itself: that says how habits go, not what is alike.
    """
    from scipy import sparse as sp  # slow to import

    shape = (num_items, num_items)
    counts = sp.csr_matrix(shape, dtype=np.float64)
    for offset in range(1, min(window, len(items) - 1) + 1):
        left, right = items[:-offset], items[offset:]
        pair = (users[:-offset] == users[offset:]) & (left != right)
        if not pair.any():
            continue
        weight = 1.0 / offset if weighting == "harmonic" else 1.0
        values = np.full(int(pair.sum()), weight)
        counts = counts + sp.csr_matrix((values, (left[pair], right[pair])), shape=shape)
    return sp.csr_matrix(counts + counts.T)


def positive_pmi(counts: sp.csr_matrix, *, shift: float, smoothing: float) -> sp.csr_matrix:
    """Shifted positive PMI: max(0, log(p(i, j) / (p(i) p_s(j))) - log shift), same shape, sparse.

    p_s is the context distribution raised to `smoothing` and normalised again.
    """
    from scipy import sparse as sp

    pairs = counts.tocoo()
    frequency = np.asarray(counts.sum(axis=1)).ravel()
    context = frequency**smoothing
    context /= context.sum()
    pmi = np.log(pairs.data) - np.log(frequency[pairs.row]) - np.log(context[pairs.col])
    pmi -= np.log(shift)
    keep = pmi > 0
    return sp.csr_matrix((pmi[keep], (pairs.row[keep], pairs.col[keep])), shape=counts.shape)
