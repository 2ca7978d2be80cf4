"""Hash codes: signs of random projections, a control that learns nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from genrec.errors import ConfigError
from genrec.quantization.base import check_codebook_sizes, register
from genrec.quantization.fixed_codes import FixedCodes
from genrec.quantization.vectors import Vectors

# Projections this close to zero, relative to the lengths, are rounding: they count as zero.
_ROUNDING = 1e-11


@register("hash")
class HashCodes(FixedCodes):
    """Locality-sensitive hashing: the code of a level packs the signs of log2(K) projections.

    The vectors are centred; two at an angle a differ in a bit with probability a / pi. Neighbours
    share codes, but nothing is fitted to where the vectors lie: what a learned quantizer is better
    than. The distance to a code sums the squared projections whose signs would have to flip.

    Args:
        codebook_sizes: number of codes K of each level, powers of two.
        seed: of the projections.

    References: Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002;
    Lv et al., "Multi-probe LSH", VLDB 2007 (distance to the codes near by).
    """

    def __init__(self, codebook_sizes: Sequence[int] = (256, 256, 256), *, seed: int = 0) -> None:
        self._sizes = check_codebook_sizes(codebook_sizes)
        for level, size in enumerate(self._sizes):
            if size & (size - 1):
                raise ConfigError(
                    f"codebook_sizes: level {level} is {size}; expected a power of two, e.g. "
                    f"{2 ** (size.bit_length() - 1)}"
                )
        self._bits = [size.bit_length() - 1 for size in self._sizes]
        self.seed = seed
        self.report = {}

    def _draw(self, vectors: Vectors, rng: np.random.Generator) -> dict[str, np.ndarray]:
        width = vectors.shape[1]
        total = np.zeros(width)
        for block in vectors.blocks(65_536):
            total += block.numpy().sum(axis=0, dtype=np.float64)
        planes = rng.normal(size=(width, sum(self._bits)))
        planes /= np.maximum(np.linalg.norm(planes, axis=0), 1e-30)
        return {"mean": total / len(vectors), "planes": planes}

    def _take(self, arrays: dict[str, np.ndarray], width: int) -> None:
        for name, shape in (("mean", (width,)), ("planes", (width, sum(self._bits)))):
            if arrays[name].shape != shape:
                raise ValueError(f"{name} have shape {arrays[name].shape}, not {shape}")
        self._mean = torch.from_numpy(arrays["mean"])
        self._planes = torch.from_numpy(arrays["planes"])

    def _projections(self, x: Tensor) -> list[Tensor]:
        """Float64 [n, log2(K)] per level; what is zero up to rounding is zero."""
        wide = x.double()
        places = (wide - self._mean) @ self._planes
        reach = wide.norm(dim=1, keepdim=True) + self._mean.norm()
        places.masked_fill_(places.abs() <= _ROUNDING * reach, 0.0)
        return list(places.split(self._bits, dim=1))

    def _encode(self, x: Tensor) -> Tensor:
        levels = []
        for places, bits in zip(self._projections(x), self._bits, strict=True):
            levels.append(((places > 0).long() << torch.arange(bits)).sum(dim=1))
        return torch.stack(levels, dim=1)

    def _level_distances(self, x: Tensor, prefix: Tensor) -> Tensor:
        level = prefix.shape[1]
        places = self._projections(x)[level]
        codes = torch.arange(self._sizes[level])
        signs = (codes[:, None] >> torch.arange(self._bits[level]) & 1).double()
        flips = places.square()
        own = (places > 0).double()
        # A bit costs its square where own and code differ: own + code - 2 * own * code.
        cost = (flips * own).sum(dim=1, keepdim=True) + (flips * (1 - 2 * own)) @ signs.T
        return cost.clamp_(min=0)
