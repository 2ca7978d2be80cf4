"""NextItNet: dilated causal convolutions (Yuan et al., WSDM 2019, arXiv 1808.05163)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from genrec.errors import ConfigError
from genrec.models.backbones.base import Backbone, BackboneSpec, register
from genrec.models.backbones.inputs import check_counts
from genrec.models.meta import SequenceMeta

DILATIONS = (1, 4)


@register("nextitnet")
class NextItNet(Backbone):
    """Residual blocks of two causal convolutions, of dilations d and 2 d.

    `x + ReLU(norm(conv_2d(ReLU(norm(conv_d(x))))))`. There are no positions and no attention: a
    state depends on the last `1 + 3 (kernel - 1) sum(dilations)` tokens.

    Args:
        d_model: width D.
        max_length: longest sequence in tokens.
        dilations: d of each block.
        kernel: tokens that a convolution reads.
        dropout: on the output of each block.

    Parameters of a block: `2 kernel D^2 + 6 D`. Cost for S tokens: `2 kernel S D^2` multiply-adds.
    """

    def __init__(
        self,
        *,
        d_model: int,
        max_length: int,
        dilations: Sequence[int] = DILATIONS,
        kernel: int = 3,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_counts(kernel=kernel)
        if min(dilations, default=0) < 1:
            raise ConfigError(
                f"backbone: dilations={list(dilations)}; expected at least one, each at least 1"
            )
        self.spec = BackboneSpec(style="stream", d_model=d_model, max_length=max_length)
        self.blocks = nn.ModuleList(
            _Block(d_model=d_model, kernel=kernel, dilation=dilation) for dilation in dilations
        )
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def of_scale(cls, *, layers: int, heads: int) -> dict[str, Any]:
        """A block for each layer, its dilation the default ones in turn; it has no heads."""
        return {"dilations": [DILATIONS[n % len(DILATIONS)] for n in range(layers)]}

    def forward(self, embeddings: torch.Tensor, meta: SequenceMeta) -> torch.Tensor:
        """Map embeddings `[B, S, D]` to hidden states `[B, S, D]`."""
        self.check_length(embeddings.shape[1])
        # Zeros at padding are what a convolution reads before the first token.
        real = meta.mask.unsqueeze(-1).to(embeddings.dtype)
        hidden = embeddings * real
        for block in self.blocks:
            hidden = (hidden + self.dropout(block(hidden, real))) * real
        return hidden


class _Block(nn.Module):
    def __init__(self, *, d_model: int, kernel: int, dilation: int) -> None:
        super().__init__()
        steps = (dilation, 2 * dilation)
        self.reach = [step * (kernel - 1) for step in steps]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(d_model, d_model, kernel, dilation=step) for step in steps
        )
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in steps)

    def forward(self, hidden: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """What a block adds to tokens `[B, S, D]`; `real` `[B, S, 1]` is 0 at padding."""
        for reach, convolution, norm in zip(self.reach, self.convolutions, self.norms, strict=True):
            mixed = convolution(F.pad(hidden.transpose(1, 2), (reach, 0)))
            hidden = F.relu(norm(mixed.transpose(1, 2))) * real
        return hidden
