"""What every registered backbone must do; a new one is picked up by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from genrec.errors import ConfigError
from genrec.models import BACKBONES, Backbone, SequenceMeta

WIDTH, LENGTH = 16, 12
VARIANTS = [
    *((name, {}) for name in BACKBONES),
    ("transformer", {"positions": "rotary"}),
    ("hstu", {"times": "event", "concat_ua": True}),
    ("hstu", {"times": "none", "dqk": 3, "dv": 5}),
]
# Times of four users' events, in seconds from minutes to years apart; the last is of a request.
GAPS = 10 ** (1.5 + 6.5 * torch.rand(4, LENGTH + 2, generator=torch.Generator().manual_seed(5)))
TIMES = 1_300_000_000 + GAPS.long().cumsum(1)


@pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}{v[1] or ''}")
def backbone(request: pytest.FixtureRequest) -> Backbone:
    name, options = request.param
    torch.manual_seed(0)
    return BACKBONES[name](d_model=WIDTH, max_length=LENGTH, **options).eval()


def timed(mask: torch.Tensor, users: Sequence[int] = range(4)) -> SequenceMeta:
    """The n-th real token of a row has the n-th time of its user, wherever padding stands."""
    place = (mask.long().cumsum(1) - 1).clamp_min(0)
    own = TIMES[list(users)[: len(mask)]]
    return SequenceMeta.from_mask(
        mask, event_time=own.gather(1, place), query_time=own.gather(1, place + 1)
    )


def full(batch: int, length: int, users: Sequence[int] = range(4)) -> SequenceMeta:
    return timed(torch.ones(batch, length, dtype=torch.bool), users)


def test_spec_names_width_and_length(backbone: Backbone) -> None:
    assert backbone.spec.d_model == WIDTH
    assert backbone.spec.max_length == LENGTH


def test_later_tokens_never_change_earlier_outputs(backbone: Backbone) -> None:
    x = torch.randn(3, 8, WIDTH)
    before = backbone(x, full(3, 8))
    for changed in range(1, 8):
        y = x.clone()
        y[:, changed:] = torch.randn(3, 8 - changed, WIDTH)
        after = backbone(y, full(3, 8))
        torch.testing.assert_close(after[:, :changed], before[:, :changed])
        assert not torch.allclose(after[:, changed], before[:, changed], atol=1e-4)


def test_earlier_tokens_matter(backbone: Backbone) -> None:
    x = torch.randn(1, 6, WIDTH)
    y = x.clone()
    y[0, 0] = torch.randn(WIDTH)
    assert not torch.allclose(backbone(x, full(1, 6))[0, -1], backbone(y, full(1, 6))[0, -1])


def test_times_matter_to_those_that_say_so(backbone: Backbone) -> None:
    x, meta = torch.randn(2, 6, WIDTH), full(2, 6)
    before = backbone(x, meta)
    event, query = meta.event_time.clone(), meta.query_time.clone()
    event[:, 0] -= 10**7
    query[:, -1] += 10**7
    for changed, read in (
        (replace(meta, event_time=event), backbone.spec.uses_time),
        # What is asked, and when, is not known to a model of `times: event`.
        (replace(meta, query_time=query), getattr(backbone, "times", "none") == "request"),
    ):
        assert torch.equal(backbone(x, changed)[:, -1], before[:, -1]) == (not read)


def test_later_times_never_change_earlier_outputs(backbone: Backbone) -> None:
    x, meta = torch.randn(2, 7, WIDTH), full(2, 7)
    before = backbone(x, meta)
    event, query = meta.event_time.clone(), meta.query_time.clone()
    event[:, 4:] += 10**7
    query[:, 4:] += 10**7
    after = backbone(x, replace(meta, event_time=event, query_time=query))
    torch.testing.assert_close(after[:, :4], before[:, :4])


def test_missing_times_are_named(backbone: Backbone) -> None:
    meta = SequenceMeta.from_mask(torch.ones(1, 3, dtype=torch.bool))
    if not backbone.spec.uses_time:
        assert backbone(torch.randn(1, 3, WIDTH), meta).shape == (1, 3, WIDTH)
        return
    with pytest.raises(ConfigError, match="timestamps"):
        backbone(torch.randn(1, 3, WIDTH), meta)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(backbone: Backbone, side: str) -> None:
    x = torch.randn(2, 5, WIDTH)
    alone = backbone(x, full(2, 5))
    padding = torch.randn(2, 4, WIDTH)
    mask = torch.ones(2, 9, dtype=torch.bool)
    if side == "right":
        mask[:, 5:] = False
        padded = backbone(torch.cat([x, padding], 1), timed(mask))[:, :5]
    else:
        mask[:, :4] = False
        padded = backbone(torch.cat([padding, x], 1), timed(mask))[:, 4:]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-4)


def test_other_rows_of_the_batch_change_nothing(backbone: Backbone) -> None:
    x = torch.randn(4, 6, WIDTH)
    together = backbone(x, full(4, 6))
    for row in range(4):
        alone = backbone(x[row : row + 1], full(1, 6, users=[row]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_every_parameter_gets_a_gradient(backbone: Backbone) -> None:
    backbone.train()
    (backbone(torch.randn(2, 6, WIDTH), full(2, 6)) ** 2).sum().backward()
    missing = [name for name, p in backbone.named_parameters() if p.grad is None]
    assert not missing


def test_bfloat16_runs_and_is_close(backbone: Backbone) -> None:
    x = torch.randn(2, 6, WIDTH)
    exact = backbone(x, full(2, 6))
    with torch.autocast("cpu", torch.bfloat16):
        rough = backbone(x, full(2, 6))
    assert torch.isfinite(rough).all()
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)


def test_too_long_a_sequence_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match=f"max_length={LENGTH}"):
        backbone(torch.randn(1, LENGTH + 1, WIDTH), full(1, LENGTH + 1))
