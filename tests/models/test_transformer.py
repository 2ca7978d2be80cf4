from __future__ import annotations

import math

import pytest
import torch

from genrec.errors import ConfigError
from genrec.models import CausalTransformer, SequenceMeta


def slow_forward(
    model: CausalTransformer, x: torch.Tensor, positions: str, norm: str = "pre", scale: float = 1.0
) -> torch.Tensor:
    """One sequence, one token and one head at a time, straight from the formulas."""
    length, width = x.shape
    hidden = x * scale
    if positions == "learned":
        hidden = hidden + model.position.weight[:length]
    for block in model.blocks:
        normed = block.attention_norm(hidden) if norm == "pre" else hidden
        mixed = torch.zeros_like(hidden)
        size = width // block.heads
        weight, bias = block.qkv.weight, block.qkv.bias
        for head in range(block.heads):
            rows = [
                slice(part * width + head * size, part * width + (head + 1) * size)
                for part in range(3)
            ]
            q, k, v = (normed @ weight[r].T + bias[r] for r in rows)
            if positions == "rotary":
                q, k = (torch.stack([turn(row, i) for i, row in enumerate(m)]) for m in (q, k))
            for i in range(length):
                scores = torch.stack([q[i] @ k[j] / math.sqrt(size) for j in range(i + 1)])
                share = scores.softmax(0)
                out = sum(share[j] * v[j] for j in range(i + 1))
                mixed[i, head * size : (head + 1) * size] = out
        hidden = hidden + block.out(mixed)
        if norm == "pre":
            hidden = hidden + block.ffn(block.ffn_norm(hidden))
        else:
            hidden = block.attention_norm(hidden)
            hidden = block.ffn_norm(hidden + block.ffn(hidden))
    return model.norm(hidden)


def turn(row: torch.Tensor, position: int) -> torch.Tensor:
    """Rotate pairs (i, i + half) as complex numbers."""
    half = len(row) // 2
    angle = position * torch.tensor([10_000.0 ** (-i / half) for i in range(half)])
    turned = torch.complex(row[:half], row[half:]) * torch.polar(torch.ones(half), angle)
    return torch.cat([turned.real, turned.imag])


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize(("norm", "scaled"), [("pre", False), ("post", True)])
def test_matches_the_formulas(positions: str, norm: str, scaled: bool) -> None:
    torch.manual_seed(1)
    model = CausalTransformer(
        d_model=8,
        max_length=7,
        heads=2,
        layers=2,
        positions=positions,
        norm=norm,
        scale_input=scaled,
    )
    for layer in model.modules():  # norms that do something of their own
        if isinstance(layer, torch.nn.LayerNorm):
            torch.nn.init.normal_(layer.weight, 1.0, 0.3)
            torch.nn.init.normal_(layer.bias, 0.0, 0.3)
    model.eval()
    x = torch.randn(2, 7, 8)
    fast = model(x, SequenceMeta.from_mask(torch.ones(2, 7, dtype=torch.bool)))
    for row in range(2):
        torch.testing.assert_close(
            fast[row],
            slow_forward(model, x[row], positions, norm, 8**0.5 if scaled else 1.0),
            atol=1e-5,
            rtol=1e-4,
        )


def test_parameter_count() -> None:
    width, ffn, length, layers = 16, 40, 9, 3
    model = CausalTransformer(d_model=width, ffn=ffn, max_length=length, layers=layers)
    block = 4 * width * width + 4 * width + 2 * width * ffn + ffn + width + 4 * width
    assert sum(p.numel() for p in model.parameters()) == (
        layers * block + 2 * width + length * width
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "does not divide"),
        ({"positions": "sine"}, "positions='sine'"),
        ({"activation": "tanh"}, "activation='tanh'"),
        ({"heads": 16, "positions": "rotary"}, "even head width"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CausalTransformer(d_model=16, max_length=4, **options)
