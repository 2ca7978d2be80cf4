from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from genrec.data import Catalog, Histories, leave_one_out
from genrec.errors import ArtefactError, ConfigError
from genrec.tokenizers import SidVocabulary, inspect_vocabulary, print_inspection, summarize
from genrec.tokenizers.figures import effective_rank
from genrec.tokenizers.inspection import category_labels


@pytest.fixture(scope="module")
def catalog(item_ids):
    kinds = [["toys", "cars"] if n % 3 else ["toys"] for n in range(len(item_ids))]
    kinds[5] = []
    return Catalog(
        pd.DataFrame({"item_id": item_ids, "title": [f"T{n}" for n in range(120)], "kind": kinds})
    )


@pytest.fixture(scope="module")
def histories():
    rng = np.random.default_rng(0)
    return Histories.from_lists([rng.integers(0, 120, 8).tolist() for _ in range(50)])


@pytest.fixture(scope="module")
def figures(vocabularies, vectors, catalog, histories):
    return inspect_vocabulary(
        vocabularies["allow"],
        vectors,
        catalog=catalog,
        histories=histories,
        split=leave_one_out(histories),
        category_column="kind",
        facets=1,
        k=5,
        queries=50,
    )


def test_it_holds_the_summary_and_is_json(figures, vocabularies, vectors, catalog):
    assert json.loads(json.dumps(figures)) == figures
    summary = summarize(vocabularies["allow"], vectors, catalog=catalog)
    assert {key: figures[key] for key in summary} == summary
    assert len(figures["facets"]) == len(figures["fan_out"]) == 3
    assert figures["purity"]["items"] == 119 and figures["purity"]["categories"] == 2
    assert figures["neighbours"]["queries"] == 50


def test_popularity_of_those_who_collide_by_hand():
    codes = [[0, 0], [0, 0], [0, 0], [0, 1], [1, 0], [1, 0]]
    vocabulary = SidVocabulary(codes, list("abcdef"), [2, 4])
    histories = Histories.from_lists([[0, 0, 1, 3], [3, 3, 3, 4]])
    found = inspect_vocabulary(vocabulary, histories=histories, k=2)["popularity"]
    assert found["events"] == 8
    assert found["colliding"] == {"items": 5, "mean": 4 / 5, "median": 1.0}
    assert found["others"] == {"items": 1, "mean": 4.0, "median": 4.0}
    assert found["colliding_events"] == 4 / 8
    # A random pick from the bucket finds 3/3 + 4 + 1/2 of the 8 targets.
    assert found["flattery"] == pytest.approx(8 / 5.5)
    training = inspect_vocabulary(
        vocabulary, histories=histories, split=leave_one_out(histories), k=2
    )
    assert training["popularity"]["events"] == 4


def test_buckets(figures, vocabularies):
    vocabulary = vocabularies["allow"]
    buckets = figures["largest_buckets"]
    assert buckets[0] == figures["largest_bucket"]
    sizes = sorted(np.unique(vocabulary.codes, axis=0, return_counts=True)[1], reverse=True)
    assert [bucket["size"] for bucket in buckets] == [size for size in sizes[:10] if size > 1]
    for bucket in buckets:
        items = vocabulary.bucket(bucket["codes"])
        assert len(items) == bucket["size"]
        assert bucket["items"] == [f"T{item}" for item in items[:5]]
    assert sum(part[2] for part in figures["bucket_sizes"]) == vocabulary.num_tuples


def test_ranks(figures, vocabularies, vectors):
    found = figures["effective_rank"]
    assert found["vectors"] == effective_rank(vectors)
    assert (found["dimensions"], found["rows"]) == (6, 120)
    books = vocabularies["allow"].quantizer.codebooks()
    assert found["codebooks"] == [effective_rank(book) for book in books]


def test_categories_are_sorted_and_empty_ones_unknown(catalog):
    labels, names = category_labels(catalog, "kind")
    assert names == ["toys", "toys, cars"]
    assert labels[:6].tolist() == [0, 1, 1, 0, 1, -1]
    labels, names = category_labels(Catalog(pd.DataFrame({"item_id": [1], "kind": [""]})), "kind")
    assert labels.tolist() == [-1] and names == []


@pytest.mark.parametrize("policy", ["allow", "append", "reassign"])
def test_it_prints(vocabularies, vectors, histories, catalog, policy):
    text = io.StringIO()
    found = inspect_vocabulary(vocabularies[policy], vectors, histories=histories, k=5)
    print_inspection(found, Console(file=text, width=100))
    printed = text.getvalue()
    assert "Overlap@5 of nearest items (120 asked, 120 searched)" in printed
    assert "with items taken together" in printed
    assert "effective rank of the vectors" in printed
    assert ("events of colliding items" in printed) == (policy == "allow")


def test_it_prints_what_there_is_and_no_more(vocabularies, figures):
    text = io.StringIO()
    print_inspection(inspect_vocabulary(vocabularies["allow"]), Console(file=text, width=100))
    for absent in ("Overlap@", "purity", "Facets", "events of"):
        assert absent not in text.getvalue()
    print_inspection(figures, Console(file=text, width=100))
    for present in ("Overlap@5", "purity", "Facets", "2 categories in 'kind'"):
        assert present in text.getvalue()


def test_bad_input(vocabularies, vectors, catalog):
    vocabulary = vocabularies["allow"]
    for change, message in (
        ({"k": 0}, "k: is 0; expected 1 or more"),
        ({"queries": 0}, "queries: is 0; expected 1 or more"),
        ({"facets": 2}, "2 levels each do not divide the 3 levels"),
        ({"category_column": "kind"}, "needs the items; name the dataset"),
        ({"category_column": "kin", "catalog": catalog}, "no column 'kin'"),
    ):
        with pytest.raises(ConfigError, match=message):
            inspect_vocabulary(vocabulary, **change)
    with pytest.raises(ArtefactError, match="not those"):
        inspect_vocabulary(vocabulary, vectors + 1)
