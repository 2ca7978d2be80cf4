"""RQ-VAE: an autoencoder whose latent vector is residual-quantized while it learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from genrec.errors import ConfigError
from genrec.quantization.base import (
    Quantizer,
    check_choice,
    check_codebook_sizes,
    check_device,
    check_number,
    register,
)
from genrec.quantization.kmeans import assign, kmeans
from genrec.quantization.nearest import ResidualSearch, residual_distances
from genrec.quantization.residual_vq import ResidualVQ
from genrec.quantization.vectors import Vectors

_WINDOW = 100  # steps over which the reconstruction is averaged
_RAMP = 20


@register("rq-vae")
class RQVAE(Quantizer):
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
        update: how codebooks learn: "ema" (moving averages of the latents) or "ste" (gradient of
            the codebook loss). Both pass the decoder's gradient straight through.
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
        max_samples: at most this many rows are trained on.
        seed: of the sample, the weights, the batches and the codebooks.
        device: where to train.

    References: Lee et al., "Autoregressive image generation using residual quantization",
    CVPR 2022; Rajput et al., "Recommender systems with generative retrieval", NeurIPS 2023.
    """

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
        max_samples: int = 262_144,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self._sizes = check_codebook_sizes(codebook_sizes)
        self.hidden = tuple(int(check_number("hidden", width, low=1)) for width in hidden)
        self.latent = check_number("latent", latent, low=1)
        self.update = check_choice("update", update, ("ema", "ste"))
        self.commitment = check_number("commitment", commitment, low=0)
        self.decay = check_number("decay", decay, low=0, high=1)
        if decay == 1:
            raise ConfigError("decay: is 1; expected less, or the codebooks never move")
        self.revive_every = check_number("revive_every", revive_every, low=0)
        self.warmup_steps = check_number("warmup_steps", warmup_steps, low=0)
        self.steps = check_number("steps", steps, low=1)
        if steps <= warmup_steps:
            raise ConfigError(
                f"steps: is {steps}; expected more than warmup_steps, {warmup_steps}, or the "
                "codebooks never start"
            )
        self.patience = check_number("patience", patience, low=1)
        self.refine = check_number("refine", refine, low=0)
        self.batch_size = check_number("batch_size", batch_size, low=1)
        self.learning_rate = check_number("learning_rate", learning_rate, low=0)
        self.weight_decay = check_number("weight_decay", weight_decay, low=0)
        self.max_samples = check_number("max_samples", max_samples, low=1)
        self.seed = seed
        self.device = check_device(device)
        self.report = {}

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        return self._sizes

    def codebooks(self) -> list[np.ndarray]:
        """One float32 array [K_l, latent] per level."""
        self._fitted_width()
        return [book.cpu().numpy().copy() for book in self._codebooks]

    def _fit(self, vectors: Vectors, side: dict[str, Vectors], progress: bool) -> None:
        rng = np.random.default_rng(self.seed)
        x = vectors.sample(max(self.max_samples, *self._sizes), rng)
        mean = x.double().mean(dim=0)
        spread = x.double().std(dim=0, correction=0)
        # Columns that are constant up to rounding carry nothing: scale 0 leaves them at their mean.
        still = spread <= 1e-6 * mean.abs().clamp(min=1e-30)
        scale = spread.masked_fill(still, 0.0)
        x = _standardised(x, mean, scale).float().to(self.device)
        with _one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            encoder, decoder = self._build(x.shape[1])
            levels = self._train(encoder, decoder, x, rng, progress)
            codebooks = self._refined(encoder, levels, x, rng)
        self._use(encoder, decoder, codebooks, mean, scale)
        self.report |= self._quality(x)

    def _build(self, width: int) -> tuple[nn.Sequential, nn.Sequential]:
        widths = (width, *self.hidden, self.latent)
        return _mlp(widths).to(self.device), _mlp(widths[::-1]).to(self.device)

    def _train(
        self,
        encoder: nn.Sequential,
        decoder: nn.Sequential,
        x: Tensor,
        rng: np.random.Generator,
        progress: bool,
    ) -> ResidualVQ:
        """Train in place; returns the levels as they were when the loss was best."""
        levels = ResidualVQ(
            self._sizes, self.latent, decay=self.decay if self.update == "ema" else None
        ).to(self.device)
        weights = [*encoder.parameters(), *decoder.parameters()]
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in weights if p.ndim > 1], "weight_decay": self.weight_decay},
                {
                    "params": [*(p for p in weights if p.ndim < 2), *levels.parameters()],
                    "weight_decay": 0.0,
                },
            ],
            lr=self.learning_rate,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / _RAMP, 0.5 * (1 + np.cos(np.pi * step / self.steps))),
        )
        best, since, error = float("inf"), 0, 0.0
        kept: tuple[dict, dict, ResidualVQ] | None = None
        batches = _batches(len(x), self.batch_size, rng)
        steps = range(1, self.steps + 1)
        with tqdm(steps, desc="rq-vae", unit="step", disable=None if progress else True) as bar:
            for step in bar:
                quantize = step > self.warmup_steps
                if step == self.warmup_steps + 1:
                    self._start(encoder, levels, x, rng)
                    error = 0.0
                batch = x[next(batches).to(x.device)]
                z = encoder(batch)
                loss = torch.zeros((), device=x.device)
                if quantize:
                    z, loss = levels(z, self.commitment)
                missed = (decoder(z) - batch).square().mean()
                optimizer.zero_grad(set_to_none=True)
                (missed + loss).backward()
                optimizer.step()
                schedule.step()
                error += float(missed.detach())
                since_start = step - self.warmup_steps
                if quantize and self.revive_every and since_start % self.revive_every == 0:
                    levels.revive(rng, optimizer)
                if not quantize or (since_start % _WINDOW and step < self.steps):
                    continue
                error /= (since_start - 1) % _WINDOW + 1
                if not np.isfinite(error):
                    raise ConfigError(
                        f"rq-vae: training diverged at step {step}; use a learning_rate below "
                        f"{self.learning_rate:g}"
                    )
                bar.set_postfix(reconstruction=f"{error:.4f}")
                since += 1
                if error < best * (1 - 1e-3):
                    best, since = error, 0
                    kept = deepcopy((encoder.state_dict(), decoder.state_dict(), levels))
                if since >= self.patience:
                    break
                error = 0.0
        assert kept is not None
        encoder.load_state_dict(kept[0])
        decoder.load_state_dict(kept[1])
        self.report["steps"] = step
        return kept[2]

    def _start(
        self, encoder: nn.Sequential, levels: ResidualVQ, x: Tensor, rng: np.random.Generator
    ) -> None:
        """k-means of each level on what the levels before it leave of the latents."""
        rows = rng.permutation(len(x))[: 256 * max(self._sizes)]
        rest = _latents(encoder, x[torch.from_numpy(rows).to(x.device)])
        for level, size in enumerate(self._sizes):
            codebook = kmeans(rest, size, rng=rng, iterations=10)
            codes = assign(rest, codebook)
            levels.set_codebook(level, codebook, torch.bincount(codes, minlength=size))
            rest = rest - codebook[codes]

    def _refined(
        self, encoder: nn.Sequential, levels: ResidualVQ, x: Tensor, rng: np.random.Generator
    ) -> list[Tensor]:
        """Codebooks after a few Lloyd iterations on the final latents; none stays unused."""
        rest = _latents(encoder, x)
        codebooks = []
        for level, size in enumerate(self._sizes):
            start = levels.codebook(level).detach()
            codebook = kmeans(rest, size, rng=rng, iterations=self.refine, init=start)
            codebooks.append(codebook)
            rest = rest - codebook[assign(rest, codebook)]
        return codebooks

    def _use(
        self,
        encoder: nn.Sequential,
        decoder: nn.Sequential,
        codebooks: list[Tensor],
        mean: Tensor,
        scale: Tensor,
    ) -> None:
        self._encoder = encoder.double().requires_grad_(False)
        self._decoder = decoder.double().requires_grad_(False)
        self._codebooks = codebooks
        self._search = ResidualSearch(codebooks)
        self._mean = mean.to(self.device)
        self._scale = scale.to(self.device)

    def _quality(self, x: Tensor) -> dict[str, float | list[float]]:
        """Relative reconstruction error of standardised vectors, and the share of used codes."""
        missed = variance = 0.0
        used = [torch.zeros(size, dtype=torch.bool) for size in self._sizes]
        with torch.no_grad():
            for block in x.split(65_536):
                codes = self._search.codes(self._encoder(block.double()))
                missed += float((self._reconstruct(codes) - block).square().sum())
                variance += float(block.double().square().sum())
                for level, seen in enumerate(used):
                    seen[codes[:, level].cpu()] = True
        return {
            "reconstruction": round(missed / variance, 6) if variance else 0.0,
            "utilisation": [round(float(seen.double().mean()), 6) for seen in used],
        }

    def _latent(self, x: Tensor) -> Tensor:
        return self._encoder(_standardised(x.to(self.device), self._mean, self._scale))

    def _reconstruct(self, codes: Tensor) -> Tensor:
        parts = [book[codes[:, level]] for level, book in enumerate(self._codebooks)]
        return self._decoder(torch.stack(parts).sum(dim=0).double())

    def _encode(self, x: Tensor) -> Tensor:
        return self._search.codes(self._latent(x))

    def _decode(self, codes: Tensor) -> Tensor:
        return self._reconstruct(codes.to(self.device)) * self._scale + self._mean

    def _level_distances(self, x: Tensor, prefix: Tensor) -> Tensor:
        return residual_distances(self._latent(x), prefix.to(self.device), self._codebooks)

    def _state(self) -> dict[str, np.ndarray]:
        state = {f"codebook.{level}": book for level, book in enumerate(self._codebooks)}
        for name, module in (("encoder", self._encoder), ("decoder", self._decoder)):
            # The weights were trained in float32: nothing is lost.
            state |= {f"{name}.{key}": value.float() for key, value in module.state_dict().items()}
        state |= {"mean": self._mean, "scale": self._scale}
        return {key: value.detach().cpu().numpy() for key, value in state.items()}

    def _load_state(self, state: dict[str, np.ndarray], width: int) -> None:
        tensors = {key: torch.from_numpy(value).to(self.device) for key, value in state.items()}
        encoder, decoder = self._build(width)
        for name, module in (("encoder", encoder), ("decoder", decoder)):
            own = {key: tensors[f"{name}.{key}"] for key in module.state_dict()}
            for key, value in module.state_dict().items():
                if own[key].shape != value.shape:
                    raise ValueError(f"{name}.{key} has shape {tuple(own[key].shape)}")
            module.load_state_dict(own)
        codebooks = [tensors[f"codebook.{level}"] for level in range(self.num_levels)]
        for level, book in enumerate(codebooks):
            if book.shape != (self._sizes[level], self.latent):
                raise ValueError(f"codebook {level} has shape {tuple(book.shape)}")
        for name in ("mean", "scale"):
            if tensors[name].shape != (width,):
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}")
        self._use(encoder, decoder, codebooks, tensors["mean"], tensors["scale"])


def _standardised(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return (x.double() - mean) * torch.where(scale > 0, 1 / scale, 0.0)


def _batches(n: int, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Row numbers of one batch after the other, every row once per pass, without end."""
    while True:
        yield from torch.from_numpy(rng.permutation(n)).split(size)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def _latents(encoder: nn.Sequential, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([encoder(block) for block in x.split(16_384)])


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
