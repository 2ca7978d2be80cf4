import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import Histories, leave_one_out
from genrec.embedding import CollaborativeEmbedder
from genrec.embedding.collaborative import cooccurrence, positive_pmi, training_positions
from genrec.errors import ConfigError, DataError

lists = st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=6)


def slow_cooccurrence(rows, num_items, window, weighting):
    counts = np.zeros((num_items, num_items))
    for row in rows:
        for i, left in enumerate(row):
            for j, right in enumerate(row):
                if 0 < abs(i - j) <= window and left != right:
                    counts[left, right] += 1 / abs(i - j) if weighting == "harmonic" else 1
    return counts


def slow_ppmi(counts, shift, smoothing):
    frequency = counts.sum(axis=1)
    context = frequency**smoothing / (frequency**smoothing).sum()
    result = np.zeros_like(counts)
    for i in range(len(counts)):
        for j in range(len(counts)):
            if counts[i, j] > 0:
                joint = counts[i, j] / counts.sum()
                marginal = frequency[i] / counts.sum()
                result[i, j] = max(0, np.log(joint / (marginal * context[j])) - np.log(shift))
    return result


@settings(max_examples=40, deadline=None)
@given(lists, st.integers(1, 10), st.sampled_from(["harmonic", "flat"]))
def test_cooccurrence_agrees_with_the_slow_reference(rows, window, weighting):
    items = np.array([x for row in rows for x in row], dtype=np.int32)
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    fast = cooccurrence(items, users, 7, window, weighting).toarray()
    np.testing.assert_allclose(fast, slow_cooccurrence(rows, 7, window, weighting), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(lists, st.sampled_from([1.0, 2.0]), st.sampled_from([1.0, 0.75]))
def test_positive_pmi_agrees_with_the_slow_reference(rows, shift, smoothing):
    counts = slow_cooccurrence(rows, 7, 3, "harmonic")
    if counts.any():
        fast = positive_pmi(sp.csr_matrix(counts), shift=shift, smoothing=smoothing).toarray()
        np.testing.assert_allclose(fast, slow_ppmi(counts, shift, smoothing), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_training_positions_agree_with_ranges(pairs):
    start = np.array([10 * n + a for n, (a, _) in enumerate(pairs)], dtype=np.int64)
    end = np.array([10 * n + a + b for n, (a, b) in enumerate(pairs)], dtype=np.int64)
    positions, users = training_positions(start, end)
    expected = [
        (u, p) for u, (a, b) in enumerate(zip(start, end, strict=True)) for p in range(a, b)
    ]
    assert list(zip(users.tolist(), positions.tolist(), strict=True)) == expected


def test_neighbours_in_histories_are_neighbours_in_space(catalog):
    rng = np.random.default_rng(0)
    groups = [rng.integers(0, 2) for _ in range(300)]
    rows = [(rng.permutation(20)[:8] + 20 * g).tolist() for g in groups]
    histories = Histories.from_lists(rows)
    vectors = CollaborativeEmbedder(dim=8).embed(
        catalog, histories=histories, split=leave_one_out(histories)
    )
    similarity = vectors.vectors @ vectors.vectors.T
    assert similarity[:20, :20].mean() > similarity[:20, 20:].mean() + 0.2


def test_only_training_events_are_read(catalog, histories, split):
    changed = histories.items.copy()
    held_out = np.ones(len(changed), dtype=bool)
    held_out[training_positions(split.train_start, split.train_end)[0]] = False
    changed[held_out] = 0
    other = Histories(histories.offsets, changed)
    first = CollaborativeEmbedder(dim=8).embed(catalog, histories=histories, split=split)
    second = CollaborativeEmbedder(dim=8).embed(catalog, histories=other, split=split)
    assert first.fingerprint == second.fingerprint


def test_cold_items_are_zero_and_counted(catalog, histories, split):
    embedded = CollaborativeEmbedder(dim=8).embed(catalog, histories=histories, split=split)
    counts = split.train_counts(histories, len(catalog))
    zero = ~embedded.vectors.any(axis=1)
    assert zero[counts == 0].all()
    report = embedded.config["report"]
    assert report["items_without_training_events"] == (counts == 0).sum() >= 4
    assert report["zero_vectors"] == zero.sum()
    assert report["training_events"] == counts.sum()
    np.testing.assert_allclose(np.linalg.norm(embedded.vectors[~zero], axis=1), 1, atol=1e-5)


def test_needs_histories_and_a_split(catalog, histories):
    with pytest.raises(ConfigError, match="split"):
        CollaborativeEmbedder().embed(catalog, histories=histories)


def test_histories_without_a_pair_are_an_error(catalog):
    histories = Histories.from_lists([[1, 1, 1, 1], [2, 3, 4]])
    with pytest.raises(DataError, match="window=5"):
        CollaborativeEmbedder().embed(catalog, histories=histories, split=leave_one_out(histories))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dim", 0),
        ("window", 0),
        ("shift", 0),
        ("smoothing", 0),
        ("smoothing", 2),
        ("weighting", "x"),
    ],
)
def test_impossible_arguments_are_named(name, value):
    with pytest.raises(ConfigError, match=name):
        CollaborativeEmbedder(**{name: value})
