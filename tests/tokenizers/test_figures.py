from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import PrefixTrie
from genrec.errors import ConfigError
from genrec.tokenizers.figures import (
    code_usage,
    effective_rank,
    facet_usage,
    fan_out,
    gini,
    histogram,
    prefix_nodes,
    prefix_purity,
)


@st.composite
def code_tables(draw):
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    num_items = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return rng.integers(0, sizes, (num_items, len(sizes))), sizes


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(7, 9))
def test_usage_equals_its_definitions(codes, size):
    found = code_usage(np.array(codes), size)
    counts = [codes.count(code) for code in range(size)]
    shares = [count / len(codes) for count in counts if count]
    assert found["used"] == len(shares)
    assert found["dead"] == size - len(shares)
    assert found["utilisation"] == len(shares) / size
    assert found["perplexity"] == pytest.approx(np.exp(-sum(p * np.log(p) for p in shares)))
    pairs = [abs(a - b) for a in counts for b in counts]
    assert found["gini"] == pytest.approx(np.mean(pairs) / (2 * np.mean(counts)))


def test_gini_of_extremes():
    assert gini(np.array([3, 3, 3])) == 0
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert gini(np.zeros(4, dtype=int)) == 0


@settings(max_examples=40, deadline=None)
@given(code_tables(), st.integers(0, 3), st.integers(0, 99))
def test_fan_out_and_purity_equal_dictionaries(table, num_labels, seed):
    codes, sizes = table
    trie = PrefixTrie.from_codes(codes, sizes)
    labels = np.random.default_rng(seed).integers(-1, max(num_labels, 1), len(codes))
    purity = prefix_purity(trie, labels, seed=seed)
    known = int((labels >= 0).sum())
    assert bool(purity) == bool(known)
    for depth in range(len(sizes) + 1):
        children, members = defaultdict(set), defaultdict(Counter)
        for row, label in zip(codes.tolist(), labels.tolist(), strict=True):
            if depth < len(sizes):
                children[tuple(row[:depth])].add(row[depth])
            if label >= 0:
                members[tuple(row[:depth])][label] += 1
        if depth < len(sizes):
            counts = [len(found) for found in children.values()]
            level = fan_out(trie)[depth]
            assert level["nodes"] == len(counts)
            assert level["mean"] == pytest.approx(np.mean(counts))
            assert level["median"] == np.median(counts)
            assert level["max"] == max(counts)
            assert level["single_child_share"] == counts.count(1) / len(counts)
            for low, high, number in level["histogram"]:
                assert number == sum(low <= count <= high for count in counts)
            assert sum(part[2] for part in level["histogram"]) == len(counts)
        if known:
            expected = sum(found.most_common(1)[0][1] for found in members.values()) / known
            assert purity[depth]["purity"] == pytest.approx(expected)
            assert purity[depth]["prefixes"] == len(members)
            assert purity[depth]["codes"] == depth
    if known:
        root = purity[0]
        assert root["shuffled"] == root["purity"]


def test_shuffled_labels_tell_small_prefixes_from_pure_ones():
    rng = np.random.default_rng(0)
    codes = np.column_stack([np.repeat(np.arange(20), 20), np.tile(np.arange(20), 20)])
    trie = PrefixTrie.from_codes(codes, [20, 20])
    labels = codes[:, 0] % 4
    real, noise = prefix_purity(trie, labels), prefix_purity(trie, rng.permutation(labels))
    assert real[1]["purity"] == 1.0
    assert real[1]["shuffled"] < 0.5
    assert noise[1]["purity"] == pytest.approx(noise[1]["shuffled"], abs=0.05)
    assert noise[2]["purity"] == noise[2]["shuffled"] == 1.0
    assert prefix_purity(trie, np.full(400, -1)) == []


def test_nodes_of_prefixes():
    trie = PrefixTrie.from_codes([[1, 0], [0, 1], [1, 0], [1, 2]], [2, 3])
    assert prefix_nodes(trie, 0).tolist() == [0, 0, 0, 0]
    assert prefix_nodes(trie, 1).tolist() == [0, 1, 1, 1]
    assert prefix_nodes(trie, 2).tolist() == [0, 1, 1, 2]


def test_bins_are_powers_of_two():
    found = histogram(np.array([1, 1, 2, 3, 4, 5, 8, 9, 16, 17]))
    assert found == [[1, 1, 2], [2, 2, 1], [3, 4, 2], [5, 8, 2], [9, 16, 2], [17, 32, 1]]
    assert histogram(np.array([1])) == [[1, 1, 1]]


@settings(max_examples=30, deadline=None)
@given(code_tables(), st.integers(1, 4))
def test_facets_equal_their_levels_one_by_one(table, levels_per_facet):
    codes, sizes = table
    if len(sizes) % levels_per_facet:
        with pytest.raises(ConfigError, match="do not divide"):
            facet_usage(codes, sizes, levels_per_facet)
        return
    for facet in facet_usage(codes, sizes, levels_per_facet):
        chosen = range(facet["first_level"], facet["first_level"] + facet["levels"])
        parts = [code_usage(codes[:, level], sizes[level]) for level in chosen]
        assert facet["used"] == sum(part["used"] for part in parts)
        assert facet["dead"] == sum(part["dead"] for part in parts)
        assert facet["utilisation"] == facet["used"] / facet["codes"]
        assert facet["perplexity"] == pytest.approx(np.mean([p["perplexity"] for p in parts]))
        assert facet["gini"] == pytest.approx(np.mean([p["gini"] for p in parts]))
        assert facet["tuples"] == len({tuple(row[chosen.start : chosen.stop]) for row in codes})


def test_facets_that_make_no_sense():
    with pytest.raises(ConfigError, match="0 levels each do not divide the 2 levels"):
        facet_usage(np.zeros((3, 2), dtype=int), (1, 1), 0)


@pytest.mark.parametrize("shape", [(50, 7), (5, 9), (200, 3)])
def test_effective_rank_equals_its_definition(shape):
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32) * np.arange(shape[1])
    singular = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    share = singular[singular > 1e-5 * singular[0]]
    share = share / share.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    assert effective_rank(vectors) == pytest.approx(expected, rel=1e-4)


def test_effective_rank_of_extremes():
    assert effective_rank(np.eye(8)) == pytest.approx(7)
    line = np.outer(np.arange(9), [1.0, 2.0, 3.0])
    assert effective_rank(line) == pytest.approx(1, abs=1e-4)
    assert effective_rank(np.full((4, 3), 0.1, dtype=np.float32)) == 0
    assert effective_rank(np.zeros((4, 3))) == 0
    assert effective_rank(np.ones((1, 3))) == 0
