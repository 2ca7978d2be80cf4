from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from genrec.data import Catalog
from genrec.errors import ArtefactError, ConfigError
from genrec.quantization import make_quantizer
from genrec.tokenizers import SidVocabulary, build_vocabulary, print_summary, summarize


@pytest.fixture
def tiny():
    codes = [[0, 0], [0, 0], [0, 0], [0, 1], [1, 0], [1, 0]]
    return SidVocabulary(codes, list("abcdef"), [2, 4], tie_order=np.array([2, 0, 1, 3, 4, 5]))


def test_figures_by_hand(tiny):
    summary = summarize(tiny)
    first, second = summary["levels"]
    assert (first["used"], first["dead"], first["utilisation"], first["trie_nodes"]) == (2, 0, 1, 2)
    assert (second["used"], second["dead"], second["utilisation"]) == (2, 2, 0.5)
    assert second["trie_nodes"] == summary["tuples"] == 3
    entropy = -(4 / 6 * np.log(4 / 6) + 2 / 6 * np.log(2 / 6))
    assert first["perplexity"] == pytest.approx(np.exp(entropy))
    assert summary["colliding_items"] == 5
    assert summary["collision_share"] == pytest.approx(5 / 6)
    assert summary["largest_bucket"] == {"size": 3, "codes": [0, 0], "items": ["b", "c", "a"]}
    # Item-level, a random pick finds 3/3 + 1 + 2/2 = 3 of the 6 targets.
    assert summary["flattery"] == pytest.approx(6 / 3)
    assert summary["bytes_per_item"] == tiny.trie().nbytes / 6


def test_titles_of_the_largest_bucket(tiny):
    catalog = Catalog(pd.DataFrame({"item_id": list("abcdef"), "title": list("ABCDEF")}))
    assert summarize(tiny, catalog=catalog)["largest_bucket"]["items"] == ["B", "C", "A"]
    assert summarize(tiny, catalog=catalog, title_column="absent")["largest_bucket"]["items"] == [
        "b",
        "c",
        "a",
    ]
    with pytest.raises(ArtefactError, match="does not belong to this catalog"):
        summarize(tiny, catalog=Catalog.from_ids(["a"]))


def test_distortion_on_fitted_and_unseen_items(vocabularies, vectors):
    for policy in ("allow", "append", "reassign"):
        vocabulary = vocabularies[policy]
        distortion = summarize(vocabulary, vectors)["distortion"]
        decoded = vocabulary.quantizer.decode(vocabulary.codes[:, :3])
        squared = ((vectors - decoded) ** 2).sum(axis=1)
        variance = ((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1).mean()
        for name, chosen in (
            ("all", slice(None)),
            ("fitted", slice(100)),
            ("unseen", slice(100, 120)),
        ):
            expected = squared[chosen].mean()
            assert distortion[name]["mean_squared_distance"] == pytest.approx(expected, rel=1e-4)
            assert distortion[name]["relative_to_variance"] == pytest.approx(
                expected / variance, rel=1e-4
            )
        assert [distortion[name]["items"] for name in ("all", "fitted", "unseen")] == [120, 100, 20]


def test_distortion_needs_the_quantizer_and_the_right_vectors(tiny, vocabularies, vectors):
    with pytest.raises(ConfigError, match="has no quantizer"):
        summarize(tiny, np.zeros((6, 2), dtype=np.float32))
    with pytest.raises(ArtefactError, match="not those"):
        summarize(vocabularies["allow"], vectors + 1)


@pytest.mark.parametrize("policy", ["allow", "append", "reassign"])
def test_it_is_json_and_prints(vocabularies, vectors, policy):
    summary = summarize(vocabularies[policy], vectors)
    assert json.loads(json.dumps(summary)) == summary
    text = io.StringIO()
    print_summary(summary, Console(file=text, width=100))
    printed = text.getvalue()
    assert "SID vocabulary of 120 items" in printed
    assert "unseen items (20)" in printed
    assert ("largest bucket" in printed) == (policy == "allow")
    assert ("items moved by reassign" in printed) == (policy == "reassign")


def test_the_policy_that_moved_items_is_named(vectors, item_ids):
    quantizer = make_quantizer("rq-kmeans", codebook_sizes=[4, 4]).fit(vectors)
    made = build_vocabulary(vectors, item_ids, quantizer, collisions="sinkhorn", fit=False)
    text = io.StringIO()
    print_summary(summarize(made), Console(file=text, width=100))
    assert "items moved by sinkhorn" in text.getvalue()
    assert "reassign" not in text.getvalue()


def test_no_share_is_printed_of_a_distortion_that_was_a_rounding_error(item_ids):
    # Every vector is a centre, so only the items that are moved are far from their codes.
    vectors = np.repeat(np.eye(4, dtype=np.float32), [2, 1, 1, 1], axis=0)
    quantizer = make_quantizer("rq-kmeans", codebook_sizes=[4, 2])
    made = build_vocabulary(vectors, item_ids[:5], quantizer, collisions="reassign")
    report = made.config["collisions"]
    assert report["moved_items"] == 1 and report["distortion_increase"] is None
    text = io.StringIO()
    print_summary(summarize(made), Console(file=text, width=100))
    assert "%" not in next(row for row in text.getvalue().splitlines() if "items moved" in row)
