"""Tries that change in place against tries built from scratch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import (
    Filter,
    MutableTrie,
    PrefixTrie,
    beam_search,
    default_tie_order,
    exact_parallel_search,
    load_trie,
    mutable,
    save_trie,
    transition_tables,
)
from genrec.decoding.huggingface import SidLogitsProcessor
from genrec.decoding.updates import compacted
from genrec.errors import DataError
from tests.decoding.cases import FULL, LogitDecoder, TableDecoder, tables


@pytest.fixture(autouse=True)
def few_are_put_in(monkeypatch):
    """Tries are small here: what is added is put in, unless there is nothing to put it beside."""
    monkeypatch.setattr(mutable, "MANY", 1e9)


ARRAYS = ("leaf_items", "item_position", "item_leaf", "leaf_tie", "tie_order")


def assert_same(a: PrefixTrie, b: PrefixTrie) -> None:
    assert (a.codebook_sizes, a.num_nodes, a.num_live) == (
        b.codebook_sizes,
        b.num_nodes,
        b.num_live,
    )
    for name in ARRAYS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("tokens", "pointers", "item_starts"):
        for one, other in zip(getattr(a, name), getattr(b, name), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other), name


def assert_sound(view: PrefixTrie, whole: PrefixTrie) -> None:
    """What searches rely on, of a trie with room between its nodes."""
    for depth, starts in enumerate(view.item_starts):
        assert int(starts[0]) == 0
        assert int(starts[-1]) == view.num_positions
        held = view.live.rank(starts.long()).diff()
        assert (held >= 0).all()
        live = view.live_nodes(depth)
        assert ((held > 0) == (torch.ones_like(held) > 0 if live is None else live)).all()
    for level, pointer in enumerate(view.pointers):
        assert int(pointer[0]) == 0
        assert int(pointer[-1]) == view.num_nodes[level + 1]
        assert (pointer.diff() >= 0).all()
        assert int(pointer.diff().max()) <= view.max_branch[level]
        codes = view.level(level).codes(torch.arange(view.num_nodes[level + 1]))
        rises = codes.diff() >= 0
        rises[pointer[(pointer > 0) & (pointer < len(codes))].long() - 1] = True
        assert rises.all()
    live = (whole.item_leaf >= 0).nonzero().flatten()
    codes = whole.leaf_codes(whole.item_leaf[live])
    assert (view.lookup(codes) == view.item_leaf[live]).all()
    assert (view.leaf_codes(view.item_leaf[live]) == codes).all()
    assert (view.leaf_items[view.item_position[live].long()] == live).all()
    for leaf in view.lookup(codes[:3]).tolist():
        same = int(whole.lookup(view.leaf_codes([leaf])[0]))
        assert view.bucket(leaf).tolist() == whole.bucket(same).tolist()


class Both:
    """A `MutableTrie`, and a `PrefixTrie` that is told the same."""

    def __init__(self, rng, sizes, count, *, ties, spread=6):
        self.rng, self.sizes, self.ties = rng, sizes, ties
        self.top = [min(size, spread) for size in sizes]
        order = rng.permutation(count) if ties else None
        self.slow = PrefixTrie.from_codes(self.codes(count), sizes, order)
        self.fast = MutableTrie(self.slow)

    def codes(self, count):
        table = (self.rng.random((count, len(self.sizes))) * self.top).astype(np.int64)
        return np.repeat(table[:1], count, axis=0) if self.rng.random() < 0.2 else table

    def add(self, count):
        codes, old = self.codes(count), self.slow.num_items
        ranks = self.rng.permutation(old + count)[:count] if self.ties else None
        assert self.fast.add(codes, ranks) == range(old, old + count)
        self.slow = self.slow.add(codes, ranks)

    def remove(self, share):
        live = (self.slow.item_leaf >= 0).nonzero().flatten().numpy()
        gone = self.rng.permutation(live)[: max(1, int(share * len(live)))]
        self.fast.remove(gone)
        self.slow = self.slow.remove(gone)

    def whole(self) -> PrefixTrie:
        """The same items in a trie without removed ones."""
        return self.slow if self.slow.live is None else PrefixTrie(**compacted(self.slow))


@st.composite
def changed(draw, sizes=(1, 2, 3, 5, 40, 300), steps=6, check=None):
    """Both tries after changes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.lists(st.sampled_from(sizes), min_size=1, max_size=4)))
    spread = draw(st.sampled_from([4, 40]))
    both = Both(rng, shape, draw(st.integers(1, 60)), ties=draw(st.booleans()), spread=spread)
    for _ in range(draw(st.integers(1, steps))):
        share = draw(st.sampled_from([0.0, 0.0, 0.05, 0.3, 1.0]))
        if share and both.slow.num_live:
            both.remove(share)
        else:
            both.add(draw(st.integers(1, 40)))
        if check is not None:
            check(both)
    return both


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_it_holds_what_a_trie_from_scratch_holds_after_any_changes(data):
    def check(both):
        whole = both.whole()
        assert_same(both.fast.freeze(), whole)
        view = both.fast.trie
        assert view.num_items == both.fast.num_items == both.slow.num_items
        assert view.num_live == both.fast.num_live == both.slow.num_live
        assert (view.item_leaf >= 0).tolist() == (whole.item_leaf >= 0).tolist()
        if view.num_live:
            assert_sound(view, whole)

    data.draw(changed(check=check))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_searches_find_the_same_as_in_a_trie_from_scratch(data):
    """All back ends, filters and exclusions, ties, logits and both kinds of scores."""
    both = data.draw(changed(sizes=(1, 2, 3, 5), steps=4))
    view, whole, rng = both.fast.trie, both.whole(), both.rng
    k, renormalize = data.draw(st.integers(1, 12)), data.draw(st.booleans())
    # scores that are equal decide by node between prefixes, and nodes have other numbers here
    logits, missing = data.draw(st.sampled_from([(False, 0.0), (False, 0.3), (True, 0.0)]))
    levels = tables(rng, 2, both.sizes, missing=missing)
    decoder = (LogitDecoder if logits else TableDecoder)(levels)
    exclude = torch.from_numpy(rng.integers(-1, view.num_items, (2, 4)))
    mask = rng.random(view.num_items) < 0.6
    options = {"k": k, "renormalize": renormalize, "exclude": exclude}
    narrow = data.draw(st.booleans())
    options |= {"beam_width": 3 if narrow else FULL, "exact": narrow}
    if both.slow.num_live == 0:
        assert (beam_search(decoder, view, **options).items == -1).all()
        return
    for filtered in (False, True):
        results = []
        for trie in (whole, view):
            limit = Filter.from_mask(trie, mask) if filtered else None
            for backend in ("torch-only", "torch", "compiled"):
                result = beam_search(decoder, trie, filter=limit, backend=backend, **options)
                results.append(result)
        for result in results[1:]:
            assert torch.equal(result.items, results[0].items)
            torch.testing.assert_close(
                result.scores, results[0].scores, atol=1e-5 if logits or renormalize else 0, rtol=0
            )
            assert torch.equal(result.leaf_sizes, results[0].leaf_sizes)
    flat = [level[:, 0] for level in levels]
    slow, fast = (exact_parallel_search(flat, t, k=k, exclude=exclude) for t in (whole, view))
    assert torch.equal(slow.items, fast.items)
    assert torch.equal(slow.leaf_scores, fast.leaf_scores)


