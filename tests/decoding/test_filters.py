"""Filters: what they cost, what they refuse. Their parity with brute force is in test_search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.decoding import (
    Filter,
    MutableTrie,
    PrefixTrie,
    beam_search,
    cpu_step,
    dense_search,
    exact_parallel_search,
    expand_beams,
    rank_candidates,
)
from genrec.decoding import filters as module
from genrec.decoding.pool import pool_search
from genrec.errors import ConfigError


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


def setting(items=600, sizes=(8, 8, 8), batch=5, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, items) for size in sizes], axis=1)
    logits = [torch.from_numpy(rng.normal(size=(batch, size)) * 2).float() for size in sizes]
    levels = [level.log_softmax(dim=1) for level in logits]
    return levels, PrefixTrie.from_codes(codes, sizes), rng


def same(a, b):
    for name, value in vars(a).items():
        assert torch.equal(value, getattr(b, name)), name


@pytest.mark.parametrize(("beams", "share"), [(10, 0.5), (10, 0.1), (50, 0.1)])
def test_a_filter_seldom_leaves_a_level_to_be_scored_again(monkeypatch, beams, share):
    _, trie, rng = setting(items=16_000, sizes=(100, 256))
    filter = Filter.from_mask(trie, torch.from_numpy(rng.random((1, 16_000)) < share))
    taken: list[int] = []
    take = cpu_step._taken

    def counted(candidates, given, wanted):
        taken.append(wanted)
        return take(candidates, given, wanted)

    monkeypatch.setattr(cpu_step, "_taken", counted)
    for _ in range(6):
        expand_beams(
            trie,
            1,
            torch.from_numpy(rng.normal(size=(256, beams, 256))).float().log_softmax(dim=2),
            torch.from_numpy(rng.random((256, 100)).argsort(axis=1)[:, :beams].copy()),
            torch.zeros(256, beams),
            keep=beams,
            filter=filter,
            backend="torch",
        )
    assert len(taken) <= 7
    assert max(taken) < beams * trie.max_branch[1] / 2  # or there would be little left to choose


@pytest.mark.parametrize("rows", [1, 5])
def test_looking_nodes_up_and_counting_them_agree(monkeypatch, rows):
    levels, trie, rng = setting()
    mask = torch.from_numpy(rng.random((rows, 600)) < 0.2)
    exclude = torch.from_numpy(rng.integers(-1, 600, (5, 30)))
    options = {"k": 10, "exclude": exclude}
    expected = beam_search(
        RandomDecoder(levels), trie, beam_width=20, filter=Filter.from_mask(trie, mask), **options
    )
    monkeypatch.setattr(module, "_FEW_NODES", 0)
    fresh = Filter.from_mask(trie, mask)
    found = beam_search(RandomDecoder(levels), trie, beam_width=20, filter=fresh, **options)
    same(found, expected)
    exact = exact_parallel_search(levels, trie, filter=fresh, block=7, **options)
    full = beam_search(RandomDecoder(levels), trie, beam_width=1000, filter=fresh, **options)
    assert torch.equal(exact.items, full.items)


def test_a_filtered_prefix_takes_no_place_in_the_beam():
    trie = PrefixTrie.from_codes([[0, 0], [0, 1], [1, 0], [2, 0]], [3, 2])
    decoder = RandomDecoder([torch.tensor([[-0.1, -2.0, -3.0]]), torch.tensor([[-0.7, -0.7]])])
    result = beam_search(decoder, trie, k=1, beam_width=1, filter=Filter.deny(trie, [0, 1]))
    assert result.items.tolist() == [[2]]
    assert result.evaluations.tolist() == [2]
    assert result.best_dropped.tolist() == [-3.0]


def test_filters_and_exclusions_and_removals_combine():
    levels, trie, rng = setting()
    changed = trie.remove(range(50))
    a, b = (torch.from_numpy(rng.random(600) < 0.5) for _ in range(2))
    both = Filter.from_mask(changed, a) & Filter.from_mask(changed, b[None].expand(5, -1))
    assert len(both) == 5
    assert both.num_allowed.tolist() == [int((a & b)[50:].sum())] * 5
    exclude = torch.arange(40, 100).expand(5, -1)
    result = exact_parallel_search(levels, changed, k=700, filter=both, exclude=exclude)
    expected = {i for i in range(100, 600) if a[i] and b[i]}
    for row in result.items.tolist():
        assert set(row) - {-1} == expected
    items = torch.arange(600)
    assert torch.equal(both.contains(items)[0], a & b & (items >= 50))
    for of in (changed, 600):
        denied = Filter.deny(of, torch.arange(300))
        assert denied.contains(items)[0].tolist() == [i >= 300 for i in range(600)]
    empty = beam_search(
        RandomDecoder(levels), changed, k=3, beam_width=4, filter=both & denied_all(changed)
    )
    assert (empty.items == -1).all()
    assert empty.certified.all()


def denied_all(trie):
    return Filter.allow(trie, [])


def test_a_row_of_a_filter_is_a_fifth_of_a_byte_an_item():
    _, trie, rng = setting(items=10_000, sizes=(16, 16, 64))
    some = Filter.from_mask(trie, rng.random((3, 10_000)) < 0.5)
    assert some.members.nbytes / 30_000 == pytest.approx(0.19, abs=0.005)
    assert len(some.select(torch.tensor([2, 0]))) == 2
    assert Filter.allow(trie, [3]).select(torch.tensor([2, 0])).num_allowed.tolist() == [1]


def test_a_filter_follows_its_trie_to_another_device():
    _, trie, _ = setting()
    some = Filter.deny(trie, [1, 2])
    moved = trie.to("meta")
    assert some.checked(5, moved).members.words.device.type == "meta"
    assert some.checked(5, trie) is some


def test_a_search_elsewhere_moves_a_filter_and_not_its_trie(monkeypatch):
    _, trie, _ = setting()
    some, moved = Filter.deny(trie, [1, 2]), trie.to("meta")
    monkeypatch.setattr(PrefixTrie, "to", lambda *_: pytest.fail("the trie was copied"))
    assert some.checked(5, moved).trie is moved


TYPES = (
    torch.int8,
    torch.int16,
    torch.int32,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)


@pytest.mark.parametrize("of", ["trie", "number"])
@pytest.mark.parametrize("kind", TYPES)
def test_items_of_any_integer_type_are_the_same(kind, of):
    levels, trie, _ = setting()
    source = trie if of == "trie" else 600
    items = torch.tensor([1, 7, 100])
    expected = Filter.allow(source, items)
    for given in (items.to(kind), items.to(kind).numpy()):
        assert torch.equal(Filter.allow(source, given).members.words, expected.members.words)
        assert torch.equal(Filter.deny(source, given).members.words, (~expected.members).words)
        assert expected.contains(given).all()
        rows = given[None].repeat(5, 0) if isinstance(given, np.ndarray) else given.expand(5, 3)
        found = exact_parallel_search(levels, trie, k=600, exclude=rows)
        assert (found.items >= 0).sum() == 5 * 597
        assert not torch.isin(found.items, items).any()
    same(found, exact_parallel_search(levels, trie, k=600, exclude=[[1, 7, 100, -1]] * 5))
    with pytest.raises(ConfigError, match=r"row 0: item 18446744073709551615 is outside 0\.\.599"):
        Filter.allow(source, np.array([2**64 - 1], np.uint64))


@pytest.mark.parametrize("of", ["trie", "number"])
def test_padding_and_unknown_items_are_no_members(of):
    _, trie, _ = setting()
    source = trie if of == "trie" else 600
    assert Filter.deny(source, [0]).contains([599, -1, 0]).tolist() == [[True, False, False]]
    two = Filter.allow(source, [[599], [3]])
    assert two.contains([-1, 3, 599]).tolist() == [[False, False, True], [False, True, False]]
    assert two.contains([[-1, 599], [3, 599]]).tolist() == [[False, True], [True, False]]
    one = Filter.allow(source, [3])
    assert one.contains([[3], [-1], [4]]).tolist() == [[True], [False], [False]]
    for unknown in (600, -2):
        with pytest.raises(ConfigError, match=f"items, row 1: item {unknown} is outside"):
            two.contains([[1], [unknown]])
    with pytest.raises(ConfigError, match="for a filter of 2 users: expected"):
        two.contains([[1], [2], [3]])


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ([[1], [2, 3]], "exclude: rows of different lengths"),
        ([[0.5]] * 5, "exclude of type float64"),
        ([[1]], r"exclude of shape \(1, 1\): expected \[5, E\]"),
        ([], r"exclude of shape \(0,\): expected \[5, E\]"),
        ([[1], [2], [600], [3], [4]], "exclude, row 2: item 600 is outside"),
    ],
)
def test_malformed_exclusions_are_named_by_every_search(exclude, message):
    levels, trie, _ = setting()
    ties = torch.arange(600)
    for search in (
        lambda: exact_parallel_search(levels, trie, k=1, exclude=exclude),
        lambda: beam_search(RandomDecoder(levels), trie, k=1, beam_width=2, exclude=exclude),
        lambda: dense_search(torch.zeros(5, 600), k=1, tie_order=ties, exclude=exclude),
        lambda: pool_search(torch.zeros(5, 2), torch.zeros(600, 2), k=1, exclude=exclude),
    ):
        with pytest.raises(ConfigError, match=message):
            search()


def test_tie_orders_that_are_no_permutation_and_no_candidates():
    doubled = torch.tensor([0, 1, 1, 3])
    for search in (
        lambda: dense_search(torch.zeros(2, 4), k=2, tie_order=doubled),
        lambda: rank_candidates(torch.tensor([[0]]), torch.zeros(1, 1), k=1, tie_order=doubled),
        lambda: pool_search(torch.zeros(2, 2), torch.zeros(4, 2), k=1, tie_order=doubled),
    ):
        with pytest.raises(ConfigError, match=r"no item has rank 2; expected each rank of 0 to 3"):
            search()
    nothing = torch.empty(3, 0, dtype=torch.int64)
    result = rank_candidates(nothing, nothing.float(), k=2, tie_order=torch.arange(4))
    assert result.items.tolist() == [[-1, -1]] * 3 and result.certified.all()
    assert (result.scores == -torch.inf).all()
    for k, message in ((0, "k=0: expected at least 1"), (1.0, "k=1.0: expected an integer")):
        with pytest.raises(ConfigError, match=message):
            rank_candidates(nothing, nothing.float(), k=k, tie_order=torch.arange(4))
    with pytest.raises(ConfigError, match="candidates, row 0: item 4 is outside"):
        rank_candidates(torch.tensor([[4]]), torch.zeros(1, 1), k=1, tie_order=torch.arange(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda t: Filter.from_mask(t, torch.ones(600)),
            "mask of type torch.float32: expected bool",
        ),
        (lambda t: Filter.from_mask(t, np.ones(5, bool)), r"expected \[600\] or \[B, 600\]"),
        (lambda t: Filter.from_mask(t, np.ones((1, 1, 600), bool)), r"expected \[600\] or"),
        (lambda t: Filter.allow(t, [0.5]), "items of type float64: expected integers"),
        (lambda t: Filter.allow(t, [True]), "items of type bool: expected integers"),
        (lambda t: Filter.allow(t, [[1], [2, 3]]), "rows of different lengths.*padded with -1"),
        (lambda t: Filter.allow(t, {1, 2}), "items of type object: expected integers"),
        (lambda t: Filter.deny(t, ["1"]), "items of type <U1: expected integers"),
        (lambda t: Filter.allow("beauty", [1]), "filter for a str: expected a PrefixTrie"),
        (
            lambda t: Filter.allow(MutableTrie(t), [1]),
            "filter for a MutableTrie.*a MutableTrie's is its `trie`",
        ),
        (lambda t: Filter.allow(t, 3), r"expected \[n\], or \[B, n\] per user"),
        (lambda t: Filter.allow(t, [[1, 2], [3, 600]]), r"row 1: item 600 is outside 0\.\.599"),
        (lambda t: Filter.deny(600, [-2]), "row 0: item -2 is outside"),
        (lambda t: Filter.allow(0, []), "filter of 0 items: expected at least 1"),
        (lambda t: Filter.allow(t, [1]) & Filter.allow(600, [1]), "filters of different tries"),
        (lambda t: Filter.allow(5, [1]) & Filter.allow(6, [1]), "filters of different tries"),
        (
            lambda t: Filter.allow(t, [[1]] * 2) & Filter.allow(t, [[1]] * 3),
            "filters of 2 and 3 users cannot be combined",
        ),
    ],
)
def test_malformed_filters_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make(setting()[1])


def test_filters_of_other_tries_and_batches_are_errors():
    levels, trie, _ = setting()
    two = Filter.allow(trie, [[1], [2]])
    old = Filter.allow(trie, [1])
    for some, searched, message in (
        (two, trie, "filter of 2 users for a batch of 5"),
        (old, trie.remove([3]), "made for another trie; make it again"),
        (old, trie.add([[0, 0, 0]]), "made for another trie"),
        (Filter.allow(600, [1]), trie, "made for another trie"),
    ):
        with pytest.raises(ConfigError, match=message):
            beam_search(RandomDecoder(levels), searched, k=1, beam_width=2, filter=some)
        with pytest.raises(ConfigError, match=message):
            exact_parallel_search(levels, searched, k=1, filter=some)
    scores = torch.zeros(5, 7)
    with pytest.raises(ConfigError, match="filter of 600 items for scores of 7 items"):
        dense_search(scores, k=1, tie_order=torch.arange(7), filter=old)
    with pytest.raises(ConfigError, match="filter of 2 users for a batch of 5"):
        dense_search(scores, k=1, tie_order=torch.arange(7), filter=Filter.allow(7, [[1], [2]]))
