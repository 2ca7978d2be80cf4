"""The index is read as `pickle` would read it, and refused where it is no index."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrec.data.tencentgr import read_indexer
from genrec.errors import DataError


def test_as_pickle_reads_it(huggingface: Path):
    want = pickle.loads((huggingface / "indexer.pkl").read_bytes())
    index = read_indexer(huggingface / "indexer.pkl")
    assert index.item_names[0] == -1 and index.user_names[0].as_py() is None
    assert {int(raw): n for n, raw in enumerate(index.item_names) if n} == want["i"]
    assert {raw: n for n, raw in enumerate(index.user_names.to_pylist()) if n} == want["u"]
    assert index.feature_sizes == {name: len(part) for name, part in want["f"].items()}
    asked = np.array([*list(want["i"])[:50], 5, -1, 2**62])
    np.testing.assert_array_equal(index.items(asked), [want["i"].get(int(a), 0) for a in asked])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_gaps_and_other_protocols(tmp_path: Path, protocol: int):
    value = {"u": {"a": 1, "b": 3}, "i": {"30000000007": 2, "30000000001": 5}, "f": {"101": {}}}
    (tmp_path / "indexer.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    index = read_indexer(tmp_path / "indexer.pkl")
    assert index.user_names.to_pylist() == [None, "a", None, "b"]
    assert index.item_names.tolist() == [-1, -1, 30000000007, -1, -1, 30000000001]
    assert index.items(np.array([30000000001, -1])).tolist() == [5, 0]
    assert index.feature_sizes == {"101": 0}


GOOD = {"u": {"a": 1}, "i": {3: 1}, "f": {}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "expected a dict with 'u', 'i' and 'f'"),
        ({"u": {"a": 1}, "i": {3: 1}}, "expected a dict with 'u', 'i' and 'f'"),
        ({**GOOD, "i": {"x": {}}}, "'i' is no dict of raw ids"),
        ({**GOOD, "i": {"abc": 1}}, "'i' has a key that is no whole number"),
        ({**GOOD, "i": {3: 1, "a": 2}}, "'i': keys are neither all integers nor all text"),
        ({**GOOD, "i": {3: 0}}, "'i' has the number 0"),
        ({**GOOD, "i": {3: 1, 4: 1}}, "'i' gives the number 1 twice"),
        ({**GOOD, "i": {3: 2**40}}, "'i' gives the number .* too big"),
        ({**GOOD, "f": [1]}, "'f' is no dict of features"),
        ({**GOOD, "f": {"101": [1]}}, r"'f'\['101'\] is no dict"),
    ],
)
def test_what_is_no_index(tmp_path: Path, value: Any, message: str):
    (tmp_path / "indexer.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=rf"indexer\.pkl: {message}"):
        read_indexer(tmp_path / "indexer.pkl")
