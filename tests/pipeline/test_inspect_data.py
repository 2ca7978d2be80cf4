from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import Catalog
from genrec.errors import ArtefactError
from genrec.pipeline.inspect_data import SHORTEST, byte_lengths, fit_texts, page_data
from genrec.tokenizers import SidVocabulary


def make(num_items=60, sizes=(3, 4, 5), seed=0):
    codes = np.random.default_rng(seed).integers(0, sizes, (num_items, len(sizes)))
    return SidVocabulary(codes, [f"i{n}" for n in range(num_items)], sizes)


def catalog_of(vocabulary, titles):
    return Catalog(pd.DataFrame({"item_id": vocabulary.item_ids, "title": titles}))


def unpacked(data):
    """The arrays as a reader of the page gets them."""
    blob = zlib.decompress(base64.b64decode(data.blob()))
    return {
        name: np.frombuffer(blob, dtype=f"<{kind}", count=length, offset=offset)
        for name, (kind, offset, length) in json.loads(data.header_json())["arrays"].items()
    }


def texts(arrays, name):
    content, at, found = arrays[name].tobytes(), 0, []
    for length in arrays[f"{name}_lengths"].tolist():
        found.append(content[at : at + length].decode())
        at += length
    return found


def walked(arrays, which, levels):
    """`(codes, items in the bucket)` of every leaf, walked from the root in order."""
    found, taken = [], [0] * (levels + 1)

    def walk(depth, codes):
        if depth == levels:
            found.append((codes, int(arrays[f"bucket_{which}"][taken[depth]])))
            taken[depth] += 1
            return
        node = taken[depth]
        taken[depth] += 1
        for _ in range(arrays[f"children_{which}_{depth}"][node]):
            code = int(arrays[f"codes_{which}_{depth}"][taken[depth + 1]])
            walk(depth + 1, [*codes, code])

    walk(0, [])
    return found


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([1, 3, 300, 70_000]), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(0, 99),
)
def test_the_tree_in_the_page_is_the_trie(sizes, num_items, seed):
    sizes = [min(size, 65_536) for size in sizes]
    vocabulary = make(num_items, sizes, seed)
    data = page_data([vocabulary])
    arrays = unpacked(data)
    assert data.header["trees"] == [len(sizes)]
    items = iter(texts(arrays, "title"))
    for codes, size in walked(arrays, 0, len(sizes)):
        expected = vocabulary.item_ids[vocabulary.bucket(codes)].tolist()
        assert [next(items) for _ in range(size)] == expected
    assert next(items, None) is None
    for level, size in enumerate(sizes):
        counts = np.bincount(vocabulary.codes[:, level], minlength=size)
        assert np.array_equal(arrays[f"usage_0_{level}"], counts)


def test_items_of_the_second_tree_are_places_of_the_first():
    first = make(seed=1)
    turn = np.random.default_rng(2).permutation(60)
    second = SidVocabulary(make(sizes=(6, 6), seed=3).codes, first.item_ids[turn], (6, 6))
    arrays = unpacked(page_data([first, second]))
    names = texts(arrays, "title")
    place = 0
    for codes, size in walked(arrays, 1, 2):
        expected = second.item_ids[second.bucket(codes)].tolist()
        found = arrays["other_items"][place : place + size]
        assert [names[one] for one in found] == expected
        place += size
    assert place == 60


def test_titles_ids_categories_and_counts_stand_in_one_order():
    vocabulary = make()
    kinds = [["", "b", "a"][n % 3] for n in range(60)]
    table = pd.DataFrame(
        {
            "item_id": vocabulary.item_ids,
            "title": ["" if n == 7 else f"Title  &amp; {n}" for n in range(60)],
            "kind": kinds,
        }
    )
    counts = np.arange(60) * 10
    data = page_data([vocabulary], catalog=Catalog(table), category_column="kind", counts=counts)
    arrays = unpacked(data)
    order = vocabulary.trie().leaf_items.tolist()
    expected = ["i7" if n == 7 else f"Title & {n}" for n in order]
    assert texts(arrays, "title") == expected
    assert texts(arrays, "id") == [f"i{n}" for n in order]
    assert data.header["categories"] == ["a", "b"]
    names = ["", *data.header["categories"]]
    assert [names[label] for label in arrays["category"]] == [kinds[n] for n in order]
    assert arrays["count"].tolist() == counts[order].tolist()
    assert data.left_out == []


