"""The Triton kernels against the torch operations, in Triton's interpreter or on a GPU.

`tests/conftest.py` asks for the interpreter. It is slow, so everything here is small, and programs
are cut small with it: several rounds of beams and several parts per user.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from genrec.decoding import Filter, MutableTrie, PrefixTrie, beam_search, expand_beams, step
from genrec.decoding.exclusions import Exclusions
from genrec.decoding.step import extended
from tests.decoding.cases import Case, LogitDecoder, TableDecoder, cases, same_results, tables

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from genrec.decoding import triton_step

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def small_programs(monkeypatch):
    monkeypatch.setattr(triton_step, "_LANES", 16)
    monkeypatch.setattr(triton_step, "_TILE", 32)
    monkeypatch.setattr(triton_step, "_PROGRAMS", 6)
    monkeypatch.setattr(triton_step, "_PARTS", 3)


def a_step(seed, *, batch=2, width=7, size=6, share=0.5, codes=24, dead=0.2):
    """Beams at depth 1, some dead, over children from hardly any to all."""
    rng = np.random.default_rng(seed)
    every = np.stack(np.unravel_index(np.arange(codes * size), (codes, size)), axis=1)
    table = every[rng.random(len(every)) < share]
    table = np.concatenate([table, table[:5], [[0, 0]]])  # some items collide
    trie = PrefixTrie.from_codes(table, (codes, size)).to(DEVICE)
    some = [rng.permutation(trie.num_nodes[1])[:width] for _ in range(batch)]
    nodes = torch.from_numpy(np.stack(some)).to(DEVICE)
    nodes[torch.from_numpy(rng.random(nodes.shape) < dead)] = -1
    scores = -torch.from_numpy(rng.random(nodes.shape)).float().to(DEVICE) * 4
    values = torch.from_numpy(rng.normal(size=(*nodes.shape, size)) * 2).float().to(DEVICE)
    return trie, values, nodes, scores


def same_steps(slow, fast, *, tolerance=0.0):
    alive = slow.nodes >= 0
    for name in ("nodes", "sound"):
        assert torch.equal(getattr(slow, name), getattr(fast, name)), name
    for name in ("parent", "code"):
        assert torch.equal(getattr(slow, name)[alive], getattr(fast, name)[alive]), name
    for name in ("scores", "best_dropped"):
        torch.testing.assert_close(
            getattr(fast, name), getattr(slow, name), atol=tolerance, rtol=0, msg=name
        )
    if tolerance == 0.0:
        assert torch.equal(slow.dropped, fast.dropped)
    torch.testing.assert_close(fast.leaked, slow.leaked, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("keep", [1, 5, 40])  # one, some, more than there are children
def test_steps_are_the_same_bits(share, keep):
    trie, values, nodes, scores = a_step(0, share=share)
    values = values.log_softmax(-1).mul(4).round().div(4).clamp_max(0)  # many ties
    slow, fast = (
        expand_beams(trie, 1, values, nodes, scores.round(), keep=keep, backend=name)
        for name in ("torch", "triton")
    )
    assert (slow.nodes >= 0).any()
    same_steps(slow, fast)


@pytest.mark.parametrize("options", [{"logits": True}, {"renormalize": True, "logits": True}])
def test_logits_and_renormalised_scores_agree_up_to_rounding(options):
    trie, values, nodes, scores = a_step(1)
    trie = trie.remove([3, 4, 5, 20])
    values = torch.cat([values, values], dim=2)[:, :, ::2].transpose(0, 1).contiguous()
    values = values.transpose(0, 1)  # strides are read, not assumed
    slow, fast = (
        expand_beams(trie, 1, values, nodes, scores, keep=6, backend=name, **options)
        for name in ("torch", "triton")
    )
    same_steps(slow, fast, tolerance=1e-5)


@pytest.mark.skipif(not INTERPRETED, reason="a MutableTrie is on the CPU")
def test_free_slots_between_nodes_are_passed_over():
    whole = a_step(3)[0].add([[0, 5], [3, 3]])
    mutable = MutableTrie(whole)
    gone = list(range(0, whole.num_items, 3))
    mutable.remove(gone)
    whole = whole.remove(gone).compact()
    decoder = LogitDecoder(tables(np.random.default_rng(3), 2, whole.codebook_sizes))
    for renormalize in (False, True):
        options = {"k": 9, "beam_width": 30, "renormalize": renormalize}
        slow = beam_search(decoder, whole, backend="torch", **options)
        fast = beam_search(decoder, mutable.trie, backend="triton", **options)
        assert torch.equal(slow.items, fast.items)
        torch.testing.assert_close(fast.scores, slow.scores, atol=1e-5, rtol=0)


def test_two_bytes_a_code_and_half_precision():
    trie, values, nodes, scores = a_step(2, size=3000, codes=4, width=3, share=0.005)
    half = values.log_softmax(-1).to(torch.bfloat16)
    slow, fast = (
        expand_beams(trie, 1, half, nodes, scores, keep=9, backend=name)
        for name in ("torch", "triton")
    )
    assert int(slow.code.max()) > 255
    same_steps(slow, fast)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_noticed(bad):
    trie, values, nodes, scores = a_step(3, dead=0.0, share=1.0)
    values[1, 2, 3] = bad
    found = expand_beams(trie, 1, values, nodes, scores, keep=4, logits=True, backend="triton")
    assert found.sound.tolist() == [True, False]
    rising = values.nan_to_num(0.0, 0.0, 0.0).clamp_max(0.0)
    rising[0, 0, 0] = 0.5
    found = expand_beams(trie, 1, rising, nodes, scores, keep=42, backend="triton")
    assert found.sound.tolist() == [False, True]


def test_floors_and_wide_beams_go_to_torch(monkeypatch):
    monkeypatch.setattr(triton_step, "triton_step", lambda given: pytest.fail("not for Triton"))
    trie, values, nodes, scores = a_step(4)
    options = {"logits": True, "backend": "triton"}
    expand_beams(trie, 1, values, nodes, scores, keep=3, floor=scores[:, 0], **options)
    nobody = slice(0, 0)
    expand_beams(trie, 1, values[nobody], nodes[nobody], scores[nobody], keep=3, **options)
    monkeypatch.setattr(step, "MOST_TRITON", 4)
    expand_beams(trie, 1, values, nodes, scores, keep=5, **options)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cases(max_levels=3, max_size=4, max_items=14), st.integers(1, 5), st.integers(0, 3))
def test_searches_are_the_same_bits(case, width, gone):
    """Collisions, single children, full levels, exclusions, filters and removed items."""
    the_same_bits(case, width, gone)


@pytest.mark.parametrize("size", [33, 64, 257, 65_536])
@pytest.mark.parametrize("full", [False, True])
def test_families_of_many_children(size, full):
    """More children than lanes of a program, codes of two bytes, the last code of all."""
    rng = np.random.default_rng(size + full)
    every = np.arange(size) if full and size < 100 else rng.permutation(size - 1)[:39]
    codes = np.append(every, [every[0], size - 1])  # the first is there twice
    codes = np.stack([np.zeros_like(codes), codes], axis=1)
    codes = np.concatenate([codes, [[1, 5], [1, size - 1]]])
    decoder = TableDecoder(tables(rng, 2, (2, size), grain=0.25))
    ranks, seen = rng.permutation(len(codes)), torch.from_numpy(rng.integers(-1, 33, (2, 5)))
    allowed = rng.random((2, len(codes))) < 0.6
    the_same_bits(Case(codes, (2, size), ranks, seen, 7, 2, decoder, allowed), 2, gone=full)


def the_same_bits(case, width, gone):
    """The lists of a search with Triton and with the torch operations."""
    trie = case.trie()
    if gone:
        some = np.random.default_rng(gone).permutation(len(case.codes))[: len(case.codes) // 4]
        trie = trie.remove(some)
    trie = trie.to(DEVICE)
    decoder = TableDecoder([table.to(DEVICE) for table in case.decoder.tables])
    filter = None if case.allowed is None else Filter.from_mask(trie, case.allowed)
    exclude = None if case.exclude is None else case.exclude.to(DEVICE)
    options = {"k": min(case.k, 7), "beam_width": width, "filter": filter, "exclude": exclude}
    slow, fast = (beam_search(decoder, trie, backend=b, **options) for b in ("torch", "triton"))
    same_results(slow, fast)


@pytest.mark.parametrize("renormalize", [False, True])
def test_a_decoder_of_logits_with_a_filter_per_user_and_exclusions(renormalize):
    rng = np.random.default_rng(0)
    sizes = (3, 5, 3)
    codes = np.stack([rng.integers(0, size, 40) for size in sizes], axis=1)
    trie = PrefixTrie.from_codes(codes, sizes).to(DEVICE)
    logits = [
        torch.from_numpy(rng.normal(size=(3, math.prod(sizes[:level]), size))).float() * 3
        for level, size in enumerate(sizes)
    ]
    decoder = LogitDecoder([table.to(DEVICE) for table in logits])
    options = {
        "k": 4,
        "beam_width": 3,
        "renormalize": renormalize,
        "exclude": torch.from_numpy(rng.integers(-1, 40, (3, 9))).to(DEVICE),
        "filter": Filter.from_mask(trie, torch.from_numpy(rng.random((3, 40)) < 0.6)),
    }
    slow, fast = (beam_search(decoder, trie, backend=b, **options) for b in ("torch", "triton"))
    same_results(slow, fast, tolerance=2e-5)


@pytest.mark.parametrize("level", [0, 1])  # of inner nodes, and of leaves
@pytest.mark.parametrize("per_user", [False, True])
@pytest.mark.parametrize("gone", [False, True])
def test_a_step_is_two_launches_and_the_host_waits_for_nothing(monkeypatch, level, per_user, gone):
    """Reading a value back would be an operation too: ``item``, ``nonzero``, a copy to the host."""
    trie, values, nodes, scores = a_step(5)
    trie = trie.remove([0, 9]) if gone else trie
    if level == 0:
        nodes, scores = torch.zeros_like(nodes[:, :1]), torch.zeros_like(scores[:, :1])
        values = torch.zeros(2, 1, 24, device=DEVICE)
    exclude = torch.tensor([[1, 2, 3], [4, -1, -1]], device=DEVICE)
    filter = Filter.deny(trie, [[7, 8], [5, -1]] if per_user else [7])
    excluded = Exclusions.from_items(trie, exclude, 2, filter)
    options = {"keep": 4, "logits": True, "excluded": excluded, "backend": "triton"}
    first = extended(trie, level, values, nodes, scores, **options)
    assert (first.nodes >= 0).any()  # and what is kept with the trie is made
    launched = []
    for name in ("_best_of_parts", "_merged"):
        monkeypatch.setattr(triton_step, name, Launches(name, launched))
    with Operations() as others:
        extended(trie, level, values, nodes, scores, **options)
    assert launched == ["_best_of_parts", "_merged"]
    views = {"aten.view.dtype", "aten.detach.default"}
    assert set(others.names) <= views | {"aten.empty.memory_format"}


def test_reading_a_value_back_would_be_seen():
    with Operations() as others:
        assert int(torch.ones(3, dtype=torch.int64).max()) == 1
    assert "aten._local_scalar_dense.default" in others.names


class Launches:
    """Stands for a kernel and notes that it would be launched."""

    def __init__(self, name, launched):
        self.name, self.launched = name, launched

    def __getitem__(self, grid):
        return lambda *arguments, **options: self.launched.append(self.name)


class Operations(TorchDispatchMode):
    """Notes the torch operations that run; all but views and allocations would be launches."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


