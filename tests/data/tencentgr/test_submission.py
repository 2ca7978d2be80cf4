"""The submission file has the contest's shape, and faults are found before it is written."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data.tencentgr.submission import (
    SILENT,
    read_result,
    silent_users,
    users_asked,
    write_result,
)
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


def test_lists_and_users_may_come_from_anywhere(tmp_path: Path):
    path = tmp_path / "result.json"
    frame = pd.DataFrame(LISTS.astype(float))
    for lists in (LISTS.tolist(), LISTS.astype(np.uint64), frame.to_numpy(), LISTS.astype(object)):
        for users in (USERS, pa.array(USERS), pa.chunked_array([USERS[:1], USERS[1:]])):
            write_result(path, lists, users, seconds=np.float32(2))
            found, names = read_result(path)
            assert names == USERS
            np.testing.assert_array_equal(found, LISTS)
    write_result(path, LISTS, np.array([7, 9]))
    assert read_result(path)[1] == ["7", "9"]


def test_numbers_that_are_no_ids(tmp_path: Path):
    for strange in (0.7, np.nan, np.inf, 2.0**70):
        lists = LISTS.astype(float)
        lists[1, 2] = strange
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DataError, match="no whole numbers"):
                write_result(tmp_path / "result.json", lists, USERS)
    for lists in (
        LISTS.astype(str),
        LISTS.astype(bool),
        np.where(np.eye(2, 10, dtype=bool), None, LISTS),
        np.where(np.eye(2, 10, dtype=bool), 0.5, LISTS.astype(object)),
        LISTS.astype(np.uint64) + np.uint64(2**63),
        [[1, 2], [3]],
        [[2**70] * 10] * 2,
    ):
        with pytest.raises(DataError, match=r"no whole numbers|no table of creative ids"):
            write_result(tmp_path / "result.json", lists, USERS)
    assert not list(tmp_path.iterdir())


def test_who_was_asked_must_be_answered(tmp_path: Path):
    path = tmp_path / "result.json"
    write_result(path, LISTS, USERS, asked=USERS[::-1])
    path.unlink()
    for asked, message in (
        ([*USERS, "user_1", "user_2"], "2 of 4 users have no list, such as 'user_1'"),
        (USERS[:1], "1 of 1 users were not asked about, such as 'user_9'"),
    ):
        with pytest.raises(DataError, match=message):
            write_result(path, LISTS, USERS, asked=asked)
    assert not path.exists()
    with pytest.raises(DataError, match=r"users\.parquet: no such file"):
        users_asked(tmp_path)
    pq.write_table(pa.table({"user_id": USERS}), tmp_path / "users.parquet")
    assert users_asked(tmp_path) == USERS and silent_users(tmp_path) == []
    pq.write_table(pa.table({"user_id": ["user_1"]}), tmp_path / f"{SILENT}.parquet")
    assert users_asked(tmp_path) == [*USERS, "user_1"]


def test_files_that_are_none(tmp_path: Path):
    path = tmp_path / "result.json"
    with pytest.raises(ArtefactError, match="no such file"):
        read_result(path)
    for value, message in (([1], "expected an object"), ({"top10s": [[1]], "user": ["a"]}, "ten")):
        path.write_text(json.dumps(value))
        with pytest.raises(DataError, match=message):
            read_result(path)
