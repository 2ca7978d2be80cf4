"""FuXi-alpha and FuXi-beta against loops written from the formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from genrec.errors import ConfigError
from genrec.models import FuXiAlpha, FuXiBeta
from genrec.models.backbones.gated import GatedBackbone
from genrec.models.backbones.relative import log_gaps
from tests.models.relative_cases import asked_of, bucket, scaled, silu, timed_users


def slow_forward(
    model: GatedBackbone, x: torch.Tensor, asked: list[int], event: list[int], *, heads: int
) -> torch.Tensor:
    """One user, one pair of tokens at a time."""
    length, width = x.shape
    size = width // heads
    hidden = [x[i] * math.sqrt(width) + model.input.position.weight[i] for i in range(length)]
    for layer in model.layers:
        alpha = isinstance(model, FuXiAlpha)
        maps = 1 + model.spec.uses_time + alpha
        parts = [F.silu(scaled(row) @ layer.inner) for row in hidden]
        after = []
        for i in range(length):
            by_head = []
            for head in range(heads):
                place = [
                    slice((maps + n) * width + head * size, (maps + n) * width + (head + 1) * size)
                    for n in range(3)
                ]
                total = torch.zeros(maps, size)
                for j in range(i + 1):
                    value = parts[j][place[0]]
                    weights = [float(layer.position[i - j])]
                    gap = max(asked[i] - event[j], 0)
                    if model.spec.uses_time and alpha:
                        weights.append(float(layer.time[bucket(gap)]))
                    elif model.spec.uses_time:
                        weights.append(float(layer.scale) * (1 + gap) ** -float(layer.decay))
                    if alpha:
                        score = float(parts[i][place[1]] @ parts[j][place[2]])
                        weights.append(silu(score) / model.spec.max_length)
                    for n, weight in enumerate(weights):
                        total[n] += weight * value
                by_head.append(total.flatten())
            gated = parts[i][: maps * width] * scaled(torch.cat(by_head))
            mixed = hidden[i] + layer.out.weight @ gated + layer.out.bias
            inner = scaled(mixed)
            gate, up, down = (
                getattr(layer.ffn, name).weight for name in ("gate", "inner", "outer")
            )
            after.append(mixed + down @ (F.silu(gate @ inner) * (up @ inner)))
        hidden = after
    return torch.stack(hidden)


@pytest.mark.parametrize("times", ["request", "event", "none"])
@pytest.mark.parametrize(("kind", "options"), [(FuXiAlpha, {"heads": 2}), (FuXiBeta, {})])
@torch.no_grad()
def test_matches_the_formulas(kind: type[GatedBackbone], options: dict, times: str) -> None:
    torch.manual_seed(0)
    model = kind(d_model=8, max_length=9, times=times, ffn=12, **options).eval()
    for name, parameter in model.named_parameters():
        if name.endswith((".time", ".position")):
            torch.nn.init.normal_(parameter)
    x, meta = torch.randn(2, 6, 8), timed_users(2, 6)
    found = model(x, meta)
    for row in range(2):
        expected = slow_forward(
            model,
            x[row],
            asked_of(meta, times)[row].tolist(),
            meta.event_time[row].tolist(),
            heads=options.get("heads", 1),
        )
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("factor", [1, 4])
def test_parameter_counts(factor: int) -> None:
    width, length, layers = 12, 20, 3
    options = {"d_model": width, "max_length": length, "layers": layers, "ffn": factor * width}
    for model, squares, scalars in (
        (FuXiAlpha(heads=3, **options), 9, 129),
        (FuXiBeta(**options), 5, 2),
    ):
        layer = (squares + 3 * factor) * width**2 + width + length + scalars
        assert sum(p.numel() for p in model.parameters()) == layers * layer + length * width


def test_gaps_are_logarithms_of_seconds() -> None:
    found = log_gaps(torch.tensor([[5, 100]]), torch.tensor([[1, 50]]))
    expected = torch.tensor([[[5.0, 1.0], [100.0, 51.0]]]).log()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "does not divide"),
        ({"times": "clock"}, "times='clock'"),
        ({"ffn": 0}, "ffn=0"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FuXiAlpha(d_model=16, max_length=4, **options)
