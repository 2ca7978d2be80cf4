"""Pickles of other things than they should hold: refused, and nothing in them runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.tencentgr.damage import refused


def test_a_hostile_vector_file_runs_nothing(tmp_path: Path, contest: Path):
    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "it ran"),)

    array = np.zeros(4, dtype=np.float32)
    for name in ("indexer.pkl", "creative_emb/emb_81_4.pkl", "seq_offsets.pkl"):
        before = (contest / name).read_bytes()
        (contest / name).write_bytes(pickle.dumps({6: array, 30_000_000_000: Attack()}))
        refused(tmp_path, contest, rf"{name}: holds .* nothing of it was run")
        (contest / name).write_bytes(before)
    assert not (tmp_path / "it ran").exists()


def vector_pickle(contest: Path, value: Any, protocol: int = 4) -> None:
    path = contest / "creative_emb" / "emb_81_4.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({7: np.zeros(4, dtype=object)}, "holds an array of the type 'O8'"),
        ({7: np.zeros(5)}, r"entry 1: 'emb' is 'an array of shape \(5,\)'; expected a list of 4"),
        ({6: [0.0] * 4, 7: np.zeros((2, 2))}, r"entry 2: 'emb' is 'an array of shape \(2, 2\)'"),
        ({7: np.float32(1)}, "entry 1: 'emb' is 1.0; expected a list of 4 numbers"),
        ({7: np.ndarray}, "entry 1: 'emb' is <Name.ARRAY"),
        ({7: np.array([1, np.nan, 0, 0])}, "entry 1: the vector of 7 holds NaN"),
        ({7: np.array([1, 1e300, 0, 0])}, "entry 1: the vector of 7 holds NaN, infinity"),
        ({7: [1, 2, 3, True]}, "entry 1: 'emb' is"),
        ({7: [1, 2, 3, "4"]}, "entry 1: 'emb' is"),
        ({7: [1, 2, 3, None]}, "entry 1: 'emb' is"),
        ({7: [1, 2, 3, 10**400]}, "entry 1: 'emb' "),
        ({7: {8: [0.0] * 4}}, "entry 2: 'emb' is"),
        ({7.0: [0.0] * 4}, "has a key that is no creative id: 7.0 is no raw id"),
        ({True: [0.0] * 4}, "has a key that is no creative id: True"),
        ({"7_0": [0.0] * 4}, "has a key that is no creative id: '7_0'"),
        ({-7: [0.0] * 4}, "has a key that is no creative id: -7"),
        ({2**63: [0.0] * 4}, "has a key that is no creative id: 9223372036854775808"),
        ([[0.0] * 4], "expected a dict of creative ids"),
        (np.zeros((3, 4)), "expected a dict of creative ids"),
    ],
)
def test_a_pickle_of_other_vectors(tmp_path: Path, contest: Path, value: Any, message: str):
    vector_pickle(contest, value)
    refused(tmp_path, contest, rf"emb_81_4\.pkl: {message}")


def test_a_list_of_lists_of_lists_is_not_written_out(tmp_path: Path, contest: Path):
    laugh: list[Any] = [0.0] * 10
    for _ in range(40):
        laugh = [laugh] * 10
    vector_pickle(contest, {7: laugh})
    refused(tmp_path, contest, r"emb_81_4\.pkl: entry 1: 'emb' is \[\[")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_for_vectors_only(tmp_path: Path, contest: Path, protocol: int):
    for name in ("indexer.pkl", "seq_offsets.pkl"):
        before = (contest / name).read_bytes()
        value: Any = pickle.loads(before)
        value = {**value, "i": np.zeros(4)} if isinstance(value, dict) else np.array(value)
        (contest / name).write_bytes(pickle.dumps(value, protocol=protocol))
        refused(tmp_path, contest, rf"{name}: holds (the name of a class or function|bytes)")
        (contest / name).write_bytes(before)
