"""The exchange files are byte for byte what their page says, and damage is named."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from genrec.data.fbin import read_fbin, read_u64bin, write_fbin, write_u64bin
from genrec.errors import DataError


def test_vectors_byte_for_byte(tmp_path: Path):
    vectors = np.arange(6, dtype=np.float64).reshape(3, 2) / 4
    write_fbin(tmp_path / "a.fbin", vectors)
    want = struct.pack("<II6f", 3, 2, *vectors.ravel())
    assert (tmp_path / "a.fbin").read_bytes() == want
    found = read_fbin(tmp_path / "a.fbin")
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    np.testing.assert_array_equal(found, vectors)


def test_ids_and_results_byte_for_byte(tmp_path: Path):
    ids = np.array([30_000_000_001, 7, 2**63 - 1])
    write_u64bin(tmp_path / "id.u64bin", ids)
    assert (tmp_path / "id.u64bin").read_bytes() == struct.pack("<II3Q", 3, 1, *ids.tolist())
    np.testing.assert_array_equal(read_u64bin(tmp_path / "id.u64bin"), ids[:, None])
    lists = np.arange(8).reshape(2, 4)
    write_u64bin(tmp_path / "result", lists)
    np.testing.assert_array_equal(read_u64bin(tmp_path / "result"), lists)


def test_empty_files(tmp_path: Path):
    write_fbin(tmp_path / "a.fbin", np.zeros((0, 5)))
    assert read_fbin(tmp_path / "a.fbin").shape == (0, 5)


def test_what_cannot_be_written(tmp_path: Path):
    with pytest.raises(DataError, match=r"real numbers \[n, d\]"):
        write_fbin(tmp_path / "a", np.zeros(3))
    with pytest.raises(DataError, match="vector 1 holds NaN"):
        write_fbin(tmp_path / "a", np.array([[0.0], [np.nan]]))
    for strange in (np.array([["a"]]), np.array([[1 + 2j]]), np.array([[True]])):
        with pytest.raises(DataError, match="expected real numbers"):
            write_fbin(tmp_path / "a", strange)
    for ids in (np.array([-1]), np.array([0.5]), np.zeros((1, 1, 1), dtype=int)):
        with pytest.raises(DataError, match="whole numbers from 0 on"):
            write_u64bin(tmp_path / "a", ids)
    assert not list(tmp_path.iterdir())


def test_damaged_files(tmp_path: Path):
    write_fbin(tmp_path / "a", np.zeros((3, 2)))
    whole = (tmp_path / "a").read_bytes()
    for data in (b"", whole[:6], whole[:-1], whole + b"x"):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(DataError, match=r"a: has [\d,]+ bytes, expected"):
            read_fbin(tmp_path / "a")
    for read in (read_fbin, read_u64bin):
        with pytest.raises(DataError, match=r"cannot be read .*; expected a file"):
            read(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_u64bin(tmp_path / "b")
