"""Autoencoders whose latent vector is residual-quantized while they learn: what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
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
)
from genrec.quantization.kmeans import residual_kmeans
from genrec.quantization.letter import Letter
from genrec.quantization.nearest import ResidualSearch, residual_distances
from genrec.quantization.residual_vq import ResidualVQ
from genrec.quantization.training import batches, one_thread
from genrec.quantization.vectors import Vectors

UPDATES = ("ema", "ste", "rotation")
_WINDOW = 100  # steps over which the reconstruction is averaged
_RAMP = 20


class QuantizedAutoencoder(Quantizer):
    """Encoder, residual levels and decoder, trained together; subclasses say which networks.

    The codebooks start from k-means on the latents, codes that nothing chose are revived from live
    residuals, and a last few Lloyd iterations on the final latents leave no code unused. Training
    runs on one thread, so that the codes do not depend on the number of cores; encoding runs in
    float64 for the same reason.
    """

    # Lloyd iterations from which the codebooks start.
    start_iterations = 10

    def _set(
        self,
        *,
        codebook_sizes: Sequence[int],
        hidden: Sequence[int],
        update: str,
        commitment: float,
        decay: float,
        revive_every: int,
        steps: int,
        patience: int,
        warmup_steps: int,
        refine: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
        sinkhorn: float,
        sinkhorn_iterations: int,
        max_samples: int,
        seed: int,
        device: str,
    ) -> None:
        """Check and keep the options that all have; see `RQVAE`."""
        self._sizes = check_codebook_sizes(codebook_sizes)
        self.hidden = tuple(int(check_number("hidden", width, low=1)) for width in hidden)
        self.update = check_choice("update", update, UPDATES)
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
        self.sinkhorn = check_number("sinkhorn", sinkhorn, low=0)
        self.sinkhorn_iterations = check_number("sinkhorn_iterations", sinkhorn_iterations, low=1)
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
        rows = vectors.choose(max(self.max_samples, *self._sizes), rng)
        x = vectors.take(rows)
        mean, scale = self._scaling(x)
        x = _standardised(x, mean, scale).float().to(self.device)
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            encoder, decoder = self._build(x.shape[1])
            terms = self._terms(side, rows, rng)
            levels = self._train(encoder, decoder, terms, x, rng, progress)
            codebooks = self._refined(encoder, levels, x, rng)
        self._use(encoder, decoder, codebooks, mean, scale)
        self.report |= self._quality(x)

    @abstractmethod
    def _build(self, width: int) -> tuple[nn.Module, nn.Module]:
        """Encoder and decoder of vectors [n, width], on the device."""

    @abstractmethod
    def _latent_width(self, width: int) -> int:
        """Width of the encoder's output."""

    def _scaling(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Float64 mean and scale [d] by which the columns of x [n, d] are standardised."""
        mean = x.double().mean(dim=0)
        spread = x.double().std(dim=0, correction=0)
        # Columns that are constant up to rounding carry nothing: scale 0 leaves them at their mean.
        still = spread <= 1e-6 * mean.abs().clamp(min=1e-30)
        return mean, spread.masked_fill(still, 0.0)

    def _terms(
        self, side: dict[str, Vectors], rows: np.ndarray, rng: np.random.Generator
    ) -> Letter | None:
        """Further terms of the loss, for the rows of the vectors that are trained on."""
        return None

    def _train(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        terms: Letter | None,
        x: Tensor,
        rng: np.random.Generator,
        progress: bool,
    ) -> ResidualVQ:
        """Train in place; returns the levels as they were when the loss was best."""
        levels = ResidualVQ(
            self._sizes,
            self._latent_width(x.shape[1]),
            decay=None if self.update == "ste" else self.decay,
            rotate=self.update == "rotation",
            sinkhorn=self.sinkhorn,
            sinkhorn_iterations=self.sinkhorn_iterations,
        ).to(self.device)
        weights = [*encoder.parameters(), *decoder.parameters()]
        if terms is not None:
            weights += terms.parameters()
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
        order = batches(len(x), self.batch_size, rng)
        steps = range(1, self.steps + 1)
        with tqdm(steps, desc=self.type, unit="step", disable=None if progress else True) as bar:
            for step in bar:
                quantize = step > self.warmup_steps
                if step == self.warmup_steps + 1:
                    self._start(encoder, levels, x, rng)
                    error = 0.0
                rows = next(order).to(x.device)
                batch = x[rows]
                z = encoder(batch)
                loss = torch.zeros((), device=x.device)
                if quantize:
                    z, loss = levels(z, self.commitment)
                    if terms is not None:
                        loss = loss + terms(rows, z, levels)
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
                        f"{self.type}: training diverged at step {step}; use a learning_rate below "
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
        self, encoder: nn.Module, levels: ResidualVQ, x: Tensor, rng: np.random.Generator
    ) -> None:
        """k-means of each level on what the levels before it leave of the latents."""
        rows = rng.permutation(len(x))[: 256 * max(self._sizes)]
        z = _latents(encoder, x[torch.from_numpy(rows).to(x.device)])
        codebooks, codes = residual_kmeans(
            z, self._sizes, rng=rng, iterations=self.start_iterations
        )
        for level, (size, codebook) in enumerate(zip(self._sizes, codebooks, strict=True)):
            levels.set_codebook(level, codebook, torch.bincount(codes[:, level], minlength=size))

    def _refined(
        self, encoder: nn.Module, levels: ResidualVQ, x: Tensor, rng: np.random.Generator
    ) -> list[Tensor]:
        """Codebooks after a few Lloyd iterations on the final latents; none stays unused."""
        start = [levels.codebook(level).detach() for level in range(self.num_levels)]
        z = _latents(encoder, x)
        return residual_kmeans(z, self._sizes, rng=rng, iterations=self.refine, init=start)[0]

    def _use(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
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
            if book.shape != (self._sizes[level], self._latent_width(width)):
                raise ValueError(f"codebook {level} has shape {tuple(book.shape)}")
        for name in ("mean", "scale"):
            if tensors[name].shape != (width,):
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}")
        self._use(encoder, decoder, codebooks, tensors["mean"], tensors["scale"])


def _standardised(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return (x.double() - mean) * torch.where(scale > 0, 1 / scale, 0.0)


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU in between."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def _latents(encoder: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([encoder(block) for block in x.split(16_384)])
