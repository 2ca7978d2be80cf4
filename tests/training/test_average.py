from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from genrec.training.average import AVERAGE_FILE, WeightAverage


@pytest.fixture
def model():
    torch.manual_seed(0)
    # Names whose alphabetical order is not the parameters' own, and shapes that could be mixed up.
    return nn.ModuleDict({"b": nn.Linear(3, 3), "a": nn.Linear(3, 3), "c": nn.LayerNorm(3)})


def step(average, model, number):
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value))
    average.on_step_end(None, SimpleNamespace(global_step=number), None)


def current(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_it_follows_the_formula(model):
    average = WeightAverage(model, decay=0.8)
    slow = current(model)
    for number in range(1, 60):
        step(average, model, number)
        decay = min(0.8, (1 + number) / (10 + number))
        for name, value in model.named_parameters():
            slow[name] = decay * slow[name] + (1 - decay) * value.detach()
    assert average.values.keys() == slow.keys()
    for name, value in slow.items():
        torch.testing.assert_close(average.values[name], value)


def test_swapping_puts_the_average_in_and_the_weights_back_bit_for_bit(model):
    average = WeightAverage(model, decay=0.9)
    step(average, model, 1)
    weights, averaged = current(model), dict(average.values)
    with average.swapped():
        inside = current(model)
    assert all(torch.equal(inside[name], averaged[name]) for name in averaged)
    assert all(torch.equal(value, weights[name]) for name, value in current(model).items())
    assert all(torch.equal(average.values[name], averaged[name]) for name in averaged)


def test_the_weights_come_back_after_an_error(model):
    average = WeightAverage(model, decay=0.9)
    step(average, model, 1)
    weights = current(model)
    with pytest.raises(KeyError), average.swapped():
        raise KeyError
    assert all(torch.equal(value, weights[name]) for name, value in current(model).items())


def test_going_on_from_a_file_is_going_on(model, tmp_path):
    average = WeightAverage(model, decay=0.9)
    step(average, model, 1)
    average.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [AVERAGE_FILE]
    other = WeightAverage(model, decay=0.9)
    other.load(tmp_path)
    assert list(other.values) == list(average.values)
    for number in (2, 3):
        step(average, model, number)
        other.on_step_end(None, SimpleNamespace(global_step=number), None)
    assert all(torch.equal(other.values[name], value) for name, value in average.values.items())