def test_beyond_the_budget_ids_go_first_then_titles_are_cut_then_left_out():
    vocabulary = make()
    titles = [f"{n:02d} " + "x" * 97 for n in range(60)]
    catalog = catalog_of(vocabulary, titles)
    order = vocabulary.trie().leaf_items.tolist()

    whole = page_data([vocabulary], catalog=catalog, title_bytes=6000)
    arrays = unpacked(whole)
    assert "id" not in arrays and "row" not in arrays
    assert texts(arrays, "title") == [titles[n] for n in order]
    assert whole.left_out == ["Item ids, to stay within 0.006 MB of titles."]

    cut = page_data([vocabulary], catalog=catalog, title_bytes=3000)
    assert texts(unpacked(cut), "title") == [titles[n][:50] + "\u2026" for n in order]
    assert cut.left_out[1] == "Titles beyond 50 bytes are cut."

    counts = np.arange(60)
    few = page_data([vocabulary], catalog=catalog, counts=counts, title_bytes=240)
    arrays = unpacked(few)
    kept = [bool(text) for text in texts(arrays, "title")]
    assert [n for n, has in zip(order, kept, strict=True) if has] == [n for n in order if n >= 50]
    assert arrays["row"].tolist() == order
    assert "50 of 60 titles; those of the 10 items most frequent in training" in few.left_out[2]
    drawn = page_data([vocabulary], catalog=catalog, title_bytes=240)
    assert "drawn at random" in drawn.left_out[2]
    by_tie = np.argsort(vocabulary.tie_order)[:10]
    kept = [n for n, text in zip(order, texts(unpacked(drawn), "title"), strict=True) if text]
    assert sorted(kept) == sorted(by_tie.tolist())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=30), st.integers(0, 900))
def test_texts_that_are_cut_fit_and_stay_readable(given_texts, budget):
    encoded = [text.encode() for text in given_texts]
    rank = np.arange(len(encoded))[::-1]
    cut, length, kept = fit_texts(encoded, budget, rank)
    sizes = byte_lengths(encoded)
    assert length >= SHORTEST
    for before, after in zip(given_texts, cut, strict=True):
        text = after.decode()
        assert not text or text == before or before.startswith(text[:-1])
        assert len(after) <= length + 3
    if sizes.sum() <= budget:
        assert cut == encoded and kept == len(encoded)
    elif length > SHORTEST:
        assert np.minimum(sizes, length).sum() <= budget < np.minimum(sizes, length + 1).sum()
        assert kept == len(encoded)
    else:
        assert np.minimum(sizes, length)[len(encoded) - kept :].sum() <= budget
        assert all(not text for text in cut[: len(encoded) - kept])


def test_too_many_categories_are_left_out(monkeypatch):
    monkeypatch.setattr("genrec.pipeline.inspect_data.MAX_CATEGORIES", 60)
    vocabulary = make()
    catalog = catalog_of(vocabulary, [f"t{n}" for n in range(60)])
    data = page_data([vocabulary], catalog=catalog, category_column="title")
    assert data.left_out == ["There are 60 categories; they are not shown."]
    assert "category" not in unpacked(data)


def test_vocabularies_of_other_items_cannot_be_compared():
    with pytest.raises(ArtefactError, match="60 and 61 items, 1 only in the second, such as 'i60'"):
        page_data([make(), make(61)])
    with pytest.raises(ArtefactError, match="61 and 60 items, 0 only in the second; compare"):
        page_data([make(61), make()])
