"""The backbone interface: embeddings and metadata in, hidden states out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from genrec.errors import ConfigError
from genrec.models.meta import SequenceMeta
from genrec.registry import registrar

Rows = list[tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone is and needs, fixed when it is built.

    Attributes:
        style: `stream` (one causal pass over the tokens) or `enc_dec`.
        d_model: width of embeddings and hidden states.
        max_length: longest sequence in tokens, history and generated codes together.
        uses_time: reads `event_time` and `query_time`.
        cache: what decoding keeps per user: `kv` (keys and values, or what else a layer reads of
            the context), or `none`, which runs the whole pass again at every step.
    """

    style: str
    d_model: int
    max_length: int
    uses_time: bool = False
    cache: str = "none"


@dataclass
class ContextState:
    """Histories that were encoded once, and are read by all beams of their user.

    Attributes:
        hidden: float `[B, S, D]`, states of the context's tokens.
        last: float `[B, D]`, the state that predicts the token after the context.
        meta: of the context's tokens.
        cache: per layer, tensors `[B, ...]` that the steps read.
    """

    hidden: torch.Tensor
    last: torch.Tensor
    meta: SequenceMeta
    cache: Rows

    def select(self, rows: torch.Tensor) -> ContextState:
        """The state of the users `rows`, int64 `[b]`."""
        return ContextState(
            hidden=self.hidden[rows],
            last=self.last[rows],
            meta=self.meta.select(rows),
            cache=[tuple(one[rows] for one in layer) for layer in self.cache],
        )


