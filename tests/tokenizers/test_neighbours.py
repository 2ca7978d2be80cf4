from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import rankdata

from genrec.data import Histories, leave_one_out
from genrec.tokenizers import SidVocabulary
from genrec.tokenizers.neighbours import Sample, nearest_shares, neighbours

K = 5


def everything(num_items, pairs=400):
    return Sample.draw(num_items, queries=num_items, pairs=pairs, seed=0)


def shares_of(distances, k):
    """Probability of each index to be among the k smallest, by walking groups of equals."""
    found, left = [0.0] * len(distances), k
    for value in sorted(set(distances)):
        group = [i for i, distance in enumerate(distances) if distance == value]
        for i in group:
            found[i] = min(1.0, left / len(group))
        left -= min(left, len(group))
    return found


def common(a, b):
    length = 0
    for x, y in zip(a, b, strict=True):
        if x != y:
            break
        length += 1
    return length


def reference(distances, truth_distances, k):
    """Mean expected overlap of two distance matrices, one query after the other."""
    total = 0.0
    for query in range(len(distances)):
        others = [i for i in range(len(distances)) if i != query]
        near = shares_of([distances[query][i] for i in others], k)
        true = shares_of([truth_distances[query][i] for i in others], k)
        total += sum(a * b for a, b in zip(near, true, strict=True)) / k
    return total / len(distances)


def squares(space):
    """Squared distances with equals made equal: the same two rows give the same number."""
    return [[round(float(np.square(a - b).sum()), 9) for b in space] for a in space]


@pytest.mark.parametrize("policy", ["allow", "append"])
def test_overlap_with_the_vectors_equals_loops(vocabularies, vectors, policy):
    vocabulary = vocabularies[policy]
    found = neighbours(vocabulary, vectors, everything(120), k=K)
    decoded = vocabulary.quantizer.decode(vocabulary.codes[:, :3]).astype(np.float64)
    truth = squares(vectors.astype(np.float64))
    prefix = [[-common(a, b) for b in vocabulary.codes] for a in vocabulary.codes]
    assert found["vectors"]["reconstruction"] == pytest.approx(
        reference(squares(decoded), truth, K), abs=1e-9
    )
    assert found["vectors"]["prefix"] == pytest.approx(reference(prefix, truth, K), abs=1e-9)
    assert found["vectors"]["chance"] == K / 119
    assert (found["k"], found["queries"], found["candidates"]) == (K, 120, 120)
    assert "co_consumption" not in found


def test_rank_correlation_equals_its_definition(vocabularies, vectors):
    vocabulary = vocabularies["allow"]
    sample = everything(120)
    decoded = vocabulary.quantizer.decode(vocabulary.codes).astype(np.float64)
    before, after = [], []
    for a, b in sample.pairs:
        assert a != b
        before.append(np.square(vectors[a].astype(np.float64) - vectors[b]).sum())
        after.append(np.square(decoded[a] - decoded[b]).sum())
    expected = np.corrcoef(rankdata(before), rankdata(after))[0, 1]
    found = neighbours(vocabulary, vectors, sample, k=K)["vectors"]
    assert found["spearman"] == pytest.approx(expected, abs=1e-6)
    assert found["pairs"] == len(sample.pairs)


def test_overlap_with_items_taken_together_equals_loops(vocabularies, vectors):
    rng = np.random.default_rng(1)
    # The last 20 items occur in no history, and one user takes an item twice.
    lists = [rng.integers(0, 100, rng.integers(3, 9)).tolist() for _ in range(60)]
    lists[0] = [1, 1, 2, 3, 4, 5]
    histories = Histories.from_lists(lists)
    split = leave_one_out(histories)
    vocabulary = vocabularies["allow"]
    found = neighbours(vocabulary, vectors, everything(120), k=K, histories=histories, split=split)[
        "co_consumption"
    ]
    spaces = {
        "vectors": squares(vectors.astype(np.float64)),
        "reconstruction": squares(vocabulary.quantizer.decode(vocabulary.codes).astype(float)),
        "prefix": [[-common(a, b) for b in vocabulary.codes] for a in vocabulary.codes],
    }
    totals, asked = dict.fromkeys(spaces, 0.0), 0
    for query in range(120):
        others = [i for i in range(120) if i != query]
        users = [set(history[:-2]) for history in lists if query in history[:-2]]
        counts = [sum(other in user for user in users) for other in others]
        true = [
            share * (count > 0)
            for share, count in zip(shares_of([-c for c in counts], K), counts, strict=True)
        ]
        if not sum(true):
            continue
        asked += 1
        for name, distances in spaces.items():
            near = shares_of([distances[query][i] for i in others], K)
            totals[name] += sum(a * b for a, b in zip(near, true, strict=True)) / sum(true)
    assert found["queries"] == asked < 120
    assert found["users"] == 60
    for name, total in totals.items():
        assert found[name] == pytest.approx(total / asked, abs=1e-9)


