"""RQ-k-means: residual quantization with one k-means per level and nothing to train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from genrec.quantization.balanced import balanced_kmeans
from genrec.quantization.base import (
    Quantizer,
    check_choice,
    check_codebook_sizes,
    check_device,
    check_number,
    register,
)
from genrec.quantization.kmeans import INITS, MANY, assign, center, cluster, subtract
from genrec.quantization.nearest import ResidualSearch, residual_distances
from genrec.quantization.vectors import Vectors

_TOLERANCE = 0.012  # share of the assignments that may still change where rows are many


@register("rq-kmeans")
class RQKMeans(Quantizer):
    """Residual k-means: level l clusters what the levels before it left of each vector.

    Args:
        codebook_sizes: number of codes of each level.
        iterations: of each level at most; fewer where hardly any assignment still changes.
        init: "k-means++" or "sample".
        balanced: cap each cluster at an even share of the rows while fitting (MiniOneRec), which
            spreads the items more evenly over the codes. Encoding still takes the nearest code, so
            that the code of a vector depends on no other vector: codes are then near an even
            share, not capped. Off, fitting is faster and the distortion lower.
        samples_per_code: at most this many rows per code of the largest level are trained on.
        seed: of the sample and the starting centroids.
        device: where to compute.

    Reference: Chen, Guan and Wang, "Approximate nearest neighbor search by residual vector
    quantization", Sensors 2010; Kong et al., "MiniOneRec: an open-source framework for scaling
    generative recommendation", arXiv 2510.24431 (balanced clusters).
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int] = (256, 256, 256),
        *,
        iterations: int = 25,
        init: str = "k-means++",
        balanced: bool = True,
        samples_per_code: int = 256,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self._sizes = check_codebook_sizes(codebook_sizes)
        self.iterations = check_number("iterations", iterations, low=1)
        self.init = check_choice("init", init, INITS)
        self.balanced = balanced
        self.samples_per_code = check_number("samples_per_code", samples_per_code, low=1)
        self.seed = seed
        self.device = check_device(device)
        self.report = {}
        self._codebooks: list[Tensor] = []
        self._search: ResidualSearch | None = None

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        return self._sizes

    def codebooks(self) -> list[np.ndarray]:
        """One float32 array [K_l, d] per level."""
        self._fitted_width()
        return [codebook.cpu().numpy().copy() for codebook in self._codebooks]

    def _fit(self, vectors: Vectors, side: dict[str, Vectors], progress: bool) -> None:
        rng = np.random.default_rng(self.seed)
        rest = vectors.sample(self.samples_per_code * max(self._sizes), rng).to(self.device)
        mean = center(rest)
        codebooks = []
        total = self.iterations * self.num_levels
        with tqdm(
            total=total, desc="rq-kmeans", unit="it", disable=None if progress else True
        ) as bar:
            for level, size in enumerate(self._sizes):
                options: dict[str, Any] = {"rng": rng, "init": self.init, "on_step": bar.update}
                options["iterations"] = self.iterations
                if self.balanced:
                    codebook = balanced_kmeans(rest, size, **options)
                    codes = assign(rest, codebook)
                else:
                    share = _TOLERANCE if len(rest) >= MANY * size else 0.0
                    codebook, codes = cluster(rest, size, tolerance=share, **options)
                codebooks.append(codebook)
                subtract(rest, codebook, codes)
                bar.update(self.iterations * (level + 1) - bar.n)
        codebooks[0] = codebooks[0] + mean
        self._use(codebooks)

    def _use(self, codebooks: list[Tensor]) -> None:
        self._codebooks = codebooks
        self._search = ResidualSearch(codebooks)

    def _encode(self, x: Tensor) -> Tensor:
        assert self._search is not None
        return self._search.codes(x.to(self.device))

    def _decode(self, codes: Tensor) -> Tensor:
        codes = codes.to(self.device)
        found = self._codebooks[0][codes[:, 0]]
        for level, book in enumerate(self._codebooks[1:], start=1):
            found += book[codes[:, level]]
        return found

    def _level_distances(self, x: Tensor, prefix: Tensor) -> Tensor:
        return residual_distances(x.to(self.device), prefix.to(self.device), self._codebooks)

    def _state(self) -> dict[str, np.ndarray]:
        return {f"codebook.{level}": book for level, book in enumerate(self.codebooks())}

    def _load_state(self, state: dict[str, np.ndarray], width: int) -> None:
        codebooks = []
        for level, size in enumerate(self._sizes):
            book = state[f"codebook.{level}"]
            if book.shape != (size, width):
                raise ValueError(f"codebook {level} has shape {book.shape}, not {(size, width)}")
            codebooks.append(torch.from_numpy(book).to(self.device))
        self._use(codebooks)
