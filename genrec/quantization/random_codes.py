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

    Reference: Lemire and Kaser, "Strongly universal string hashing is fast", The Computer Journal
    2014 (the multilinear hash: codes of two vectors are independent over the draw of the keys).
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
        # Products wrap around at 2^64, as the hash wants; its upper half is what is random.
        hashed = (bits @ self._keys[1:] + self._keys[0]) >> 32 & 0xFFFFFFFF
        return hashed * torch.tensor(self._sizes) >> 32

    def _level_distances(self, x: Tensor, prefix: Tensor) -> Tensor:
        level = prefix.shape[1]
        size = self._sizes[level]
        steps = torch.arange(size) - self._encode(x)[:, level, None]
        return (steps % size / size).square()
