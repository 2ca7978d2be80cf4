"""OPQ and PQ: one k-means in each of M subspaces, OPQ after an orthogonal rotation (faiss)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.errors import ConfigError
from genrec.quantization.base import MAX_CODES, Quantizer, check_number, register
from genrec.quantization.nearest import ResidualSearch, residual_distances
from genrec.quantization.vectors import Vectors


@register("opq")
class OPQ(Quantizer):
    """Optimized product quantization: level m is the code of subspace m of the rotated vector.

    The levels do not depend on each other, which suits parallel heads. A width that is no multiple
    of `num_subspaces` is filled up with zeros. Fitting runs on one thread, so that the codebooks
    do not depend on the number of cores.

    Args:
        num_subspaces: number of levels M.
        codebook_size: number of codes of each level, a power of two.
        iterations: alternations between rotation and codebooks.
        rotate: without it, subspaces are columns as they come: product quantization (PQ).
        whiten: scale the principal components to unit variance first, so that each direction
            weighs the same.
        samples_per_code: at most this many rows per code are trained on.
        seed: of the sample and the starting centroids.

    Reference: Ge, He, Ke and Sun, "Optimized product quantization", TPAMI 2014; Jegou, Douze and
    Schmid, "Product quantization for nearest neighbor search", TPAMI 2011.
    """

    def __init__(
        self,
        num_subspaces: int = 32,
        codebook_size: int = 256,
        *,
        iterations: int = 50,
        rotate: bool = True,
        whiten: bool = False,
        samples_per_code: int = 256,
        seed: int = 0,
    ) -> None:
        self.num_subspaces = check_number("num_subspaces", num_subspaces, low=1)
        self.codebook_size = check_number("codebook_size", codebook_size, low=2, high=MAX_CODES)
        if codebook_size & (codebook_size - 1):
            raise ConfigError(
                f"codebook_size: is {codebook_size}; expected a power of two, e.g. "
                f"{2 ** (codebook_size.bit_length() - 1)}"
            )
        self.iterations = check_number("iterations", iterations, low=1)
        self.rotate = rotate
        self.whiten = whiten
        self.samples_per_code = check_number("samples_per_code", samples_per_code, low=1)
        self.seed = seed
        self.report = {}
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        return (self.codebook_size,) * self.num_subspaces

    def codebooks(self) -> list[np.ndarray]:
        """One float32 array [K, d / M] per subspace, in the rotated space."""
        self._fitted_width()
        return [book.copy() for book in self._arrays["codebooks"]]

    def _fit(self, vectors: Vectors, side: dict[str, Vectors], progress: bool) -> None:
        import faiss

        rng = np.random.default_rng(self.seed)
        x = vectors.sample(self.samples_per_code * self.codebook_size, rng).numpy()
        mean = x.mean(axis=0, dtype=np.float64)
        forward, backward = self._linear(x - mean)
        z = ((x - mean) @ forward).astype(np.float32)
        width = z.shape[1]
        bits = self.codebook_size.bit_length() - 1
        trial = faiss.ProductQuantizer(width, self.num_subspaces, bits)
        final = faiss.ProductQuantizer(width, self.num_subspaces, bits)
        for product in (trial, final):
            product.cp.seed = int(rng.integers(2**31))
            product.cp.min_points_per_centroid = 1
            product.cp.max_points_per_centroid = self.samples_per_code
        turn = np.eye(width)
        with _one_thread():
            if self.rotate:
                turn, z = self._rotation(z, trial)
            final.train(z)
        shape = (self.num_subspaces, self.codebook_size, width // self.num_subspaces)
        self._use(
            {
                "mean": mean,
                "forward": forward @ turn.T,
                "backward": turn @ backward,
                "codebooks": faiss.vector_to_array(final.centroids).reshape(shape).copy(),
            }
        )

    def _rotation(self, z: np.ndarray, product: Any) -> tuple[np.ndarray, np.ndarray]:
        """The orthogonal matrix [d', d'] for a faiss product quantizer, and z turned by it."""
        import faiss

        width = z.shape[1]
        rotation = faiss.OPQMatrix(width, self.num_subspaces)
        rotation.pq = product
        rotation.niter = self.iterations
        # faiss 1.15 writes past its buffer when there are fewer rows than columns; repeating all
        # rows leaves the problem the same.
        enough = np.tile(z, (-(-width // len(z)), 1))
        rotation.max_train_points = len(enough)
        rotation.train(enough)
        turn = faiss.vector_to_array(rotation.A).reshape(width, width).astype(np.float64)
        return turn, rotation.apply(z)

    def _linear(self, centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The map [d, d'] before the rotation and its way back [d', d], d' a multiple of M."""
        width = centred.shape[1]
        forward = backward = np.eye(width)
        if self.whiten:
            variance, axes = np.linalg.eigh(centred.T @ centred / len(centred))
            # Directions without variance (constant columns) keep a finite scale.
            floor = max(float(variance.max()) * 1e-6, 1e-30)
            scale = np.sqrt(np.maximum(variance, floor))
            forward, backward = axes / scale, (axes * scale).T
        fill = -width % self.num_subspaces
        return np.pad(forward, ((0, 0), (0, fill))), np.pad(backward, ((0, fill), (0, 0)))

    def _use(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._mean = torch.from_numpy(arrays["mean"])
        self._forward = torch.from_numpy(arrays["forward"])
        self._backward = torch.from_numpy(arrays["backward"])
        self._books = list(torch.from_numpy(arrays["codebooks"]))
        self._searches = [ResidualSearch([book]) for book in self._books]

    def _rotated(self, x: Tensor) -> tuple[Tensor, ...]:
        z = (x.double() - self._mean) @ self._forward
        return z.split(self._books[0].shape[1], dim=1)

    def _encode(self, x: Tensor) -> Tensor:
        parts = zip(self._searches, self._rotated(x), strict=True)
        return torch.cat([search.codes(part) for search, part in parts], dim=1)

    def _decode(self, codes: Tensor) -> Tensor:
        parts = [book[codes[:, level]] for level, book in enumerate(self._books)]
        return torch.cat(parts, dim=1).double() @ self._backward + self._mean

    def _level_distances(self, x: Tensor, prefix: Tensor) -> Tensor:
        level = prefix.shape[1]
        return residual_distances(self._rotated(x)[level], prefix[:, :0], [self._books[level]])

    def _state(self) -> dict[str, np.ndarray]:
        return self._arrays

    def _load_state(self, state: dict[str, np.ndarray], width: int) -> None:
        inner = width + -width % self.num_subspaces
        shapes = {
            "mean": (width,),
            "forward": (width, inner),
            "backward": (inner, width),
            "codebooks": (
                self.num_subspaces,
                self.codebook_size,
                inner // self.num_subspaces,
            ),
        }
        for name, shape in shapes.items():
            if state[name].shape != shape:
                raise ValueError(f"{name} has shape {state[name].shape}, not {shape}")
        self._use({name: state[name] for name in shapes})


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep faiss to one thread: its rounding depends on how the work is shared out."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
