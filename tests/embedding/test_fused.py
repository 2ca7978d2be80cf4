import numpy as np
import pytest

from genrec.embedding import CollaborativeEmbedder, FusedEmbedder, LexicalEmbedder
from genrec.embedding.fused import fuse
from genrec.errors import ConfigError


@pytest.fixture
def matrix():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) * 5 + 3
    return values.astype(np.float32)


def test_standardised_dimensions_have_mean_0_and_one_variance(matrix):
    fused = fuse([matrix], [1.0], how="standardize")
    expected = (matrix - matrix.mean(axis=0)) / matrix.std(axis=0) / np.sqrt(6)
    np.testing.assert_allclose(fused, expected, atol=1e-4)


def test_whitened_components_are_uncorrelated(matrix):
    fused = fuse([matrix], [1.0], how="whiten")
    np.testing.assert_allclose(np.cov(fused.T, bias=True), np.eye(6) / 6, atol=1e-4)
    np.testing.assert_allclose(fused.mean(axis=0), 0, atol=1e-4)


def test_whitening_keeps_the_leading_components(matrix):
    centred = matrix - matrix.mean(axis=0)
    left, _, _ = np.linalg.svd(centred, full_matrices=False)
    fused = fuse([matrix], [1.0], how="whiten", dim=2)
    assert fused.shape == (500, 2)
    assert np.abs(np.corrcoef(fused.T, left[:, :2].T)[:2, 2:]).diagonal().min() > 0.9999


@pytest.mark.parametrize("how", ["standardize", "whiten"])
def test_squared_weights_are_shares_of_the_squared_norm(matrix, how):
    fused = fuse([matrix, matrix[:, :2] * 100], [1.0, 3.0], how=how)
    norms = (fused.astype(np.float64) ** 2).mean(axis=0)
    assert norms[:6].sum() == pytest.approx(1, rel=1e-3)
    assert norms[6:].sum() == pytest.approx(9, rel=1e-3)


def test_without_scaling_parts_are_only_weighted(matrix):
    fused = fuse([matrix, matrix], [1.0, 2.0], how="none")
    np.testing.assert_array_equal(fused, np.concatenate([matrix, 2 * matrix], axis=1))


@pytest.mark.parametrize("how", ["standardize", "whiten"])
def test_zero_vectors_stay_zero_and_out_of_the_statistics(matrix, how):
    with_cold = np.concatenate([matrix, np.zeros((50, 6), np.float32)])
    fused = fuse([with_cold], [1.0], how=how)
    assert not fused[500:].any()
    np.testing.assert_allclose(fused[:500], fuse([matrix], [1.0], how=how), atol=1e-5)


@pytest.mark.parametrize("how", ["standardize", "whiten"])
def test_a_dimension_without_variance_becomes_zero(matrix, how):
    constant = np.concatenate([matrix, np.full((500, 1), 7.0, np.float32)], axis=1)
    fused = fuse([constant], [1.0], how=how)
    assert np.isfinite(fused).all()
    assert (fused.astype(np.float64) ** 2).sum(axis=1).mean() == pytest.approx(1, rel=1e-3)


def test_embeds_every_part_and_reports_it(catalog, histories, split):
    parts = [LexicalEmbedder(dim=5), CollaborativeEmbedder(dim=7)]
    fused = FusedEmbedder(parts=parts, weights=[1.0, 0.5]).embed(
        catalog, histories=histories, split=split
    )
    assert fused.vectors.shape == (40, 12)
    assert [part["type"] for part in fused.config["parts"]] == ["lexical", "collaborative"]
    assert "zero_vectors" in fused.config["parts"][1]["report"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": []}, "parts is empty"),
        ({"parts": ["lexical"]}, "part 0 is a str"),
        ({"weights": [1.0, 2.0]}, "2 weights for 1 parts"),
        ({"weights": [0.0]}, "above 0"),
        ({"weights": [float("nan")]}, "above 0"),
        ({"how": "scale"}, "how must be"),
        ({"dim": 4}, "whiten"),
        ({"dim": 0, "how": "whiten"}, "at least 1"),
    ],
)
def test_impossible_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FusedEmbedder(**({"parts": [LexicalEmbedder()]} | arguments))
