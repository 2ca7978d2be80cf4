"""Dense levels as bits: the same results as with lists of codes, everywhere that codes are read."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from genrec.decoding import (
    Filter,
    MutableTrie,
    PrefixTrie,
    beam_search,
    exact_parallel_search,
    expand_beams,
    levels,
    load_trie,
    save_trie,
    transition_tables,
)
from genrec.decoding.huggingface import SidLogitsProcessor
from genrec.errors import ArtefactError
from tests.decoding.cases import BACKENDS, cases, on_every_backend, same_results


def in_form(trie: PrefixTrie, *, dense: bool) -> PrefixTrie:
    """The trie with all its levels as bits, or none; it takes filters of the other."""
    tokens = []
    for level, pointer in enumerate(trie.pointers):
        listed = trie.level(level).listed()
        size = trie.codebook_sizes[level]
        tokens.append(levels.as_bits(listed.numpy(), pointer.numpy(), size) if dense else listed)
    return PrefixTrie(**{**trie._parts(), "tokens": tokens})


@pytest.fixture
def small(monkeypatch):
    """Small tries have dense levels too."""
    monkeypatch.setattr(levels, "LARGE", 0)


@on_every_backend(st.integers(1, 8), st.booleans(), st.booleans(), examples=40)
def test_searches_over_bits_and_codes_are_the_same(case, width, renormalize, exact, backend):
    listed = in_form(case.trie(), dense=False)
    dense = in_form(listed, dense=True)
    slow, fast = (
        beam_search(
            case.decoder,
            trie,
            k=case.k,
            beam_width=width,
            exact=exact,
            renormalize=renormalize,
            backend=backend,
            **case.left_out(listed),
        )
        for trie in (listed, dense)
    )
    same_results(slow, fast, tolerance=1e-5 if renormalize else 0.0)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_lookups_of_bits_and_codes_are_the_same(case):
    listed = in_form(case.trie(), dense=False)
    dense = in_form(listed, dense=True)
    rng = np.random.default_rng(0)
    probes = np.stack([rng.integers(-1, size + 1, 40) for size in case.sizes], axis=1)
    probes = np.concatenate([probes, case.codes])
    assert dense.lookup(probes).tolist() == listed.lookup(probes).tolist()
    leaves = torch.arange(listed.num_leaves)
    assert torch.equal(dense.leaf_codes(leaves), listed.leaf_codes(leaves))
    for level, size in enumerate(case.sizes):
        one, other = listed.level(level), dense.level(level)
        assert other.dense and not one.dense
        assert torch.equal(one.listed(), other.listed())
        above = torch.from_numpy(rng.integers(0, listed.num_nodes[level], (3, 5)))
        codes = torch.from_numpy(rng.integers(-1, size + 1, (3, 5)))
        for a, b in zip(
            one.lower_bound(above, codes), other.lower_bound(above, codes), strict=True
        ):
            assert torch.equal(a, b)
        gone = torch.where(codes % 3 == 0, -1, above)
        assert torch.equal(one.descend(gone, codes), other.descend(gone, codes))
        narrow = codes.clamp(0, 100).to([torch.uint8, torch.int8, torch.int16][level % 3])
        assert torch.equal(one.descend(gone, narrow), other.descend(gone, narrow))
        (code, child, absent), (code_, child_, absent_) = one.children(above), other.children(above)
        assert code[~absent].tolist() == code_[~absent_].tolist()
        assert child[~absent].tolist() == child_[~absent_].tolist()
        assert max(int(child.max()), int(child_.max())) < listed.num_nodes[level + 1]
        assert code_.shape == (3, 5, size) and min(int(child.min()), int(child_.min())) >= 0


@pytest.mark.parametrize("size", [3, 64, 100, 256, 300, 1000])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 1.0])
def test_steps_over_bits_and_codes_are_the_same(size, share):
    """Rows that do not end with a word, full ones, dead beams, removals, filters, a floor.

    Log-probabilities and scores are multiples of 1/4, whose sums are exact, so everything is equal
    bit by bit, with many ties. Normalized ones are the same up to rounding, which may change the
    order of near ties, so of those only the scores are compared.
    """
    rng = np.random.default_rng(size)
    every = np.stack(np.unravel_index(np.arange(40 * size), (40, size)), axis=1)
    codes = every[(rng.random(len(every)) < share) | (every[:, 0] == 3)]
    trie = in_form(
        PrefixTrie.from_codes(np.concatenate([codes, codes[:9]]), (40, size)), dense=False
    )
    gone = rng.permutation(len(codes))[: len(codes) // 5]
    nodes = torch.from_numpy(np.stack([rng.permutation(trie.num_nodes[1])[:20] for _ in range(4)]))
    nodes[torch.from_numpy(rng.random(nodes.shape) < 0.1)] = -1
    scores = torch.from_numpy(-rng.integers(0, 8, nodes.shape) / 4).float()
    log_probs = torch.from_numpy(-rng.integers(0, 40, (*nodes.shape, size)) / 4).float()
    allowed = torch.from_numpy(rng.random((4, trie.num_items)) < 0.5)
    exclude = torch.from_numpy(rng.integers(-1, trie.num_items, (4, 30)))
    floor = torch.full((4,), -2.0)
    backends = [name for name in BACKENDS if name != "triton"]
    for listed in (trie, trie.remove(gone)):
        dense = in_form(listed, dense=True)
        filter = Filter.from_mask(listed, allowed)
        for options in (
            {"keep": 7},
            {"keep": 7, "renormalize": True},
            {"keep": 7, "logits": True},
            {"keep": 300, "filter": filter, "exclude": exclude},
            {"keep": 300, "filter": filter, "exclude": exclude, "logits": True},
            {"keep": 50, "floor": floor, "filter": filter},
        ):
            for backend in backends:
                slow, fast = (
                    expand_beams(of, 1, log_probs, nodes, scores, backend=backend, **options)
                    for of in (listed, dense)
                )
                rounded = "renormalize" in options or "logits" in options
                rounding = 1e-5 if rounded else 0.0
                for name in () if rounded else ("nodes", "parent", "code", "sound"):
                    one, other = getattr(slow, name), getattr(fast, name)
                    if name in ("parent", "code"):
                        one, other = one[slow.nodes >= 0], other[slow.nodes >= 0]
                    assert torch.equal(one, other), name
                for name in ("scores", "best_dropped"):
                    torch.testing.assert_close(
                        getattr(fast, name), getattr(slow, name), atol=rounding, rtol=0
                    )
                torch.testing.assert_close(fast.leaked, slow.leaked, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [200, 300])
def test_bits_and_codes_are_read_by_one_compiled_function(size):
    """Two would be compiled apart, and their sums could differ in the last digit."""
    step = pytest.importorskip("genrec.decoding.compiled_step")
    codes = np.random.default_rng(0).integers(0, (8, size), (900, 2))
    tries = [in_form(PrefixTrie.from_codes(codes, (8, size)), dense=dense) for dense in (0, 1)]
    kinds = [[(one.dtype, one.ndim) for one in step.level_arrays(trie, 1)] for trie in tries]
    assert kinds[0] == kinds[1]


def catalog(items=900, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, items) for size in (3, 256, 2)], axis=1)
    return codes, (3, 256, 2), rng


def test_a_dense_level_becomes_bits_and_no_other(small):
    codes, sizes, _ = catalog()
    trie = PrefixTrie.from_codes(codes, sizes)
    assert [trie.level(level).dense for level in range(3)] == [False, True, False]
    cells = 3 * 256
    assert trie.tokens[1].nbytes == cells // 8 + 8 < trie.num_nodes[2]
    assert trie.index_nbytes < in_form(trie, dense=False).index_nbytes
    few = PrefixTrie.from_codes(codes[:150], sizes)  # a fifth
    assert not any(few.level(level).dense for level in range(3))
    whole = np.stack(np.unravel_index(np.arange(cells), (3, 256)), axis=1)
    assert not PrefixTrie.from_codes(whole, (3, 256)).level(1).dense  # a step reads no code there


def test_only_lists_that_leave_the_cache_become_bits():
    codes, sizes, _ = catalog()
    assert not any(PrefixTrie.from_codes(codes, sizes).level(level).dense for level in range(3))
    rng = np.random.default_rng(0)
    cells = rng.permutation(2**23)[: levels.LARGE + 1000]
    codes = np.stack([cells >> 16, cells >> 8 & 255, cells & 255], axis=1)
    trie = PrefixTrie.from_codes(codes, (128, 256, 256))
    assert [trie.level(level).dense for level in range(3)] == [False, False, True]
    assert trie.index_nbytes / trie.num_items < 0.3  # a byte a code and more as a list


def test_what_changes_a_trie_keeps_its_form(small, tmp_path):
    codes, sizes, rng = catalog(1400)
    expected = PrefixTrie.from_codes(codes, sizes)
    mutable = MutableTrie(PrefixTrie.from_codes(codes[:1000], sizes))
    mutable.add(codes[1000:])
    grown = PrefixTrie.from_codes(codes[:1000], sizes).add(codes[1000:])
    save_trie(grown, tmp_path / "trie")
    for trie in (grown, mutable.freeze(), load_trie(tmp_path / "trie"), grown.to("cpu")):
        assert trie.level(1).dense
        for a, b in zip(trie.tokens, expected.tokens, strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)
    assert not any(mutable.trie.level(level).dense for level in range(3))
    assert (mutable.trie.lookup(codes) >= 0).all()
    gone = rng.permutation(1400)[:500]
    left = np.delete(np.arange(1400), gone)
    compacted = grown.remove(gone)
    assert compacted.live is None  # more than a quarter
    again = PrefixTrie.from_codes(codes[left], sizes)
    for a, b in zip(compacted.tokens, again.tokens, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    order = rng.permutation(1400)
    assert grown.renumber(order).tokens[1] is grown.tokens[1]


def test_other_readers_give_the_same(small):
    codes, sizes, rng = catalog()
    dense = PrefixTrie.from_codes(codes, sizes)
    listed = in_form(dense, dense=False)
    assert dense.level(1).dense
    tables, tables_ = (vars(transition_tables(trie)) for trie in (dense, listed))
    for name, found in tables.items():
        pair = (of if name == "dense_masks" else [of] for of in (found, tables_[name]))
        for a, b in zip(*pair, strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)), name
    log_probs = [torch.from_numpy(rng.normal(size=(4, size))).float() for size in sizes]
    slow, fast = (exact_parallel_search(log_probs, trie, k=20) for trie in (listed, dense))
    same_results(slow, fast)
    tokens = [torch.arange(size) + 10 + 300 * level for level, size in enumerate(sizes)]
    prompts = torch.ones(6, 4, dtype=torch.int64)
    rows = torch.cat([prompts, torch.from_numpy(codes[:6, :1]) + 10], dim=1)
    scores = torch.from_numpy(rng.normal(size=(6, 1000))).float()
    filter = Filter.deny(dense, rng.permutation(900)[:300])
    masked = [
        SidLogitsProcessor(
            trie, tokens, eos_token_id=2, prompt_length=4, rows_per_prompt=6, filter=filter
        )(rows, scores)
        for trie in (listed, dense)
    ]
    assert torch.equal(*masked) and (masked[0] > -torch.inf).any(dim=1).all()


def test_bits_in_a_file_are_mapped_and_checked(small, tmp_path):
    codes, sizes, _ = catalog()
    trie = PrefixTrie.from_codes(codes, sizes)
    save_trie(trie, tmp_path / "trie")
    assert load_trie(tmp_path / "trie", deep=False).tokens[1].dtype == torch.int64
    file = tmp_path / "trie/trie.safetensors"
    whole = load_file(str(file))
    assert whole["tokens.1"].shape == (3 * 4 + 1,)
    bits = whole["tokens.1"].clone()
    moved = bits.clone()
    moved[0], moved[4] = moved[4], moved[0]  # as many in all, but not of each node
    missing = bits.clone()
    missing[2] &= missing[2] - 1
    behind = bits.clone()
    behind[-1] = 1
    for wrong in (moved, missing, behind, bits[:-1].contiguous(), bits[None].contiguous()):
        save_file({**whole, "tokens.1": wrong}, str(file))
        with pytest.raises(ArtefactError, match=r"tokens\.1"):
            load_trie(tmp_path / "trie", deep=False)
    save_file({**whole, "tokens.1": trie.level(1).listed()}, str(file))  # as older files have it
    older = load_trie(tmp_path / "trie", deep=False)
    assert not older.level(1).dense
    assert torch.equal(older.lookup(codes), trie.lookup(codes))


def test_a_row_that_ends_within_a_word_has_no_other_bits(small, tmp_path):
    rng = np.random.default_rng(0)
    every = np.stack(np.unravel_index(np.arange(20 * 200), (20, 200)), axis=1)
    trie = PrefixTrie.from_codes(every[rng.random(4000) < 0.7], (20, 200))
    assert trie.level(1).dense
    save_trie(trie, tmp_path / "trie")
    file = tmp_path / "trie/trie.safetensors"
    tensors = load_file(str(file))
    bits = tensors["tokens.1"]
    bits[3] = (bits[3] & (bits[3] - 1)) | (1 << 40)  # code 192 + 40 of node 0 for another
    save_file(tensors, str(file))
    with pytest.raises(ArtefactError, match="codes below 200"):
        load_trie(tmp_path / "trie", deep=False)


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
def test_rows_of_bits_count_and_list_their_codes():
    from genrec.decoding import kernel_parts as parts

    rng = np.random.default_rng(0)
    for size, share in ((1, 1.0), (64, 0.5), (65, 0.9), (300, 0.05), (1024, 1.0)):
        held = np.flatnonzero(rng.random(size) < share)
        pointer = np.array([0, len(held)], dtype=np.int32)
        row = levels.as_bits(held.astype(np.uint16).view(np.int16), pointer, size)[:-1].numpy()
        out = np.zeros(size, dtype=np.uint16)
        parts.list_codes(row, out)
        assert out[: len(held)].tolist() == held.tolist()
        assert [parts.code_at(row, rank) for rank in range(len(held))] == held.tolist()
        assert [parts.codes_below(row, code) for code in range(size)] == np.searchsorted(
            held, np.arange(size)
        ).tolist()
        x = rng.normal(size=size).astype(np.float32)
        masked = np.empty(size, dtype=np.float32)
        total = parts.mask_row(x, size, row, np.exp(x), masked)
        there = np.isin(np.arange(size), held)
        assert np.array_equal(masked, np.where(there, x, -np.inf))
        assert total == pytest.approx(float(np.exp(x)[there].sum()), rel=1e-5)
