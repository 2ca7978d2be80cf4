"""What every registered backbone must do; a new one is picked up by itself."""

from __future__ import annotations

import pytest
import torch

from genrec.errors import ConfigError
from genrec.models import BACKBONES, Backbone, SequenceMeta

WIDTH, LENGTH = 16, 12
VARIANTS = [(name, {}) for name in BACKBONES] + [("transformer", {"positions": "rotary"})]


@pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}{v[1] or ''}")
def backbone(request: pytest.FixtureRequest) -> Backbone:
    name, options = request.param
    torch.manual_seed(0)
    return BACKBONES[name](d_model=WIDTH, max_length=LENGTH, **options).eval()


def full(batch: int, length: int) -> SequenceMeta:
    return SequenceMeta.from_mask(torch.ones(batch, length, dtype=torch.bool))


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


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(backbone: Backbone, side: str) -> None:
    x = torch.randn(2, 5, WIDTH)
    alone = backbone(x, full(2, 5))
    padding = torch.randn(2, 4, WIDTH)
    mask = torch.ones(2, 9, dtype=torch.bool)
    if side == "right":
        mask[:, 5:] = False
        padded = backbone(torch.cat([x, padding], 1), SequenceMeta.from_mask(mask))[:, :5]
    else:
        mask[:, :4] = False
        padded = backbone(torch.cat([padding, x], 1), SequenceMeta.from_mask(mask))[:, 4:]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-4)


def test_other_rows_of_the_batch_change_nothing(backbone: Backbone) -> None:
    x = torch.randn(4, 6, WIDTH)
    together = backbone(x, full(4, 6))
    for row in range(4):
        alone = backbone(x[row : row + 1], full(1, 6))
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
