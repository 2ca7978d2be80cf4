from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.quantization import make_quantizer
from genrec.tokenizers import build_vocabulary, make_tie_order, resolve_collisions, sinkhorn
from genrec.tokenizers.collisions import colliding_items
from genrec.tokenizers.sinkhorn import sinkhorn_codes

EPSILON = 0.1  # products of this size can be computed without logarithms, as the reference does


def sinkhorn_slowly(codes, sizes, tie_order, quantizer, vectors, taken=(), iterations=50):
    """Prefix after prefix, item after item, as the module's first paragraph says."""
    new = np.array(codes)
    everyone = [*map(tuple, codes.tolist()), *map(tuple, taken)]
    groups = defaultdict(list)
    for item in np.argsort(tie_order).tolist():
        if everyone.count(everyone[item]) > 1:
            groups[everyone[item][:-1]].append(item)
    for prefix, items in groups.items():
        others = [row for n, row in enumerate(everyone) if row[:-1] == prefix and n not in items]
        free = sorted(set(range(sizes[-1])) - {row[-1] for row in others})
        free = free or list(range(sizes[-1]))
        costs = quantizer.level_distances(vectors[items], codes[items][:, :-1])[:, free]
        costs = costs.astype(np.float64)
        spread = (costs.max() - costs.min()) / 2
        kernel = np.exp(-(costs - costs.min() - spread) / (spread or 1) / EPSILON)
        share = math.ceil(len(items) / len(free))
        v = np.ones(len(free))
        for _ in range(iterations):
            u = 1 / (kernel @ v)
            v = np.minimum(1, share / (kernel.T @ u))
        mass = u[:, None] * kernel * v
        room = dict.fromkeys(range(len(free)), share)
        waiting = list(range(len(items)))
        while waiting:
            open_codes = [code for code, left in room.items() if left]
            wishes = [(-max(mass[n, open_codes]), n) for n in waiting]
            for heavy, n in sorted(wishes):
                code = min(c for c in open_codes if mass[n, c] == -heavy)
                if room[code]:
                    room[code] -= 1
                    new[items[n], -1] = free[code]
                    waiting.remove(n)
    return new


def case(given_codebooks, seed, num_items=30, num_taken=0, sizes=(2, 2, 6)):
    rng = np.random.default_rng(seed)
    quantizer = given_codebooks.random(sizes, 3, seed)
    centres = rng.normal(size=(5, 3))[rng.integers(0, 5, num_items)]
    vectors = (centres + 0.1 * rng.normal(size=(num_items, 3))).astype(np.float32)
    taken = rng.integers(0, sizes, (num_taken, len(sizes)))
    return quantizer.encode(vectors), sizes, rng.permutation(num_items), quantizer, vectors, taken


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(0, 10))
def test_equals_the_slow_version(given_codebooks, seed, num_items, num_taken):
    *parts, taken = case(given_codebooks, seed, num_items, num_taken)
    fast = sinkhorn_codes(*parts, taken=taken, epsilon=EPSILON)
    assert fast.tolist() == sinkhorn_slowly(*parts, taken=taken.tolist()).tolist()


@pytest.mark.parametrize("block", [1, 64, 1000])
def test_the_blocks_do_not_matter(given_codebooks, monkeypatch, block):
    *parts, taken = case(given_codebooks, 1, 300, 20, (4, 4, 32))
    expected = sinkhorn_codes(*parts, taken=taken)
    monkeypatch.setattr(sinkhorn, "BLOCK", block)
    assert (sinkhorn_codes(*parts, taken=taken) == expected).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 80),
    st.integers(1, 6),
    st.integers(0, 10_000),
)
def test_balanced_and_nothing_else_moves(given_codebooks, sizes, num_items, num_distinct, seed):
    rng = np.random.default_rng(seed)
    quantizer = given_codebooks.random(sizes, 3, seed)
    some = rng.normal(size=(num_distinct, 3)).astype(np.float32)
    vectors = some[rng.integers(0, num_distinct, num_items)]
    codes = quantizer.encode(vectors)
    new = sinkhorn_codes(codes, tuple(sizes), rng.permutation(num_items), quantizer, vectors)
    assert (new[:, :-1] == codes[:, :-1]).all()
    rows = list(map(tuple, codes.tolist()))
    alone = np.array([rows.count(row) == 1 for row in rows])
    assert (new[alone] == codes[alone]).all()
    for prefix in {row[:-1] for row in rows}:
        group = np.array([row[:-1] == prefix for row in rows])
        free = sizes[-1] - (group & alone).sum()
        if not (group & ~alone).any():
            continue
        counts = np.bincount(new[group & ~alone, -1])
        assert counts.max() == math.ceil((group & ~alone).sum() / free)
        if group.sum() <= sizes[-1]:
            assert len(set(new[group, -1].tolist())) == group.sum()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_the_items_does_not_matter(given_codebooks, seed):
    codes, sizes, ties, quantizer, vectors, _ = case(given_codebooks, seed, 60)
    shuffle = np.random.default_rng(seed).permutation(60)
    one = sinkhorn_codes(codes, sizes, ties, quantizer, vectors)
    other = sinkhorn_codes(codes[shuffle], sizes, ties[shuffle], quantizer, vectors[shuffle])
    assert (other == one[shuffle]).all()


def test_cheap_where_there_is_room(given_codebooks):
    quantizer = given_codebooks([[[0.0]], [[0.0], [1.0], [2.0], [9.0]]])
    vectors = np.array([[0.1], [0.4], [2.0], [0.3]], dtype=np.float32)
    codes = quantizer.encode(vectors)
    assert codes[:, 1].tolist() == [0, 0, 2, 0]
    new = sinkhorn_codes(codes, (1, 4), np.arange(4), quantizer, vectors)
    # The item nearest to code 1 has it; code 2 is another item's, so somebody goes to code 3.
    assert new[1, 1] == 1 and new[2, 1] == 2
    assert sorted(new[:, 1].tolist()) == [0, 1, 2, 3]


def test_in_a_vocabulary(vectors, item_ids):
    quantizer = make_quantizer("rq-kmeans", codebook_sizes=[8, 8, 8]).fit(vectors)
    plain = build_vocabulary(vectors, item_ids, quantizer, collisions="allow", fit=False)
    made = build_vocabulary(vectors, item_ids, quantizer, collisions="sinkhorn", fit=False)
    report = made.config["collisions"]
    assert made.collision_policy == "sinkhorn"
    assert report["colliding_items_before"] == (plain.bucket_sizes > 1).sum()
    assert report["colliding_items_after"] == (made.bucket_sizes > 1).sum()
    assert report["colliding_items_after"] < report["colliding_items_before"]
    assert report["moved_to_another_prefix"] == 0
    cheapest = resolve_collisions(
        "reassign",
        plain.codes,
        (8, 8, 8),
        make_tie_order(item_ids),
        quantizer=quantizer,
        vectors=vectors,
    )
    assert colliding_items(cheapest.codes, (8, 8, 8)) == 0
    assert report["distortion_after"] > report["distortion_before"]
