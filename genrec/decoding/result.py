"""What every search returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class SearchResult:
    """The best items of ``B`` users, best first, and how far the search can be trusted.

    Attributes:
        items: int64 ``[B, k]``; -1 where fewer than ``k`` allowed items exist.
        scores: float32 ``[B, k]``, log-probabilities (or a dense head's scores); -inf at -1.
        leaves: int64 ``[B, k]``, the ranked tuples behind the items (item numbers in a dense
            search), -1 as padding. Every one holds an allowed item, so together they cover ``k``
            items; they are also the best ``k`` tuples.
        leaf_scores: float32 ``[B, k]``; -inf as padding.
        leaf_sizes: int64 ``[B, k]``, allowed items in the leaf; 0 as padding.
        certified: bool ``[B]``; true where ``items`` is proven to be the exact answer.
        best_dropped: float32 ``[B]``, best score of a prefix that was pruned; -inf if none was.
        leaked: float32 ``[B]``, probability met on codes that do not exist, each prefix weighted
            by the exponential of its score (so that with renormalised scores it may exceed 1).
        evaluations: int64 ``[B]``, prefixes expanded; in exhaustive searches tuples scored.
    """

    items: Tensor
    scores: Tensor
    leaves: Tensor
    leaf_scores: Tensor
    leaf_sizes: Tensor
    certified: Tensor
    best_dropped: Tensor
    leaked: Tensor
    evaluations: Tensor

    def __len__(self) -> int:
        return self.items.shape[0]

    def to(self, device: torch.device | str) -> SearchResult:
        """The same result on another device."""
        return SearchResult(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def select(self, rows: Tensor) -> SearchResult:
        """The results of some of the users."""
        return SearchResult(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def replace(self, rows: Tensor, other: SearchResult) -> None:
        """Put the results of ``other`` in place of ``rows``; evaluations add up."""
        spent = self.evaluations[rows] + other.evaluations
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)
        self.evaluations[rows] = spent

    @staticmethod
    def concatenate(results: Sequence[SearchResult]) -> SearchResult:
        """One result for the users of several searches with the same ``k``."""
        names = [f.name for f in fields(SearchResult)]
        return SearchResult(**{n: torch.cat([getattr(r, n) for r in results]) for n in names})
