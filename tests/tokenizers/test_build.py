from __future__ import annotations

import numpy as np
import pytest

from genrec.data import Catalog
from genrec.embedding import ItemVectors
from genrec.errors import ConfigError, DataError
from genrec.quantization import make_quantizer
from genrec.tokenizers import build_vocabulary, make_tie_order


def small(**options):
    return make_quantizer("rq-kmeans", codebook_sizes=[8, 8, 8], **options)


def test_the_quantizer_sees_only_the_items_to_fit_on(vectors, item_ids):
    mask = np.arange(120) < 80
    poisoned = vectors.copy()
    poisoned[~mask] *= 100
    one = build_vocabulary(vectors, item_ids, small(), collisions="allow", fit_items=mask)
    other = build_vocabulary(
        poisoned, item_ids, small(), collisions="allow", fit_items=np.flatnonzero(mask)
    )
    assert (one.codes[mask] == other.codes[mask]).all()
    for mine, theirs in zip(one.quantizer.codebooks(), other.quantizer.codebooks(), strict=True):
        assert (mine == theirs).all()
    assert (one.fitted == mask).all()
    assert one.config["fitted_items"] == 80


def test_what_it_records(vectors, item_ids):
    vocabulary = build_vocabulary(vectors, item_ids, small(seed=3), seed=5)
    assert vocabulary.collision_policy == "reassign"
    assert (vocabulary.tie_order == make_tie_order(item_ids, 5)).all()
    assert vocabulary.vectors_fingerprint == ItemVectors(vectors, item_ids).fingerprint
    assert vocabulary.config["quantizer"]["seed"] == 3
    assert vocabulary.config["collisions"]["colliding_items_after"] == 0
    assert vocabulary.config["seed"] == 5


def test_a_fitted_quantizer_can_be_kept(vectors, item_ids):
    quantizer = small().fit(vectors[:60])
    expected = quantizer.encode(vectors)
    kept = build_vocabulary(vectors, item_ids, quantizer, collisions="allow", fit=False)
    assert (kept.codes == expected).all()
    assert kept.fitted is None


def test_same_seed_same_vocabulary_and_the_order_of_the_items_does_not_matter(vectors, item_ids):
    catalog = Catalog.from_ids(item_ids)
    one = build_vocabulary(vectors, catalog.item_ids, small())
    two = build_vocabulary(vectors, item_ids, small())
    assert one.fingerprint == two.fingerprint
    shuffle = np.random.default_rng(0).permutation(120)
    shuffled = build_vocabulary(
        vectors[shuffle], [item_ids[i] for i in shuffle], one.quantizer, fit=False
    )
    assert (shuffled.codes == one.codes[shuffle]).all()
    order = np.argsort(one.tie_order)
    assert (shuffle[np.argsort(shuffled.tie_order)] == order).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_names_the_item(vectors, item_ids, value):
    broken = vectors.copy()
    broken[17, 2] = value
    with pytest.raises(DataError, match=r"item 'item-017' \(row 17\), dimension 2: is (nan|inf)"):
        build_vocabulary(broken, item_ids, small())


def test_large_but_finite_vectors_pass_the_check(item_ids, vectors):
    large = vectors.copy()
    large[0] = [3e38, 3e38, 3e38, 3e38, 0, 0]
    broken = large.copy()
    broken[5, 1] = np.nan
    with pytest.raises(DataError, match="item-005"):
        build_vocabulary(broken, item_ids, small())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"vectors": np.zeros((3, 2))}, DataError, "3 rows for 120 items"),
        ({"vectors": np.zeros(120)}, DataError, r"shape \(120,\)"),
        ({"vectors": np.full((120, 2), "a")}, DataError, "expected numbers"),
        ({"item_ids": ["same"] * 120}, DataError, "'same': in row 0 and again in row 1"),
        ({"collisions": "none"}, ConfigError, "'none' is no collision policy; choose one of"),
        ({"fit_items": np.zeros(120, dtype=bool)}, ConfigError, "fit_items: is empty"),
        ({"fit_items": np.ones(5, dtype=bool)}, ConfigError, "one flag per item"),
        ({"fit_items": [0, 120]}, ConfigError, "fit_items: holds 120"),
        ({"fit_items": [0, -1]}, ConfigError, "fit_items: holds -1"),
        ({"fit_items": [0.5]}, ConfigError, "expected item indices or a mask"),
        ({"fit_items": [0, 1, 2]}, DataError, "have 3 rows, but a level has 8 codes"),
    ],
)
def test_bad_input(vectors, item_ids, change, error, message):
    parts = {"vectors": vectors, "item_ids": item_ids, "quantizer": small(), **change}
    with pytest.raises(error, match=message):
        build_vocabulary(**parts)