@dataclass
class BeamState:
    """What the beams of each user hold of their own: at most one row per decoded token.

    Attributes:
        rows: per layer, tensors `[B, W, l, ...]` for the l tokens fed so far.
        meta: of these tokens, `[B, l]`: all beams of a user stand at the same place.
    """

    rows: Rows = field(default_factory=list)
    meta: SequenceMeta | None = None

    def layer(
        self, index: int, parent: torch.Tensor, *added: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The rows `[B, W, l + 1, ...]` of one layer: those of the parents, and the new ones.

        Args:
            index: which layer.
            parent: int64 `[B, W]`, the column each beam continues; without rows yet it is not read.
            *added: the new token's tensors, `[B, W, ...]`.
        """
        if not self.rows:
            return tuple(one.unsqueeze(2) for one in added)
        kept = self.rows[index]
        width = kept[0].shape[1]
        start = torch.arange(len(parent), device=parent.device).unsqueeze(1) * width
        flat = (start + parent).flatten()
        return tuple(
            torch.cat(
                [
                    old.flatten(0, 1).index_select(0, flat).view(*parent.shape, *old.shape[2:]),
                    new.unsqueeze(2),
                ],
                dim=2,
            )
            for old, new in zip(kept, added, strict=True)
        )

    def grown(self, rows: Rows, meta: SequenceMeta) -> BeamState:
        """The state after a step whose layers hold `rows` and whose token has `meta` `[B, 1]`."""
        return BeamState(rows=rows, meta=meta if self.meta is None else self.meta.join(meta))

    @staticmethod
    def side_by_side(states: Sequence[BeamState]) -> BeamState:
        """One state for the beams of several, whose tokens stand at the same places."""
        first, *others = states
        if not others:
            return first
        layers = zip(*(state.rows for state in states), strict=True)
        return BeamState(
            rows=[tuple(torch.cat(one, 1) for one in zip(*each, strict=True)) for each in layers],
            meta=first.meta,
        )


class Backbone(nn.Module, ABC):
    """A causal sequence model over embeddings; it never sees ids.

    The contract tests in `tests/contracts/test_backbones.py` hold for every registered backbone:
    causality, invariance to padding and to the other rows of the batch, gradients, save and load,
    and decoding equal to the full pass.

    `forward` is all that a new backbone needs. Decoding then runs it again at every step; a
    backbone with a cache overrides `encode` and `decode_step` and says so in its `spec`.
    """

    spec: BackboneSpec

    @classmethod
    def resolved(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the constructor as they are noted with a model, which runs on its own.

        What an option stands for outside the model, a file or a name, is read here.
        """
        return dict(options)

    @classmethod
    def of_scale(cls, *, layers: int, heads: int) -> dict[str, Any]:
        """The options of so many layers and heads, for presets of size.

        Those called `layers` and `heads`, where the constructor takes them; a backbone that counts
        its layers otherwise, or whose other defaults need a number of them, says so here.
        """
        accepted = inspect.signature(cls).parameters
        sizes = {"layers": layers, "heads": heads}
        return {name: value for name, value in sizes.items() if name in accepted}

    @property
    def layer_classes(self) -> set[str]:
        """Names of the classes of layers that may be gathered one by one, run once in a pass.

        What FSDP splits by; layers elsewhere than in `blocks` or `layers` are gathered together.
        """
        stacks = (getattr(self, name, None) for name in ("blocks", "layers"))
        return {type(layer).__name__ for stack in stacks for layer in stack or ()}

    @abstractmethod
    def forward(self, embeddings: torch.Tensor, meta: SequenceMeta) -> torch.Tensor:
        """Map embeddings `[B, S, D]` to hidden states `[B, S, D]`.

        The state at position s depends on the real tokens up to s only. States at padding are
        unspecified.
        """

    def block_states(
        self,
        embeddings: torch.Tensor,
        meta: SequenceMeta,
        *,
        row: torch.Tensor,
        start: torch.Tensor,
        length: int,
    ) -> torch.Tensor:
        """The states that predict blocks of tokens, each token from all before it in its row.

        Args:
            embeddings: float `[B, S, D]`, the blocks' own tokens among them.
            meta: of these tokens.
            row: int64 `[M]`, row of each block.
            start: int64 `[M]`, column of its first token, at least 1; tokens before are context.
            length: tokens of a block; the last one need not be in the row, nothing reads it.

        Returns:
            float `[M, length, D]`.
        """
        hidden = self(embeddings, meta)
        columns = start[:, None] - 1 + torch.arange(length, device=start.device)
        return hidden[row[:, None], columns]

    def encode(self, embeddings: torch.Tensor, meta: SequenceMeta) -> ContextState:
        """Read histories `[B, S, D]`, once per user, for the steps that follow."""
        hidden = self(embeddings, meta)
        return ContextState(
            hidden=hidden, last=at_last(hidden, meta), meta=meta, cache=[(embeddings,)]
        )

    def decode_step(
        self,
        tokens: torch.Tensor,
        meta: SequenceMeta,
        context: ContextState,
        beams: BeamState,
        parent: torch.Tensor,
    ) -> tuple[torch.Tensor, BeamState]:
        """Feed one token to each beam; the context is shared by all beams of a user.

        Args:
            tokens: float `[B, W, D]`, embedding of each beam's new token.
            meta: of the new token, `[B, 1]`, the same for all beams of a user.
            context: what `encode` returned.
            beams: an empty `BeamState` at the first step, then what the step before returned.
            parent: int64 `[B, W]`, the column in `beams` that each beam continues.

        Returns:
            The states `[B, W, D]` that predict the token after, and the beams' new state.
        """
        (embeddings,) = context.cache[0]
        rows = beams.layer(0, parent, tokens)
        state = beams.grown([rows], meta)
        if state.meta is None:
            raise AssertionError("a step leaves metadata")
        users, width = parent.shape
        steps = rows[0].shape[2]
        longer = context.meta.insert(state.meta)
        columns = context.meta.last()[:, None] + 1 + torch.arange(steps, device=parent.device)
        wide = torch.cat([embeddings, embeddings.new_zeros(users, steps, tokens.shape[-1])], 1)
        wide = wide.repeat_interleave(width, 0).to(tokens.dtype)
        place = columns.repeat_interleave(width, 0).unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        hidden = self(
            wide.scatter(1, place, rows[0].flatten(0, 1)),
            longer.map(lambda _, value: value.repeat_interleave(width, 0)),
        )
        last = columns[:, -1].repeat_interleave(width)
        return hidden[torch.arange(len(hidden), device=last.device), last].view_as(tokens), state

    def check_length(self, length: int) -> None:
        """Raise ConfigError if so many tokens are more than the backbone was built for."""
        if length > self.spec.max_length:
            raise ConfigError(
                f"backbone: a sequence of {length} tokens is longer than max_length="
                f"{self.spec.max_length}; raise max_length or cut the histories"
            )


def at_last(hidden: torch.Tensor, meta: SequenceMeta) -> torch.Tensor:
    """The state `[B, D]` of each row's last real token among `[B, S, D]`."""
    return hidden[torch.arange(len(hidden), device=hidden.device), meta.last()]


BACKBONES: dict[str, type[Backbone]] = {}
register = registrar(BACKBONES)
