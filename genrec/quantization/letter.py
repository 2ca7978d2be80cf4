"""LETTER's terms: latents near collaborative vectors, and codes spread over their space.

Reference: Wang et al., "Learnable item tokenization for generative recommendation", CIKM 2024.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.quantization.balanced import balanced_kmeans, capped_assign
from genrec.quantization.residual_vq import ResidualVQ

_TEMPERATURE = 0.1
_RECLUSTER = 100  # steps between divisions of the codebooks into clusters


class Letter(nn.Module):
    """Weighted sum of the collaborative and the diversity loss of a batch.

    The collaborative loss is a contrast within the batch: the quantized latent of an item, mapped
    linearly to the width of the collaborative vectors, should be more similar (cosine) to the
    item's own collaborative vector than to those of the other items. A collaborative vector that is
    all zero says nothing (a cold item) and is left out.

    The diversity loss divides each codebook into clusters of even size. A chosen code should have a
    larger inner product with a random other code of its cluster than with all other codes.

    Args:
        latent: width of the latent vectors.
        collaborative: [n, c] one row per vector that is trained on; `None` without alignment.
        alignment: weight of the collaborative loss.
        diversity: weight of the diversity loss.
        clusters: of each codebook.
        rng: chooses clusters and codes.
    """

    collaborative: Tensor | None

    def __init__(
        self,
        *,
        latent: int,
        collaborative: Tensor | None,
        alignment: float,
        diversity: float,
        clusters: int,
        rng: np.random.Generator,
    ) -> None:
        super().__init__()
        self.alignment, self.diversity, self.clusters = alignment, diversity, clusters
        self.rng = rng
        self.register_buffer("collaborative", collaborative)
        if collaborative is not None:
            self.map = nn.Linear(latent, collaborative.shape[1])
        self.members: list[Tensor] = []
        self.steps = 0

    def forward(self, rows: Tensor, quantized: Tensor, levels: ResidualVQ) -> Tensor:
        """The terms of a batch, a scalar.

        Args:
            rows: [B] numbers of the vectors in the batch.
            quantized: [B, latent] their quantized latents, with gradient.
            levels: the levels, after they have coded the batch.
        """
        loss = torch.zeros((), device=quantized.device)
        if self.collaborative is not None:
            target = self.collaborative[rows]
            loss = loss + self.alignment * contrast(self.map(quantized), target)
        if self.diversity:
            if self.steps % _RECLUSTER == 0:
                self.members = [self._clusters(book.detach()) for book in levels.codebooks]
            self.steps += 1
            for book, codes, labels in zip(
                levels.codebooks, levels.codes, self.members, strict=True
            ):
                positive = partners(codes, labels, self.rng)
                loss = loss + self.diversity * spread(book, codes, positive)
        return loss

    def _clusters(self, book: Tensor) -> Tensor:
        """Cluster of each code, int64 [K]; clusters have even sizes, of at least two codes."""
        count = max(1, min(self.clusters, len(book) // 2))
        centroids = balanced_kmeans(book, count, rng=self.rng, iterations=10)
        free = torch.zeros(count, dtype=torch.float64, device=book.device)
        return capped_assign(book, centroids, -(-len(book) // count), free)[0]


def contrast(mapped: Tensor, target: Tensor) -> Tensor:
    """InfoNCE of mapped latents [B, c] against collaborative vectors [B, c], a scalar."""
    known = target.any(dim=1)
    own = functional.normalize(mapped[known], dim=1)
    other = functional.normalize(target[known], dim=1)
    if len(own) < 2:
        return torch.zeros((), device=mapped.device)
    logits = own @ other.T / _TEMPERATURE
    return functional.cross_entropy(logits, torch.arange(len(own), device=own.device))


def partners(codes: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
    """A random other code of the cluster of each code, int64 [B]; itself where it is alone.

    Args:
        codes: int64 [B].
        labels: int64 [K], cluster of each code.
        rng: chooses.
    """
    order = torch.sort(labels, stable=True).indices
    sizes = torch.bincount(labels)
    starts = sizes.cumsum(0) - sizes
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    label = labels[codes]
    size, start = sizes[label], starts[label]
    draws = torch.from_numpy(rng.random(len(codes))).to(codes.device)
    # One to size - 1 places further round the cluster: any of the others, never itself.
    step = 1 + (draws * (size - 1)).long()
    return order[start + (place[codes] - start + step) % size]


def spread(book: Tensor, codes: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy of each chosen code's partner among all other codes, a scalar."""
    paired = positive != codes
    if not bool(paired.any()):
        return torch.zeros((), device=book.device)
    codes, positive = codes[paired], positive[paired]
    logits = book[codes] @ book.T
    logits = logits.scatter(1, codes[:, None], float("-inf"))
    return functional.cross_entropy(logits, positive)
