from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import ConfigError
from genrec.quantization import RQKMeans, load_quantizer, make_quantizer
from genrec.tokenizers import SidVocabulary, build_vocabulary, make_tie_order, resolve_collisions
from genrec.tokenizers.collisions import colliding_items, mean_squared_distance
from genrec.tokenizers.reassign import _spread, reassign_codes


def reassign(quantizer, vectors, ids=None):
    ids = np.arange(len(vectors)) if ids is None else ids
    codes = quantizer.encode(vectors)
    tie_order = make_tie_order(ids)
    return codes, reassign_codes(codes, quantizer.codebook_sizes, tie_order, quantizer, vectors)


def distinct(codes):
    return len(set(map(tuple, codes.tolist())))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(6, 7), st.integers(0, 10_000))
def test_one_group_is_matched_at_least_cost(given_codebooks, num_items, size, seed):
    quantizer = given_codebooks.random((1, size), 3, seed)
    vectors = np.random.default_rng(seed).normal(size=(num_items, 3)).astype(np.float32)
    codes, new = reassign(quantizer, vectors)
    if distinct(codes) == num_items:
        assert (new == codes).all()
        return
    costs = quantizer.level_distances(vectors, codes[:, :1]).astype(np.float64)
    rows = np.arange(num_items)
    best = min(
        costs[rows, list(choice)].sum() for choice in itertools.permutations(range(size), num_items)
    )
    assert distinct(new) == num_items
    assert costs[rows, new[:, 1]].sum() == pytest.approx(best, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.integers(1, 80),
    st.integers(1, 5),
    st.integers(0, 10_000),
)
def test_own_tuples_where_the_space_allows(given_codebooks, sizes, num_items, num_distinct, seed):
    rng = np.random.default_rng(seed)
    quantizer = given_codebooks.random(sizes, 3, seed)
    some = rng.normal(size=(num_distinct, 3)).astype(np.float32)
    vectors = some[rng.integers(0, num_distinct, num_items)]
    codes, new = reassign(quantizer, vectors)
    assert ((new >= 0) & (new < sizes)).all()
    assert distinct(new) == min(num_items, math.prod(sizes))
    if num_items > math.prod(sizes):
        kept = (new == codes).all(axis=1).sum()
        assert kept >= num_items - math.prod(sizes)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 40),
    st.integers(0, 40),
    st.integers(0, 10_000),
)
def test_tuples_that_are_taken_stay_taken(given_codebooks, sizes, num_items, num_taken, seed):
    rng = np.random.default_rng(seed)
    quantizer = given_codebooks.random(sizes, 3, seed)
    vectors = rng.normal(size=(6, 3)).astype(np.float32)[rng.integers(0, 6, num_items)]
    taken = rng.integers(0, sizes, (num_taken, len(sizes)))
    codes = quantizer.encode(vectors)
    tie_order = make_tie_order(np.arange(num_items))
    new = reassign_codes(
        codes, quantizer.codebook_sizes, tie_order, quantizer, vectors, taken=taken
    )
    free = math.prod(sizes) - len(set(map(tuple, taken.tolist())))
    placed = set(map(tuple, new.tolist())) - set(map(tuple, taken.tolist()))
    assert len(placed) == min(free, num_items)
    if free >= num_items:
        assert distinct(np.concatenate([new, taken])) == num_items + distinct(taken)
    collides = np.array([tuple(row) in set(map(tuple, taken.tolist())) for row in codes.tolist()])
    if not collides.any() and distinct(codes) == num_items:
        assert (new == codes).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 10_000))
def test_one_group_is_matched_at_least_cost_to_what_is_free(
    given_codebooks, num_items, num_taken, seed
):
    quantizer = given_codebooks.random((1, 7), 3, seed)
    vectors = np.random.default_rng(seed).normal(size=(num_items, 3)).astype(np.float32)
    codes = quantizer.encode(vectors)
    held = np.unique([codes[0, 1], *range(num_taken)])
    taken = np.column_stack([np.zeros_like(held), held])
    new = reassign_codes(codes, (1, 7), np.arange(num_items), quantizer, vectors, taken=taken)
    costs = quantizer.level_distances(vectors, codes[:, :1]).astype(np.float64)
    rows = np.arange(num_items)
    free = sorted(set(range(7)) - set(held.tolist()))
    best = min(costs[rows, list(c)].sum() for c in itertools.permutations(free, num_items))
    assert costs[rows, new[:, 1]].sum() == pytest.approx(best, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000))
def test_the_order_of_the_items_does_not_matter(given_codebooks, num_items, seed):
    rng = np.random.default_rng(seed)
    quantizer = given_codebooks.random((3, 3, 4), 2, seed)
    vectors = rng.normal(size=(5, 2)).astype(np.float32)[rng.integers(0, 5, num_items)]
    ids = np.arange(num_items) * 7
    shuffle = rng.permutation(num_items)
    _, new = reassign(quantizer, vectors, ids)
    _, shuffled = reassign(quantizer, vectors[shuffle], ids[shuffle])
    assert (shuffled == new[shuffle]).all()


