"""Items as their content vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from genrec.errors import ConfigError
from genrec.models.item_encoders.base import ItemEncoder, register
from genrec.models.tables import ItemTables


@register("semantic")
class SemanticProjection(ItemEncoder):
    """Continuous item vectors through gated experts (MSP of AsymRec, arXiv 2605.14512).

    `MSP(x) = sum_e softmax(W_g x)_e MLP_e(x)` with two-layer experts, x layer-normalised. The
    paper's number of experts, widths and activation are not public; `experts=1` is the plain
    projection.

    Args:
        tables: item tables with vectors.
        d_model: width of the output.
        experts: number of experts E.
        hidden: hidden width of an expert, `d_model` by default; 0 makes each expert linear.
        dropout: on the output.

    """

    def __init__(
        self,
        *,
        tables: ItemTables,
        d_model: int,
        experts: int = 1,
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        tables.require("vectors", part="item encoder 'semantic'")
        if experts < 1:
            raise ConfigError(f"item encoder 'semantic': experts={experts}; expected at least 1")
        if hidden is not None and hidden < 0:
            raise ConfigError(f"item encoder 'semantic': hidden={hidden}; expected 0 or more")
        self.experts = experts
        vector_dim = tables.vector_dim
        width = d_model if hidden is None else hidden
        self.norm = nn.LayerNorm(vector_dim)
        self.gate = nn.Linear(vector_dim, experts) if experts > 1 else None
        self.inner = nn.Linear(vector_dim, experts * width) if width else None
        self.outer = nn.Parameter(torch.empty(experts, width or vector_dim, d_model))
        for weight in (self.outer, *(m.weight for m in (self.gate, self.inner) if m is not None)):
            nn.init.normal_(weight, std=0.02)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d_model]` of items `[...]`."""
        x = self.norm(self.tables.vectors[items])
        if self.inner is None:
            hidden = x.unsqueeze(-2).expand(*x.shape[:-1], self.experts, x.shape[-1])
        else:
            hidden = F.gelu(self.inner(x)).unflatten(-1, (self.experts, -1))
        if self.gate is not None:
            hidden = hidden * self.gate(x).softmax(-1).unsqueeze(-1)
        out = hidden.flatten(-2) @ self.outer.flatten(0, 1)
        return self.dropout(out)
