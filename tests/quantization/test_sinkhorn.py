from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from genrec.quantization.sinkhorn import sinkhorn_codes


def distances(rows=24, codes=6, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # The first codes are nearer to all rows than the last.
    return torch.rand(rows, codes, generator=generator) + torch.arange(codes) / 3


def test_loads_are_nearly_even():
    d = distances(600, 6)
    nearest = torch.bincount(d.argmin(dim=1), minlength=6)
    even = torch.bincount(sinkhorn_codes(d, 0.003, 200), minlength=6)
    assert nearest.max() > 300
    assert even.max() <= 110 and even.min() >= 90


def test_cost_is_that_of_the_optimal_even_assignment():
    d = distances()
    codes = sinkhorn_codes(d, 0.003, 500)
    copies = np.repeat(d.numpy(), 4, axis=1)
    rows, columns = linear_sum_assignment(copies)
    assert float(d[torch.arange(24), codes].sum()) <= 1.03 * copies[rows, columns].sum()


def test_the_plan_equals_plain_sinkhorn():
    d = distances()
    wide = d.double()
    scaled = (wide - (wide.max() + wide.min()) / 2) / ((wide.max() - wide.min()) / 2)
    plan = torch.exp(-scaled / 0.1)
    for _ in range(50):
        plan = plan / plan.sum(dim=1, keepdim=True)
        plan = plan / plan.sum(dim=0, keepdim=True) * 4
    assert torch.equal(sinkhorn_codes(d, 0.1, 50), plan.argmax(dim=1))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 8)])
@pytest.mark.parametrize("epsilon", [1e-6, 0.003, 10.0])
def test_any_shape_and_scale_give_valid_codes(shape, epsilon):
    for factor in (0.0, 1e-20, 1e20):
        codes = sinkhorn_codes(distances(*shape) * factor, epsilon, 20)
        assert codes.shape == (shape[0],)
        assert ((codes >= 0) & (codes < shape[1])).all()
