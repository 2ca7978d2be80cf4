"""The next item's vector itself: continuous output, the control of models that write codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from genrec.decoding import Filter, PrefixTrie, SearchResult, dense_search
from genrec.errors import ConfigError, expected_one_of
from genrec.models.heads.base import Head, register
from genrec.models.item_encoders import ItemEncoder
from genrec.models.tables import ItemTables

LOSSES = ("cosine", "mse")


@register("regression")
class RegressionHead(Head):
    """Predicts the content vector of the next item; the nearest items are the answer.

    `v = W norm(h) + b` is compared with the item vectors as they were given, which do not learn:
    there are no negatives. AsymRec (arXiv 2605.14512) reports that states trained in this way
    collapse into few dimensions; the evaluation prints their effective rank.

    Args:
        tables: item tables with vectors.
        encoder: the item encoder; unused.
        d_model: width of the hidden states.
        loss: `cosine` (one minus the cosine with the target's vector) or `mse` (mean squared
            error per dimension, for vectors of a common scale). The search ranks by the same
            measure.

    Cost of the search: `N d` multiply-adds a user. Memory: `d (d_model + 1)` parameters.
    """

    uses_trie = False

    def __init__(
        self,
        *,
        tables: ItemTables,
        encoder: ItemEncoder,
        d_model: int,
        loss: str = "cosine",
    ) -> None:
        super().__init__(tables=tables, encoder=encoder, d_model=d_model)
        tables.require("vectors", part="head 'regression'")
        if loss not in LOSSES:
            raise ConfigError(f"head 'regression': loss={loss!r}; {expected_one_of(loss, LOSSES)}")
        self.kind = loss
        self.norm = nn.LayerNorm(d_model)
        self.project = nn.Linear(d_model, tables.vector_dim)

    def predicted(self, hidden: torch.Tensor) -> torch.Tensor:
        """Content vectors `[M, d]` of the items that follow states `[M, D]`."""
        return self.project(self.norm(hidden)).float()

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean distance of the predictions to the targets' vectors."""
        predicted, wanted = self.predicted(hidden), self.tables.vectors[targets]
        if self.kind == "mse":
            return F.mse_loss(predicted, wanted)
        return 1 - F.cosine_similarity(predicted, wanted, dim=-1).mean()

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Cosines, or negative squared distances, `[B, N]` of states `[B, D]` to all items."""
        predicted, vectors = self.predicted(hidden), self.tables.vectors
        if self.kind == "cosine":
            return F.normalize(predicted, dim=-1) @ F.normalize(vectors, dim=-1).T
        squares = vectors.square().sum(-1) + predicted.square().sum(-1, keepdim=True)
        return 2 * predicted @ vectors.T - squares

    def search(
        self,
        hidden: torch.Tensor,
        *,
        k: int,
        trie: PrefixTrie | None = None,
        exclude: torch.Tensor | None = None,
        filter: Filter | None = None,
        beam_width: int = 50,
        exact: bool = False,
        renormalize: bool = False,
    ) -> SearchResult:
        """Exact top `k` over the catalog; beam width has no effect."""
        return dense_search(
            self.scores(hidden),
            k=k,
            tie_order=self.tables.tie_order,
            exclude=exclude,
            filter=filter,
        )
