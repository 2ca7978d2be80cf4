"""HSTU, hierarchical sequential transduction units (Zhai et al., ICML 2024, arXiv 2402.17152).

The form of the paper's public benchmarks, not the production one: pointwise attention with biases
by position and time, no feed-forward part.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from genrec.errors import ConfigError
from genrec.models.backbones.base import (
    Backbone,
    BackboneSpec,
    BeamState,
    ContextState,
    Rows,
    at_last,
)
from genrec.models.backbones.inputs import ScaledInput, check_counts
from genrec.models.backbones.packing import Packing
from genrec.models.backbones.pointwise import pointwise_attention, shared_pointwise_attention
from genrec.models.backbones.relative import TIME_BUCKETS, Pairs, check_times, lookup
from genrec.models.meta import SequenceMeta

EPSILON = 1e-6


class HSTU(Backbone):
    """Gated layers of pointwise attention.

    `u, v, q, k = SiLU(norm(x) W)`, `a_ij = SiLU(q_i k_j + position_{i-j} + time_{bucket(i,j)}) / N`
    for `j <= i`, `x + Linear(u * norm(a v))`. N is `max_length` and not the length of the row, so
    that a hidden state does not depend on padding and decoding agrees with training.

    Args:
        d_model: width D.
        max_length: longest sequence in tokens; also the normaliser N.
        layers: number of layers.
        heads: attention heads.
        dqk: width of a query and key, `d_model / heads` by default.
        dv: width of a value, `d_model / heads` by default.
        dropout: on the input and before each output projection.
        times: gaps of the time bias. `request`: from the time of the item to be predicted, the
            paper's protocol, for services that know when they are asked. `event`: from the last
            event only. `none`: no time bias.
        scale_input: multiply the embeddings by `sqrt(D)`, as the paper does with item embeddings.
        concat_ua: project `[u, norm(a v), u * norm(a v)]` instead of the last alone.

    Parameters of a layer with `heads * dqk = heads * dv = D`: `5 D^2 + D`, and
    `max_length + 129` biases. Cost of a layer for S tokens: `5 S D^2 + S^2 D` multiply-adds;
    memory is linear in S but for one byte per pair of tokens, shared by the layers.
    """

    def __init__(
        self,
        *,
        d_model: int,
        max_length: int,
        layers: int = 2,
        heads: int = 2,
        dqk: int | None = None,
        dv: int | None = None,
        dropout: float = 0.2,
        times: str = "request",
        scale_input: bool = True,
        concat_ua: bool = False,
    ) -> None:
        super().__init__()
        check_counts(layers=layers, heads=heads, dqk=dqk, dv=dv)
        check_times(times)
        if d_model % heads and (dqk is None or dv is None):
            raise ConfigError(
                f"backbone: heads={heads} does not divide d_model={d_model}; give dqk and dv"
            )
        self.spec = BackboneSpec(
            style="stream",
            d_model=d_model,
            max_length=max_length,
            uses_time=times != "none",
            cache="kv",
        )
        self.times = times
        self.input = ScaledInput(
            d_model=d_model, max_length=max_length, scale=scale_input, dropout=dropout
        )
        self.layers = nn.ModuleList(
            _Layer(
                spec=self.spec,
                heads=heads,
                dqk=dqk or d_model // heads,
                dv=dv or d_model // heads,
                dropout=dropout,
                concat_ua=concat_ua,
            )
            for _ in range(layers)
        )

    def forward(self, embeddings: torch.Tensor, meta: SequenceMeta) -> torch.Tensor:
        """Map embeddings `[B, S, D]` to hidden states `[B, S, D]`."""
        return self._full_pass(embeddings, meta)

    def encode(self, embeddings: torch.Tensor, meta: SequenceMeta) -> ContextState:
        """Read histories `[B, S, D]`; keep keys and values `[B, H, S, width]` of each layer."""
        kept: Rows = []
        hidden = self._full_pass(embeddings, meta, kept)
        return ContextState(hidden=hidden, last=at_last(hidden, meta), meta=meta, cache=kept)

    def decode_step(
        self,
        tokens: torch.Tensor,
        meta: SequenceMeta,
        context: ContextState,
        beams: BeamState,
        parent: torch.Tensor,
    ) -> tuple[torch.Tensor, BeamState]:
        """See `Backbone.decode_step`; a beam holds its own keys and values `[H, width]`."""
        grown = beams.grown([], meta)
        own = meta if grown.meta is None else grown.meta
        self.check_length(context.hidden.shape[1] + own.mask.shape[1])
        hidden = self.input(tokens, meta)
        to_context = Pairs.of_step(meta, context.meta, context.meta, self.times)
        to_own = Pairs.of_step(meta, own, context.meta, self.times)
        for index, layer in enumerate(cast("list[_Layer]", list(self.layers))):
            gate, value, query, key = layer.project(hidden)
            own_key, own_value = beams.layer(index, parent, key, value)
            grown.rows.append((own_key, own_value))
            mixed = shared_pointwise_attention(
                query.transpose(1, 2),
                *context.cache[index],
                normalizer=self.spec.max_length,
                own_key=own_key,
                own_value=own_value,
                bias=layer.bias(to_context),
                own_bias=layer.bias(to_own),
            )
            hidden = layer.finish(hidden, gate, mixed.transpose(1, 2).flatten(2))
        return hidden, grown

    def _full_pass(
        self, embeddings: torch.Tensor, meta: SequenceMeta, kept: Rows | None = None
    ) -> torch.Tensor:
        """All tokens through all layers, whose keys and values are added to `kept`."""
        self.check_length(embeddings.shape[1])
        packing, pairs = Packing.of(meta.mask), Pairs.of(meta, self.times)
        hidden = packing.pack(self.input(embeddings, meta).flatten(0, 1))
        for layer in self.layers:
            hidden = layer(hidden, packing, pairs, kept)
        return packing.unpack(hidden).view_as(embeddings)


class _Layer(nn.Module):
    def __init__(
        self,
        *,
        spec: BackboneSpec,
        heads: int,
        dqk: int,
        dv: int,
        dropout: float,
        concat_ua: bool,
    ) -> None:
        super().__init__()
        self.heads, self.normalizer, self.concat_ua = heads, spec.max_length, concat_ua
        self.widths = [heads * dv, heads * dv, heads * dqk, heads * dqk]
        self.uvqk = nn.Parameter(torch.empty(spec.d_model, sum(self.widths)))
        self.position = nn.Parameter(torch.empty(spec.max_length))
        self.time = nn.Parameter(torch.empty(TIME_BUCKETS)) if spec.uses_time else None
        for weight in (self.uvqk, self.position, self.time):
            if weight is not None:
                nn.init.normal_(weight, std=0.02)
        self.out = nn.Linear((3 if concat_ua else 1) * heads * dv, spec.d_model)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden: torch.Tensor, packing: Packing, pairs: Pairs, kept: Rows | None
    ) -> torch.Tensor:
        """Tokens `[M, D]` -> `[M, D]`."""
        gate, *parts = self.project(hidden)
        value, query, key = (
            # Unpacking puts zeros at padding: a value of zero is a key that nobody sees.
            packing.unpack(one.flatten(1)).view(*packing.shape, *one.shape[1:]).transpose(1, 2)
            for one in parts
        )
        if kept is not None:
            kept.append((key, value))
        mixed = pointwise_attention(
            query,
            key,
            value,
            normalizer=self.normalizer,
            bias=lookup(self.position, pairs.distance),
            table=self.time,
            buckets=pairs.buckets,
        )
        mixed = packing.pack(mixed.transpose(1, 2).flatten(2).flatten(0, 1))
        return self.finish(hidden, gate, mixed)

    def project(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gate `[..., H dv]`, value, query and key `[..., H, width]` of tokens `[..., D]`."""
        normed = F.layer_norm(hidden, hidden.shape[-1:], eps=EPSILON)
        gate, *parts = F.silu(normed @ self.uvqk).split(self.widths, dim=-1)
        return gate, *(one.unflatten(-1, (self.heads, -1)) for one in parts)

    def bias(self, pairs: Pairs) -> torch.Tensor:
        """What position and time add to the scores of pairs, float `[B, Q, K]`."""
        by_position = lookup(self.position, pairs.distance)
        if self.time is None or pairs.buckets is None:
            return by_position
        return by_position + lookup(self.time, pairs.buckets)

    def finish(self, hidden: torch.Tensor, gate: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """What follows the attention, whose output is `mixed` `[..., H dv]`."""
        mixed = F.layer_norm(mixed, mixed.shape[-1:], eps=EPSILON)
        gated = gate * mixed
        if self.concat_ua:
            gated = torch.cat([gate, mixed, gated], dim=-1)
        return hidden + self.out(self.dropout(gated))
