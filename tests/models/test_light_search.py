"""Branch and bound of the light head against the scores of all items, and the search in steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import Filter, MutableTrie, PrefixTrie, beam_search, levels
from genrec.errors import ConfigError, GenrecError
from genrec.models import HEADS, ItemTables, SidEmbedding, light_search
from tests.decoding.cases import (
    FULL,
    brute_force,
    cases,
    check_consistent,
    expect,
    on_every_backend,
)


def head_of(codes, sizes, *, width=6, seed=0, spread=1.0, **options):
    """A head with random weights, biases and norms that are not those of the start."""
    torch.manual_seed(seed)
    items = ItemTables(num_items=len(codes), codebook_sizes=sizes)
    items.fill(codes=torch.as_tensor(codes).int())
    encoder = SidEmbedding(tables=items, d_model=width)
    head = HEADS["autoregressive"](tables=items, encoder=encoder, d_model=width, **options)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=spread * parameter.shape[-1] ** -0.5)
    return head.eval().requires_grad_(False)


def slow_score(head, hidden, codes) -> float:
    """The log-probability of a tuple, by the head's definition."""
    prefix, total = torch.zeros(head.d_model), 0.0
    states = head.project_levels(hidden)
    for level, code in enumerate(codes):
        total += float(head.level_logits(level, states[level] + prefix).log_softmax(0)[code])
        if level + 1 < len(codes):
            prefix = prefix + head.prefix.level(level)[code]
    return total


@settings(max_examples=60, deadline=None)
@given(
    cases(max_size=6, max_items=40),
    st.integers(0, 1000),
    st.sampled_from([{}, {"temperature": 0.2}, {"hidden": 3}]),
    st.integers(5, 8),
)
def test_exact_lists_equal_brute_force(case, seed, options, width):
    head = head_of(case.codes, case.sizes, seed=seed, width=width, **options)
    hidden = torch.randn(case.batch, width)
    trie = case.trie()
    ranked = brute_force(case, lambda user, codes: slow_score(head, hidden[user], codes))
    found = head.search(hidden, k=case.k, trie=trie, exact=True, **case.left_out(trie))
    expect(found, ranked, case.k, tolerance=1e-4)
    check_consistent(case, trie, found)
    assert found.certified.all()
    assert (found.best_dropped <= found.scores[:, -1]).all() or (found.items < 0).any()


@on_every_backend(st.integers(0, 1000), st.integers(1, 4), examples=30)
def test_every_back_end_searches_in_steps_as_brute_force(case, seed, width, backend):
    head = head_of(case.codes, case.sizes, seed=seed)
    hidden = torch.randn(case.batch, 6)
    trie = case.trie()
    ranked = brute_force(case, lambda user, codes: slow_score(head, hidden[user], codes))
    options = {"k": case.k, "beam_width": width, "exact": True, "backend": backend}
    found = beam_search(head.decoder(hidden), trie, **options, **case.left_out(trie))
    expect(found, ranked, case.k, tolerance=1e-4)
    check_consistent(case, trie, found)
    assert found.certified.all()


@settings(max_examples=60, deadline=None)
@given(
    cases(max_size=6, max_items=40),
    st.integers(0, 1000),
    st.booleans(),
    st.integers(0, 3),
    st.booleans(),
)
def test_it_equals_the_search_in_steps(case, seed, renormalize, gone, room):
    """Also with removed items, whose codes renormalised scores leave out, and free slots."""
    head = head_of(case.codes, case.sizes, seed=seed)
    hidden = torch.randn(case.batch, 6)
    trie = case.trie()
    options = {"k": case.k, "renormalize": renormalize, **case.left_out(trie)}
    gone = gone if gone < len(case.codes) else 0
    if gone or room:
        mutable = MutableTrie(trie)
        mutable.remove(range(gone))
        trie = mutable.trie if room else trie.remove(range(gone))
        some = None if case.allowed is None else Filter.from_mask(trie, case.allowed)
        options["filter"] = some
    every = beam_search(head.decoder(hidden), trie, beam_width=FULL, backend="torch", **options)
    found = head.search(hidden, trie=trie, exact=True, **options)
    assert torch.equal(found.items, every.items)
    assert torch.equal(found.leaves, every.leaves)
    assert torch.equal(found.leaf_sizes, every.leaf_sizes)
    torch.testing.assert_close(found.scores, every.scores, atol=1e-4, rtol=0)
    assert found.certified.all()
    assert (found.evaluations <= 2 * every.evaluations).all()


