"""The backbone interface: embeddings and metadata in, hidden states out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn

from genrec.models.meta import SequenceMeta


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone is and needs, fixed when it is built.

    Attributes:
        style: `stream` (one causal pass over the tokens) or `enc_dec`.
        d_model: width of embeddings and hidden states.
        max_length: longest sequence in tokens, history and generated codes together.
        uses_time: reads `event_time` and `query_time`.
        cache: what decoding may keep per user (`none`, `kv`).
    """

    style: str
    d_model: int
    max_length: int
    uses_time: bool = False
    cache: str = "none"


class Backbone(nn.Module, ABC):
    """A causal sequence model over embeddings; it never sees ids.

    The contract tests in `tests/contracts/test_backbones.py` hold for every registered backbone:
    causality, invariance to padding and to the other rows of the batch, gradients, save and load.
    """

    spec: BackboneSpec

    @abstractmethod
    def forward(self, embeddings: torch.Tensor, meta: SequenceMeta) -> torch.Tensor:
        """Map embeddings `[B, S, D]` to hidden states `[B, S, D]`.

        The state at position s depends on the real tokens up to s only. States at padding are
        unspecified.
        """