@pytest.mark.parametrize("backend", ["torch-only", "torch", "compiled"])
def test_a_family_with_more_places_than_codes_is_searched(backend):
    """Nearly all codes of a node and room between them: more places than the codebook has codes."""
    rng = np.random.default_rng(0)
    codes = np.stack(np.unravel_index(rng.permutation(64 * 64)[:3800], (64, 64)), axis=1)
    slow = PrefixTrie.from_codes(codes, [64, 64])
    fast = MutableTrie(slow)
    new = [[0, int(code)] for code in np.setdiff1d(np.arange(64), codes[codes[:, 0] == 0, 1])[1:]]
    fast.add(new)
    slow = slow.add(new)
    assert max(fast.trie.max_branch) > 64
    decoder = LogitDecoder(tables(rng, 3, (64, 64)))
    for renormalize in (False, True):
        options = {"k": 50, "beam_width": 64, "backend": backend, "renormalize": renormalize}
        same = [beam_search(decoder, trie, **options) for trie in (slow, fast.trie)]
        assert torch.equal(same[0].items, same[1].items)
        torch.testing.assert_close(same[0].scores, same[1].scores)


def test_a_logits_processor_lets_the_same_tokens_through():
    rng = np.random.default_rng(1)
    both = Both(rng, (5, 5, 5), 40, ties=False)
    for _ in range(4):
        both.add(7)
        both.remove(0.1)
    tokens = [range(1, 6), range(6, 11), range(11, 16)]
    masks = []
    for trie in (both.whole(), both.fast.trie):
        processor = SidLogitsProcessor(trie, tokens, eos_token_id=0)
        ids, seen = torch.zeros(6, 1, dtype=torch.int64), []
        for level in range(3):
            scores = processor(ids, torch.zeros(6, 20))
            seen.append(scores)
            best = [row[row.numel() // 2] for row in map(torch.Tensor.nonzero, scores == 0)]
            ids = torch.cat([ids, torch.stack(best)], dim=1)
            assert level == 2 or (scores == 0).any()
        masks.append(torch.stack(seen))
    assert torch.equal(*masks)


def test_ties_by_default_are_those_of_the_catalog_built_at_once():
    codes = np.random.default_rng(0).integers(0, 3, (300, 2))
    fast = MutableTrie(PrefixTrie.from_codes(codes[:100], [3, 3]))
    for start, stop in ((100, 101), (101, 250), (250, 300)):
        fast.add(codes[start:stop])
    assert fast.freeze().tie_order.tolist() == default_tie_order(300).tolist()
    given_ties = MutableTrie(PrefixTrie.from_codes(codes[:100], [3, 3], np.arange(100)))
    given_ties.add(codes[100:])
    order = given_ties.freeze().tie_order
    assert order[:100].diff().min() > 0  # the others keep their order
    assert abs(np.corrcoef(order[100:], np.arange(200))[0, 1]) < 0.2


def test_ties_of_one_kind_follow_those_of_another():
    """Ranks, then none: the order is no longer that of hashes, and new items still find a place."""
    codes = np.random.default_rng(0).integers(0, 3, (500, 2))
    fast = MutableTrie(PrefixTrie.from_codes(codes[:100], [3, 3]))
    fast.add(codes[100:300], np.random.default_rng(1).permutation(300)[:200])
    before = fast.freeze().tie_order
    fast.add(codes[300:])
    order = fast.freeze().tie_order
    assert (order[:300].argsort() == before.argsort()).all()
    assert sorted(order.tolist()) == list(range(500))
    assert_sound(fast.trie, fast.freeze())


def test_many_at_once_are_laid_out_anew(monkeypatch):
    monkeypatch.undo()
    codes = np.random.default_rng(0).integers(0, 9, (400, 2))
    order = np.random.default_rng(1).permutation(400)
    slow = PrefixTrie.from_codes(codes[:100], [9, 9])
    fast = MutableTrie(slow)
    assert fast.add(codes[100:], order[:300]) == range(100, 400)
    assert fast.written == fast.nbytes
    assert_same(fast.freeze(), slow.add(codes[100:], order[:300]))
    fast.add(codes[:2])
    assert fast.written < fast.nbytes / 2
    with pytest.raises(DataError, match="tie_ranks of shape"):
        fast.add(codes, order[:3])
    assert fast.num_items == 402


def test_sixty_four_levels_of_the_largest_codebooks_change():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 65_536, (60, 64))
    codes[30:, :50] = codes[:30, :50]
    slow = PrefixTrie.from_codes(codes[:20], [65_536] * 64)
    fast = MutableTrie(slow)
    fast.add(codes[20:])
    fast.remove(range(5, 15))
    assert_same(fast.freeze(), slow.add(codes[20:]).remove(range(5, 15)).compact())
    assert_sound(fast.trie, fast.freeze())


def test_a_change_costs_the_same_in_a_catalog_a_hundred_times_as_large():
    """Counted in slots written, which follow the change; only the bits' counts are passed over."""
    written = []
    for count in (3000, 300_000):
        rng = np.random.default_rng(0)
        fast = MutableTrie(PrefixTrie.from_codes(rng.integers(0, 256, (count, 4)), [256] * 4))
        counts, seen = count / 0.8 / 64 * 4, []
        for _ in range(30):
            (item,) = fast.add(rng.integers(0, 256, (1, 4)))
            seen.append(fast.written)
            fast.remove([item])
            seen.append(fast.written)
        written.append(float(np.median(seen)) - counts / 2)
    assert abs(written[1]) < 2 * abs(written[0]) + 4000


def test_a_state_is_gone_after_a_change_and_says_so(tmp_path):
    fast = MutableTrie(PrefixTrie.from_codes([[0, 1], [1, 0], [1, 1]], [2, 2]))
    view, base = fast.trie, fast.freeze()
    assert fast.trie is view
    assert view.to("cpu") is view
    moved = view.to("meta")
    limit = Filter.allow(view, [0])
    decoder = TableDecoder(tables(np.random.default_rng(0), 1, (2, 2)))
    assert beam_search(decoder, view, k=1, beam_width=2, filter=limit).items.tolist() == [[0]]
    save_trie(view, tmp_path / "trie")
    assert_same(load_trie(tmp_path / "trie"), base)
    assert_same(view.compact(), base)
    assert_same(view.add([[0, 0]]), base.add([[0, 0]]))
    assert_same(view.remove([0]).compact(), base.remove([0]).compact())
    assert_same(view.renumber([1, 0, 2]), base.renumber([1, 0, 2]))
    assert int(transition_tables(view).dense.max()) == int(transition_tables(base).dense.max())
    assert fast.nbytes > base.nbytes
    assert repr(fast) == "MutableTrie(items=3, codebook_sizes=(2, 2))"
    fast.add([[0, 0]])
    assert moved.num_items == 3
    for use in (
        lambda: view.lookup([0, 1]),
        lambda: view.num_live,
        lambda: view.compact(),
        lambda: beam_search(decoder, view, k=1, beam_width=2),
    ):
        with pytest.raises(DataError, match="this state of the trie is gone"):
            use()
    with pytest.raises(DataError, match="and filters with it"):
        beam_search(decoder, fast.trie, k=1, beam_width=2, filter=limit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.add([[0, 3]]), r"row 0, level 1: code 3 is outside 0\.\.2"),
        (lambda t: t.add([[0.0, 1.0]]), "codes of type float64"),
        (lambda t: t.add([[0, 1]], [9]), r"tie_ranks, row 0: rank 9 is outside 0\.\.4"),
        (lambda t: t.add([[0, 1]], [0.5]), "tie_ranks of type float64"),
        (lambda t: t.remove([4]), r"item 4 is outside 0\.\.3"),
        (lambda t: t.remove([-1]), r"item -1 is outside 0\.\.3"),
        (lambda t: t.remove([2]), "item 2 was removed before"),
        (lambda t: t.remove([[0]]), "expected a list of item numbers"),
        (lambda t: t.remove([True]), "item of type bool"),
    ],
)
def test_a_change_that_cannot_be_is_named_and_changes_nothing(change, message):
    trie = MutableTrie(PrefixTrie.from_codes([[0, 0], [1, 2], [1, 1], [0, 0]], [2, 3]))
    trie.remove([2])
    view, before = trie.trie, trie.freeze()
    with pytest.raises(DataError, match=message):
        change(trie)
    assert trie.trie is view
    assert_same(trie.freeze(), before)
    trie.remove([])
    assert trie.trie is view


