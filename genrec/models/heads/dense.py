"""Scores of items: a dot product or cosine with an item vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from genrec.decoding import Filter, PrefixTrie, SearchResult, dense_search
from genrec.decoding.pool import Pool, item_result, pool_search
from genrec.errors import ConfigError
from genrec.models.heads.base import Head, register
from genrec.models.heads.dense_contrast import ItemSampler, Seen, contrast, pairs
from genrec.models.heads.dense_options import IN_BATCH, NEGATIVES, check_options
from genrec.models.heads.dense_products import own_products
from genrec.models.heads.dense_softmax import dense_cross_entropy
from genrec.models.item_encoders import IdEmbedding, ItemEncoder, SemanticProjection
from genrec.models.tables import ItemTables
from genrec.processes import gathered

PAIR_STATES = 64
PAIR_BUDGET = {"cpu": 2**18, "default": 2**26}  # products held at once; on a CPU in its cache

_BLOCK = 1 << 15


@register("dense")
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
        loss: `full` softmax over the catalogue; `sampled`, a softmax over the target and
            `negatives` items drawn per batch; `infonce`, the same with `in_batch` targets of the
            batch besides, that of all processes; `bce`, binary cross-entropy of the target and
            one other item drawn uniformly for each state (SASRec, and the TencentGR baseline).
        negatives: how many items of the catalogue `sampled` and `infonce` draw; 0, for `infonce`,
            is none.
        in_batch: how many targets of the batch `infonce` draws.
        shared: whether the states of a batch share the items that `sampled` draws. If not, each
            state has `negatives` of its own, as in the MovieLens protocol of HSTU (arXiv
            2402.17152) and FuXi: 128, uniform, with `log_q` off.
        unseen: draw the other item of `bce` among those that are in neither the history nor the
            labels of the row, as the TencentGR baseline does; else among all but the target.
        log_q: of `sampled` and `infonce`: correct the logits of drawn items for how often they are
            drawn, which makes the partition function unbiased; the positive is not drawn, so it is
            not corrected. Without it popular items of the batch are pushed down.
        negative_power: of `sampled` and `infonce`: items are drawn in proportion to
            `count ** negative_power`; 0 is uniform. Above 0 items without training events are
            practically never drawn, and the softmax that is estimated is over the others.
        label_smoothing: of the full softmax.
        action_weights: of `infonce`, `sampled` and `bce`: how much a target counts in the mean by
            the action of its event: first unknown actions, then each of the dataset. The paper of
            TencentGR weighs conversions more.

    An option of another loss than the one chosen is refused, as it would do nothing.

    Attributes:
        keeps_catalog: whether searches over the whole catalogue keep its vectors. If not, each
            encodes them anew, a block at a time, for tables that are not to be gathered.

    Cost of `full`: see `dense_cross_entropy`. `sampled` for M states makes `M n` products for n
    `negatives`. Shared negatives are n vectors; with `shared: false` up to `M n` different items
    are drawn, whose vectors are looked up a block of states at a time (`own_products`).
    """

    uses_trie = False
    keeps_catalog = True

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
        negatives: int = NEGATIVES,
        in_batch: int = IN_BATCH,
        shared: bool = True,
        unseen: bool = False,
        log_q: bool = True,
        negative_power: float = 0.0,
        label_smoothing: float = 0.0,
        action_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(tables=tables, encoder=encoder, d_model=d_model)
        check_options(
            items=items,
            similarity=similarity,
            temperature=temperature,
            loss=loss,
            negatives=negatives,
            in_batch=in_batch,
            shared=shared,
            unseen=unseen,
            log_q=log_q,
            negative_power=negative_power,
            label_smoothing=label_smoothing,
            action_weights=action_weights,
        )
        if loss == "bce" and tables.num_items < 2:
            raise ConfigError(
                "head 'dense': loss='bce' needs another item than the target; found 1"
            )
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
        self.in_batch, self.log_q, self.avoids_seen = in_batch, log_q, unseen
        self.shared = shared
        self.action_weights = None if action_weights is None else tuple(map(float, action_weights))
        self._sampler: ItemSampler | None = None
        self._pool: tuple[Filter, Pool] | None = None
        self.own: ItemEncoder | None = None
        if items == "table":
            self.own = IdEmbedding(tables=tables, d_model=d_model)
        elif items == "content":
            tables.require("vectors", part="head 'dense' with items='content'")
            self.own = SemanticProjection(tables=tables, d_model=d_model)
        self._catalog: tuple[Any, torch.Tensor | None, torch.Tensor] | None = None

    def candidates(self, items: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors `[n, D]` of `items`, or `[N, D]` of the whole catalogue."""
        source = self.encoder if self.own is None else self.own
        vectors = source.all_items() if items is None else source(items)
        return F.normalize(vectors, dim=-1) if self.similarity == "cosine" else vectors

    def catalog(self, items: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors `[N, D]` that searches compare with, kept between searches of a model in use.

        `4 N D` bytes, as encoding the whole catalogue costs more than a search. They are encoded
        again once a value was changed in place or the model was in training mode, in which nothing
        is kept: fused optimisers leave no trace of what they change.

        Args:
            items: int64 `[n]`, only these; the same tensor is known again.
        """
        parts = (self.encoder if self.own is None else self.own, self.tables)
        values = [*(v for part in parts for v in (*part.parameters(), *part.buffers()))]
        values += [] if items is None else [items]
        if self.training or any(value.is_inference() for value in values):
            return self._in_blocks(items)
        device = self.tables.counts.device.type
        state = (
            torch.is_autocast_enabled(device),
            *((value.data_ptr(), value._version) for value in values),
        )
        kept = self._catalog
        if kept is None or kept[0] != state or kept[1] is not items:
            with torch.inference_mode(False), torch.no_grad():
                kept = self._catalog = state, items, self._in_blocks(items)
        return kept[2]

    def _in_blocks(self, items: torch.Tensor | None) -> torch.Tensor:
        if items is None:
            return self.candidates()
        return torch.cat([self.candidates(part) for part in items.split(_BLOCK)])

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
        """Logits `[M, n]` of states `[M, D]` for items int64 `[n]`, or `[M, n]` of their own.

        A pair's score does not depend on what else is asked, to the last digit, as that of a matrix
        product may; so items of equal vectors tie, whichever list they come from.

        Cost: `M n D` products, made and added up a block at a time.
        """
        catalog = self.catalog().float() if self.keeps_catalog else None
        query = hidden.float()
        if self.similarity == "cosine":
            query = F.normalize(query, dim=-1)
        scores = query.new_empty(len(query), items.shape[-1])
        budget = PAIR_BUDGET.get(query.device.type, PAIR_BUDGET["default"])
        columns = max(1, budget // (PAIR_STATES * self.d_model))
        for low in range(0, len(query), PAIR_STATES):
            rows = slice(low, low + PAIR_STATES)
            of_rows = items if items.dim() == 1 else items[rows]
            for start in range(0, items.shape[-1], columns):
                some = of_rows[..., start : start + columns]
                vectors = self.candidates(some).float() if catalog is None else catalog[some]
                products = query[rows, None] * vectors
                scores[rows, start : start + columns] = products.sum(-1)
        return scores / self.temperature

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of the target items, see the class."""
        return self.event_loss(hidden, targets, None)

    def event_loss(
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        actions: torch.Tensor | None,
        *,
        seen: Seen | None = None,
    ) -> torch.Tensor:
        """See `Head.event_loss`."""
        return self._loss(hidden, targets, self._weights(actions), seen)

    def mass(self, targets: torch.Tensor, actions: torch.Tensor | None) -> torch.Tensor:
        """See `Head.mass`."""
        weights = self._weights(actions)
        return super().mass(targets, actions) if weights is None else weights.sum()

    def _weights(self, actions: torch.Tensor | None) -> torch.Tensor | None:
        """How much a target of each action counts, float `[M]`; None for all the same."""
        if self.action_weights is None:
            return None
        most = 0 if actions is None or not actions.numel() else int(actions.max())
        if actions is None or most >= len(self.action_weights):
            found = "no actions" if actions is None else f"action {most}"
            raise ConfigError(
                f"head 'dense': action_weights has {len(self.action_weights)} numbers, but the "
                f"data have {found}; give one for unknown actions and one for each action"
            )
        return torch.tensor(self.action_weights, device=actions.device)[actions]

    def _loss(
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        seen: Seen | None,
    ) -> torch.Tensor:
        if self.kind == "full":
            return self.unsampled_loss(hidden, targets)
        positive = self._own_scores(hidden, self.candidates(targets))
        if self.kind == "bce":
            negative = self._own_scores(hidden, self.candidates(self._others(targets, seen)))
            return pairs(positive, negative, weights)
        drawn, expected = self._draw(targets)
        negative = self._drawn_scores(hidden, drawn)
        correction = expected if self.log_q else None
        return contrast(positive, negative, targets, drawn, correction, weights)

    def _draw(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Items int64 `[n]` to compare with, and how many draws of each are expected.

        Both are `[M, n]` where each state has its own.
        """
        counts = self.tables.counts
        if self._sampler is None or not self._sampler.fits(counts, self.negative_power):
            self._sampler = ItemSampler(counts, self.negative_power)
        generator = self._generator(targets.device)
        if not self.shared:
            batch, start = self._batch(targets)
            drawn = self._sampler.draw(len(batch) * self.negatives, generator)
            drawn = drawn.view(-1, self.negatives)[start : start + len(targets)]
            return drawn, self.negatives * self._sampler.chance[drawn]
        drawn = self._sampler.draw(self.negatives, generator)
        if self.kind != "infonce":
            return drawn, self.negatives * self._sampler.chance[drawn]
        batch, _ = self._batch(targets)
        order = torch.randperm(len(batch), device=batch.device, generator=generator)
        own = batch[order[: self.in_batch]]
        drawn = torch.cat([drawn, own])
        # A target of the batch is an item drawn by popularity.
        popular = counts[drawn].clamp_min(1e-9) / counts.sum().clamp_min(1e-9)
        return drawn, self.negatives * self._sampler.chance[drawn] + len(own) * popular

    def _others(self, targets: torch.Tensor, seen: Seen | None = None) -> torch.Tensor:
        """An item int64 `[M]` for each target, uniform over all but the target, or the row's."""
        batch, start = self._batch(targets)
        if seen is not None:
            generator = self._generator(targets.device)
            uniform = torch.rand(
                len(batch), dtype=torch.float64, device=targets.device, generator=generator
            )
            return seen.others(uniform[start : start + len(targets)], self.tables.num_items)
        drawn = torch.randint(
            self.tables.num_items - 1,
            (len(batch),),
            device=targets.device,
            generator=self._generator(targets.device),
        )[start : start + len(targets)]
        return drawn + (drawn >= targets)

    def _batch(self, targets: torch.Tensor) -> tuple[torch.Tensor, int]:
        """The targets of all processes that draw together, and where this one's start."""
        return (targets, 0) if self.draw_seed is None else gathered(targets)

    def _generator(self, device: torch.device) -> torch.Generator | None:
        seed = self.draw_seed
        return None if seed is None else torch.Generator(device).manual_seed(seed)

    def _drawn_scores(self, hidden: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Logits `[M, n]` of drawn items `[n]`, or `[M, n]` of each state's own."""
        if self.shared:
            return self.scores(hidden, self.candidates(drawn))
        items, places = drawn.unique(return_inverse=True)
        vectors = self.candidates(items)
        query = F.normalize(hidden.float(), dim=-1) if self.similarity == "cosine" else hidden
        return own_products(query, vectors, places) / self.temperature

    def _own_scores(self, hidden: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Logits `[M, 1]` of states `[M, D]` for a candidate each, rounded as `scores`."""
        if self.similarity == "dot":
            product = torch.bmm(hidden.unsqueeze(1), candidates.unsqueeze(2))
            return product.squeeze(2) / self.temperature
        with torch.autocast(hidden.device.type, enabled=False):
            query = F.normalize(hidden.float(), dim=-1)
            return (query * candidates.float()).sum(-1, keepdim=True) / self.temperature

    def unsampled_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
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
        """Exact top `k` over the catalogue, or over the pool that a filter lets through.

        Of a pool that is the same for all users, only the items in it are encoded and scored.
        """
        pool = self._pool_of(filter)
        if pool is not None:
            return self._pool_search(hidden, pool, k=k, exclude=exclude)
        catalog = self.catalog() if self.keeps_catalog else None

        def block(start: int, stop: int) -> torch.Tensor:
            if catalog is None:
                some = self.candidates(torch.arange(start, stop, device=hidden.device))
            else:
                some = catalog[start:stop]
            return self.scores(hidden, some).float()

        return dense_search(
            block, k=k, tie_order=self.tables.tie_order, exclude=exclude, filter=filter
        )

    def _pool_of(self, filter: Filter | None) -> Pool | None:
        """The items of a small pool, kept for the next search; None where all are scored."""
        if filter is None or len(filter) != 1:
            return None
        if self._pool is None or self._pool[0] is not filter:
            self._pool = filter, Pool.of(filter, self.tables.counts.device)
        pool = self._pool[1]
        return pool if 0 < len(pool.items) <= len(pool.place) // 2 else None

    def _pool_search(
        self, hidden: torch.Tensor, pool: Pool, *, k: int, exclude: torch.Tensor | None
    ) -> SearchResult:
        queries = F.normalize(hidden.float(), dim=-1) if self.similarity == "cosine" else hidden
        rows, scores = pool_search(
            queries.float(),
            self.catalog(pool.items),
            k=k,
            tie_order=torch.argsort(torch.argsort(self.tables.tie_order[pool.items])),
            exclude=None if exclude is None else pool.rows(exclude),
        )
        scores = scores / self.temperature
        return item_result(pool.numbers(rows), scores, evaluations=len(pool.items))
