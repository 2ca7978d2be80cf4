"""What must not change a search: padding, dead beams, the order of beams; lists leaving little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import Filter, PrefixTrie, beam_search, expand_beams
from tests.decoding.cases import (
    BACKENDS,
    FULL,
    TableDecoder,
    brute_force,
    expect,
    on_every_backend,
    tables,
)


def padded(lists: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The rows of item numbers with -1 put in between, and the same order otherwise."""
    rows, width = lists.shape
    wide = np.full((rows, width + 3), -1)
    for row in range(rows):
        wide[row, np.sort(rng.permutation(width + 3)[:width])] = lists[row]
    return wide


@on_every_backend(st.integers(1, 6), st.integers(0, 2**32 - 1), examples=40)
def test_padding_of_lists_changes_nothing(case, width, seed, backend):
    rng, trie = np.random.default_rng(seed), case.trie()
    denied = rng.integers(0, len(case.codes), (case.batch, rng.integers(0, 4)))
    seen = np.zeros((case.batch, 0), dtype=int) if case.exclude is None else case.exclude.numpy()
    options = {"k": case.k, "beam_width": width, "backend": backend}
    plain, spread = (
        beam_search(
            case.decoder,
            trie,
            exclude=torch.from_numpy(some),
            filter=Filter.deny(trie, lists),
            **options,
        )
        for some, lists in ((seen, denied), (padded(seen, rng), padded(denied, rng)))
    )
    for name, value in vars(plain).items():
        assert torch.equal(value, getattr(spread, name)), name


@on_every_backend(st.integers(1, 8), st.booleans(), st.integers(0, 2**32 - 1), examples=40)
def test_batch_mates_and_item_order_change_nothing(case, width, renormalize, seed, backend):
    trie = case.trie()
    options = {"k": case.k, "beam_width": width, "renormalize": renormalize, "backend": backend}
    left_out = case.left_out(trie)
    together = beam_search(case.decoder, trie, **left_out, **options)
    for user in range(case.batch):
        row = torch.tensor([user])
        own = None if case.exclude is None else case.exclude[row]
        mine = left_out["filter"] and left_out["filter"].select(row)
        alone = beam_search(case.decoder.select(row), trie, exclude=own, filter=mine, **options)
        for name, value in vars(alone).items():
            assert torch.equal(value, getattr(together, name)[row]), name

    order = np.random.default_rng(seed).permutation(len(case.codes))
    place = torch.from_numpy(np.append(np.argsort(order), -1))
    other = PrefixTrie.from_codes(case.codes[order], case.sizes, case.tie_order[order])
    exclude = None if case.exclude is None else place[case.exclude]
    allowed = None if case.allowed is None else Filter.from_mask(other, case.allowed[..., order])
    moved = beam_search(case.decoder, other, exclude=exclude, filter=allowed, **options)
    assert torch.equal(place[together.items], moved.items)
    for name, value in vars(moved).items():
        if name != "items":
            assert torch.equal(value, getattr(together, name)), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("logits", [False, True])
def test_dead_beams_and_the_order_of_beams_change_nothing(backend, logits):
    shares = st.sampled_from([0.05, 0.4, 1.0])

    @settings(max_examples=3 if backend == "triton" else 20, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 40), shares)
    def holds(seed, keep, share):
        dead_and_moved_beams(seed, keep, share, backend, logits)

    holds()