def test_groups_without_collisions_stay_as_they_are(given_codebooks):
    rng = np.random.default_rng(0)
    quantizer = given_codebooks.random((8, 8, 32), 4, 0)
    vectors = rng.normal(size=(150, 4)).astype(np.float32)
    codes, new = reassign(quantizer, vectors)
    prefixes = [tuple(row) for row in codes[:, :2].tolist()]
    collided = {
        prefix
        for prefix in set(prefixes)
        if distinct(group := codes[[p == prefix for p in prefixes]]) < len(group)
    }
    untouched = np.array([prefix not in collided for prefix in prefixes])
    assert 0 < untouched.sum() < 150
    assert (new[untouched] == codes[untouched]).all()
    assert (new[:, :2] == codes[:, :2]).all()
    assert distinct(new) == 150


def test_an_item_that_does_not_collide_moves_if_that_is_cheaper_overall(given_codebooks):
    codebook = np.array([[0.0], [1.0], [9.0]])
    vectors = np.array([[0.0], [0.1], [1.4]], dtype=np.float32)
    quantizer = given_codebooks([[[0.0]], codebook])
    codes, new = reassign(quantizer, vectors)
    assert codes[:, 1].tolist() == [0, 0, 1]
    costs = quantizer.level_distances(vectors, codes[:, :1])
    best = min(itertools.permutations(range(3)), key=lambda c: costs[np.arange(3), list(c)].sum())
    assert new[:, 1].tolist() == list(best) == [0, 1, 2]


def test_overflow_goes_to_the_cheapest_neighbour_with_room(given_codebooks):
    # Prefix 0 holds five items but two tuples; prefix 1 is nearer than prefix 2, and has one place.
    quantizer = given_codebooks([[[0.0], [2.0], [5.0]], [[0.0], [0.1]]])
    vectors = np.array([[0.0], [0.05], [0.1], [0.3], [0.4], [2.0]], dtype=np.float32)
    codes, new = reassign(quantizer, vectors)
    assert codes[:, 0].tolist() == [0, 0, 0, 0, 0, 1]
    assert sorted(new[:, 0].tolist()) == [0, 0, 1, 1, 2, 2]
    # The item nearest to prefix 1 takes its one free place, the next two go to prefix 2.
    assert new[:, 0].tolist() == [0, 0, 2, 2, 1, 1]
    # Below the prefix the matching is joint: the item that was there first makes way.
    assert new[[4, 5]].tolist() == [[1, 0], [1, 1]]
    assert distinct(new) == 6


def spread_slowly(costs, own, counts, capacity):
    """The rule in words: in rounds, the cheapest leave first, and the full are asked no more."""
    target, counts = own.tolist(), counts.tolist()
    while any(count > capacity for count in counts):
        open_codes = [code for code, count in enumerate(counts) if count < capacity]
        wishes = []
        for item, code in enumerate(own.tolist()):
            if target[item] == code and counts[code] > capacity:
                best = min(open_codes, key=lambda other: (costs[item, other], other))
                wishes.append((costs[item, best] - costs[item, code], item, best))
        leaving = {code: count - capacity for code, count in enumerate(counts)}
        for _, item, best in sorted(wishes):
            code = own[item]
            if leaving[code] > 0:
                leaving[code] -= 1
                if counts[best] < capacity:
                    target[item] = best
                    counts[best] += 1
                    counts[code] -= 1
    return target


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(2, 6), st.integers(0, 10_000), st.booleans())
def test_spread_equals_its_rule(capacity, size, seed, coarse):
    rng = np.random.default_rng(seed)
    codes = np.sort(rng.integers(0, size, rng.integers(1, capacity * size + 1)) ** 2 // size)
    counts = np.bincount(codes, minlength=size)
    own = codes[counts[codes] > capacity]
    costs = rng.integers(0, 4 if coarse else 10**6, (len(own), size)).astype(np.float32)
    target = _spread(costs, own, counts, capacity)
    assert target.tolist() == spread_slowly(costs, own, counts, capacity)
    assert (target != own).sum() == np.maximum(counts - capacity, 0).sum()


def test_overflow_climbs_when_every_neighbour_is_full(given_codebooks):
    quantizer = given_codebooks([[[0.0], [8.0]], [[0.0], [1.0]], [[0.0], [0.1]]])
    vectors = np.zeros((6, 1), dtype=np.float32)
    codes, new = reassign(quantizer, vectors)
    assert distinct(codes) == 1
    assert distinct(new) == 6
    assert sorted(new[:, 0].tolist()) == [0, 0, 0, 0, 1, 1]


def test_more_items_than_tuples_are_reported_and_end(given_codebooks):
    quantizer = given_codebooks([[[0.0], [1.0]], [[0.0], [0.1]]])
    vectors = np.zeros((7, 1), dtype=np.float32)
    codes = quantizer.encode(vectors)
    tie_order = make_tie_order(np.arange(7))
    resolved = resolve_collisions(
        "reassign", codes, (2, 2), tie_order, quantizer=quantizer, vectors=vectors
    )
    assert distinct(resolved.codes) == 4
    assert resolved.report["colliding_items_before"] == 7
    assert resolved.report["colliding_items_after"] == colliding_items(resolved.codes, (2, 2)) == 4
    late = tie_order >= 4
    assert (resolved.codes[late] == codes[late]).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rq-kmeans", {"codebook_sizes": [8, 8, 8]}),
        ("opq", {"num_subspaces": 3, "codebook_size": 8}),
        ("rq-vae", {"codebook_sizes": [8, 8, 8], "hidden": [16], "latent": 4, "steps": 150}),
    ],
)
def test_report_on_a_real_quantizer(vectors, kind, options):
    quantizer = make_quantizer(kind, **options).fit(vectors)
    codes = quantizer.encode(vectors)
    resolved = resolve_collisions(
        "reassign",
        codes,
        quantizer.codebook_sizes,
        make_tie_order(np.arange(len(vectors))),
        quantizer=quantizer,
        vectors=vectors,
    )
    report = resolved.report
    assert report["colliding_items_before"] > 0 == report["colliding_items_after"]
    in_batches = mean_squared_distance(quantizer, codes, vectors, batch=7)
    assert report["distortion_before"] == pytest.approx(in_batches, rel=1e-5)
    by_hand = ((vectors - quantizer.decode(resolved.codes)) ** 2).sum(axis=1).mean()
    assert report["distortion_after"] == pytest.approx(by_hand, rel=1e-5)
    if kind != "rq-vae":  # whose costs are distances in the latent space, before its decoder
        assert report["distortion_after"] > report["distortion_before"]
    assert report["moved_items"] == (resolved.codes != codes).any(axis=1).sum()


