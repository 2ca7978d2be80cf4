"""Bits of nodes that a filter leaves are those that a loop over each node's items finds."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import Filter, MutableTrie, PrefixTrie, filters
from genrec.decoding.filter_kernel import marks_by_node, range_ends
from tests.decoding.test_filters import setting


def looked_up(trie, depth, allowed):
    """Which nodes hold an allowed item: the slow, obvious way. ``allowed`` is bool ``[N]``."""
    starts, items = trie.item_starts[depth].tolist(), trie.leaf_items.tolist()
    there = [True] * trie.num_positions if trie.live is None else trie.live.mask()[0].tolist()
    return [
        any(there[p] and allowed[items[p]] for p in range(low, high))
        for low, high in itertools.pairwise(starts)
    ]


def bits_of(marks, count):
    """bool ``[R, count]``; no bit beyond is set."""
    bits = np.unpackbits(marks.view(np.uint8), axis=1, bitorder="little").astype(bool)
    assert not bits[:, count:].any()
    return bits[:, :count]


@st.composite
def tries(draw):
    """Buckets of one item to hundreds, families of one to 300; some removed, some with room."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = [draw(st.sampled_from([1, 2, 5, 64, 300])) for _ in range(draw(st.integers(1, 4)))]
    count = draw(st.sampled_from([1, 63, 64, 65, 128, 400]))
    codes = np.stack([rng.integers(0, size, count) for size in sizes], axis=1)
    trie = PrefixTrie.from_codes(codes, sizes)
    gone = rng.permutation(count)[: draw(st.integers(0, count - 1))]
    kind = draw(st.sampled_from(["as it is", "removed", "in place", "in place, more added"]))
    if kind == "removed":
        trie = trie.remove(gone)
    elif kind != "as it is":
        catalog = MutableTrie(trie)
        catalog.remove(gone)
        if kind.endswith("added"):
            catalog.add(np.stack([rng.integers(0, size, 30) for size in sizes], axis=1))
        trie = catalog.trie
    share = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    return trie, rng.random((draw(st.integers(1, 3)), trie.num_items)) < share


@settings(max_examples=120, deadline=None)
@given(tries())
def test_marks_are_those_looked_up(drawn):
    trie, allowed = drawn
    everywhere = Filter.from_mask(trie, allowed)
    listed = Filter.allow(trie, np.where(allowed, np.arange(trie.num_items), -1))
    for depth in range(1, trie.num_levels + 1):
        expected = [looked_up(trie, depth, row) for row in allowed]
        for some in (everywhere, listed):
            assert bits_of(some.marks[depth - 1], trie.num_nodes[depth]).tolist() == expected
    one = everywhere.select(torch.tensor([len(allowed) - 1]))
    assert bits_of(one.marks[-1], trie.num_leaves).tolist() == expected[-1:]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=80), st.integers(0, 2**32 - 1))
def test_ranges_of_any_length_and_none(lengths, seed):
    """Empty ranges, of which tries with room have many, and ranges of several words."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    rng = np.random.default_rng(seed)
    held = rng.random((2, (starts[-1] // 64 + 1) * 64)) < rng.choice([0.005, 0.5])
    held[:, starts[-1] :] = False
    words = np.packbits(held, axis=1, bitorder="little").view(np.int64)
    ends, filled = range_ends(starts, words.shape[1])
    assert filled == sum(length > 0 for length in lengths)
    found = bits_of(marks_by_node(words, ends, starts), len(lengths))
    for row in range(2):
        ranges = itertools.pairwise(starts)
        assert found[row].tolist() == [held[row, low:high].any() for low, high in ranges]


def test_a_part_of_the_users_shares_the_marks_and_some_have_none(monkeypatch):
    _, trie, rng = setting()
    mask = rng.random((5, 600)) < 0.3
    some = Filter.from_mask(trie, mask)
    part = some.select(slice(1, 3))
    assert all(np.shares_memory(*both) for both in zip(part.marks, some.marks, strict=True))
    assert some.nbytes - some.members.nbytes == sum(of.nbytes for of in some.marks)
    assert some.to("meta").marks is None
    monkeypatch.setattr(filters, "installed", lambda module: False)
    plain = Filter.from_mask(trie, mask)
    assert plain.marks is None
    assert torch.equal(plain.members.words, some.members.words)


def test_where_no_two_items_share_a_tuple_leaves_are_the_items():
    codes = np.stack(np.unravel_index(np.arange(200), (10, 20)), axis=1)
    trie = PrefixTrie.from_codes(codes, (10, 20))
    some = Filter.deny(trie, [3])
    assert np.shares_memory(some.marks[-1], some.members.words.numpy())
    assert some.nbytes == some.members.nbytes + some.marks[0].nbytes
