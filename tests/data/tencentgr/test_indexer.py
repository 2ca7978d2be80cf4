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


@pytest.mark.parametrize(
    "features",
    [
        {"121": {2**63 + 5: 1, 7: 2}},
        {"121": {"\ud800": 1, 7: 2, -3: 3, 2**90: 4}},
        {"121": {n: n for n in range(70_000)} | {"other": 70_000}},
        {121: {"a": 2**70}},
        {},
        [1, 2],
        "none",
    ],
)
def test_raw_values_of_features_may_be_anything(tmp_path: Path, features: Any):
    value = {"u": {"a": 1}, "i": {30_000_000_007: 1}, "f": features, "a": {"click": 1, 0: 2}}
    (tmp_path / "indexer.pkl").write_bytes(pickle.dumps(value))
    index = read_indexer(tmp_path / "indexer.pkl")
    assert index.user_names.to_pylist() == [None, "a"]
    assert index.item_names.tolist() == [-1, 30_000_000_007]


def test_an_item_that_comes_twice(tmp_path: Path):
    # A dict of Python has no key twice, so this is written as a pickler would not.
    pair = b"\x8a\x05" + (30_000_000_007).to_bytes(5, "little")
    index = b"\x80\x04}(\x8c\x01u}\x8c\x01aK\x01s\x8c\x01i}("
    (tmp_path / "indexer.pkl").write_bytes(index + pair + b"K\x01" + pair + b"K\x02u\x8c\x01f}u.")
    assert pickle.loads((tmp_path / "indexer.pkl").read_bytes())["i"] == {30_000_000_007: 2}
    with pytest.raises(DataError, match=r"indexer\.pkl: 'i' has the raw id 30000000007 twice"):
        read_indexer(tmp_path / "indexer.pkl")


GOOD = {"u": {"a": 1}, "i": {3: 1}, "f": {}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "expected a dict with 'u' and 'i'"),
        ({"u": {"a": 1}, "f": {}}, "expected a dict with 'u' and 'i'"),
        ({**GOOD, "i": {"x": {}}}, "'i' is no dict of raw ids"),
        ({**GOOD, "i": {"abc": 1}}, "'i' has a key that is no whole number"),
        ({**GOOD, "i": {3: 1, "a": 2}}, "'i': keys are neither all integers nor all text"),
        ({**GOOD, "i": {3: 0}}, "'i' has the number 0"),
        ({**GOOD, "i": {3: 1, 4: 1}}, "'i' gives the number 1 twice"),
        ({**GOOD, "i": {3: 2**40}}, "'i' gives the number .* too big"),
        ({**GOOD, "i": {"7": 1, "007": 2}}, "'i' has the raw id 7 twice"),
        ({**GOOD, "u": {"\ud800": 1}}, "'u': .*surrogates not allowed"),
    ],
)
def test_what_is_no_index(tmp_path: Path, value: Any, message: str):
    (tmp_path / "indexer.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=rf"indexer\.pkl: {message}"):
        read_indexer(tmp_path / "indexer.pkl")
