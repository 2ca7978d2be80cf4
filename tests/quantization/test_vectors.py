from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.errors import DataError
from genrec.quantization.vectors import Vectors


def test_blocks_cover_all_rows_in_order():
    x = np.random.default_rng(0).normal(size=(25, 3))
    blocks = list(Vectors(x).blocks(10))
    assert [len(block) for block in blocks] == [10, 10, 5]
    assert torch.equal(torch.cat(blocks), torch.from_numpy(x).float())


def test_a_sample_has_no_repeats_and_keeps_the_order():
    x = np.arange(1000, dtype=np.float32)[:, None]
    sample = Vectors(x).sample(100, np.random.default_rng(0))[:, 0]
    assert len(sample) == 100
    assert (sample.diff() > 0).all()
    whole = Vectors(x).sample(5000, np.random.default_rng(0))
    assert torch.equal(whole, torch.from_numpy(x))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_sample_may_be_overwritten(kind):
    x = np.ones((5, 2), dtype=np.float32)
    source = x if kind == "numpy" else torch.from_numpy(x)
    for count in (3, 5):
        Vectors(source).sample(count, np.random.default_rng(0)).zero_()
    assert (x == 1).all()


def test_a_read_only_memory_map_is_readable(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 2), dtype=np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.equal(Vectors(mapped).block(1, 3), torch.ones(2, 2))


def test_the_row_that_is_not_usable_is_named_in_the_whole_matrix():
    x = np.zeros((70_000, 2), dtype=np.float32)
    x[66_000, 1] = np.nan
    with pytest.raises(DataError, match="items: row 66000, column 1 is nan"):
        Vectors(x, name="items").check()
    with pytest.raises(DataError, match="row 66000, column 1"):
        Vectors(x).take(np.array([3, 66_000]))


def test_a_double_too_large_for_float32_is_named():
    with pytest.raises(DataError, match="row 1, column 0 is inf"):
        Vectors(np.array([[0.0], [1e300]])).check()


def test_booleans_and_objects_are_no_vectors():
    for bad in (np.zeros((2, 2), dtype=bool), np.array([[None, 1]]), torch.zeros(2, 2).bool()):
        with pytest.raises(DataError, match="dtype"):
            Vectors(bad)


def test_chosen_rows_are_those_of_the_sample():
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    rows = Vectors(x).choose(7, np.random.default_rng(0))
    assert (np.diff(rows) > 0).all() and len(rows) == 7
    sample = Vectors(x).sample(7, np.random.default_rng(0))
    assert np.array_equal(sample.numpy(), x[rows])
    assert np.array_equal(Vectors(x).choose(99, np.random.default_rng(0)), np.arange(20))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_chosen_rows_equal_a_copy_of_them(kind):
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    rows = np.array([3, 7, 8, 20, 49])
    chosen = Vectors(x if kind == "numpy" else torch.from_numpy(x), rows=rows)
    copied = Vectors(x[rows])
    assert chosen.shape == copied.shape == (5, 3)
    assert torch.equal(torch.cat(list(chosen.blocks(2))), torch.from_numpy(x[rows]))
    sampled = [v.sample(3, np.random.default_rng(1)) for v in (chosen, copied)]
    assert torch.equal(*sampled)


def test_an_error_in_a_chosen_row_names_its_row_in_the_matrix():
    x = np.ones((9, 2), dtype=np.float32)
    x[[0, 6], 1] = np.nan
    with pytest.raises(DataError, match="row 6, column 1"):
        Vectors(x, rows=np.array([2, 4, 6])).check()
    Vectors(x, rows=np.array([2, 4])).check()
