"""Even assignment by Sinkhorn's algorithm: codes that share a batch out evenly among themselves."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sinkhorn_codes(distances: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Code of each row under an entropic transport plan with even loads, int64 [B].

    Args:
        distances: [B, K] squared distances; they are scaled to the range -1 to 1 first, so that
            `epsilon` means the same for all of them.
        epsilon: weight of the entropy; the smaller, the nearer to the cheapest even assignment.
        iterations: rescalings of rows and columns.

    References: Cuturi, "Sinkhorn distances", NeurIPS 2013; Zheng et al. (LC-Rec), ICDE 2024, for
    the scaling and the use on the last level.
    """
    wide = distances.double()
    half = ((wide.max() - wide.min()) / 2).clamp(min=1e-30)
    # A constant per row changes no plan; this one keeps every row's best entry at 1.
    plan = torch.exp(-(wide - wide.amin(dim=1, keepdim=True)) / (half * epsilon))
    load = torch.ones(wide.shape[1], dtype=plan.dtype, device=plan.device)
    share = wide.shape[0] / wide.shape[1]
    for _ in range(iterations):
        mass = 1 / (plan @ load).clamp(min=1e-300)
        load = share / (mass @ plan).clamp(min=1e-300)
    return (plan * load).argmax(dim=1)