def test_equals_share_the_last_places():
    distances = np.array([[0, 1, 2, 2, 2, 9], [5, 0, 5, 5, 5, 5]])
    shares = nearest_shares(distances, 0.0, np.array([0, 1]), 2)
    assert shares[0].tolist() == pytest.approx([0, 1, 1 / 3, 1 / 3, 1 / 3, 0])
    assert shares[1].tolist() == pytest.approx([0.4, 0, 0.4, 0.4, 0.4, 0.4])
    slack = np.array([[0.5], [0.5]])
    nearly = nearest_shares(distances + 0.1 * np.arange(6), slack, np.array([0, 1]), 2)
    assert np.array_equal(nearly, shares)


def test_the_order_of_the_items_changes_nothing(vocabularies, vectors):
    vocabulary = vocabularies["allow"]
    order = np.random.default_rng(3).permutation(120)
    turned = SidVocabulary(
        vocabulary.codes[order],
        vocabulary.item_ids[order],
        vocabulary.codebook_sizes,
        quantizer=vocabulary.quantizer,
    )
    one = neighbours(vocabulary, vectors, everything(120), k=K)["vectors"]
    two = neighbours(turned, vectors[order], everything(120), k=K)["vectors"]
    assert one["reconstruction"] == pytest.approx(two["reconstruction"], abs=1e-12)
    assert one["prefix"] == pytest.approx(two["prefix"], abs=1e-12)


def test_without_a_quantizer_prefixes_remain(vocabularies, vectors):
    vocabulary = vocabularies["allow"]
    bare = SidVocabulary(vocabulary.codes, vocabulary.item_ids, vocabulary.codebook_sizes)
    found = neighbours(bare, vectors, everything(120), k=K)
    assert found["vectors"].keys() == {"prefix", "chance"}
    whole = neighbours(vocabulary, vectors, everything(120), k=K)
    assert found["vectors"]["prefix"] == whole["vectors"]["prefix"]
    assert neighbours(bare, None, everything(120)).keys() == {"k", "queries", "candidates"}


def test_few_items_and_nobody_who_took_two(vocabularies, vectors):
    one = SidVocabulary([[0]], ["a"], [1])
    sample = Sample.draw(1, queries=9, pairs=9, seed=0)
    assert len(sample.pairs) == 0
    found = neighbours(one, np.ones((1, 2)), sample)
    assert found == {"k": 0, "queries": 1, "candidates": 1}
    lonely = Histories.from_lists([[number] for number in range(120)])
    found = neighbours(vocabularies["allow"], vectors, everything(120), histories=lonely)
    assert found["co_consumption"]["queries"] == 0
    assert found["co_consumption"]["prefix"] is None
    same = neighbours(vocabularies["allow"], np.ones_like(vectors), everything(120), k=K)
    assert same["vectors"]["spearman"] is None


def test_samples_are_seeded_sorted_and_as_large_as_asked():
    draws = [
        Sample.draw(1000, queries=30, pairs=50, seed=seed, candidates=200) for seed in (1, 1, 2)
    ]
    for sample in draws:
        assert len(sample.candidates) == 200 and len(sample.queries) == 30
        assert all(a < b for a, b in pairwise(sample.candidates.tolist()))
        assert sample.queries.max() < 200 and sample.pairs.max() < 200
        assert len(sample.pairs) == 50
    assert np.array_equal(draws[0].candidates, draws[1].candidates)
    assert np.array_equal(draws[0].pairs, draws[1].pairs)
    assert not np.array_equal(draws[0].candidates, draws[2].candidates)


def test_a_sample_is_near_the_whole(vocabularies, vectors):
    vocabulary = vocabularies["allow"]
    sample = Sample.draw(120, queries=60, pairs=400, seed=5)
    some = neighbours(vocabulary, vectors, sample, k=K)["vectors"]
    whole = neighbours(vocabulary, vectors, everything(120), k=K)["vectors"]
    assert some["reconstruction"] == pytest.approx(whole["reconstruction"], abs=0.1)
