"""Quantizers whose codes are given by a function, not learned: what they stand for is learned."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from genrec.quantization.base import Quantizer
from genrec.quantization.vectors import Vectors

_SAMPLES_PER_CODE = 256  # rows per code of the largest level that the means are taken over


class FixedCodes(Quantizer):
    """Codes by a function of the vector; each code stands for the mean of what chose it.

    Level l holds, for each code, the mean of what the levels before it left of the vectors with
    that code, so that a tuple stands for the sum of its codes, as in residual quantization.
    """

    _sizes: tuple[int, ...]
    _books: list[Tensor]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        return self._sizes

    def codebooks(self) -> list[np.ndarray]:
        """One float32 array [K_l, d] per level; a code that no vector has is the mean or zero."""
        self._fitted_width()
        return [book.numpy().copy() for book in self._books]

    @abstractmethod
    def _draw(self, vectors: Vectors, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The arrays of the function."""

    @abstractmethod
    def _take(self, arrays: dict[str, np.ndarray], width: int) -> None:
        """Take over what `_draw` gave; a KeyError or ValueError says that it does not fit."""

    def _fit(self, vectors: Vectors, side: dict[str, Vectors], progress: bool) -> None:
        rng = np.random.default_rng(self.seed)
        self._arrays = self._draw(vectors, rng)
        self._take(self._arrays, vectors.shape[1])
        x = vectors.sample(_SAMPLES_PER_CODE * max(self._sizes), rng)
        codes, rest = self._encode(x), x.double()
        mean = rest.numpy().mean(axis=0)
        self._books = []
        for level, size in enumerate(self._sizes):
            # Rows are added in their order, so that threads do not change a sum.
            sums = torch.zeros(size, x.shape[1], dtype=torch.float64)
            sums.index_add_(0, codes[:, level], rest)
            counts = torch.bincount(codes[:, level], minlength=size)
            means = sums / counts.clamp(min=1)[:, None]
            if level == 0:
                means[counts == 0] = torch.from_numpy(mean)
            self._books.append(means.float())
            rest -= means[codes[:, level]]

    def _decode(self, codes: Tensor) -> Tensor:
        parts = [book[codes[:, level]] for level, book in enumerate(self._books)]
        return torch.stack(parts).sum(dim=0)

    def _state(self) -> dict[str, np.ndarray]:
        books = {f"codebook.{level}": book.numpy() for level, book in enumerate(self._books)}
        return self._arrays | books

    def _load_state(self, state: dict[str, np.ndarray], width: int) -> None:
        books = []
        for level, size in enumerate(self._sizes):
            book = state.pop(f"codebook.{level}")
            if book.shape != (size, width):
                raise ValueError(f"codebook {level} has shape {book.shape}, not {(size, width)}")
            books.append(torch.from_numpy(book))
        self._take(state, width)
        self._arrays, self._books = state, books