COMPILES = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from genrec.decoding import triton_step as module

def build(kernel, types, **constants):
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    values = {(names.index(n),): value for n, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 4})
    assert len(made.asm["cubin"]) > 1000

common = {
    "nodes": "*i64", "scores": "*fp32", "tokens": "*i16", "pointer": "*i32", "keys": "*i64",
    "lost": "*fp32",
}
everything = dict.fromkeys(("LOGITS", "RENORMALIZE", "LIVE", "MEMBERS", "EXCLUDED"), True)
build(
    module._best_of_parts,
    common | {
        "log_probs": "*bf16", "ties": "*i32", "live": "*u8", "words": "*i64", "before": "*i32",
        "item_starts": "*i32", "ranks": "*i64", "out_keys": "*i64", "out_lost": "*fp32",
    },
    BEAMS=4, SLOTS=8, COLUMNS=8, KEPT=8, LAST=True, WIDE=True, **everything,
)
build(
    module._merged,
    common | {
        "leaf_of_rank": "*i32", "out_nodes": "*i64", "out_scores": "*fp32", "out_parent": "*i64",
        "out_code": "*i64", "dropped": "*i64", "leaked": "*fp32", "sound": "*i1",
    },
    CHUNK=8, KEPT=8, LAST=True, WIDE=True,
)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Triton's own assembler")
def test_the_kernels_compile_for_a_device_that_is_not_here(tmp_path):
    """The interpreter runs what the compiler refuses; this is the compiler down to the cubin."""
    root = str(Path(__file__).parents[2])
    cache = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment = os.environ | cache | {"PYTHONPATH": root}
    script = tmp_path / "compiles.py"  # kernels are read from files
    script.write_text(COMPILES)
    subprocess.run([sys.executable, str(script)], check=True, env=environment)
