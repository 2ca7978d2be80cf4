"""Feed-forward parts that several backbones use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class SwiGLU(nn.Module):
    """`W2 (SiLU(W1 x) * W3 x)` without biases (Shazeer 2020).

    Args:
        d_model: width D.
        hidden: width between the projections.

    Parameters: `3 hidden D`.
    """

    def __init__(self, *, d_model: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, hidden, bias=False)
        self.inner = nn.Linear(d_model, hidden, bias=False)
        self.outer = nn.Linear(hidden, d_model, bias=False)
        for layer in (self.gate, self.inner, self.outer):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[..., D]` to `[..., D]`."""
        return self.outer(F.silu(self.gate(x)) * self.inner(x))
