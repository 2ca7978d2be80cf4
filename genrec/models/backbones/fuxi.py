"""FuXi-alpha (Ye et al., WWW 2025, arXiv 2502.03036) and FuXi-beta (arXiv 2508.10615).

Both mix tokens by several maps over the same values, apart from each other and not in one score:
by position, by time, and in alpha by content. A gated feed-forward part follows. The maps by
position and time have no activation and no normaliser.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import nn

from genrec.errors import ConfigError
from genrec.models.backbones.base import BackboneSpec, register
from genrec.models.backbones.feedforward import SwiGLU
from genrec.models.backbones.gated import GatedBackbone, GatedLayer
from genrec.models.backbones.inputs import check_counts
from genrec.models.backbones.pointwise import pointwise_attention, shared_pointwise_attention
from genrec.models.backbones.relative import Pairs, log_gaps, lookup
from genrec.models.times import TIME_BUCKETS

EPSILON = 1e-6


@register("fuxi-alpha")
class FuXiAlpha(GatedBackbone):
    """Maps by position, time bucket and content, and a SwiGLU (arXiv 2502.03036).

    `u, v, q, k = SiLU(norm(x) W)`, `c` the values mixed by `position_{i-j}`, by
    `time_{bucket(i,j)}` and by `SiLU(q_i k_j) / N`, `o = x + Linear(u * norm(c))`,
    `o + SwiGLU(norm(o))`; the norms are root mean squares without weights.

    Args:
        d_model: width D.
        max_length: longest sequence in tokens; also the normaliser N.
        layers: number of layers.
        heads: heads of the map by content; must divide `d_model`.
        ffn: hidden width of the SwiGLU, `d_model` by default; the paper's larger models take
            four times that.
        dropout: on the input, before the output projection and before the SwiGLU.
        times: `event`, `request` or `none`, as for `HSTU`; `none` leaves out the map by time.
        scale_input: multiply the embeddings by `sqrt(D)`.

    Parameters of a layer with `ffn = m D`: `(9 + 3 m) D^2 + D`, and `max_length + 129` scalars.
    Cost of a layer for S tokens: `(9 + 3 m) S D^2 + 4 S^2 D` multiply-adds. Memory per layer:
    `4 S^2` bytes a user for the map by time.
    """

    def __init__(
        self,
        *,
        d_model: int,
        max_length: int,
        layers: int = 2,
        heads: int = 2,
        ffn: int | None = None,
        dropout: float = 0.2,
        times: str = "event",
        scale_input: bool = True,
    ) -> None:
        check_counts(layers=layers, heads=heads, ffn=ffn)
        if d_model % heads:
            raise ConfigError(f"backbone: heads={heads} does not divide d_model={d_model}")

        def build(spec: BackboneSpec) -> list[GatedLayer]:
            width = ffn or d_model
            return [
                _AlphaLayer(spec=spec, heads=heads, ffn=width, dropout=dropout)
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


@register("fuxi-beta")
class FuXiBeta(GatedBackbone):
    """FuXi without queries and keys, and a power of the gap in place of time buckets.

    `u, v = SiLU(norm(x) W)`, the values mixed by `position_{i-j}` and by `a (1 + gap_ij)^-b` with
    one learned pair (a, b) a layer; the rest is FuXi-alpha's (arXiv 2508.10615).

    What a token says never decides how much of it is read. The paper finds that enough on streams
    of item ids; between the codes of one item nobody has shown it.

    Args:
        d_model: width D.
        max_length: longest sequence in tokens.
        layers: number of layers.
        ffn: hidden width of the SwiGLU, `d_model` by default.
        dropout: on the input, before the output projection and before the SwiGLU.
        times: `event`, `request` or `none`, as for `HSTU`; `none` leaves out the map by time.
        scale_input: multiply the embeddings by `sqrt(D)`.

    Parameters of a layer with `ffn = m D`: `(5 + 3 m) D^2 + D`, and `max_length + 2` scalars. Cost
    of a layer for S tokens: `(5 + 3 m) S D^2 + 2 S^2 D` multiply-adds. Memory: `4 S^2` bytes a
    user for the gaps, and again per layer.
    """

    def __init__(
        self,
        *,
        d_model: int,
        max_length: int,
        layers: int = 2,
        ffn: int | None = None,
        dropout: float = 0.2,
        times: str = "event",
        scale_input: bool = True,
    ) -> None:
        check_counts(layers=layers, ffn=ffn)

        def build(spec: BackboneSpec) -> list[GatedLayer]:
            width = ffn or d_model
            return [_BetaLayer(spec=spec, ffn=width, dropout=dropout) for _ in range(layers)]

        super().__init__(
            d_model=d_model,
            max_length=max_length,
            times=times,
            scale_input=scale_input,
            dropout=dropout,
            layers=build,
            measure=log_gaps,
        )


class _Layer(GatedLayer):
    """The parts that both have: the map by position, the gate, the feed-forward part."""

    def __init__(
        self, *, spec: BackboneSpec, maps: int, heads: int, others: int, ffn: int, dropout: float
    ) -> None:
        super().__init__()
        width = spec.d_model
        self.heads, self.normalizer = heads, spec.max_length
        self.widths = [maps * width, width, *[width] * others]
        self.inner = nn.Parameter(torch.empty(width, sum(self.widths)))
        self.position = nn.Parameter(torch.empty(spec.max_length))
        nn.init.normal_(self.inner, std=0.02)
        nn.init.normal_(self.position, std=0.02)
        self.out = nn.Linear(maps * width, width)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.ffn = SwiGLU(d_model=width, hidden=ffn)
        self.dropout = nn.Dropout(dropout)

    def project(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gate `[..., maps D]`, then rows `[..., H, D / H]`, the value first."""
        projected = F.silu(normed(hidden) @ self.inner)
        gate, *parts = projected.split(self.widths, dim=-1)
        return gate, *(one.unflatten(-1, (self.heads, -1)) for one in parts)

    def finish(self, hidden: torch.Tensor, gate: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """See `GatedLayer.finish`."""
        hidden = hidden + self.out(self.dropout(gate * normed(mixed)))
        return hidden + self.ffn(self.dropout(normed(hidden)))

    def maps(self, pairs: Pairs) -> list[torch.Tensor]:
        """The maps that depend on the pairs alone, float `[Q, K]` or `[B, Q, K]`."""
        found = [lookup(self.position, pairs.distance)]
        if pairs.gaps is not None:
            found.append(self.by_time(pairs.gaps))
        return found

    @abstractmethod
    def by_time(self, gaps: torch.Tensor) -> torch.Tensor:
        """The map by time from the gaps `[B, Q, K]`."""

    def mix(self, pairs: Pairs, *rows: torch.Tensor) -> torch.Tensor:
        """See `GatedLayer.mix`."""
        mixed = [spread(one.tril(), rows[0]) for one in self.maps(pairs)]
        return torch.cat([*mixed, *self.by_content(*rows)], dim=-1)

    def by_content(self, *rows: torch.Tensor) -> list[torch.Tensor]:
        """What a map by content makes of the values, if there is one."""
        return []

    def mix_step(
        self,
        rows: tuple[torch.Tensor, ...],
        cached: tuple[torch.Tensor, ...],
        own: tuple[torch.Tensor, ...],
        to_context: Pairs,
        to_own: Pairs,
    ) -> torch.Tensor:
        """See `GatedLayer.mix_step`."""
        mixed = []
        for weights, own_weights in zip(self.maps(to_context), self.maps(to_own), strict=True):
            # All beams of a user have the same weights, so the context's part is theirs together.
            shared = spread(weights, cached[0]).transpose(1, 2)
            mixed.append(shared + torch.einsum("bql,bwlhd->bwhd", own_weights, own[0]))
        return torch.cat([*mixed, *self.by_content_step(rows, cached, own)], dim=-1)

    def by_content_step(
        self,
        rows: tuple[torch.Tensor, ...],
        cached: tuple[torch.Tensor, ...],
        own: tuple[torch.Tensor, ...],
    ) -> list[torch.Tensor]:
        """`by_content` of each beam's new token."""
        return []


class _AlphaLayer(_Layer):
    kept = 2

    def __init__(self, *, spec: BackboneSpec, heads: int, ffn: int, dropout: float) -> None:
        super().__init__(
            spec=spec, maps=2 + spec.uses_time, heads=heads, others=2, ffn=ffn, dropout=dropout
        )
        self.time = nn.Parameter(torch.empty(TIME_BUCKETS)) if spec.uses_time else None
        if self.time is not None:
            nn.init.normal_(self.time, std=0.02)

    def by_time(self, gaps: torch.Tensor) -> torch.Tensor:
        """One scalar per bucket."""
        assert self.time is not None
        return lookup(self.time, gaps)

    def by_content(self, *rows: torch.Tensor) -> list[torch.Tensor]:
        """Pointwise attention without biases."""
        value, key, query = rows
        return [pointwise_attention(query, key, value, normalizer=self.normalizer)]

    def by_content_step(
        self,
        rows: tuple[torch.Tensor, ...],
        cached: tuple[torch.Tensor, ...],
        own: tuple[torch.Tensor, ...],
    ) -> list[torch.Tensor]:
        """Pointwise attention of each beam's new token."""
        mixed = shared_pointwise_attention(
            rows[2],
            cached[1],
            cached[0],
            normalizer=self.normalizer,
            own_key=own[1],
            own_value=own[0],
        )
        return [mixed]


class _BetaLayer(_Layer):
    kept = 1

    def __init__(self, *, spec: BackboneSpec, ffn: int, dropout: float) -> None:
        super().__init__(
            spec=spec, maps=1 + spec.uses_time, heads=1, others=0, ffn=ffn, dropout=dropout
        )
        if spec.uses_time:
            self.scale = nn.Parameter(torch.empty(()).uniform_(-0.2, 0.2))
            self.decay = nn.Parameter(torch.empty(()).uniform_(0.4, 0.8))

    def by_time(self, gaps: torch.Tensor) -> torch.Tensor:
        """`a (1 + gap)^-b` from `log(1 + gap)`."""
        return self.scale * torch.exp(-self.decay * gaps)


def normed(x: torch.Tensor) -> torch.Tensor:
    """Each vector over its root mean square."""
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON)


def spread(weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`sum_j weights_ij value_j` for weights `[Q, K]` or `[B, Q, K]` and values `[B, H, K, w]`."""
    flat = value.transpose(1, 2).flatten(2)
    return (weights.to(flat.dtype) @ flat).unflatten(-1, (value.shape[1], -1)).transpose(1, 2)
