"""What HSTU and FuXi share: gated layers whose token mixing is a sum over earlier tokens.

Nothing is normalised over the keys of a token, so the sum may be cut: into blocks in training, and
in decoding into a context that is read once a user and the few tokens that a beam has of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from genrec.models.backbones.base import (
    Backbone,
    BackboneSpec,
    BeamState,
    ContextState,
    Rows,
    at_last,
)
from genrec.models.backbones.inputs import ScaledInput
from genrec.models.backbones.packing import Packing
from genrec.models.backbones.relative import Measure, Pairs, check_times, time_buckets
from genrec.models.meta import SequenceMeta


class GatedLayer(nn.Module, ABC):
    """`finish(x, gate, mix(rows))`, where gate and rows are made of each token by itself.

    Attributes:
        kept: how many of the rows a later token reads; they come first.
    """

    kept: int

    @abstractmethod
    def project(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The gate of tokens `[..., D]`, and their rows `[..., H, width]`, the value first."""

    @abstractmethod
    def mix(self, pairs: Pairs, *rows: torch.Tensor) -> torch.Tensor:
        """Every token's sum over those up to itself, `[B, H, S, width]`.

        Args:
            pairs: of the tokens with each other.
            *rows: `[B, H, S, width]`, zero at padding: a value of zero is a key that nobody sees.
        """

    @abstractmethod
    def mix_step(
        self,
        rows: tuple[torch.Tensor, ...],
        cached: tuple[torch.Tensor, ...],
        own: tuple[torch.Tensor, ...],
        to_context: Pairs,
        to_own: Pairs,
    ) -> torch.Tensor:
        """The sum of each beam's new token over context and own tokens, `[B, W, H, width]`.

        Args:
            rows: of the new token, `[B, W, H, width]`.
            cached: the kept rows of the context, `[B, H, S, width]`.
            own: the kept rows of the beam's tokens, the new one last, `[B, W, l, H, width]`.
            to_context: pairs `[B, 1, S]` of the new token with the context.
            to_own: pairs `[B, 1, l]` with the beam's tokens.
        """

    @abstractmethod
    def finish(self, hidden: torch.Tensor, gate: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Tokens `[..., D]` from themselves, their gate and their sum `[..., H width]`."""

    def forward(
        self, hidden: torch.Tensor, packing: Packing, pairs: Pairs, cache: Rows | None
    ) -> torch.Tensor:
        """Real tokens `[M, D]` -> `[M, D]`; what later tokens read is added to `cache`."""
        gate, *rows = self.project(hidden)
        padded = [
            packing.unpack(one.flatten(1)).view(*packing.shape, *one.shape[1:]).transpose(1, 2)
            for one in rows
        ]
        if cache is not None:
            cache.append(tuple(padded[: self.kept]))
        mixed = self.mix(pairs, *padded).transpose(1, 2).flatten(2)
        return self.finish(hidden, gate, packing.pack(mixed.flatten(0, 1)))


class GatedBackbone(Backbone):
    """A stack of gated layers on the scaled input.

    Args:
        d_model: width.
        max_length: longest sequence in tokens.
        times: see `asked_times`, or `none`.
        scale_input: see `ScaledInput`.
        dropout: on the input.
        layers: makes the layers, given the specification.
        measure: of the gaps between times; see `Pairs`.
    """

    def __init__(
        self,
        *,
        d_model: int,
        max_length: int,
        times: str,
        scale_input: bool,
        dropout: float,
        layers: Callable[[BackboneSpec], list[GatedLayer]],
        measure: Measure = time_buckets,
    ) -> None:
        super().__init__()
        check_times(times)
        self.spec = BackboneSpec(
            style="stream",
            d_model=d_model,
            max_length=max_length,
            uses_time=times != "none",
            cache="kv",
        )
        self.times, self.measure = times, measure
        self.input = ScaledInput(
            d_model=d_model, max_length=max_length, scale=scale_input, dropout=dropout
        )
        self.layers = nn.ModuleList(layers(self.spec))

    def forward(self, embeddings: torch.Tensor, meta: SequenceMeta) -> torch.Tensor:
        """Map embeddings `[B, S, D]` to hidden states `[B, S, D]`."""
        return self._full_pass(embeddings, meta)

    def encode(self, embeddings: torch.Tensor, meta: SequenceMeta) -> ContextState:
        """Read histories `[B, S, D]`; keep rows `[B, H, S, width]` of each layer."""
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
        """See `Backbone.decode_step`; a beam holds its own rows `[H, width]`."""
        grown = beams.grown([], meta)
        seen = meta if grown.meta is None else grown.meta
        self.check_length(context.hidden.shape[1] + seen.mask.shape[1])
        to_context, to_own = (
            Pairs.of_step(meta, one, context.meta, self.times, self.measure)
            for one in (context.meta, seen)
        )
        hidden = self.input(tokens, meta)
        for index, layer in enumerate(cast("list[GatedLayer]", list(self.layers))):
            gate, *rows = layer.project(hidden)
            own = beams.layer(index, parent, *rows[: layer.kept])
            grown.rows.append(own)
            mixed = layer.mix_step(tuple(rows), context.cache[index], own, to_context, to_own)
            hidden = layer.finish(hidden, gate, mixed.flatten(2))
        return hidden, grown

    def _full_pass(
        self, embeddings: torch.Tensor, meta: SequenceMeta, kept: Rows | None = None
    ) -> torch.Tensor:
        """All tokens through all layers; what later tokens read is added to `kept`."""
        self.check_length(embeddings.shape[1])
        packing, pairs = Packing.of(meta.mask), Pairs.of(meta, self.times, self.measure)
        hidden = packing.pack(self.input(embeddings, meta).flatten(0, 1))
        for layer in self.layers:
            hidden = layer(hidden, packing, pairs, kept)
        return packing.unpack(hidden).view_as(embeddings)
