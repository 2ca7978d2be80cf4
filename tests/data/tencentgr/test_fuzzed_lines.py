"""Any JSON value anywhere in the contest's files is read, or named with its file; nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.tencentgr.read_competition import read_items, read_pool, read_seq
from genrec.data.tencentgr.vectors import place_vectors, write_ids
from genrec.errors import DataError

odd = st.recursive(
    st.sampled_from([0, -1, 2**31, 2**62, 2**63, -(2**70), 10**400, 1.5, 2.0, -0.0, 1e300])
    | st.sampled_from([float("nan"), float("inf"), True, False, None, "", "7", "07", "-3", "x"])
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


def changed(value: Any, path: list[int], put: Any) -> Any:
    """The value with `put` at a place inside it, which `path` chooses level by level."""
    if not path or not isinstance(value, (list, dict)) or not value:
        return put
    if isinstance(value, list):
        at = path[0] % len(value)
        return [*value[:at], changed(value[at], path[1:], put), *value[at + 1 :]]
    key = list(value)[path[0] % len(value)]
    return {**value, key: changed(value[key], path[1:], put)}


def of_seq(path: Path) -> Any:
    return read_seq(path, 0, path.stat().st_size)


def of_vectors(path: Path) -> Any:
    ids, matrix = path.with_name("ids.npy"), path.with_name("matrix.npy")
    write_ids(ids, np.arange(5, dtype=np.int64))
    np.save(matrix, np.zeros((5, 3), dtype=np.float32))
    return place_vectors(path, (0, path.stat().st_size), 3, matrix, ids)


RECORDS = [[4, None, {"103": 2, "106": [1, 3]}, None, None, 9]]
RECORDS += [[4, 7, None, {"101": 3}, 1, 5], [4, 2**40, None, {"101": "9"}, None, 6]]
LINES: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "seq.jsonl": (of_seq, RECORDS),
    "predict_set.jsonl": (
        read_pool,
        {"creative_id": 2**40, "retrieval_id": 0, "features": {"101": 3, "102": "5"}},
    ),
    "item_feat_dict.json": (read_items, {"1": {"101": 3, "102": [4]}, "2": {"101": 1}}),
    "part-00000.json": (of_vectors, {"anonymous_cid": "3", "emb": [0.5, 1, -2]}),
}


@pytest.mark.parametrize("name", LINES)
@settings(max_examples=120, deadline=None)
@given(path=st.lists(st.integers(0, 5), max_size=4), put=odd)
def test_odd_values(tmp_path_factory: pytest.TempPathFactory, name: str, path: list[int], put: Any):
    read, good = LINES[name]
    file = tmp_path_factory.mktemp("p") / name
    file.write_text(json.dumps(changed(good, path, put)) + "\n")
    try:
        found = read(file)
    except DataError as error:
        assert name in str(error) and len(str(error)) < 800
    else:
        assert all(isinstance(array, np.ndarray) for array in found.values())


@pytest.mark.parametrize("name", LINES)
def test_what_is_changed_is_read_as_it_stands(tmp_path: Path, name: str):
    read, good = LINES[name]
    (tmp_path / name).write_text(json.dumps(good) + "\n")
    assert len(read(tmp_path / name)) > 1
