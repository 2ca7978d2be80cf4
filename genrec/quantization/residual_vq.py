"""Residual vector quantization as a layer: straight-through gradients, live codebooks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class ResidualVQ(nn.Module):
    """Quantize [B, d] level by level while the codebooks learn.

    Args:
        sizes: number of codes of each level.
        width: d.
        decay: of the moving averages that are the codebooks; `None` learns them by gradient.

    Reference: van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning",
    NeurIPS 2017 (appendix A.1 for the moving averages).
    """

    codebooks: nn.ParameterList

    def __init__(self, sizes: Sequence[int], width: int, *, decay: float | None) -> None:
        super().__init__()
        self.decay = decay
        self.codebooks = nn.ParameterList(
            nn.Parameter(torch.zeros(size, width), requires_grad=decay is None) for size in sizes
        )
        self.counts = [torch.zeros(size) for size in sizes]
        self.sums = [torch.zeros(size, width) for size in sizes]
        self.used = [torch.zeros(size, dtype=torch.bool) for size in sizes]
        self.residuals: list[Tensor] = []

    def codebook(self, level: int) -> Tensor:
        """Codes [K, d] of one level."""
        return self.codebooks[level]

    def set_codebook(self, level: int, codebook: Tensor, counts: Tensor) -> None:
        """Start a level from `codebook` [K, d], whose codes were chosen `counts` [K] times."""
        self.codebooks[level].data.copy_(codebook)
        # Averages start as if one batch had been spread like the counts.
        self.counts[level] = (counts.float() / counts.float().mean()).clamp(min=0.1)
        self.sums[level] = codebook * self.counts[level][:, None]
        self.used[level] = torch.zeros(len(codebook), dtype=torch.bool, device=codebook.device)

    def forward(self, z: Tensor, commitment: float) -> tuple[Tensor, Tensor]:
        """Quantized z with the gradient of z, and the sum of the levels' losses (a scalar).

        Args:
            z: latents [B, d].
            commitment: weight of the pull of the latents towards their codes.
        """
        rest = z
        loss = torch.zeros((), device=z.device)
        self.residuals = []
        for level, codebook in enumerate(self.codebooks):
            fixed = rest.detach()
            with torch.no_grad():
                scores = torch.addmm(codebook.square().sum(dim=1).mul_(-0.5), fixed, codebook.T)
                codes = scores.argmax(dim=1)
            self.residuals.append(fixed)
            self.used[level][codes] = True
            chosen = codebook[codes]
            loss = loss + commitment * (rest - chosen.detach()).square().mean()
            if self.decay is None:
                loss = loss + (chosen - fixed).square().mean()
            elif self.training:
                self._average(level, fixed, codes)
            rest = rest - chosen.detach()
        return z - rest.detach(), loss

    @torch.no_grad()
    def _average(self, level: int, rest: Tensor, codes: Tensor) -> None:
        assert self.decay is not None
        codebook, counts, sums = self.codebooks[level], self.counts[level], self.sums[level]
        fresh = torch.bincount(codes, minlength=len(counts)).to(counts.dtype)
        counts.mul_(self.decay).add_(fresh, alpha=1 - self.decay)
        total = torch.zeros_like(sums).index_add_(0, codes, rest)
        sums.mul_(self.decay).add_(total, alpha=1 - self.decay)
        live = counts > 1e-3
        codebook.data[live] = sums[live] / counts[live, None]

    @torch.no_grad()
    def revive(self, rng: np.random.Generator, optimizer: torch.optim.Optimizer) -> int:
        """Move codes that nothing chose since the last call onto residuals of the last batch.

        Returns:
            number of codes moved.
        """
        moved = 0
        for level, rest in enumerate(self.residuals):
            dead = (~self.used[level]).nonzero()[:, 0]
            rows = rng.permutation(len(rest))[: len(dead)]
            dead = dead[: len(rows)]
            fresh = rest[torch.from_numpy(rows).to(rest.device)]
            parameter = self.codebooks[level]
            parameter.data[dead] = fresh
            self.counts[level][dead] = 1.0
            self.sums[level][dead] = fresh
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value[dead] = 0
            self.used[level].fill_(False)
            moved += len(dead)
        return moved
