"""Splits keep the rules that are counted again, and a split that breaks one is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from genrec.data import Catalog, Dataset, Histories, Split, leave_one_out, temporal_split
from genrec.data.split_checks import check_split
from genrec.errors import DataError


def dataset(seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = rng.integers(10**9, 10**9 + 10**6, int(offsets[-1]))
    times = times[np.lexsort((times, np.repeat(np.arange(40), lengths)))]
    items = rng.integers(0, 12, int(offsets[-1])).astype(np.int32)
    return Dataset(
        Catalog(pa.table({"item_id": np.arange(12)})), Histories(offsets, items, times)
    )  # fmt: skip


def splits(data: Dataset) -> list[Split]:
    middle = 10**9 + 5 * 10**5
    return [leave_one_out(data.histories), temporal_split(data.histories, middle, middle + 10**5)]


@pytest.mark.parametrize("seed", range(3))
def test_the_splits_keep_their_rules(seed: int):
    data = dataset(seed)
    for split in splits(data):
        rules = check_split(data, split)
        assert len(rules) == len(set(rules)) == 10 and rules[0].startswith("validation: ")


def test_what_breaks_a_rule_is_named():
    data = dataset()
    split = splits(data)[0]
    asked = split.test
    user = data.histories.user_ids[int(asked.users[3])].as_py()

    def moved(**fields: Any) -> Split:
        changed = {}
        for name, value in fields.items():
            values = getattr(asked, name).copy()
            values[3] = value
            changed[name] = values
        return replace(split, test=replace(asked, **changed))

    of = data.histories
    last = int(of.offsets[asked.users[3] + 1])
    absent = next(item for item in range(12) if item not in of.items[asked.end[3] : last])
    late = split.train_end.copy()
    late[asked.users[3]] = last
    cases = [
        (moved(end=last), "an input is a part of its user's history"),
        (moved(start=int(of.offsets[asked.users[3]]) - 1), "an input is a part"),
        (moved(end=int(asked.start[3])), "an input is a part"),
        (replace(split, train_end=late), "the user's training ends before the answer"),
        (moved(targets=absent), "the answer is an event after the input"),
        (moved(times=0), "no input is younger than it"),
        (replace(split, candidates=np.array([absent])), "the answer is a candidate"),
        (
            replace(split, test=asked.take(np.r_[np.arange(len(asked)), 3])),
            "a user is asked once",
        ),
    ]
    for broken, rule in cases:
        with pytest.raises(DataError, match=f"questions break the rule that {rule}") as raised:
            check_split(data, broken)
        if "candidate" not in rule:
            assert f"user {user!r}" in str(raised.value)


def test_what_a_split_says_of_itself_is_checked():
    data = dataset()
    split = splits(data)[0]
    asked = split.test
    assert asked.times is not None and data.histories.timestamps is not None
    same = asked.times.copy()
    same[0] = data.histories.timestamps[asked.end[0] - 1]
    nothing = asked.start.copy()
    early = replace(split, test=replace(asked, times=same))
    empty = replace(split, test=replace(asked, end=nothing), train_end=split.train_start)
    cases: list[tuple[Split, dict[str, str], str]] = [
        (early, {}, ""),
        (early, {"cut": "position"}, ""),
        (early, {"cut": "time"}, "the input is older than the answer"),
        (empty, {}, "an input is a part of its user's history"),
        (empty, {"cut": "position"}, ""),
        (empty, {"cut": "time", "train_on": "others"}, ""),
        (early, {"cut": "position", "train_on": "others"}, "nothing of the user trains"),
    ]
    for changed, info, broken in cases:
        other = replace(changed, info=info)
        if broken:
            with pytest.raises(DataError, match=broken):
                check_split(data, other)
        else:
            check_split(data, other)
