"""NextItNet against a loop over tokens."""

from __future__ import annotations

import pytest
import torch

from genrec.errors import ConfigError
from genrec.models import NextItNet, SequenceMeta


def slow_forward(model: NextItNet, x: torch.Tensor) -> torch.Tensor:
    """One user, one token at a time."""
    hidden = list(x)
    for block in model.blocks:
        inner = hidden
        for convolution, norm in zip(block.convolutions, block.norms, strict=True):
            dilation, kernel = convolution.dilation[0], convolution.kernel_size[0]
            after = []
            for i in range(len(inner)):
                total = convolution.bias
                for tap in range(kernel):
                    j = i - (kernel - 1 - tap) * dilation
                    if j >= 0:
                        total = total + convolution.weight[:, :, tap] @ inner[j]
                after.append(norm(total).relu())
            inner = after
        hidden = [one + added for one, added in zip(hidden, inner, strict=True)]
    return torch.stack(hidden)


@pytest.mark.parametrize(("kernel", "dilations"), [(3, [1, 4]), (2, [1, 2, 1]), (1, [1])])
def test_matches_the_formulas(kernel: int, dilations: list[int]) -> None:
    torch.manual_seed(0)
    model = NextItNet(d_model=8, max_length=20, kernel=kernel, dilations=dilations).eval()
    x = torch.randn(2, 14, 8)
    fast = model(x, SequenceMeta.from_mask(torch.ones(2, 14, dtype=torch.bool)))
    for row in range(2):
        torch.testing.assert_close(fast[row], slow_forward(model, x[row]), atol=1e-5, rtol=1e-4)


def test_the_reach_is_what_the_docstring_says() -> None:
    torch.manual_seed(0)
    model = NextItNet(d_model=8, max_length=30, kernel=2, dilations=[1, 2]).eval()
    reach = 1 + 3 * 1 * 3
    x = torch.randn(1, 30, 8)
    mask = torch.ones(1, 30, dtype=torch.bool)
    before = model(x, SequenceMeta.from_mask(mask))[0, -1]
    for back, matters in ((reach - 1, True), (reach, False)):
        y = x.clone()
        y[0, 29 - back] += 3
        after = model(y, SequenceMeta.from_mask(mask))[0, -1]
        assert torch.equal(after, before) == (not matters)


def test_parameter_count() -> None:
    model = NextItNet(d_model=12, max_length=9, kernel=3, dilations=(1, 2, 4))
    assert sum(p.numel() for p in model.parameters()) == 3 * (2 * 3 * 12**2 + 6 * 12)


@pytest.mark.parametrize("dilations", [[], [1, 0]])
def test_bad_dilations(dilations: list[int]) -> None:
    with pytest.raises(ConfigError, match="each at least 1"):
        NextItNet(d_model=8, max_length=4, dilations=dilations)
