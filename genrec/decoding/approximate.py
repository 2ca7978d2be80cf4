"""Faiss indexes over a pool of item vectors, and how much of the exact top-k they find.

No stage of the package searches approximately. This is here for comparison: the contest's baseline
does, and `pool_search` is what it is measured against, with the same arguments and results.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.errors import ConfigError

KINDS = ("flat", "hnsw", "ivf")


class FaissPool:
    """An index of inner products over vectors.

    Args:
        vectors: float32 `[P, D]`; for cosine similarity, of length 1.
        kind: `flat` (exact), `hnsw` (a graph), or `ivf` (clusters of which a few are searched).
        links: hnsw, neighbours per vector and layer; memory is `4 D + 8 links` bytes a vector.
        construction: hnsw, width of the search that builds the graph.
        breadth: hnsw, width of a search; ivf, clusters searched.
        lists: ivf, number of clusters; four times the square root of P by default.

    The defaults of hnsw are those of the contest's baseline, whose lists are nearly exact.

    Raises:
        ConfigError: for an unknown kind or options that make no sense.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        *,
        kind: str = "flat",
        links: int = 64,
        construction: int = 1280,
        breadth: int | None = None,
        lists: int | None = None,
    ) -> None:
        import faiss

        if kind not in KINDS:
            raise ConfigError(f"faiss: kind={kind!r}; expected one of {', '.join(KINDS)}")
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        for name, value in (("links", links), ("construction", construction), ("lists", lists)):
            if value is not None and value < 1:
                raise ConfigError(f"faiss: {name}={value}; expected at least 1")
        if vectors.ndim != 2 or len(vectors) == 0 or (breadth is not None and breadth < 1):
            raise ConfigError(
                f"faiss: vectors {vectors.shape}, breadth={breadth}; expected [P, D], at least 1"
            )
        self.kind = kind
        width = vectors.shape[1]
        self._index: Any
        if kind == "flat":
            self._index = faiss.IndexFlatIP(width)
        elif kind == "hnsw":
            self._index = faiss.IndexHNSWFlat(width, links, faiss.METRIC_INNER_PRODUCT)
            self._index.hnsw.efConstruction = construction
            self._index.hnsw.efSearch = breadth or 640
        else:
            count = lists or max(1, min(len(vectors) // 39, round(4 * len(vectors) ** 0.5)))
            if count > len(vectors):
                raise ConfigError(f"faiss: lists={count} for {len(vectors)} vectors")
            centres = faiss.IndexFlatIP(width)
            self._index = faiss.IndexIVFFlat(centres, width, count, faiss.METRIC_INNER_PRODUCT)
            self._index.train(vectors)
            self._index.nprobe = min(count, breadth or max(1, count // 16))
        self._index.add(vectors)

    def search(
        self, queries: Tensor | np.ndarray, *, k: int, exclude: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `pool_search`; excluded rows are taken out of a list that is longer by their number.

        Args:
            queries: float32 `[B, D]`.
            k: rows per query.
            exclude: int64 `[B, E]`, -1 padded.
        """
        asked = np.ascontiguousarray(torch.as_tensor(queries).cpu().numpy(), dtype=np.float32)
        extra = (
            0 if exclude is None else int((exclude >= 0).sum(dim=1).max()) if len(exclude) else 0
        )
        wide = min(k + extra, int(self._index.ntotal))
        scores, items = (torch.from_numpy(a) for a in self._index.search(asked, wide))
        items = items.to(torch.int64)
        dead = items < 0
        if exclude is not None and extra:
            dead |= (items[:, :, None] == exclude[:, None, :].cpu()).any(dim=2)
        order = torch.argsort(dead.to(torch.int8), dim=1, stable=True)[:, :k]
        dead = dead.gather(1, order)
        items = items.gather(1, order).masked_fill(dead, -1)
        scores = scores.gather(1, order).masked_fill(dead, -torch.inf)
        if items.shape[1] < k:
            pad = (0, k - items.shape[1])
            items = torch.nn.functional.pad(items, pad, value=-1)
            scores = torch.nn.functional.pad(scores, pad, value=-torch.inf)
        return items, scores


def list_recall(found: Tensor, exact: Tensor) -> float:
    """Share of the items of exact lists `[B, k]` that lists `[B, m]` hold; -1 counts nowhere."""
    there = (found[:, None, :] == exact[:, :, None]).any(dim=2) & (exact >= 0)
    return float(there.sum()) / max(1, int((exact >= 0).sum()))
