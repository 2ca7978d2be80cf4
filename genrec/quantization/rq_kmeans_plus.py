"""RQ-k-means+: residual k-means first, then trained on as an autoencoder with residual networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genrec.quantization.autoencoder import QuantizedAutoencoder, mlp
from genrec.quantization.base import register


@register("rq-kmeans-plus")
class RQKMeansPlus(QuantizedAutoencoder):
    """Residual k-means whose vectors and codebooks are then refined together.

    The latent vector is the vector itself plus what an MLP adds, which is nothing at the start: the
    first codebooks are those of plain RQ-k-means (`balanced=False`). Training goes on as for
    RQ-VAE, so that the codes adapt without the collapse that RQ-VAE risks from a random encoder.
    The decoder has the same form, an addition of this implementation; so the first reconstruction
    is theirs too. Vectors are centred and brought to one scale, not standardised by column:
    distances stay those between the vectors.

    Args:
        codebook_sizes: number of codes of each level.
        hidden: widths of the hidden layers of both MLPs.
        update: "ema", "ste" or "rotation", as for `RQVAE`.
        commitment: weight of the commitment loss.
        decay: of the moving averages.
        revive_every: steps between revivals of unused codes, 0 for never.
        steps: of training at most.
        patience: spans of 100 steps without a better reconstruction after which training stops.
        refine: Lloyd iterations on the final latents.
        batch_size: rows per step.
        learning_rate: peak, reached after 20 steps and followed by a cosine to zero.
        weight_decay: of AdamW, on weight matrices.
        sinkhorn: even assignment on the last level while training, as for `RQVAE`; 0 is off.
        sinkhorn_iterations: of that assignment.
        max_samples: at most this many rows are trained on.
        seed: of the sample, the weights, the batches and the codebooks.
        device: where to train.

    Reference: Zhang et al., "GPR: towards a generative pre-trained one-model paradigm for
    large-scale advertising recommendation", arXiv 2511.10138.
    """

    start_iterations = 25

    def __init__(
        self,
        codebook_sizes: Sequence[int] = (256, 256, 256),
        *,
        hidden: Sequence[int] = (512,),
        update: str = "ema",
        commitment: float = 0.25,
        decay: float = 0.99,
        revive_every: int = 20,
        steps: int = 1000,
        patience: int = 5,
        refine: int = 10,
        batch_size: int = 512,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        sinkhorn: float = 0.0,
        sinkhorn_iterations: int = 50,
        max_samples: int = 262_144,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self._set(
            codebook_sizes=codebook_sizes,
            hidden=hidden,
            update=update,
            commitment=commitment,
            decay=decay,
            revive_every=revive_every,
            steps=steps,
            patience=patience,
            warmup_steps=0,
            refine=refine,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            sinkhorn=sinkhorn,
            sinkhorn_iterations=sinkhorn_iterations,
            max_samples=max_samples,
            seed=seed,
            device=device,
        )

    def _build(self, width: int) -> tuple[nn.Module, nn.Module]:
        widths = (width, *self.hidden, width)
        return Residual(widths).to(self.device), Residual(widths[::-1]).to(self.device)

    def _latent_width(self, width: int) -> int:
        return width

    def _scaling(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = super()._scaling(x)
        size = spread.square().mean().sqrt()
        return mean, torch.where(spread > 0, size, 0.0)


class Residual(nn.Module):
    """x plus an MLP of x whose last layer starts at zero."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.change = mlp(widths)
        last = self.change[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[n, d] to [n, d]."""
        moved: Tensor = x + self.change(x)
        return moved
