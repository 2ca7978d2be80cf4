"""Which training windows make up which batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from genrec.errors import ConfigError


class TrainingBatches(torch.utils.data.Sampler[list[int]]):
    """Batches of window numbers in a new random order every epoch, shared out to processes.

    The batches depend on seed and epoch alone: each process takes its part of each batch, so a
    step sees the same windows however many processes there are. A number stands for a window and
    an epoch, `epoch * windows + window`, for datasets whose windows differ between epochs.

    With `by_length`, windows of similar length share a batch, which saves padding: the random
    order is cut into chunks of so many batches, each chunk is sorted by length and cut into
    batches, and the batches come in random order.

    Args:
        lengths: int64 [W], length of each window.
        batch_size: windows of a batch, over all processes.
        seed: of the order.
        by_length: batches of a chunk; 0 or 1 leaves lengths alone.
        rank: number of this process.
        processes: how many there are.

    Raises:
        ConfigError: if a batch has no window for each process.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        batch_size: int,
        seed: int = 0,
        by_length: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if min(batch_size, len(lengths)) < processes:
            raise ConfigError(
                f"training: {min(batch_size, len(lengths))} sequences in a batch for {processes} "
                "processes; use a larger batch_size or fewer processes"
            )
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed, self.by_length = seed, by_length
        self.rank, self.processes = rank, processes
        self.epoch = 0

    def __len__(self) -> int:
        """Number of batches; a rest with fewer windows than processes joins the last batch."""
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return whole + (rest >= self.processes)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def order(self) -> list[np.ndarray]:
        """The batches of this epoch, over all processes, int64 window numbers."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).numpy()
        chunk = self.by_length * self.batch_size
        if self.by_length > 1:
            place = np.arange(len(order)) // chunk
            order = order[np.lexsort((self.lengths[order], place))]
        bounds = np.arange(1, len(self)) * self.batch_size
        batches = np.split(order, bounds)
        if self.by_length > 1:
            turn = torch.randperm(len(batches), generator=generator).tolist()
            batches = [batches[i] for i in turn]
        return batches

    def __iter__(self) -> Iterator[list[int]]:
        """This process's part of each batch: numbers of windows of this epoch."""
        offset = self.epoch * len(self.lengths)
        for batch in self.order():
            low, high = (len(batch) * (self.rank + i) // self.processes for i in (0, 1))
            yield (batch[low:high] + offset).tolist()
