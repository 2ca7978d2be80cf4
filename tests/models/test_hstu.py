"""HSTU against loops written from the formulas; the blocked attention against autograd."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import ConfigError
from genrec.models import HSTU, SequenceMeta
from genrec.models.backbones import pointwise
from genrec.models.backbones.relative import Pairs, lookup, time_buckets
from tests.models.relative_cases import asked_of, bucket, centred, silu, timed_users


def slow_forward(
    model: HSTU, x: torch.Tensor, asked: list[int], event: list[int], *, heads: int, concat: bool
) -> torch.Tensor:
    """One user, one pair of tokens at a time."""
    length, width = x.shape
    hidden = [x[i] * math.sqrt(width) + model.input.position.weight[i] for i in range(length)]
    for layer in model.layers:
        wide = layer.widths[0]
        parts = [F.silu(centred(row) @ layer.uvqk) for row in hidden]
        u, v, q, k = ([part.split(layer.widths)[n] for part in parts] for n in range(4))
        after = []
        for i in range(length):
            mixed = torch.zeros(wide)
            for head, j in product(range(heads), range(i + 1)):
                keys = slice(head * layer.widths[2] // heads, (head + 1) * layer.widths[2] // heads)
                values = slice(head * wide // heads, (head + 1) * wide // heads)
                score = float(q[i][keys] @ k[j][keys] + layer.position[i - j])
                if layer.time is not None:
                    score += float(layer.time[bucket(asked[i] - event[j])])
                mixed[values] += silu(score) / model.spec.max_length * v[j][values]
            mixed = centred(mixed)
            gated = torch.cat([u[i], mixed, u[i] * mixed]) if concat else u[i] * mixed
            after.append(hidden[i] + layer.out.weight @ gated + layer.out.bias)
        hidden = after
    return torch.stack(hidden)


@pytest.mark.parametrize(
    ("times", "options"),
    [
        ("request", {"heads": 2}),
        ("event", {"heads": 1, "concat_ua": True}),
        ("none", {"heads": 3, "dqk": 2, "dv": 5}),
    ],
)
@torch.no_grad()
def test_matches_the_formulas(times: str, options: dict) -> None:
    torch.manual_seed(0)
    model = HSTU(d_model=8, max_length=9, layers=2, times=times, **options).eval()
    torch.nn.init.normal_(model.layers[0].position)
    torch.nn.init.normal_(model.layers[1].position)
    for layer in model.layers:
        if layer.time is not None:
            torch.nn.init.normal_(layer.time)
    x = torch.randn(2, 6, 8)
    meta = timed_users(2, 6)
    found = model(x, meta)
    for row in range(2):
        expected = slow_forward(
            model,
            x[row],
            asked_of(meta, times)[row].tolist(),
            meta.event_time[row].tolist(),
            heads=options["heads"],
            concat=options.get("concat_ua", False),
        )
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("concat", [False, True])
def test_parameter_count(concat: bool) -> None:
    width, length, layers = 12, 20, 3
    model = HSTU(d_model=width, max_length=length, layers=layers, heads=3, concat_ua=concat)
    layer = (7 if concat else 5) * width**2 + width + length + 129
    assert sum(p.numel() for p in model.parameters()) == layers * layer + length * width


def test_the_normaliser_is_a_constant() -> None:
    """The same row in a longer batch, or alone, is divided by the same N."""
    torch.manual_seed(0)
    model = HSTU(d_model=8, max_length=16, times="none").eval()
    x = torch.randn(2, 10, 8)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[0, 3:] = False
    together = model(x, SequenceMeta.from_mask(mask))[0, :3]
    alone = model(x[:1, :3], SequenceMeta.from_mask(mask[:1, :3]))[0]
    torch.testing.assert_close(together, alone)


def test_buckets_follow_the_rule() -> None:
    gaps = [-100, 0, 1, 2, 60, 3600, 86_400, 10**7, 3 * 10**9, 10**17]
    asked = torch.tensor([[gap + 5 for gap in gaps]])
    found = time_buckets(asked, torch.tensor([[5]]))[0, :, 0]
    assert found.tolist() == [bucket(gap) for gap in gaps]
    assert found[0] == 0 and found[-1] == 128  # above e^(0.301 * 128)


def plain(query, key, value, *, normalizer, bias=None, table=None, buckets=None):
    scores = query @ key.transpose(2, 3)
    if bias is not None:
        scores = scores + (bias if bias.dim() == 2 else bias[:, None])
    if table is not None:
        scores = scores + table[buckets.long()][:, None]
    return (F.silu(scores).tril() / normalizer) @ value


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, most) for most in (4, 3, 13, 4, 5))),
    rows=st.integers(1, 8),
    budget=st.integers(16, 4000),
    bias=st.sampled_from(["none", "shared", "own"]),
    timed=st.booleans(),
)
def test_blocks_change_nothing(
    shape: tuple[int, ...], rows: int, budget: int, bias: str, timed: bool
) -> None:
    """Values and gradients, whatever the size of the blocks."""
    batch, heads, length, dqk, dv = shape
    torch.manual_seed(sum(shape))
    draw = {"dtype": torch.float64, "requires_grad": True}
    inputs = [torch.randn(batch, heads, length, width, **draw) for width in (dqk, dqk, dv)]
    options: dict = {"normalizer": 7}
    if bias != "none":
        own = (batch,) if bias == "own" else ()
        options["bias"] = torch.randn(*own, length, length, **draw)
    if timed:
        options["table"] = torch.randn(6, **draw)
        options["buckets"] = torch.randint(0, 6, (batch, length, length), dtype=torch.uint8)
    learned = inputs + [options[name] for name in ("bias", "table") if name in options]
    upstream = torch.randn(batch, heads, length, dv, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pointwise, "ROWS", rows)
        patch.setattr(pointwise, "BLOCK_BYTES", {"cpu": budget, "default": budget})
        fast = pointwise.pointwise_attention(*inputs, **options)
        of_fast = torch.autograd.grad(fast, learned, upstream)
    slow = plain(*inputs, **options)
    of_slow = torch.autograd.grad(slow, learned, upstream)
    torch.testing.assert_close(fast, slow)
    for one, other in zip(of_fast, of_slow, strict=True):
        torch.testing.assert_close(one, other)


def test_lookup_is_indexing() -> None:
    table = torch.randn(9, requires_grad=True)
    index = torch.randint(0, 9, (3, 4, 5), dtype=torch.uint8)
    upstream = torch.randn(3, 4, 5)
    torch.testing.assert_close(lookup(table, index), table[index.long()])
    (fast,) = torch.autograd.grad(lookup(table, index), table, upstream)
    (slow,) = torch.autograd.grad(table[index.long()], table, upstream)
    torch.testing.assert_close(fast, slow)


def test_positions_of_a_row_with_holes() -> None:
    """Distances count tokens, not places of the padded row."""
    mask = torch.tensor([[True, False, True, True, False, True]])
    pairs = Pairs.of(SequenceMeta.from_mask(mask), "none")
    assert pairs.gaps is None
    assert pairs.distance[0, 5].tolist() == [3, 3, 2, 1, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "does not divide d_model=16; give dqk and dv"),
        ({"times": "clock"}, "times='clock'; expected one of request, event, none"),
        ({"layers": 0}, "layers=0"),
        ({"dqk": 0}, "dqk=0"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HSTU(d_model=16, max_length=4, **options)
