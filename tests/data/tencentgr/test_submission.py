"""The submission file has the contest's shape, and faults are found before it is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from genrec.data.tencentgr.submission import read_result, write_result
from genrec.errors import ArtefactError, DataError

LISTS = 30_000_000_000 + np.arange(20).reshape(2, 10)
USERS = ["user_7", "user_9"]


def test_the_shape_of_the_contest(tmp_path: Path):
    write_result(tmp_path / "result.json", LISTS, USERS, seconds=3.5)
    found = json.loads((tmp_path / "result.json").read_text())
    assert found == {"time": 3.5, "top10s": LISTS.tolist(), "user": USERS}
    lists, users = read_result(tmp_path / "result.json")
    assert users == USERS
    np.testing.assert_array_equal(lists, LISTS)


def test_lists_that_cannot_be_scored(tmp_path: Path):
    twice, short = LISTS.copy(), LISTS.copy()
    twice[1, 3], short[0, 9] = twice[1, 4], -1
    cases = [
        (twice, USERS, "list of user 'user_9' is"),
        (short, USERS, "list of user 'user_7' is"),
        (LISTS[:, :9], USERS, r"expected \[2, 10\]"),
        (LISTS, USERS[:1], r"expected \[1, 10\]"),
        (LISTS, ["user_7", "user_7"], "a user comes twice"),
    ]
    for lists, users, message in cases:
        with pytest.raises(DataError, match=message):
            write_result(tmp_path / "result.json", lists, users)
    assert not list(tmp_path.iterdir())


def test_files_that_are_none(tmp_path: Path):
    path = tmp_path / "result.json"
    with pytest.raises(ArtefactError, match="no such file"):
        read_result(path)
    for value, message in (([1], "expected an object"), ({"top10s": [[1]], "user": ["a"]}, "ten")):
        path.write_text(json.dumps(value))
        with pytest.raises(DataError, match=message):
            read_result(path)
