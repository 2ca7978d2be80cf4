"""Tries that grow and shrink against tries built from scratch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from genrec.decoding import PrefixTrie, beam_search, default_tie_order, exact_parallel_search
from genrec.errors import DataError

FULL = 1000  # wider than any trie here


class RandomDecoder:
    """The same log-probabilities for a code whatever came before it."""

    def __init__(self, levels):
        self.levels = levels

    def first(self):
        return self.levels[0], None

    def next(self, state, parent, code, level):
        return self.levels[level][:, None].expand(-1, parent.shape[1], -1), None

    def select(self, rows):
        return RandomDecoder([level[rows] for level in self.levels])


def assert_same_tries(a: PrefixTrie, b: PrefixTrie, number: np.ndarray) -> None:
    """``a`` is ``b``, whose item ``i`` has the number ``number[i]`` in ``a``."""
    assert a.live is None
    assert b.live is None
    assert (a.num_nodes, a.max_branch) == (b.num_nodes, b.max_branch)
    pairs = [*zip(a.tokens, b.tokens, strict=True), *zip(a.pointers, b.pointers, strict=True)]
    pairs += zip(a.item_starts, b.item_starts, strict=True)
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert a.leaf_items.tolist() == number[b.leaf_items.numpy()].tolist()
    assert torch.equal(a.item_position[number], b.item_position)
    assert torch.equal(a.item_leaf[number], b.item_leaf)
    assert torch.equal(a.leaf_tie.argsort(), b.leaf_tie.argsort())
    assert torch.equal(a.tie_order[number].argsort(), b.tie_order.argsort())
    assert torch.equal(a.leaf_tie.long(), a.tie_order[a.leaf_items[a.item_starts[-1][:-1].long()]])


class ChangingTrie(RuleBasedStateMachine):
    """The model is a list of tuples and the order of all item numbers."""

    @initialize(
        sizes=st.lists(st.sampled_from([1, 2, 3, 5, 300]), min_size=1, max_size=4),
        count=st.integers(1, 20),
        seed=st.integers(0, 2**32 - 1),
    )
    def build(self, sizes, count, seed):
        self.sizes, self.rng = tuple(sizes), np.random.default_rng(seed)
        self.codes = self.draw_codes(count)
        self.order = self.rng.permutation(count).tolist()  # item numbers, best first
        self.removed: set[int] = set()
        self.trie = PrefixTrie.from_codes(self.codes, sizes, np.argsort(self.order))

    def draw_codes(self, count):
        return [[int(self.rng.integers(0, min(s, 6))) for s in self.sizes] for _ in range(count)]

    @rule(count=st.integers(1, 8))
    def add(self, count):
        old = len(self.codes)
        self.codes += self.draw_codes(count)
        for item in range(old, old + count):
            self.order.insert(int(self.rng.integers(0, len(self.order) + 1)), item)
        ranks = np.argsort(self.order)
        self.trie = self.trie.add(self.codes[old:], ranks[old:])
        assert self.trie.tie_order.tolist() == ranks.tolist()

    @precondition(lambda self: len(self.removed) < len(self.codes))
    @rule(share=st.sampled_from([0.05, 0.3, 1.0]))
    def remove(self, share):
        live = sorted(set(range(len(self.codes))) - self.removed)
        some = self.rng.permutation(live)[: max(1, int(share * len(live)))]
        before = self.trie
        kept = before.item_leaf.clone(), before.leaf_tie.clone(), before.num_live
        self.trie = before.remove(some)
        self.removed |= set(some.tolist())
        assert torch.equal(before.item_leaf, kept[0])
        assert torch.equal(before.leaf_tie, kept[1])
        assert before.num_live == kept[2]
        gone = self.trie.num_positions - self.trie.num_live
        assert self.trie.num_live == 0 or gone <= 0.25 * self.trie.num_positions

    @rule()
    def compact(self):
        self.trie = self.trie.compact()
        if self.trie.num_live:
            assert self.trie.num_positions == self.trie.num_live

    @invariant()
    def equals_a_trie_from_scratch(self):
        trie, number = self.trie, np.array(sorted(set(range(len(self.codes))) - self.removed))
        assert trie.num_items == len(self.codes)
        assert trie.num_live == len(number)
        gone = sorted(self.removed)
        assert (trie.item_leaf[gone] == -1).all()
        assert (trie.item_position[gone] == -1).all()
        logits = [torch.from_numpy(self.rng.normal(size=(2, size)) * 2) for size in self.sizes]
        # multiples of 1/4: sums are exact and ties frequent
        levels = [(level.float().log_softmax(1) * 4).round() / 4 for level in logits]
        decoder = RandomDecoder(levels)
        if len(number) == 0:
            for result in (
                beam_search(decoder, trie, k=2, beam_width=3),
                exact_parallel_search(levels, trie, k=2),
            ):
                assert (result.items == -1).all()
                assert result.certified.all()
            return
        codes = np.array([self.codes[item] for item in number])
        rank = np.argsort(np.argsort(np.argsort(self.order)[number]))
        fresh = PrefixTrie.from_codes(codes, self.sizes, rank)
        assert_same_tries(trie.compact(), fresh, number)
        assert (trie.lookup(codes) == trie.item_leaf[number]).all()
        missing = [row for row in self.codes if row not in codes.tolist()]
        if missing:
            assert (trie.lookup(missing) == -1).all()
        for leaf in trie.lookup(codes[:3]).tolist():
            row = trie.leaf_codes(torch.tensor(leaf)).tolist()
            mine = fresh.bucket(int(fresh.lookup(row)))
            assert trie.bucket(leaf).tolist() == number[mine.numpy()].tolist()
        seen = number[self.rng.integers(0, len(number), (2, 3))]
        exclude = torch.from_numpy(seen)
        there = torch.from_numpy(np.searchsorted(number, seen))
        name = torch.from_numpy(np.append(number, -1))
        for renormalize in (False, True):
            options = {"k": 5, "beam_width": FULL, "renormalize": renormalize}
            mine = beam_search(decoder, trie, exclude=exclude, **options)
            true = beam_search(decoder, fresh, exclude=there, **options)
            compare(mine, true, name)
        mine = exact_parallel_search(levels, trie, k=5, exclude=exclude)
        compare(mine, exact_parallel_search(levels, fresh, k=5, exclude=there), name)


def compare(mine, true, name) -> None:
    assert torch.equal(mine.items, name[true.items])
    for field in ("scores", "leaf_scores", "leaf_sizes", "certified"):
        assert torch.equal(getattr(mine, field), getattr(true, field)), field
    assert torch.allclose(mine.leaked, true.leaked, atol=1e-5)


TestChangingTrie = ChangingTrie.TestCase
TestChangingTrie.settings = settings(max_examples=25, stateful_step_count=6, deadline=None)


def test_adding_in_steps_ends_in_the_default_order():
    codes = np.random.default_rng(0).integers(0, 7, (500, 3))
    trie = PrefixTrie.from_codes(codes[:100], [7, 7, 7])
    for start in (100, 101, 300):
        stop = {100: 101, 101: 300, 300: 500}[start]
        trie = trie.add(codes[start:stop])
    assert trie.tie_order.tolist() == default_tie_order(500).tolist()
    assert_same_tries(trie, PrefixTrie.from_codes(codes, [7, 7, 7]), np.arange(500))


def test_removing_shares_the_nodes_and_compacts_when_a_quarter_is_gone():
    trie = PrefixTrie.from_codes(np.random.default_rng(0).integers(0, 4, (40, 3)), [4, 4, 4])
    some = trie.remove(range(10))
    assert some.tokens[0] is trie.tokens[0]
    assert some.leaf_items is trie.leaf_items
    assert (some.num_positions, some.num_live) == (40, 30)
    assert some.nbytes > trie.nbytes
    assert "items=30" in repr(some)
    more = some.remove([10])
    assert more.live is None
    assert (more.num_items, more.num_positions, more.num_live) == (40, 29, 29)
    assert trie.compact() is trie
    moved = some.to("meta")
    assert moved.live is not None
    assert moved.live.words.device.type == "meta"


def test_renumbering_drops_the_numbers_of_removed_items():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (40, 3))
    tie = rng.permutation(40)
    trie = PrefixTrie.from_codes(codes, [4, 4, 4], tie)
    assert trie.renumber(range(40)) is trie
    left = rng.permutation(40)[:33]
    gone = sorted(set(range(40)) - set(left.tolist()))
    fresh = PrefixTrie.from_codes(codes[left], [4, 4, 4], np.argsort(np.argsort(tie[left])))
    assert_same_tries(trie.remove(gone).renumber(left), fresh, np.arange(33))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([0, 1, 3, 3], "once; item 4 is not among them"),
        ([0, 1, 3], "once; item 4 is not among them"),
        ([0, 1, 3, 4, 4], "shape .5,.: expected each of the 4 items of the trie once; others are"),
        ([0, 1, 3, 4, 9], "others are"),
        ([0, 1, 2, 3, 4], "others are"),
        ([0, 1, 3, 4, 2], "others are"),
    ],
)
def test_renumbering_needs_every_item_once(items, message):
    trie = PrefixTrie.from_codes([[0], [1], [1], [2], [0]], [3]).remove([2]).compact()
    with pytest.raises(DataError, match=message):
        trie.renumber(items)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([0, 4], r"item 4 is outside 0\.\.3"),
        ([-1], r"item -1 is outside 0\.\.3"),
        ([2], "item 2 was removed before"),
        ([[0]], "expected a list of item numbers"),
        ([0.0], "item of type float64: expected integers"),
    ],
)
def test_removing_what_is_not_there_is_an_error(items, message):
    trie = PrefixTrie.from_codes([[0], [1], [1], [2]], [3]).remove([2])
    with pytest.raises(DataError, match=message):
        trie.remove(items)


@pytest.mark.parametrize(
    ("codes", "ranks", "message"),
    [
        ([[0, 3]], None, r"row 0, level 1: code 3 is outside 0\.\.2"),
        ([[0]], None, "1 levels but 2 codebook sizes"),
        (np.zeros((0, 2), dtype=int), None, "expected one row of codes per item"),
        ([[0, 1]], [3], r"tie_ranks, row 0: rank 3 is outside 0\.\.2"),
        ([[0, 1]], [0, 1], "tie_ranks of shape"),
        ([[0, 1], [0, 1]], [2, 2], "tie_ranks: rank 2 in rows 0 and 1"),
    ],
)
def test_adding_malformed_items_is_an_error(codes, ranks, message):
    trie = PrefixTrie.from_codes([[0, 0], [1, 2]], [2, 3])
    with pytest.raises(DataError, match=message):
        trie.add(codes, ranks)
