"""Padding takes part in the attention only: all else is computed on the real tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch

P = TypeVar("P", bound="Packing")


@dataclass(frozen=True)
class Packing:
    """Moves tokens between `[B S, D]` and `[M, D]`, the M real ones.

    Attributes:
        shape: B and S.
        real: int64 `[M]`, the real tokens among the `B * S`, None if all are.
    """

    shape: torch.Size
    real: torch.Tensor | None

    @classmethod
    def of(cls: type[P], mask: torch.Tensor, **others: Any) -> P:
        """The packing of a padding mask, bool `[B, S]`; others are a subclass's own."""
        real = None if bool(mask.all()) else mask.flatten().nonzero().flatten()
        return cls(shape=mask.shape, real=real, **others)

    def pack(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[B S, D]` -> `[M, D]`."""
        return tokens if self.real is None else tokens.index_select(0, self.real)

    def unpack(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[M, D]` -> `[B S, D]`, zero at padding."""
        if self.real is None:
            return tokens
        full = tokens.new_zeros(self.shape.numel(), tokens.shape[1])
        return full.index_copy(0, self.real, tokens)
