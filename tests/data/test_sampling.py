from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import TrainingBatches
from genrec.errors import ConfigError


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 60), st.integers(4, 20), st.integers(1, 4), st.integers(0, 4))
def test_processes_share_what_one_process_has(
    windows: int, batch: int, processes: int, by_length: int
) -> None:
    lengths = np.random.default_rng(windows).integers(1, 20, windows)
    options = {"batch_size": batch, "seed": 3, "by_length": by_length}
    teams = [
        TrainingBatches(lengths, rank=rank, processes=processes, **options)
        for rank in range(processes)
    ]
    for epoch in (0, 1, 5):
        for part in teams:
            part.set_epoch(epoch)
        parts = [list(part) for part in teams]
        whole = [batch.tolist() for batch in teams[0].order()]
        assert all(len(part) == len(teams[0]) == len(whole) for part in parts)
        for step, numbers in enumerate(whole):
            found = [number for part in parts for number in part[step]]
            assert [number - epoch * windows for number in found] == numbers
            sizes = [len(part[step]) for part in parts]
            assert max(sizes) - min(sizes) <= 1 and min(sizes) > 0
        assert sorted(number for numbers in whole for number in numbers) == list(range(windows))


def test_the_order_is_that_of_seed_and_epoch() -> None:
    def drawn(seed: int, epoch: int, by_length: int) -> list[list[int]]:
        made = TrainingBatches(np.arange(50) % 7, batch_size=8, seed=seed, by_length=by_length)
        made.set_epoch(epoch)
        return [part.tolist() for part in made.order()]

    for by_length in (0, 3):
        assert drawn(0, 0, by_length) == drawn(0, 0, by_length)
        assert drawn(0, 0, by_length) != drawn(0, 1, by_length)
        assert drawn(0, 0, by_length) != drawn(9, 0, by_length)


def test_batches_by_length_have_less_padding() -> None:
    lengths = np.random.default_rng(0).geometric(0.15, 2000).clip(1, 50)

    def padded(by_length: int) -> int:
        made = TrainingBatches(lengths, batch_size=64, by_length=by_length)
        return sum(len(part) * int(lengths[part].max()) for part in made.order())

    assert padded(8) < 0.5 * padded(0)
    assert padded(8) < 1.5 * lengths.sum()
    assert padded(1) == padded(0)


def test_a_rest_too_small_for_all_processes_joins_the_last_batch() -> None:
    made = TrainingBatches(np.ones(17), batch_size=8, processes=2)
    assert [len(part) for part in made.order()] == [8, 9]
    assert len(TrainingBatches(np.ones(17), batch_size=8)) == 3


def test_a_batch_smaller_than_the_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 sequences in a batch for 3 processes"):
        TrainingBatches(np.ones(17), batch_size=2, processes=3)