def test_twelve_thousand_items_in_seconds(given_codebooks):
    rng = np.random.default_rng(0)
    quantizer = given_codebooks.random((256, 256, 256), 8, 0)
    some = rng.normal(size=(3000, 8)).astype(np.float32)
    vectors = some[rng.integers(0, 3000, 12_000)]
    codes = quantizer.encode(vectors)
    tie_order = make_tie_order(np.arange(12_000))
    start = time.perf_counter()
    new = reassign_codes(codes, (256, 256, 256), tie_order, quantizer, vectors)
    assert time.perf_counter() - start < 20
    assert colliding_items(codes, (256, 256, 256)) > 11_000
    assert colliding_items(new, (256, 256, 256)) == 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((8, 2), "finds 9 items in prefixes with too few tuples; .* the 8 codes of level 0 takes"),
        ((1, 16), "finds 9 items in one prefix; .* the 16 codes of level 1 takes"),
    ],
)
def test_crowds_that_would_fill_the_memory_are_refused(
    given_codebooks, monkeypatch, sizes, message
):
    quantizer = given_codebooks.random(sizes, 3, 0)
    vectors = np.ones((9, 3), dtype=np.float32)
    assert distinct(reassign(quantizer, vectors)[1]) == 9
    monkeypatch.setattr("genrec.tokenizers.reassign.LARGEST", 9 * max(sizes) - 1)
    with pytest.raises(ConfigError, match=message):
        reassign(quantizer, vectors)


@pytest.mark.slow
@pytest.mark.parametrize("balanced", [False, True])
def test_a_level_of_65535_codes(tmp_path, balanced):
    """Codes past 2 ** 15, from the fit to the tuples of the items."""
    size = 65_535
    x = np.random.default_rng(0).normal(size=(size + 65, 2)).astype(np.float32)
    quantizer = RQKMeans((size, 2), iterations=1, init="sample", balanced=balanced).fit(x)
    quantizer.save_pretrained(tmp_path / "q")
    loaded = load_quantizer(tmp_path / "q")
    books = quantizer.codebooks()
    assert [len(book) for book in books] == [size, 2]
    # Each code's own vector, far ones included, then some of them thrice more.
    some = books[0][np.r_[0:100, size - 100 : size]]
    some = np.concatenate([some, some[:20], some[:20], some[-20:]])
    codes = loaded.encode(some)
    assert np.array_equal(codes, quantizer.encode(some))
    distances = ((some[:, None].astype(np.float64) - books[0]) ** 2).sum(axis=2)
    assert np.array_equal(codes[:, 0], distances.argmin(axis=1))
    assert codes[:, 0].max() == size - 1
    made = build_vocabulary(some, np.arange(len(some)), loaded, fit=False)
    assert made.codebook_sizes == (size, 2)
    assert made.num_tuples == len(made) == 260
    assert made.config["collisions"]["moved_items"] > 0
    trie = made.trie()
    assert np.array_equal(trie.leaf_codes(trie.item_leaf.long()).numpy(), made.codes)
    made.save_pretrained(tmp_path / "v")
    again = SidVocabulary.from_pretrained(tmp_path / "v")
    assert np.array_equal(again.codes, made.codes)
    assert again.fingerprint == made.fingerprint
