from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import Catalog
from genrec.errors import ArtefactError, DataError
from genrec.tokenizers import SidVocabulary, make_tie_order


@st.composite
def code_tables(draw):
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    num_items = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return rng.integers(0, sizes, (num_items, len(sizes))), sizes


@settings(max_examples=50, deadline=None)
@given(code_tables())
def test_encode_decode_and_buckets_equal_a_dictionary(table):
    codes, sizes = table
    vocabulary = SidVocabulary(codes, np.arange(len(codes)) + 100, sizes)
    reference = defaultdict(list)
    for item in np.argsort(vocabulary.tie_order).tolist():
        reference[tuple(codes[item].tolist())].append(item)

    assert vocabulary.encode(np.arange(len(codes))).tolist() == codes.tolist()
    assert vocabulary.num_tuples == len(reference)
    queries = np.stack(np.meshgrid(*[np.arange(-1, size + 1) for size in sizes]), axis=-1)
    queries = queries.reshape(-1, len(sizes))
    expected = [reference.get(tuple(query), []) for query in queries.tolist()]
    assert vocabulary.decode(queries).tolist() == [(items or [-1])[0] for items in expected]
    offsets, items = vocabulary.buckets(queries)
    split = np.split(items, offsets[1:-1])
    assert [part.tolist() for part in split] == expected
    assert vocabulary.bucket(codes[0]).tolist() == reference[tuple(codes[0].tolist())]
    assert vocabulary.bucket_sizes.tolist() == [
        len(reference[row]) for row in map(tuple, codes.tolist())
    ]


def test_shapes_and_dtypes(vocabularies):
    vocabulary = vocabularies["allow"]
    items = np.arange(12).reshape(2, 3, 2)
    codes = vocabulary.encode(items)
    assert codes.shape == (2, 3, 2, 3) and codes.dtype == np.int32
    decoded = vocabulary.decode(codes)
    assert decoded.shape == items.shape and decoded.dtype == np.int64
    assert vocabulary.decode(codes[0, 0, 0]).shape == ()
    assert (vocabulary.encode(decoded) == codes).all()
    offsets, found = vocabulary.buckets(np.zeros((0, 3), dtype=int))
    assert offsets.tolist() == [0] and found.tolist() == []


def test_without_collisions_decode_inverts_encode(vocabularies):
    for policy in ("append", "reassign"):
        items = np.arange(len(vocabularies[policy]))
        assert (vocabularies[policy].decode(vocabularies[policy].encode(items)) == items).all()


def test_ids_are_found_as_strings_or_integers(vocabularies):
    vocabulary = vocabularies["reassign"]
    assert vocabulary.index(["item-003", "absent", "item-000"]).tolist() == [3, -1, 0]
    assert (vocabulary.encode_ids(["item-003"]) == vocabulary.codes[[3]]).all()
    numbered = SidVocabulary([[0], [1]], [70, 71], [2])
    assert numbered.index(["71"]).tolist() == [1]


def test_trie_agrees_and_is_built_once(vocabularies):
    vocabulary = vocabularies["allow"]
    trie = vocabulary.trie()
    assert trie is vocabulary.trie()
    assert trie.num_leaves == vocabulary.num_tuples
    for leaf in range(trie.num_leaves):
        items = trie.bucket(leaf).numpy()
        assert (items == vocabulary.bucket(vocabulary.codes[items[0]])).all()


def test_contents_cannot_be_changed_under_the_fingerprint(vocabularies):
    with pytest.raises(ValueError, match="read-only"):
        vocabularies["allow"].codes[0, 0] = 1


def test_fingerprint_covers_codes_ids_sizes_and_tie_order():
    def make(codes=((0, 1), (1, 1)), ids=("a", "b"), sizes=(2, 2), tie=(0, 1)):
        return SidVocabulary(np.array(codes), ids, sizes, tie_order=np.array(tie)).fingerprint

    same = make()
    assert same == make()
    others = [
        make(codes=((0, 1), (1, 0))),
        make(ids=("a", "c")),
        make(sizes=(2, 3)),
        make(tie=(1, 0)),
    ]
    assert len({same, *others}) == 5


