"""The items that look most like the last one: a baseline of content alone, without training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genrec.decoding import Filter, SearchResult, dense_search
from genrec.evaluation.rankers import Untrained


class NeighbourRanker(Untrained):
    """Ranks items by the cosine of their vectors with that of the last item of the history.

    What a model of content has to beat: it knows the last item only, and has learned nothing. The
    last item itself comes first unless it is excluded. An item whose vector is zero is as near
    as any to all others.

    Args:
        vectors: real [N, d], finite, in the order of the catalog.
        tie_order: int64 [N], a permutation rank; of items equally near the smaller comes first.
        name: shown in reports.

    Cost: `N d` multiply-adds a user. Memory: `4 N d` bytes, and `[B, 8192]` scores at a time.

    Raises:
        ValueError: if the two have not one row an item.
    """

    def __init__(
        self, vectors: np.ndarray, tie_order: np.ndarray, *, name: str = "last-item"
    ) -> None:
        if vectors.ndim != 2 or len(vectors) != len(tie_order):
            raise ValueError(
                f"vectors {vectors.shape} and tie order {np.shape(tie_order)} must have a row an "
                "item"
            )
        self.name = name
        self._vectors = F.normalize(torch.tensor(vectors, dtype=torch.float32), dim=-1)
        self._tie_order = torch.tensor(tie_order, dtype=torch.int64)

    @property
    def filters_for(self) -> int:
        """Filters are over items."""
        return len(self._vectors)

    def leaf_of(self, items: Tensor) -> Tensor:
        """Every item is its own."""
        return items

    def search(
        self,
        batch: dict[str, Any],
        *,
        k: int,
        exclude: Tensor | None = None,
        filter: Filter | None = None,
    ) -> SearchResult:
        """See `Ranker.search`; every row of the batch must have an item."""
        items, mask = batch["items"].cpu(), batch["mask"].cpu()
        places = torch.arange(items.shape[1]).expand_as(items)
        last = places.masked_fill(~mask, -1).amax(dim=1, keepdim=True)
        asked = self._vectors[items.gather(1, last).squeeze(1)]
        return dense_search(
            lambda start, stop: asked @ self._vectors[start:stop].T,
            k=k,
            tie_order=self._tie_order,
            exclude=None if exclude is None else exclude.cpu(),
            filter=filter,
        )
