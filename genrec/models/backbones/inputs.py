"""What backbones do with their input before the first layer."""

from __future__ import annotations

import math

import torch
from torch import nn

from genrec.errors import ConfigError
from genrec.models.meta import SequenceMeta


def check_counts(**counts: int | None) -> None:
    """Raise ConfigError naming the first option that is given and below 1."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"backbone: {name}={value}; expected at least 1")


class ScaledInput(nn.Module):
    """`dropout(sqrt(D) x + position)`, the input of HSTU and FuXi.

    Args:
        d_model: width D.
        max_length: positions of the learned table.
        scale: multiply by `sqrt(D)`, for embeddings that start small; leave it out behind a layer
            norm.
        dropout: on the sum.
    """

    def __init__(self, *, d_model: int, max_length: int, scale: bool, dropout: float) -> None:
        super().__init__()
        self.factor = math.sqrt(d_model) if scale else 1.0
        self.position = nn.Embedding(max_length, d_model)
        std = d_model**-0.5
        nn.init.trunc_normal_(self.position.weight, std=std, a=-2 * std, b=2 * std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, embeddings: torch.Tensor, meta: SequenceMeta) -> torch.Tensor:
        """Input `[B, S, D]` of the first layer from embeddings `[B, S, D]`."""
        return self.dropout(embeddings * self.factor + self.position(meta.position))
