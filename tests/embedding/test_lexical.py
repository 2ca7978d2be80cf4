import numpy as np
import pyarrow as pa
import pytest

from genrec.data import Catalog
from genrec.embedding import LexicalEmbedder
from genrec.errors import ConfigError, DataError


def reference(texts, dim, min_items):
    """The same thing said slowly: counts, sublinear TF, smoothed IDF, L2, dense SVD."""
    documents = [t.lower().replace(".", " ").replace(",", " ").split() for t in texts]
    documents = [[w for w in d if len(w) > 1] for d in documents]
    terms = sorted({w for d in documents for w in d})
    terms = [t for t in terms if sum(t in d for d in documents) >= min_items]
    matrix = np.zeros((len(documents), len(terms)))
    for row, document in enumerate(documents):
        for column, term in enumerate(terms):
            if term in document:
                df = sum(term in d for d in documents)
                idf = np.log((1 + len(documents)) / (1 + df)) + 1
                matrix[row, column] = (1 + np.log(document.count(term))) * idf
        matrix[row] /= max(np.linalg.norm(matrix[row]), 1e-12)
    left, singular, _ = np.linalg.svd(matrix, full_matrices=False)
    vectors = (left * singular)[:, :dim]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def test_agrees_with_the_slow_reference(catalog):
    embedded = LexicalEmbedder(dim=6, min_items=2).embed(catalog)
    expected = reference(catalog.text(), 6, 2)
    # An SVD is unique up to signs: inner products are compared.
    np.testing.assert_allclose(
        embedded.vectors @ embedded.vectors.T, expected @ expected.T, atol=1e-4
    )


def test_is_deterministic_and_normalised(catalog):
    first, again = (LexicalEmbedder(dim=5, seed=3).embed(catalog) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    np.testing.assert_allclose(np.linalg.norm(first.vectors, axis=1), 1, atol=1e-5)
    assert first.config["type"] == "lexical"
    assert first.config["report"]["items_without_terms"] == 0


def test_items_without_terms_are_zero_and_counted(catalog):
    embedded = LexicalEmbedder(columns=["title"], dim=4).embed(catalog)
    assert embedded.config["report"]["items_without_terms"] >= 1
    assert not embedded.vectors[3].any()


def test_a_small_vocabulary_gives_fewer_dimensions_with_a_warning(catalog):
    with pytest.warns(UserWarning, match="fewer than dim=500"):
        embedded = LexicalEmbedder(dim=500).embed(catalog)
    assert embedded.dim == embedded.config["report"]["num_terms"]


def test_no_repeated_word_at_all_is_an_error():
    catalog = Catalog(pa.table({"item_id": [1, 2], "title": ["one thing", "another item"]}))
    with pytest.raises(DataError, match="min_items"):
        LexicalEmbedder(min_items=2, dim=1).embed(catalog)


def test_a_column_that_does_not_exist_is_named(catalog):
    with pytest.raises(ConfigError, match="brand"):
        LexicalEmbedder(template="{brand}").embed(catalog)


@pytest.mark.parametrize("name", ["dim", "ngrams", "min_items", "max_terms"])
def test_arguments_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=name):
        LexicalEmbedder(**{name: 0})
