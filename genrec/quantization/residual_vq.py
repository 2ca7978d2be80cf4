"""Residual vector quantization as a layer: straight-through gradients, live codebooks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from genrec.quantization.sinkhorn import sinkhorn_codes


class ResidualVQ(nn.Module):
    """Quantize [B, d] level by level while the codebooks learn.

    Args:
        sizes: number of codes of each level.
        width: d.
        decay: of the moving averages that are the codebooks; `None` learns them by gradient.
        rotate: turn the gradient of the output by the rotation that takes z to its codes, instead
            of passing it straight through.
        sinkhorn: entropic regularisation of an even assignment on the last level while training;
            0 takes the nearest code.
        sinkhorn_iterations: of that assignment.

    References: van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning",
    NeurIPS 2017 (appendix A.1 for the moving averages); Fifty et al., "Restructuring vector
    quantization with the rotation trick", arXiv 2410.06424.
    """

    codebooks: nn.ParameterList

    def __init__(
        self,
        sizes: Sequence[int],
        width: int,
        *,
        decay: float | None,
        rotate: bool = False,
        sinkhorn: float = 0.0,
        sinkhorn_iterations: int = 50,
    ) -> None:
        super().__init__()
        self.decay = decay
        self.rotate = rotate
        self.sinkhorn = sinkhorn
        self.sinkhorn_iterations = sinkhorn_iterations
        self.codebooks = nn.ParameterList(
            nn.Parameter(torch.zeros(size, width), requires_grad=decay is None) for size in sizes
        )
        self.counts = [torch.zeros(size) for size in sizes]
        self.sums = [torch.zeros(size, width) for size in sizes]
        self.used = [torch.zeros(size, dtype=torch.bool) for size in sizes]
        self.residuals: list[Tensor] = []
        self.codes: list[Tensor] = []

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
        self.residuals, self.codes = [], []
        for level, codebook in enumerate(self.codebooks):
            fixed = rest.detach()
            with torch.no_grad():
                scores = torch.addmm(codebook.square().sum(dim=1).mul_(-0.5), fixed, codebook.T)
                codes = scores.argmax(dim=1)
                if self.sinkhorn and self.training and level + 1 == len(self.codebooks):
                    distances = fixed.square().sum(dim=1, keepdim=True) - 2 * scores
                    codes = sinkhorn_codes(distances, self.sinkhorn, self.sinkhorn_iterations)
            self.residuals.append(fixed)
            self.codes.append(codes)
            self.used[level][codes] = True
            chosen = codebook[codes]
            loss = loss + commitment * (rest - chosen.detach()).square().mean()
            if self.decay is None:
                loss = loss + (chosen - fixed).square().mean()
            elif self.training:
                self._average(level, fixed, codes)
            rest = rest - chosen.detach()
        if self.rotate:
            return rotate_to(z, (z - rest).detach()), loss
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
    def revive(
        self, rng: np.random.Generator, optimizer: torch.optim.Optimizer | None = None
    ) -> int:
        """Move codes that nothing chose since the last call onto residuals of the last batch.

        Args:
            rng: chooses the residuals.
            optimizer: of the codebooks; what it remembers of the moved codes is forgotten.

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
            state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value[dead] = 0
            self.used[level].fill_(False)
            moved += len(dead)
        return moved


def rotate_to(z: Tensor, target: Tensor) -> Tensor:
    """`target` [B, d], with the gradient of z turned and scaled like the step from z to it.

    Where z or the target is zero, or they are opposite, no rotation is the shortest: the gradient
    passes straight through.
    """
    with torch.no_grad():
        length, reach = z.norm(dim=1, keepdim=True), target.norm(dim=1, keepdim=True)
        start = z / length.clamp(min=1e-12)
        end = target / reach.clamp(min=1e-12)
        middle = start + end
        width = middle.norm(dim=1, keepdim=True)
        middle = middle / width.clamp(min=1e-12)
        scale = reach / length.clamp(min=1e-12)
        plain = (length < 1e-6) | (reach < 1e-6) | (width < 1e-3)
    # Reflecting twice, at `middle` and at `end`, is the rotation in their plane.
    turned = z - 2 * (z * middle).sum(dim=1, keepdim=True) * middle
    turned = scale * (turned + 2 * (z * start).sum(dim=1, keepdim=True) * end)
    moved = torch.where(plain, z, turned)
    return moved + (target - moved).detach()
