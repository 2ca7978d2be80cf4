"""Formulas of heads and losses, one number at a time, that know nothing of the product's code.

Vectors are lists of floats, tables lists of vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

Vector = Sequence[float]


def numbers(tensor: torch.Tensor) -> list:
    """A tensor's values as (nested) Python floats."""
    return tensor.detach().double().tolist()


def randomise(*modules: torch.nn.Module, std: float = 0.7) -> None:
    """No weight is left at zero or one, where a factor of a formula could hide."""
    for module in modules:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, mean=0.2, std=std)


def mean(values: Vector) -> float:
    return sum(values) / len(values)


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: Vector, b: Vector) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def added(a: Iterable[float], b: Iterable[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]


def linear(weight: Sequence[Vector], bias: Vector, x: Vector) -> list[float]:
    """`W x + b`; a row of W for each number of the result."""
    return [dot(row, x) + b for row, b in zip(weight, bias, strict=True)]


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def layer_norm(x: Vector, weight: Vector, bias: Vector) -> list[float]:
    middle = mean(x)
    spread = math.sqrt(mean([(v - middle) ** 2 for v in x]) + 1e-5)
    return [(v - middle) / spread * w + b for v, w, b in zip(x, weight, bias, strict=True)]


def log_softmax(logits: Vector) -> list[float]:
    total = math.log(sum(math.exp(one) for one in logits))
    return [one - total for one in logits]


def cross_entropy(logits: Vector, target: int, smoothing: float = 0.0) -> float:
    """Against a distribution with `smoothing` spread evenly over all classes."""
    wanted = [smoothing / len(logits)] * len(logits)
    wanted[target] += 1 - smoothing
    return -dot(wanted, log_softmax(logits))


def level_rows(sizes: Sequence[int], table: Sequence[Vector]) -> list[list[Vector]]:
    """The rows of each level of a table that holds all levels one after the other."""
    left = list(table)
    levels = []
    for size in sizes:
        levels.append(left[:size])
        left = left[size:]
    assert not left
    return levels