def test_it_can_begin_with_the_state_of_another():
    one = MutableTrie(PrefixTrie.from_codes([[0, 0], [1, 2], [1, 1], [0, 0]], [2, 3]))
    one.add([[1, 0], [0, 0]])
    one.remove([2])
    other = MutableTrie(one.trie)
    assert_same(other.freeze(), one.freeze())
    other.add([[1, 1]])
    other.remove([0])
    assert (one.num_live, other.num_live) == (5, 5)
    one.add([[1, 1]])
    one.remove([0])
    assert_same(other.freeze(), one.freeze())


@pytest.mark.parametrize(
    "use",
    [
        lambda t, _: MutableTrie(t),
        lambda t, _: exact_parallel_search([torch.zeros(1, 2), torch.zeros(1, 3)], t, k=1),
        lambda t, _: beam_search(None, t, k=1, beam_width=1),
        lambda t, folder: save_trie(t, folder / "trie"),
        lambda t, _: transition_tables(t),
        lambda t, _: SidLogitsProcessor(t, [range(2), range(3)], eos_token_id=9),
    ],
)
def test_where_a_trie_is_expected_it_says_what_to_give(use, tmp_path):
    catalog = MutableTrie(PrefixTrie.from_codes([[0, 0], [1, 2]], [2, 3]))
    with pytest.raises(DataError, match="where a trie is expected, give its `trie`"):
        use(catalog, tmp_path)
    assert not list(tmp_path.iterdir())
    assert not hasattr(catalog, "no_such_thing")
