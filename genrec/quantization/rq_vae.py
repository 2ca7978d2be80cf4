"""RQ-VAE: an autoencoder whose latent vector is residual-quantized while it learns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from genrec.errors import ConfigError
from genrec.quantization.autoencoder import QuantizedAutoencoder, mlp
from genrec.quantization.base import check_number, register
from genrec.quantization.letter import Letter
from genrec.quantization.vectors import Vectors


@register("rq-vae")
class RQVAE(QuantizedAutoencoder):
    """Residual-quantized variational autoencoder.

    Each column is standardised; an MLP maps it to a latent vector, the levels quantize what is
    left of it, and a mirrored MLP reconstructs the column from the sum of the codes. The codebooks
    start from k-means on the latents of a briefly trained autoencoder, codes that nothing chose are
    revived from live residuals, and a last few Lloyd iterations on the final latents leave no code
    unused. Training runs on one thread, so that the codes do not depend on the number of cores;
    encoding runs in float64 for the same reason.

    Args:
        codebook_sizes: number of codes of each level.
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        latent: width of the latent vector and the codebooks.
        update: how codebooks and encoder learn: "ema" (codebooks are moving averages of the
            latents), "ste" (codebooks follow the gradient of the codebook loss), both of which
            pass the decoder's gradient straight through to the encoder; or "rotation" (moving
            averages, and the gradient turned by the rotation that takes the latent vector to the
            sum of its codes).
        commitment: weight of the commitment loss.
        decay: of the moving averages.
        revive_every: steps between revivals of unused codes, 0 for never.
        steps: of training at most, those of `warmup_steps` included.
        patience: spans of 100 steps without a better reconstruction after which training stops.
        warmup_steps: steps without quantization before the codebooks start.
        refine: Lloyd iterations on the final latents.
        batch_size: rows per step.
        learning_rate: peak, reached after 20 steps and followed by a cosine to zero.
        weight_decay: of AdamW, on weight matrices.
        sinkhorn: entropic regularisation of an even assignment of each batch to the codes of the
            last level while training (LC-Rec: 0.003), which separates items that share all other
            codes; 0 takes the nearest code. Encoding always takes the nearest.
        sinkhorn_iterations: of that assignment.
        alignment: weight of LETTER's collaborative loss, which brings quantized latents near the
            collaborative vectors `side_vectors["collaborative"]` of their items (LETTER: 0.01).
        diversity: weight of LETTER's loss that draws each chosen code to the codes of its cluster
            and spreads the clusters (LETTER: 1e-4); needs `update="ste"`, because moving averages
            take no gradient.
        diversity_clusters: clusters of even size into which each codebook is divided.
        max_samples: at most this many rows are trained on.
        seed: of the sample, the weights, the batches and the codebooks.
        device: where to train.

    References: Lee et al., "Autoregressive image generation using residual quantization",
    CVPR 2022; Rajput et al., "Recommender systems with generative retrieval", NeurIPS 2023;
    Fifty et al., "Restructuring vector quantization with the rotation trick", arXiv 2410.06424;
    Zheng et al., "Adapting large language models by integrating collaborative semantics for
    recommendation" (LC-Rec), ICDE 2024; Wang et al., "Learnable item tokenization for generative
    recommendation" (LETTER), CIKM 2024.
    """

    side_inputs = frozenset({"collaborative"})

    def __init__(
        self,
        codebook_sizes: Sequence[int] = (256, 256, 256),
        *,
        hidden: Sequence[int] = (512, 256),
        latent: int = 64,
        update: str = "ema",
        commitment: float = 0.25,
        decay: float = 0.99,
        revive_every: int = 20,
        steps: int = 2000,
        patience: int = 5,
        warmup_steps: int = 100,
        refine: int = 10,
        batch_size: int = 512,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
        sinkhorn: float = 0.0,
        sinkhorn_iterations: int = 50,
        alignment: float = 0.0,
        diversity: float = 0.0,
        diversity_clusters: int = 10,
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
            warmup_steps=warmup_steps,
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
        self.latent = check_number("latent", latent, low=1)
        self.alignment = check_number("alignment", alignment, low=0)
        self.diversity = check_number("diversity", diversity, low=0)
        self.diversity_clusters = check_number("diversity_clusters", diversity_clusters, low=1)
        if diversity and update != "ste":
            raise ConfigError(
                f"diversity: needs codebooks that learn by gradient, update is {update!r}; use "
                "update='ste', or leave diversity at 0"
            )

    @property
    def learns_from(self) -> frozenset[str]:
        """Collaborative vectors, if their loss has a weight."""
        return self.side_inputs if self.alignment else frozenset()

    def _build(self, width: int) -> tuple[nn.Module, nn.Module]:
        widths = (width, *self.hidden, self.latent)
        return mlp(widths).to(self.device), mlp(widths[::-1]).to(self.device)

    def _latent_width(self, width: int) -> int:
        return self.latent

    def _terms(
        self, side: dict[str, Vectors], rows: np.ndarray, rng: np.random.Generator
    ) -> Letter | None:
        given = side.get("collaborative")
        if not self.alignment and not self.diversity:
            return None
        return Letter(
            latent=self.latent,
            collaborative=None if given is None else given.take(rows),
            alignment=self.alignment,
            diversity=self.diversity,
            clusters=self.diversity_clusters,
            rng=rng,
        ).to(self.device)
