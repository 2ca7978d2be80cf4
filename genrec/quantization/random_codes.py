"""Random codes: a control that knows each vector and nothing of its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from genrec.quantization.base import check_codebook_sizes, register
from genrec.quantization.fixed_codes import FixedCodes
from genrec.quantization.vectors import Vectors


@register("random")
class RandomCodes(FixedCodes):
    """Codes drawn by a keyed hash of the vector's numbers, evenly and independently per level.

    Equal vectors get equal codes; vectors that differ in one bit get codes that have nothing to do
    with each other. What a recommender reaches with these codes it owes to the histories, not to
    the content. The distance of a vector to a code, which the collision policy `reassign` asks
    for, counts the codes from its own upwards, around the end.

    Args:
        codebook_sizes: number of codes of each level.
        seed: of the hash.

    References: Lemire and Kaser, "Strongly universal string hashing is fast", The Computer Journal
    2014 (multilinear hash); Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014 (what mixes its bits).
    """

    def __init__(self, codebook_sizes: Sequence[int] = (256, 256, 256), *, seed: int = 0) -> None:
        self._sizes = check_codebook_sizes(codebook_sizes)
        self.seed = seed
        self.report = {}

    def _draw(self, vectors: Vectors, rng: np.random.Generator) -> dict[str, np.ndarray]:
        bounds = np.iinfo(np.int64)
        shape = (vectors.shape[1] + 1, self.num_levels)
        return {"keys": rng.integers(bounds.min, bounds.max, size=shape, endpoint=True)}

    def _take(self, arrays: dict[str, np.ndarray], width: int) -> None:
        if arrays["keys"].shape != (width + 1, self.num_levels):
            raise ValueError(f"keys have shape {arrays['keys'].shape}")
        self._keys = torch.from_numpy(arrays["keys"])

    def _encode(self, x: Tensor) -> Tensor:
        # Adding zero turns -0 into 0, which is the same number in other bits.
        bits = (x + 0.0).contiguous().view(torch.int32).long() & 0xFFFFFFFF
        hashed = (bits @ self._keys[1:] + self._keys[0]).numpy().view(np.uint64)
        upper = mixed(hashed) >> np.uint64(32)
        codes = upper * np.array(self._sizes, dtype=np.uint64) >> np.uint64(32)
        return torch.from_numpy(codes.astype(np.int64))

    def _level_distances(self, x: Tensor, prefix: Tensor) -> Tensor:
        level = prefix.shape[1]
        size = self._sizes[level]
        steps = torch.arange(size) - self._encode(x)[:, level, None]
        return (steps % size / size).square()


def mixed(values: np.ndarray) -> np.ndarray:
    """Uint64 values mixed so that equal steps between them leave no trace; one to one.

    A sum of products alone would move all codes alike for vectors that differ alike.
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
