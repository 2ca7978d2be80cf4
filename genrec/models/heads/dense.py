"""Scores of items: a dot product or cosine with an item vector."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from genrec.decoding import Filter, PrefixTrie, SearchResult, dense_search
from genrec.errors import ConfigError
from genrec.models.heads.base import Head
from genrec.models.heads.dense_softmax import dense_cross_entropy
from genrec.models.item_encoders import IdEmbedding, ItemEncoder, SemanticProjection
from genrec.models.tables import ItemTables

PAIR_BUDGET = 2**22  # products of states and items held at once


class DenseHead(Head):
    """Softmax over items, full or sampled.

    Args:
        tables: item tables (training counts for popularity sampling).
        encoder: the item encoder.
        d_model: width.
        items: what a state is compared with: `encoder` (the item encoder's own output, as SASRec
            ties them), `table` (an embedding of its own) or `content` (a projection of the items'
            vectors of its own, which knows items that never occurred in training too).
        similarity: `dot` or `cosine`.
        temperature: logits are divided by it.
        loss: `full` softmax over the catalogue, or `sampled` with `negatives` items drawn per
            batch and the logQ correction of their logits, which makes the partition function
            unbiased (Bengio and Senecal 2008); the positive is not drawn, so it is not corrected.
        negatives: how many items `sampled` draws.
        negative_power: items are drawn in proportion to `count ** negative_power`; 0 is uniform.
        label_smoothing: of the full softmax.

    Cost of `full`: see `dense_cross_entropy`.
    """

    uses_trie = False

    def __init__(
        self,
        *,
        tables: ItemTables,
        encoder: ItemEncoder,
        d_model: int,
        items: str = "encoder",
        similarity: str = "dot",
        temperature: float = 1.0,
        loss: str = "full",
        negatives: int = 512,
        negative_power: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(tables=tables, encoder=encoder, d_model=d_model)
        for name, value, allowed in (
            ("items", items, ("encoder", "table", "content")),
            ("similarity", similarity, ("dot", "cosine")),
            ("loss", loss, ("full", "sampled")),
        ):
            if value not in allowed:
                raise ConfigError(
                    f"head 'dense': {name}={value!r}; expected one of {', '.join(allowed)}"
                )
        if temperature <= 0:
            raise ConfigError(f"head 'dense': temperature={temperature}; expected above 0")
        if negatives < 1:
            raise ConfigError(f"head 'dense': negatives={negatives}; expected at least 1")
        if items == "encoder" and encoder.tokens_per_item != 1:
            raise ConfigError(
                "head 'dense': items='encoder' compares with one vector per item, and this item "
                "encoder has one per code; use items: table or items: content"
            )
        self.similarity, self.temperature, self.label_smoothing = (
            similarity,
            temperature,
            label_smoothing,
        )
        self.kind, self.negatives, self.negative_power = loss, negatives, negative_power
        self.own: ItemEncoder | None = None
        if items == "table":
            self.own = IdEmbedding(tables=tables, d_model=d_model)
        elif items == "content":
            tables.require("vectors", part="head 'dense' with items='content'")
            self.own = SemanticProjection(tables=tables, d_model=d_model)
        self._catalog: tuple[tuple[Any, ...], torch.Tensor] | None = None

    def candidates(self, items: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors `[n, D]` of `items`, or `[N, D]` of the whole catalogue."""
        source = self.encoder if self.own is None else self.own
        vectors = source.all_items() if items is None else source(items)
        return F.normalize(vectors, dim=-1) if self.similarity == "cosine" else vectors

    def catalog(self) -> torch.Tensor:
        """Vectors `[N, D]` that searches compare with, kept between searches of a model in use.

        `4 N D` bytes, as encoding the whole catalogue costs more than a search. They are encoded
        again once a value was changed in place or the model was in training mode, in which nothing
        is kept: fused optimisers leave no trace of what they change.
        """
        parts = (self.encoder if self.own is None else self.own, self.tables)
        values = [*(v for part in parts for v in (*part.parameters(), *part.buffers()))]
        if self.training or any(value.is_inference() for value in values):
            return self.candidates()
        device = self.tables.counts.device.type
        state = (
            torch.is_autocast_enabled(device),
            *((value.data_ptr(), value._version) for value in values),
        )
        if self._catalog is None or self._catalog[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._catalog = state, self.candidates()
        return self._catalog[1]

    def train(self, mode: bool = True) -> DenseHead:
        """As any module; training ends the life of the catalogue's vectors."""
        if mode:
            self._catalog = None
        return super().train(mode)

    def scores(self, hidden: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Logits `[M, n]` of states `[M, D]` for candidates `[n, D]`."""
        if self.similarity == "dot":
            return hidden @ candidates.T / self.temperature
        # A cosine rounded to bf16 and divided by a small temperature would be off by a tenth.
        with torch.autocast(hidden.device.type, enabled=False):
            return F.normalize(hidden.float(), dim=-1) @ candidates.float().T / self.temperature

    def pair_scores(self, hidden: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Logits `[M, n]` of states `[M, D]` for items of their own, int64 `[M, n]`.

        A pair's score does not depend on what else is asked, to the last digit; so items of equal
        vectors tie, whichever list they come from.
        """
        catalog = self.catalog().float()
        query = hidden.float()
        if self.similarity == "cosine":
            query = F.normalize(query, dim=-1)
        columns = max(1, PAIR_BUDGET // max(1, query.numel()))
        parts = [(query[:, None] * catalog[some]).sum(-1) for some in items.split(columns, dim=1)]
        return torch.cat(parts, 1) / self.temperature

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the target items."""
        if self.kind == "full":
            return self._full_loss(hidden, targets)
        chance = self.tables.counts.clamp_min(1e-9) ** self.negative_power
        chance = chance / chance.sum()
        drawn = torch.multinomial(chance, self.negatives, replacement=True)
        log_q = chance.log()
        positive = self._own_scores(hidden, self.candidates(targets))
        negative = self.scores(hidden, self.candidates(drawn))
        negative = negative.float() - (log_q[drawn] + math.log(self.negatives))
        negative = negative.masked_fill(drawn == targets.unsqueeze(1), -torch.inf)
        logits = torch.cat([positive.float(), negative], dim=1)
        return F.cross_entropy(logits, torch.zeros_like(targets))

    def _own_scores(self, hidden: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Logits `[M, 1]` of states `[M, D]` for a candidate each, rounded as `scores`."""
        if self.similarity == "dot":
            product = torch.bmm(hidden.unsqueeze(1), candidates.unsqueeze(2))
            return product.squeeze(2) / self.temperature
        with torch.autocast(hidden.device.type, enabled=False):
            query = F.normalize(hidden.float(), dim=-1)
            return (query * candidates.float()).sum(-1, keepdim=True) / self.temperature

    def _full_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over the catalogue, at the precision of `scores`."""
        options = {"scale": 1 / self.temperature, "label_smoothing": self.label_smoothing}
        items = self.candidates()
        if self.similarity == "dot":
            return dense_cross_entropy(hidden, items, targets, **options)
        with torch.autocast(hidden.device.type, enabled=False):
            query = F.normalize(hidden.float(), dim=-1)
            return dense_cross_entropy(query, items.float(), targets, **options)

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
        """Exact top `k` over the catalogue."""
        scores = self.scores(hidden, self.catalog()).float()
        return dense_search(
            scores, k=k, tie_order=self.tables.tie_order, exclude=exclude, filter=filter
        )
