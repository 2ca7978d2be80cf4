"""TokenFormer against loops written from the formulas; its windows; what its cache keeps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from genrec.errors import ConfigError
from genrec.models import SequenceMeta, TokenFormer

LEVELS = 3


def code_meta(items: list[int], columns: int) -> SequenceMeta:
    """So many items a user, LEVELS tokens each, padding on the right."""
    mask = torch.arange(columns) < LEVELS * torch.tensor(items)[:, None]
    meta = SequenceMeta.from_mask(mask)
    meta.item_index = meta.position // LEVELS
    meta.level = meta.position % LEVELS
    return meta


def turned(row: torch.Tensor, position: int) -> torch.Tensor:
    half = len(row) // 2
    angle = position * torch.tensor([10_000.0 ** (-i / half) for i in range(half)])
    pairs = torch.complex(row[:half], row[half:]) * torch.polar(torch.ones(half), angle)
    return torch.cat([pairs.real, pairs.imag])


def normed(row: torch.Tensor, norm: torch.nn.RMSNorm) -> torch.Tensor:
    epsilon = torch.finfo(torch.float32).eps
    return row / math.sqrt(float((row**2).mean()) + epsilon) * norm.weight


def slow_forward(
    model: TokenFormer, x: torch.Tensor, items: list[int], windows: list[int | None]
) -> torch.Tensor:
    """One user, one token and one head at a time."""
    length, width = x.shape
    hidden = list(x)
    for block, window in zip(model.blocks, windows, strict=True):
        size = width // block.heads
        rows = [normed(row, block.attention_norm) for row in hidden]
        after = []
        for i in range(length):
            mixed = torch.zeros(width)
            seen = [j for j in range(i + 1) if window is None or items[i] - items[j] < window]
            for head in range(block.heads):
                place = slice(head * size, (head + 1) * size)
                weight = block.qkv.weight.view(3, width, width)[:, place]
                query = turned(weight[0] @ rows[i], i)
                keys = [turned(weight[1] @ rows[j], j) for j in seen]
                share = torch.stack([query @ key / math.sqrt(size) for key in keys]).softmax(0)
                mixed[place] = sum(
                    s * (weight[2] @ rows[j]) for s, j in zip(share, seen, strict=True)
                )
            if isinstance(block.out, torch.nn.Linear):
                mixed = block.out.weight @ mixed
            h = hidden[i] + torch.sigmoid(block.gate.weight @ rows[i]) * mixed
            inner = normed(h, block.ffn_norm)
            ffn = block.ffn
            up = F.silu(ffn.gate.weight @ inner) * (ffn.inner.weight @ inner)
            after.append(h + ffn.outer.weight @ up)
        hidden = after
    return torch.stack([normed(row, model.norm) for row in hidden])


@pytest.mark.parametrize("projection", [False, True])
@torch.no_grad()
def test_matches_the_formulas(projection: bool) -> None:
    torch.manual_seed(0)
    model = TokenFormer(
        d_model=8, max_length=15, layers=3, windows=[2, 1], heads=2, projection=projection
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    meta = code_meta([4, 4], 12)
    x = torch.randn(2, 12, 8)
    found = model(x, meta)
    for row in range(2):
        expected = slow_forward(model, x[row], meta.item_index[row].tolist(), [None, 2, 1])
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


def test_parameter_count() -> None:
    width, ffn, layers = 12, 20, 5
    for projection in (False, True):
        model = TokenFormer(
            d_model=width, max_length=9, layers=layers, ffn=ffn, projection=projection
        )
        block = (4 + projection) * width**2 + 3 * ffn * width + 2 * width
        assert sum(p.numel() for p in model.parameters()) == layers * block + width


def test_blocks_with_a_window_keep_its_tokens_only() -> None:
    model = TokenFormer(d_model=8, max_length=40, layers=4, windows=[4, 2, 1]).eval()
    meta = code_meta([10, 2], 36)
    with torch.no_grad():
        context = model.encode(torch.randn(2, 36, 8), meta)
    # The next item is one of the window.
    assert [key.shape[2] for key, _, _ in context.cache] == [36, 9, 3, 1]
    items = context.cache[1][2]
    assert items[0].tolist() == [7, 7, 7, 8, 8, 8, 9, 9, 9]
    assert items[1, 3:].tolist() == [0, 0, 0, 1, 1, 1] and (items[1, :3] < 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 8, "d_model": 8}, "into even widths"),
        ({"layers": 2}, r"windows=\[32, 16\] of 2 layers; expected fewer windows"),
        ({"windows": [0]}, "at least one item"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenFormer(**{"d_model": 16, "max_length": 4, **options})
