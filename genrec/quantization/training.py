"""What the quantizers that learn by steps share: one thread, and batches without end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def batches(n: int, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Row numbers of one batch after the other, every row once per pass, without end."""
    while True:
        yield from torch.from_numpy(rng.permutation(n)).split(size)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: the rounding of its sums depends on how the work is shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
