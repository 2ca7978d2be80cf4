"""The steps of a model over code tokens: the backbone reads each code that a beam takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from genrec.models.backbones import Backbone, BeamState, ContextState

_TOKENS = 2**15  # of all users, fed to the backbone at once


class CodeScores(Protocol):
    """A head that reads tokens."""

    def level_logits(self, level: int, hidden: torch.Tensor) -> torch.Tensor:
        """Logits `[..., K_level]` of the codes of a level from states `[..., D]`."""
        ...


class CodeDecoder:
    """A `StepDecoder` over a backbone; histories are encoded once, and beams share them.

    Args:
        backbone: reads the codes of the beams.
        head: scores them.
        token: codes int64 `[B, W]` and their level -> what the backbone reads, `[B, W, D]`.
        context: the encoded histories.
    """

    returns_logits = True  # the search takes the log-sum-exp off

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: CodeScores,
        token: Callable[[torch.Tensor, int], torch.Tensor],
        context: ContextState,
    ) -> None:
        self.backbone, self.head, self.token, self.context = backbone, head, token, context

    @property
    def last(self) -> torch.Tensor:
        """The state `[B, D]` of each history, from which its next item is predicted."""
        return self.context.last

    def first(self) -> tuple[torch.Tensor, BeamState]:
        """Logits `[B, K_0]` of the first code, and beams that have no code yet."""
        return self.head.level_logits(0, self.last), BeamState()

    def next(
        self, state: BeamState, parent: torch.Tensor, code: torch.Tensor, level: int
    ) -> tuple[torch.Tensor, BeamState]:
        """Feed each beam the code of level - 1 and score the codes of `level`.

        Args:
            state: the beams before.
            parent: int64 `[B, W]`, which of them each new beam extends.
            code: int64 `[B, W]`, the code of level - 1 it chose.
            level: the level to score.

        Returns:
            Logits `[B, W, K_level]` and the new beams.
        """
        meta = self.context.meta.next_item(level - 1)
        # A search that proves itself may keep as many beams as there are prefixes.
        some = max(1, _TOKENS // len(parent))
        steps = [
            self.backbone.decode_step(
                self.token(codes, level - 1), meta, self.context, state, parents
            )
            for codes, parents in zip(code.split(some, 1), parent.split(some, 1), strict=True)
        ]
        hidden = torch.cat([states for states, _ in steps], 1)
        return self.head.level_logits(level, hidden), BeamState.side_by_side(
            [beams for _, beams in steps]
        )

    def select(self, rows: torch.Tensor) -> CodeDecoder:
        """The same decoder for the users `rows`, int64 `[b]`."""
        return CodeDecoder(
            backbone=self.backbone,
            head=self.head,
            token=self.token,
            context=self.context.select(rows),
        )