def large_case(spread=2.0):
    """Two-byte codes, full and thin levels: more beams than one group, more than the first room."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, (20, 300, 7), (9000, 3))
    head = head_of(codes, (20, 300, 7), width=8, spread=spread)
    return head, PrefixTrie.from_codes(codes, (20, 300, 7)), torch.randn(5, 8)


@pytest.mark.parametrize("renormalize", [False, True])
def test_more_places_for_children_than_codes(renormalize):
    codes = np.stack(np.unravel_index(np.arange(64 * 64), (64, 64)), axis=1)[:-40]
    head = head_of(codes, (64, 64), width=8)
    hidden, whole = torch.randn(3, 8), PrefixTrie.from_codes(codes, (64, 64))
    trie = MutableTrie(whole).trie
    assert max(trie.max_branch) > 64
    options = {"k": 100, "exact": True, "renormalize": renormalize}
    slow, fast = (head.search(hidden, trie=some, **options) for some in (whole, trie))
    assert torch.equal(slow.items, fast.items)
    torch.testing.assert_close(slow.scores, fast.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("renormalize", [False, True])
def test_levels_as_bits_give_the_same(renormalize, monkeypatch):
    head, listed, hidden = large_case()
    monkeypatch.setattr(levels, "LARGE", 0)
    codes = listed.leaf_codes(listed.item_leaf)
    dense = PrefixTrie.from_codes(codes, listed.codebook_sizes, listed.tie_order)
    assert [dense.level(level).dense for level in range(3)] == [False, True, False]
    filter = torch.rand(5, listed.num_items) < 0.5
    for k in (1, 30):
        slow, fast = (
            head.search(
                hidden,
                trie=trie,
                k=k,
                exact=True,
                renormalize=renormalize,
                filter=Filter.from_mask(trie, filter),
            )
            for trie in (listed, dense)
        )
        for name, value in vars(slow).items():
            assert torch.equal(value, getattr(fast, name)), name


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("k", [1, 30, 400])
def test_large_levels(renormalize, k):
    head, trie, hidden = large_case()
    rows = torch.rand(5, trie.num_items) < torch.tensor([1.0, 0.5, 0.1, 0.01, 0.0])[:, None]
    for filter in (None, Filter.from_mask(trie, rows), Filter.from_mask(trie, rows[1])):
        options = {"k": k, "renormalize": renormalize, "filter": filter}
        every = beam_search(head.decoder(hidden), trie, beam_width=10**6, **options)
        found = head.search(hidden, trie=trie, exact=True, **options)
        torch.testing.assert_close(found.scores, every.scores, atol=1e-4, rtol=0)
        assert (found.items == every.items).float().mean() > 0.99  # rounding may swap neighbours
        assert found.certified.all()
        if filter is None and k == 1:
            assert (found.evaluations < every.evaluations / 2).all()


def test_leaked_probability_with_renormalised_scores_is_what_the_narrow_search_met():
    head, trie, hidden = large_case(spread=0.5)
    options = {"k": 20, "renormalize": True}
    narrow = beam_search(head.decoder(hidden), trie, beam_width=20, **options)
    found = head.search(hidden, trie=trie, exact=True, **options)
    assert not narrow.certified.all()
    torch.testing.assert_close(found.leaked, narrow.leaked, atol=1e-4, rtol=1e-4)


def test_threads_and_batch_mates_change_nothing(monkeypatch):
    head, trie, hidden = large_case()
    options = {"k": 10, "trie": trie, "exact": True}
    one = head.search(hidden, **options)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    many = head.search(hidden, **options)
    alone = head.search(hidden[3:4], **options)
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(many, name)), name
        if value.is_floating_point():  # torch projects one state otherwise than five
            torch.testing.assert_close(value[3:4], getattr(alone, name), atol=1e-4, rtol=1e-4)
        else:
            assert torch.equal(value[3:4], getattr(alone, name)), name


def test_what_it_leaves_to_the_search_in_steps(monkeypatch):
    head, trie, hidden = large_case()
    monkeypatch.setattr(light_search, "expand_light", None)  # calling it would fail
    narrow = head.search(hidden, k=3, trie=trie)
    for other in (head.double(), head.float().train()):
        kind = torch.float64 if other.output.weight.dtype == torch.float64 else torch.float32
        assert (other.search(hidden.to(kind), k=3, trie=trie, exact=True).items >= 0).all()
    assert (narrow.items >= 0).all()


def test_bad_input_is_refused():
    head, trie, hidden = large_case()
    with pytest.raises(ConfigError, match="k=0"):
        head.search(hidden, k=0, trie=trie, exact=True)
    hidden[2] = math.nan
    with pytest.raises(GenrecError, match="NaN for row 2"):
        head.search(hidden, k=3, trie=trie, exact=True)
    nobody = head.search(hidden[:0], k=3, trie=trie, exact=True)
    assert nobody.items.shape == (0, 3)
