"""The back ends against each other: single steps, and whole searches over random tries."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import (
    Filter,
    PrefixTrie,
    beam_search,
    compiled_step,
    expand_beams,
    optional,
    step,
)
from genrec.decoding.cpu_step import cpu_step
from genrec.decoding.exclusions import Exclusions
from genrec.decoding.expansion import Expansion
from genrec.decoding.step import chosen_backend
from genrec.decoding.torch_step import torch_step
from genrec.errors import ConfigError
from tests.decoding.cases import RULED_OUT, LogitDecoder, TableDecoder, cases, same_results

PLAIN = ["torch-only", "torch", "compiled"]  # Triton's interpreter is slow: see test_triton


def random_step(seed, *, batch=5, width=60, codes=300, share=0.3, wide=False):
    """A step in the middle of a large level, some beams dead: many candidates per user."""
    rng = np.random.default_rng(seed)
    size = 700 if wide else codes
    every = np.stack(np.unravel_index(np.arange(100 * size), (100, size)), axis=1)
    table = every[rng.random(len(every)) < share]
    trie = PrefixTrie.from_codes(np.concatenate([table, table[:50]]), (100, size))
    nodes = torch.from_numpy(
        np.stack([rng.permutation(trie.num_nodes[1])[:width] for _ in range(batch)])
    )
    nodes[torch.from_numpy(rng.random(nodes.shape) < 0.1)] = -1
    scores = -torch.from_numpy(rng.random(nodes.shape)).float().sort(dim=1).values * 10
    log_probs = torch.from_numpy(rng.normal(size=(batch, width, size)) * 2).float()
    return trie, log_probs, nodes, scores


@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
@pytest.mark.parametrize("wide", [False, True])  # one byte or two per code
@pytest.mark.parametrize("keep", [1, 7, 100, 100_000])
def test_wide_steps_are_the_same(share, wide, keep):
    trie, log_probs, nodes, scores = random_step(0, share=share, wide=wide)
    log_probs = log_probs.log_softmax(-1).mul(8).round().div(8).clamp_max(0)  # many ties
    slow, *others = (
        expand_beams(trie, 1, log_probs, nodes, scores, keep=keep, backend=name) for name in PLAIN
    )
    alive = slow.nodes >= 0
    assert alive.sum(dim=1).min() > 0
    for fast in others:
        for name in ("nodes", "scores", "dropped", "sound"):
            assert torch.equal(getattr(slow, name), getattr(fast, name)), name
        for name in ("parent", "code"):
            assert torch.equal(getattr(slow, name)[alive], getattr(fast, name)[alive]), name
        torch.testing.assert_close(fast.leaked, slow.leaked, atol=1e-4, rtol=1e-4)
        assert torch.equal(slow.best_dropped, fast.best_dropped)


@pytest.mark.parametrize("options", [{}, {"logits": True}, {"renormalize": True}])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
@pytest.mark.parametrize("keep", [1, 7, 100])
def test_the_cpu_ranks_a_few_as_other_devices_rank_all(options, share, keep):
    """A shared filter and one per user, exclusions, removed items, and logits that are -inf."""
    trie, values, nodes, scores = random_step(3, share=share)
    values = values if options else values.log_softmax(-1).mul(8).round().div(8).clamp_max(0)
    values[1, ::2] = -torch.inf
    values[1, ::2, :9] = 0.0 if options else -0.125
    rng = np.random.default_rng(0)
    few = rng.random((5, trie.num_items)) < np.array([0.5, 0.9, 0.1, 0.001, 0.0])[:, None]
    exclude = torch.from_numpy(rng.integers(-1, trie.num_items, (5, 40)))
    for source in (trie, trie.remove(range(0, 40, 3))):
        for filter in (None, Filter.from_mask(source, few), Filter.from_mask(source, few[1])):
            excluded = Exclusions.from_items(source, exclude, 5, filter)
            expansion = Expansion(
                source,
                1,
                values,
                nodes,
                scores,
                excluded,
                min(keep, source.num_nodes[2]),
                None,
                options.get("renormalize", False),
                options.get("logits", False),
            )
            slow, fast = torch_step(expansion), cpu_step(expansion)
            alive = slow.nodes >= 0
            for name in ("nodes", "sound"):
                assert torch.equal(getattr(slow, name), getattr(fast, name)), name
            for name in ("parent", "code"):
                assert torch.equal(getattr(slow, name)[alive], getattr(fast, name)[alive]), name
            rounding = 1e-5 if "renormalize" in options else 0.0
            for name in ("scores", "best_dropped"):
                other = getattr(slow, name)
                torch.testing.assert_close(getattr(fast, name), other, atol=rounding, rtol=0)
            torch.testing.assert_close(fast.leaked, slow.leaked, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("low", [*RULED_OUT, -2e37])
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("width", [20, 300])
@pytest.mark.parametrize("renormalize", [False, True])
def test_items_whose_codes_are_ruled_out_still_exist(low, logits, width, renormalize):
    """Half of the codes at the lowest number of a type: lists are filled, certificates hold.

    Groups of candidates, of which a user has far more than wanted, and families of one.
    """
    rng = np.random.default_rng(0)
    trie = PrefixTrie.from_codes(rng.integers(0, 64, (300, 3)), (64,) * 3)
    tables = []
    for _ in range(3):
        table = torch.from_numpy(rng.normal(size=(2, 64))).float()
        table[:, rng.permutation(64)[:32]] = low
        tables.append(table if logits else table.log_softmax(1).clamp_min(low))

    class Independent:
        returns_logits = logits

        def first(self):
            return tables[0], None

        def next(self, state, parent, code, level):
            return tables[level][:, None].expand(-1, parent.shape[1], -1), None

        def select(self, rows):
            assert len(rows) == 2
            return self

    options = {"k": 60, "beam_width": width, "renormalize": renormalize}
    slow, *others = every(Independent(), trie, **options)
    assert (slow.items >= 0).all()
    for fast in others:
        for name in ("items", "certified"):
            assert torch.equal(getattr(slow, name), getattr(fast, name)), name
        torch.testing.assert_close(fast.scores, slow.scores, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("backend", PLAIN)
def test_log_probabilities_may_want_a_gradient(logits, backend):
    trie, values, nodes, scores = random_step(5)
    values = values if logits else values.log_softmax(-1)
    options = {"keep": 9, "logits": logits, "backend": backend}
    wanting = values.clone().requires_grad_()
    found = expand_beams(trie, 1, wanting, nodes, scores, **options)
    assert not found.scores.requires_grad
    assert torch.equal(found.nodes, expand_beams(trie, 1, values, nodes, scores, **options).nodes)


@pytest.mark.parametrize("family", [254, 255, 256, 257])
@pytest.mark.parametrize("gone", [0, 3])
def test_tables_of_children_of_one_byte_and_of_two(family, gone):
    """At 255 children a byte is just enough to say which, and that there is none."""
    rng = np.random.default_rng(family)
    rows = [[0, code] for code in rng.permutation(300)[:family]] + [
        [1, c] for c in range(0, 300, 2)
    ]
    trie = PrefixTrie.from_codes(rows, (2, 300))
    trie = trie.remove(range(gone)) if gone else trie
    values = torch.from_numpy(rng.normal(size=(3, 2, 300))).float().log_softmax(-1)
    nodes = torch.tensor([[0, 1], [1, 0], [0, -1]])
    scores = torch.zeros(3, 2)
    slow, *others = (
        expand_beams(trie, 1, values, nodes, scores, keep=50, backend=name) for name in PLAIN
    )
    for fast in others:
        for name in ("nodes", "scores", "parent", "code", "dropped", "sound"):
            assert torch.equal(getattr(slow, name), getattr(fast, name)), name


def test_threads_change_nothing(monkeypatch):
    trie, log_probs, nodes, scores = random_step(1, batch=7)
    options = {"keep": 20, "logits": True, "backend": "compiled"}
    one = expand_beams(trie, 1, log_probs, nodes, scores, **options)
    monkeypatch.setattr(compiled_step, "_SHARE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    many = expand_beams(trie, 1, log_probs, nodes, scores, **options)
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(many, name)), name


@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf])
@pytest.mark.parametrize("backend", PLAIN)
def test_logits_that_are_no_numbers_are_noticed(bad, backend):
    trie, log_probs, nodes, scores = random_step(2)
    nodes[3, 4] = 0
    log_probs[3, 4, 5] = bad
    found = expand_beams(
        trie, 1, log_probs, nodes, scores, keep=9, logits=True, backend=backend
    ).sound
    assert found.tolist() == [True, True, True, False, True]


def test_an_impossible_back_end_is_an_error(monkeypatch):
    cpu = torch.device("cpu")
    assert chosen_backend("auto", cpu) == chosen_backend("compiled", cpu) == "compiled"
    assert chosen_backend("auto", torch.device("meta")) == "torch"
    there = importlib.util.find_spec("triton") is not None
    assert chosen_backend("auto", torch.device("cuda")) == ("triton" if there else "torch")
    assert chosen_backend("torch-only", cpu) == "torch-only"
    names = "expected one of auto, torch, torch-only, compiled, triton"
    with pytest.raises(ConfigError, match=names):
        chosen_backend("numba", cpu)
    with pytest.raises(ConfigError, match="it runs on the CPU only"):
        chosen_backend("compiled", torch.device("meta"))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    why = "it runs on CUDA only, or in its interpreter" if there else "triton is not installed"
    with pytest.raises(ConfigError, match=why):
        chosen_backend("triton", cpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    optional.installed.cache_clear()
    step._has_triton.cache_clear()
    try:
        assert chosen_backend("auto", cpu) == "torch"
        with pytest.raises(ConfigError, match=r"pip install 'genrec\[fast\]'"):
            chosen_backend("compiled", cpu)
        assert chosen_backend("auto", torch.device("cuda")) == "torch"
        with pytest.raises(ConfigError, match="triton is not installed"):
            chosen_backend("triton", torch.device("cuda"))
    finally:
        optional.installed.cache_clear()
        step._has_triton.cache_clear()


def test_torch_only_is_what_runs_on_other_devices(monkeypatch):
    """The same function as for a trie on CUDA without Triton, also where a floor is given."""
    monkeypatch.setattr(step, "cpu_step", lambda given: pytest.fail("torch and numpy"))
    trie, log_probs, nodes, scores = random_step(4)
    options = {"keep": 20, "logits": True, "backend": "torch-only"}
    for floor in (None, scores[:, 5] - 4):
        found = expand_beams(trie, 1, log_probs, nodes, scores, floor=floor, **options)
        assert (found.nodes >= 0).any()
    with pytest.raises(pytest.fail.Exception, match="torch and numpy"):
        expand_beams(trie, 1, log_probs, nodes, scores, keep=20, backend="torch")


def every(*arguments, **options):
    """The results of the back ends, the slowest first."""
    return [beam_search(*arguments, backend=name, **options) for name in PLAIN]


@settings(max_examples=160, deadline=None)
@given(cases(), st.integers(1, 8), st.booleans(), st.integers(0, 3))
def test_log_probabilities_give_the_same_bits(case, width, exact, gone):
    trie = case.trie()
    if gone:  # some items removed without compaction
        some = np.random.default_rng(gone).permutation(len(case.codes))[: len(case.codes) // 4]
        trie = trie.remove(some)
    filter = None if case.allowed is None else Filter.from_mask(trie, case.allowed)
    options = {"k": case.k, "exclude": case.exclude, "filter": filter}
    options |= {"beam_width": width, "exact": exact}
    slow, *others = every(case.decoder, trie, **options)
    for fast in others:
        same_results(slow, fast)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.integers(1, 30))
def test_logits_and_renormalised_scores_agree_up_to_rounding(seed, logits, renormalize, width):
    """Scores without ties: near ties may be ranked either way after another rounding."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, rng.integers(1, 5))
    if rng.random() < 0.5:  # more children than a chunk, codes of two bytes
        sizes = np.append(sizes[:2], rng.choice([33, 64, 100, 300, 2000]))
    sizes = tuple(rng.permutation(sizes).tolist())
    items = 150 if max(sizes) > 7 else 40
    codes = np.stack([rng.integers(0, size, items) for size in sizes], axis=1)
    trie = PrefixTrie.from_codes(codes, sizes)
    tables = [
        torch.from_numpy(rng.normal(size=(3, math.prod(sizes[:level]), size))).float() * 3
        for level, size in enumerate(sizes)
    ]
    if logits:
        decoder = LogitDecoder([table + 7 for table in tables])
    else:
        decoder = TableDecoder([table.log_softmax(-1) for table in tables])
    options = {"k": 8, "beam_width": width, "renormalize": renormalize}
    filter = Filter.from_mask(trie, torch.from_numpy(rng.random((3, items)) < 0.7))
    slow, *others = every(decoder, trie, filter=filter, **options)
    for fast in others:
        same_results(slow, fast, tolerance=2e-5)