def dead_and_moved_beams(seed, keep, share, backend, logits):
    """A step, and the same one with dead beams between its beams, in another order."""
    rng = np.random.default_rng(seed)
    every = np.stack(np.unravel_index(np.arange(30 * 40), (30, 40)), axis=1)
    trie = PrefixTrie.from_codes(every[np.append(rng.random(1199) < share, True)], (30, 40))
    width = min(6, trie.num_nodes[1])
    nodes = torch.from_numpy(rng.permutation(trie.num_nodes[1])[:width])[None]
    scores = -torch.from_numpy(rng.random((1, width))).float()
    values = torch.from_numpy(rng.normal(size=(1, width, 40))).float()
    values = values if logits else values.log_softmax(2)
    order = torch.from_numpy(rng.permutation(width + 4))
    wide = [torch.cat([nodes, torch.full((1, 4), -1)], 1)[:, order]]
    wide.append(torch.cat([scores, torch.zeros(1, 4)], 1)[:, order])
    wide.insert(0, torch.cat([values, torch.zeros(1, 4, 40)], 1)[:, order])
    options = {"keep": keep, "logits": logits, "backend": backend}
    plain = expand_beams(trie, 1, values, nodes, scores, **options)
    other = expand_beams(trie, 1, *wide, **options)
    count = min(plain.nodes.shape[1], other.nodes.shape[1])
    for name in ("nodes", "scores"):
        assert torch.equal(getattr(plain, name)[:, :count], getattr(other, name)[:, :count]), name
    alive = plain.nodes[:, :count] >= 0
    assert torch.equal(plain.code[:, :count][alive], other.code[:, :count][alive])
    assert torch.equal(plain.parent[:, :count][alive], order[other.parent[:, :count]][alive])
    assert torch.equal(plain.dropped, other.dropped)
    torch.testing.assert_close(plain.leaked, other.leaked, atol=1e-5, rtol=1e-5)


@on_every_backend(st.integers(0, 3), st.integers(0, 2**32 - 1), examples=40)
def test_deny_lists_that_leave_fewer_than_k(case, left, seed, backend):
    """What is left comes back, all of it, in the order of brute force, and is certified."""
    rng, count = np.random.default_rng(seed), len(case.codes)
    rows = np.stack([rng.permutation(count) for _ in range(case.batch)])
    case.exclude, case.k = None, left + 2
    case.allowed = np.zeros((case.batch, count), dtype=bool)
    np.put_along_axis(case.allowed, rows[:, :left], True, axis=1)
    trie = case.trie()
    denied = Filter.deny(trie, rows[:, left:])
    options = {"k": case.k, "filter": denied, "backend": backend}
    for exact in (False, True):
        found = beam_search(case.decoder, trie, beam_width=1, exact=exact, **options)
        expect(found, brute_force(case), case.k)
        assert found.certified.all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [(1,), (1, 1, 1), (7, 5), (300, 2)])
def test_a_catalog_of_one_item(sizes, backend):
    codes = [[size - 1 for size in sizes]]
    trie = PrefixTrie.from_codes(codes, sizes)
    decoder = TableDecoder(tables(np.random.default_rng(0), 2, sizes))
    options = {"k": 3, "beam_width": 4, "backend": backend}
    found = beam_search(decoder, trie, **options)
    assert found.items.tolist() == [[0, -1, -1]] * 2
    assert found.scores[0, 0] == pytest.approx(decoder.score(0, codes[0]), abs=1e-5)
    gone = beam_search(decoder, trie, exclude=torch.tensor([[0], [-1]]), **options)
    assert gone.items.tolist() == [[-1] * 3, [0, -1, -1]]
    assert gone.certified.all()


@on_every_backend(st.integers(1, 3), examples=40)
def test_exact_renormalised_search_equals_the_full_width(case, width, backend):
    trie = case.trie()
    options = {"k": case.k, "renormalize": True, "backend": backend, **case.left_out(trie)}
    full = beam_search(case.decoder, trie, beam_width=FULL, **options)
    exact = beam_search(case.decoder, trie, beam_width=width, exact=True, **options)
    assert exact.certified.all()
    torch.testing.assert_close(exact.scores, full.scores, atol=1e-4, rtol=0)
    # equal scores may be rounded apart, so items are compared where they are not
    far = (full.scores[:, 1:] < full.scores[:, :-1] - 1e-3) & (full.items[:, 1:] >= 0)
    clear = torch.ones_like(full.items, dtype=torch.bool)
    clear[:, 1:] &= far
    clear[:, :-1] &= far
    clear[:, -1] = False  # what follows the last is not seen
    assert torch.equal(exact.items[clear], full.items[clear])