def test_check_catalog(vocabularies, item_ids):
    vocabulary = vocabularies["allow"]
    vocabulary.check_catalog(Catalog.from_ids(item_ids))
    with pytest.raises(ArtefactError, match=r"1 items only in the catalog, such as 'new'"):
        vocabulary.check_catalog(Catalog.from_ids([*item_ids, "new"]))
    with pytest.raises(ArtefactError, match=r"1 items only in the SID vocabulary, .*'item-119'"):
        vocabulary.check_catalog(Catalog.from_ids(item_ids[:-1]))
    with pytest.raises(ArtefactError, match=r"another order than the catalog \(row 0"):
        vocabulary.check_catalog(Catalog.from_ids(item_ids[::-1]))


def test_check_vectors(vocabularies, vectors):
    vocabulary = vocabularies["allow"]
    vocabulary.check_vectors(vectors)
    with pytest.raises(ArtefactError, match="119 rows for a SID vocabulary of 120"):
        vocabulary.check_vectors(vectors[1:])
    with pytest.raises(ArtefactError, match="not those the SID vocabulary was built from"):
        vocabulary.check_vectors(vectors[::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_ids": ["a", "b", "a"]}, r"item_id 'a': in row 0 and again in row 2"),
        ({"item_ids": pa.array(["a", None, "b"])}, "row 1: is None"),
        ({"item_ids": ["a", "b"]}, "3 rows for 2 item ids"),
        ({"item_ids": []}, "no items"),
        ({"codes": [[0, 1], [1, 1], [2, 0]]}, r"code_0, item 'c' \(row 2\): is 2; expected 0..1"),
        ({"codes": [[0, 1], [1, -1], [0, 0]]}, r"code_1, item 'b' \(row 1\): is -1"),
        ({"codes": [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]}, "expected integers"),
        ({"codes": [[0], [1], [1]]}, r"shape \(3, 2\)"),
        ({"codebook_sizes": [2, 0]}, "at least one level of one code"),
        ({"codebook_sizes": []}, "at least one level of one code"),
        ({"tie_order": np.array([0, 0, 1])}, "not a permutation"),
        ({"tie_order": np.array([0, 1])}, "not a permutation"),
        ({"fitted": np.array([True])}, "one flag for each of the 3 items"),
    ],
)
def test_parts_that_do_not_fit(change, message):
    parts = {
        "codes": [[0, 1], [1, 1], [0, 0]],
        "item_ids": ["a", "b", "c"],
        "codebook_sizes": [2, 2],
    }
    with pytest.raises(DataError, match=message):
        SidVocabulary(**{**parts, **change})


def test_unknown_items_and_malformed_codes(vocabularies):
    vocabulary = vocabularies["allow"]
    for items in ([0, -1], [120]):
        with pytest.raises(DataError, match=r"the vocabulary has items 0\.\.119"):
            vocabulary.encode(items)
    with pytest.raises(DataError, match=r"'absent': not in the SID vocabulary \(1 unknown of 2"):
        vocabulary.encode_ids(["item-001", "absent"])
    with pytest.raises(DataError, match="expected integers, 3 codes in the last dimension"):
        vocabulary.decode(np.zeros((4, 2), dtype=int))
    with pytest.raises(DataError, match="takes one tuple"):
        vocabulary.bucket(np.zeros((1, 3), dtype=int))


def test_tie_order_is_made_from_the_ids():
    vocabulary = SidVocabulary([[0], [0], [0]], ["x", "y", "z"], [1])
    assert vocabulary.tie_order.tolist() == make_tie_order(["x", "y", "z"]).tolist()
    assert repr(vocabulary).startswith("SidVocabulary(3 items, 1 codes, collisions='allow'")
