"""Statistics of a download's histories, against counts by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from genrec.data.tencentgr.statistics import (
    day_overlap,
    history_statistics,
    mark_days,
    popularity_statistics,
)
from genrec.errors import DataError
from tests.data.tencentgr.reading import ready


def test_items_without_an_event_count_nowhere():
    counts = np.array([0, 1, 1, 2, 5, 91, 0])
    found = popularity_statistics(counts)
    assert found["events of an item, median"] == 2
    assert found["items of at most 5 events"] == 0.8
    assert found["events on the most frequent 1 % of items"] == 0.91
    counts = np.concatenate([np.full(300, 1), [150, 100, 50]])
    assert popularity_statistics(counts)["events on the most frequent 1 % of items"] == 0.5


def test_overlap_of_days_is_that_of_sets():
    rng = np.random.default_rng(0)
    items, day = rng.integers(0, 50, size=400), rng.integers(0, 12, size=400)
    days = np.zeros(50, dtype=np.uint64)
    mark_days(days, items[:100], day[:100])  # in pieces
    mark_days(days, items[100:], day[100:])
    sets = [set(items[day == one].tolist()) for one in range(12)]

    def mean(apart: range) -> float:
        return float(
            np.mean(
                [
                    len(one & other) / len(one | other)
                    for (a, one), (b, other) in itertools.combinations(enumerate(sets), 2)
                    if b - a in apart
                ]
            )
        )

    assert day_overlap(days) == pytest.approx((mean(range(1, 2)), mean(range(3, 8))))
    assert np.isnan(day_overlap(np.ones(3, dtype=np.uint64))).all()


@pytest.mark.parametrize("layout", ["huggingface", "competition"])
def test_statistics_of_files_are_those_of_the_dataset(
    tmp_path: Path, layout: str, request: pytest.FixtureRequest
):
    files = request.getfixturevalue("small")[layout]
    found = history_statistics(files)
    histories = ready(tmp_path / "dataset", files).histories
    counts = np.bincount(histories.items)
    lengths = np.diff(histories.offsets)
    assert found["users"] == len(histories) == 30
    assert found["items with an event"] == (counts > 0).sum()
    assert found["events per user"] == lengths.mean()
    assert found["longest history"] == lengths.max()
    types = np.array([-1, *histories.action_names])[histories.actions]
    known = types[types >= 0]
    assert found["clicks, share of known actions"] == (known == 1).mean()
    assert found["conversions, share of known actions"] == 0
    assert found["events without an action"] == (types < 0).mean()
    expected = popularity_statistics(counts)
    assert {what: found[what] for what in expected} == expected


def test_a_folder_without_histories_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="no event was found; expected seq"):
        history_statistics(tmp_path)
