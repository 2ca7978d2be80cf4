"""HSTU, hierarchical sequential transduction units (Zhai et al., ICML 2024, arXiv 2402.17152).

The form of the paper's public benchmarks, not the production one: pointwise attention with biases
by position and time, no feed-forward part.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from genrec.errors import ConfigError
from genrec.models.backbones.base import BackboneSpec, register
from genrec.models.backbones.gated import GatedBackbone, GatedLayer
from genrec.models.backbones.inputs import check_counts
from genrec.models.backbones.pointwise import pointwise_attention, shared_pointwise_attention
from genrec.models.backbones.relative import Pairs, lookup
from genrec.models.times import TIME_BUCKETS

EPSILON = 1e-6


@register("hstu")
class HSTU(GatedBackbone):
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
        times: gaps of the time bias. `event`: from the last event. `request`: from the time of the
            item to be predicted, the paper's protocol, for services that know when they are asked;
            such a model knows more than one that reads past events only. `none`: no time bias.
        scale_input: multiply the embeddings by `sqrt(D)`, as the paper does with item embeddings.
        concat_ua: project `[u, norm(a v), u * norm(a v)]` instead of the last alone.

    Parameters of a layer with `heads * dqk = heads * dv = D`: `5 D^2 + D`, and
    `max_length + 129` biases. Cost of a layer for S tokens: `5 S D^2 + S^2 D` multiply-adds;
    memory is linear in S but for one byte per pair of tokens, shared by the layers. A decoding step
    costs as much as one more token per beam, and reads the context once per user.
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
        times: str = "event",
        scale_input: bool = True,
        concat_ua: bool = False,
    ) -> None:
        check_counts(layers=layers, heads=heads, dqk=dqk, dv=dv)
        if d_model % heads and (dqk is None or dv is None):
            raise ConfigError(
                f"backbone: heads={heads} does not divide d_model={d_model}; give dqk and dv"
            )

        def build(spec: BackboneSpec) -> list[GatedLayer]:
            return [
                _Layer(
                    spec=spec,
                    heads=heads,
                    dqk=dqk or d_model // heads,
                    dv=dv or d_model // heads,
                    dropout=dropout,
                    concat_ua=concat_ua,
                )
                for _ in range(layers)
            ]

        super().__init__(
            d_model=d_model,
            max_length=max_length,
            times=times,
            scale_input=scale_input,
            dropout=dropout,
            layers=build,
        )


class _Layer(GatedLayer):
    kept = 2

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

    def project(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gate `[..., H dv]`; value, key and query `[..., H, width]`."""
        normed = F.layer_norm(hidden, hidden.shape[-1:], eps=EPSILON)
        gate, *parts = F.silu(normed @ self.uvqk).split(self.widths, dim=-1)
        value, query, key = (one.unflatten(-1, (self.heads, -1)) for one in parts)
        return gate, value, key, query

    def mix(self, pairs: Pairs, *rows: torch.Tensor) -> torch.Tensor:
        """See `GatedLayer.mix`."""
        value, key, query = rows
        return pointwise_attention(
            query,
            key,
            value,
            normalizer=self.normalizer,
            bias=lookup(self.position, pairs.distance),
            table=self.time,
            buckets=pairs.gaps,
        )

    def mix_step(
        self,
        rows: tuple[torch.Tensor, ...],
        cached: tuple[torch.Tensor, ...],
        own: tuple[torch.Tensor, ...],
        to_context: Pairs,
        to_own: Pairs,
    ) -> torch.Tensor:
        """See `GatedLayer.mix_step`."""
        return shared_pointwise_attention(
            rows[2],
            cached[1],
            cached[0],
            normalizer=self.normalizer,
            own_key=own[1],
            own_value=own[0],
            bias=self.bias(to_context),
            own_bias=self.bias(to_own),
        )

    def bias(self, pairs: Pairs) -> torch.Tensor:
        """What position and time add to the scores of pairs, float `[B, Q, K]`."""
        by_position = lookup(self.position, pairs.distance)
        if self.time is None or pairs.gaps is None:
            return by_position
        return by_position + lookup(self.time, pairs.gaps)

    def finish(self, hidden: torch.Tensor, gate: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """See `GatedLayer.finish`."""
        mixed = F.layer_norm(mixed, mixed.shape[-1:], eps=EPSILON)
        gated = gate * mixed
        if self.concat_ua:
            gated = torch.cat([gate, mixed, gated], dim=-1)
        return hidden + self.out(self.dropout(gated))
