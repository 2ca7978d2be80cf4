"""Bits with rank and select against lists."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding.bits import BitRank


@st.composite
def masks(draw):
    size = draw(st.sampled_from([1, 2, 63, 64, 65, 127, 128, 200, 1000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
    return torch.from_numpy(rng.random((draw(st.integers(1, 3)), size)) < share)


@settings(max_examples=60, deadline=None)
@given(masks())
def test_rank_select_and_contains_equal_lists(mask):
    bits, size = BitRank.from_mask(mask), mask.shape[1]
    assert torch.equal(bits.mask(), mask)
    assert bits.totals.tolist() == mask.sum(dim=1).tolist()
    everywhere = torch.arange(size + 1).expand(len(mask), -1)
    assert torch.equal(bits.rank(everywhere)[:, 1:], mask.cumsum(dim=1))
    assert (bits.rank(everywhere)[:, 0] == 0).all()
    assert torch.equal(bits.contains(everywhere)[:, :size], mask)
    assert not bits.contains(everywhere)[:, size].any()
    pairs = [(low, high) for low in everywhere[0][::7].tolist() for high in range(low, size + 1, 5)]
    low, high = (torch.tensor(part).expand(len(mask), -1) for part in zip(*pairs, strict=True))
    expected = bits.rank(high) > bits.rank(low)
    assert torch.equal(bits.any_between(low, high), expected)
    assert (bits.array_any_between(low.numpy(), high.numpy()) == expected.numpy()).all()
    shaped = bits.array_any_between(low[:, None].numpy(), high[:, None].numpy())
    assert (shaped[:, 0] == expected.numpy()).all()
    for row, members in enumerate(mask):
        places = members.nonzero().flatten()
        one = bits.select_rows(torch.tensor([row]))
        assert one.select(torch.arange(len(places))[None])[0].tolist() == places.tolist()
    ranks = torch.arange(size).expand(len(mask), -1)
    chosen = bits.select(ranks)
    inside = ranks < bits.totals[:, None]
    assert bits.contains(chosen)[inside].all()
    assert ((chosen >= 0) & (chosen < size)).all()


def test_torch_packs_as_numpy_does(monkeypatch):
    mask = torch.rand(3, 1000, generator=torch.Generator().manual_seed(0)) < 0.5
    ready_made = BitRank.from_mask(mask)
    monkeypatch.setattr(sys, "byteorder", "other")  # as where numpy's words would be the wrong way
    assert torch.equal(BitRank.from_mask(mask).words, ready_made.words)


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(0, 2**32 - 1))
def test_positions_complement_and_intersection_equal_masks(mask, seed):
    rng = np.random.default_rng(seed)
    rows, size = mask.shape
    positions = torch.from_numpy(rng.integers(0, size + 1, (rows, rng.integers(0, 40))))
    bits = BitRank.from_positions(positions, size)
    expected = torch.zeros(rows, size + 1, dtype=torch.bool).scatter_(1, positions, True)
    assert torch.equal(bits.mask(), expected[:, :size])
    assert torch.equal((~bits).mask(), ~expected[:, :size])
    assert torch.equal((bits & BitRank.from_mask(mask)).mask(), expected[:, :size] & mask)
    one = BitRank.from_mask(mask[:1])
    assert torch.equal((bits & one).mask(), expected[:, :size] & mask[:1])
    shaped = torch.arange(size).expand(rows, 2, size)
    assert torch.equal(one.contains(shaped), mask[:1, None].expand(rows, 2, -1))


def test_a_set_costs_a_fifth_of_a_byte_a_position():
    bits = BitRank.from_mask(torch.ones(1, 64_000, dtype=torch.bool))
    assert bits.nbytes / 64_000 == pytest.approx(0.1875, abs=0.001)
    assert torch.equal(bits.to("cpu").words, bits.words)
