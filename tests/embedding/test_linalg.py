import numpy as np
import pytest
import scipy.sparse as sp

from genrec.embedding.linalg import (
    mean_and_covariance,
    normalize_rows,
    principal_axes,
    truncated_svd,
)


@pytest.fixture
def matrix():
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(30, 12)) * (rng.random((30, 12)) < 0.4)
    dense[7] = 0
    return dense


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_svd_agrees_with_the_dense_one(matrix, power):
    vectors = truncated_svd(sp.csr_matrix(matrix), 5, seed=0, power=power, what="test")
    left, singular, _ = np.linalg.svd(matrix, full_matrices=False)
    expected = (left * singular**power)[:, :5]
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-3)


def test_an_empty_row_is_exactly_zero(matrix):
    vectors = truncated_svd(sp.csr_matrix(matrix), 12, seed=0, power=0.5, what="test")
    assert not vectors[7].any()
    assert not normalize_rows(vectors)[7].any()


def test_a_seed_gives_one_answer(matrix):
    a, b = (truncated_svd(sp.csr_matrix(matrix), 4, seed=5, power=1, what="test") for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_mean_and_covariance_of_some_rows(matrix, monkeypatch):
    monkeypatch.setattr("genrec.embedding.linalg._BLOCK", 7)
    rows = np.arange(3, 25)
    mean, covariance = mean_and_covariance(matrix.astype(np.float32), rows)
    np.testing.assert_allclose(mean, matrix[rows].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(matrix[rows].T, bias=True), atol=1e-6)


def test_principal_axes_are_sorted_orthonormal_and_of_one_sign(matrix):
    covariance = np.cov(matrix.T)
    variances, axes = principal_axes(covariance)
    assert (np.diff(variances) <= 1e-12).all()
    np.testing.assert_allclose(axes.T @ axes, np.eye(12), atol=1e-10)
    np.testing.assert_allclose(axes * variances @ axes.T, covariance, atol=1e-10)
    assert (axes[np.abs(axes).argmax(axis=0), np.arange(12)] > 0).all()
