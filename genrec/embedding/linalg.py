"""The little linear algebra the embedders share."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

_BLOCK = 1 << 16


def truncated_svd(matrix: Any, dim: int, *, seed: int, power: float, what: str) -> np.ndarray:
    """Rows of `U * S ** power` of the leading `dim` singular triplets of a sparse matrix.

    Randomised SVD (Halko, Martinsson, Tropp 2011) as scikit-learn's `TruncatedSVD` runs it; signs
    are fixed, so a seed gives one answer. `power` 1 keeps inner products of the rows of `matrix`,
    0.5 is the symmetric factorisation of Levy and Goldberg (2014).

    Args:
        matrix: scipy sparse [n, m].
        dim: dimensions asked for; if the matrix has fewer, all of them, with a warning.
        seed: seed of the random projection.
        power: exponent of the singular values.
        what: name of the matrix, for the warning.

    Returns:
        float32 [n, min(dim, n, m)]; an empty row of `matrix` gives a zero row.
    """
    from sklearn.utils.extmath import randomized_svd

    available = min(matrix.shape)
    if dim > available:
        warnings.warn(
            f"{what} has only {available} dimensions, fewer than dim={dim}; using {available}",
            stacklevel=3,
        )
        dim = available
    left, singular, _ = randomized_svd(matrix, dim, n_iter=7, random_state=seed)
    vectors = (left * singular**power).astype(np.float32)
    # Rounding noise in the row of an item that has nothing would become a direction when the rows
    # are normalised.
    vectors[matrix.getnnz(axis=1) == 0] = 0
    return vectors


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their L2 norm; zero rows stay zero."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    norms[norms == 0] = 1.0
    return (vectors / norms[:, None]).astype(np.float32)


def mean_and_covariance(vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and covariance [d, d] of some rows, in float64, a block of rows at a time."""
    blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
    dim = vectors.shape[1]
    mean = np.zeros(dim)
    for block in blocks:
        mean += vectors[block].sum(axis=0, dtype=np.float64)
    mean /= max(1, len(rows))
    covariance = np.zeros((dim, dim))
    for block in blocks:
        centred = vectors[block] - mean
        covariance += centred.T @ centred
    return mean, covariance / max(1, len(rows))


def principal_axes(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances [d], largest first, and their axes as columns [d, d].

    The sign of an eigenvector is arbitrary: the entry of largest magnitude is made positive, so
    that one input gives one answer.
    """
    variances, axes = np.linalg.eigh(covariance)
    variances, axes = variances[::-1].clip(min=0), axes[:, ::-1]
    largest = np.abs(axes).argmax(axis=0)
    signs = np.sign(axes[largest, np.arange(axes.shape[1])])
    return variances, axes * np.where(signs == 0, 1.0, signs)
