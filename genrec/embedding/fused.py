"""Several embeddings of one catalog, brought to one scale, weighted and concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from genrec.embedding.base import Embedder, require
from genrec.embedding.linalg import mean_and_covariance, principal_axes
from genrec.embedding.vectors import ItemVectors

if TYPE_CHECKING:
    from genrec.data import Catalog, Histories, Split

_BLOCK = 1 << 16
_NEGLIGIBLE = 1e-6


@dataclass(frozen=True, kw_only=True)
class FusedEmbedder(Embedder):
    """Concatenation of parts; the squared weights say how much each counts in a distance.

    A part that was standardised or whitened has mean squared norm 1 before its weight, whatever
    its dimension. An all-zero vector means that a part knows nothing of the item (a cold item in a
    collaborative part): it stays zero, which is the mean, and is left out of the statistics.
    These are taken over all items with a vector, those without training events too; they read no
    events, so none leaks. Quantizers are fitted on items that occur in training.

    Args:
        parts: embedders.
        weights: one per part; all 1 by default.
        how: `standardize` (each dimension to mean 0 and variance 1), `whiten` (PCA, each component
            to variance 1) or `none` (only weighted).
        dim: with `whiten`, keep so many leading components of each part.
    """

    type = "fused"

    parts: Sequence[Embedder]
    weights: Sequence[float] | None = None
    how: Literal["standardize", "whiten", "none"] = "standardize"
    dim: int | None = None

    def __post_init__(self) -> None:
        require(len(self.parts) > 0, "fused: parts is empty; give at least one embedder")
        for number, part in enumerate(self.parts):
            require(
                isinstance(part, Embedder),
                f"fused: part {number} is a {type(part).__name__}, expected an embedder; "
                "make_embedder('fused', parts=[{'type': ...}, ...]) takes configurations",
            )
        require(
            self.how in ("standardize", "whiten", "none"),
            f"fused: how must be 'standardize', 'whiten' or 'none', got {self.how!r}",
        )
        require(
            self.weights is None or len(self.weights) == len(self.parts),
            f"fused: {len(self.weights or ())} weights for {len(self.parts)} parts",
        )
        require(
            all(np.isfinite(w) and w > 0 for w in self.weights or ()),
            f"fused: weights must be above 0, got {self.weights}",
        )
        require(
            self.dim is None or (self.how == "whiten" and self.dim >= 1),
            f"fused: dim={self.dim} needs how='whiten' and a value of at least 1",
        )

    @property
    def reads_histories(self) -> bool:
        """Whether a part does."""
        return any(part.reads_histories for part in self.parts)

    def embed(
        self,
        catalog: Catalog,
        *,
        histories: Histories | None = None,
        split: Split | None = None,
    ) -> ItemVectors:
        """Embed with every part and fuse the results."""
        weights = self.weights or [1.0] * len(self.parts)
        embedded = [part.embed(catalog, histories=histories, split=split) for part in self.parts]
        vectors = fuse([part.vectors for part in embedded], weights, how=self.how, dim=self.dim)
        config = self.describe() | {"parts": [part.config for part in embedded]}
        return ItemVectors(vectors, catalog.item_ids, config, source="fused")


def fuse(
    parts: Sequence[np.ndarray],
    weights: Sequence[float],
    *,
    how: str = "standardize",
    dim: int | None = None,
) -> np.ndarray:
    """Scale, weight and concatenate matrices of the same items.

    Args:
        parts: float [N, d_p] each.
        weights: one per part.
        how: `standardize`, `whiten` or `none`.
        dim: leading components kept of each part, with `whiten`.

    Returns:
        float32 [N, sum of the dimensions].
    """
    scaled = []
    for part, weight in zip(parts, weights, strict=True):
        if how != "none":
            part = _rescale(part, how, dim)
        scaled.append((weight * part).astype(np.float32))
    return np.concatenate(scaled, axis=1)


def _rescale(vectors: np.ndarray, how: str, dim: int | None) -> np.ndarray:
    known = vectors.any(axis=1)
    mean, covariance = mean_and_covariance(vectors, np.flatnonzero(known))
    if how == "whiten":
        variances, axes = principal_axes(covariance)
        variances, axes = variances[:dim], axes[:, :dim]
    else:
        variances, axes = np.diag(covariance).copy(), np.eye(len(mean))
    # A direction without variance holds rounding noise only: scaled to 1 it would count as much
    # as the others, so it is set to zero.
    alive = variances > _NEGLIGIBLE * max(float(variances.max(initial=0.0)), 1e-30)
    scale = np.where(alive, 1.0 / np.sqrt(np.where(alive, variances, 1.0)), 0.0)
    transform = axes * scale / np.sqrt(max(1, int(alive.sum())))
    result = np.empty((len(vectors), transform.shape[1]), dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        result[start : start + _BLOCK] = (block - mean) @ transform
    result[~known] = 0
    return result
