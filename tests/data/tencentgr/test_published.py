"""Published counts are compared by themselves, and what differs is said."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from genrec.data import Dataset
from genrec.data.sources import prepare
from genrec.data.tencentgr import published
from genrec.data.tencentgr.protocol import SEED, SHARE, last_click_split
from genrec.data.tencentgr.published import COUNTS, HOLD_OUT, compare_dataset, compare_split


@pytest.fixture(scope="module")
def ads(tmp_path_factory: pytest.TempPathFactory, huggingface: Path) -> Dataset:
    place = tmp_path_factory.mktemp("ads") / "out"
    return prepare("tencentgr", place, huggingface, progress=False, vectors=[])


def facts(data: Dataset) -> dict[str, int]:
    """Counted from the rows, one by one."""
    rows = data.catalog.table.select(["reid", "retrieval_id"]).to_pylist()
    return {
        "users": len(data.histories.user_ids.to_pylist()),
        "items in training": sum(row["reid"] > 0 for row in rows),
        "candidates": sum(row["retrieval_id"] >= 0 for row in rows),
    }


def test_the_published_hold_out_adds_up():
    million = COUNTS["TencentGR-1M"]
    assert int(SHARE * million["users"]) == HOLD_OUT["held_out"] and SEED == 2025
    gone = HOLD_OUT["held_out_without_click"] + HOLD_OUT["held_out_target_outside_pool"]
    assert HOLD_OUT["held_out"] - gone == HOLD_OUT["held_out_evaluated"]
    lengths = [count for what, count in HOLD_OUT.items() if what.endswith("_events")]
    assert sum(lengths) == HOLD_OUT["held_out_evaluated"] and len(lengths) == 4


def test_other_data_are_not_compared(ads: Dataset):
    assert compare_dataset(ads) == ("", [])
    assert compare_split(last_click_split(ads).info) == []


def test_counts_of_the_files_must_be_equal(ads: Dataset):
    counts = facts(ads)
    name, found = compare_dataset(ads, counts={"other": {"users": 7}, "mine": counts})
    assert name == "mine" and [one.published for one in found] == list(counts.values())
    assert all(one.agrees for one in found)
    assert str(found[0]) == "users 600, as published"
    fewer = counts | {"candidates": counts["candidates"] + 1}
    _, found = compare_dataset(ads, counts={"mine": fewer})
    assert [one.agrees for one in found] == [True, True, False]
    assert str(found[2]) == f"candidates {counts['candidates']}, published {fewer['candidates']}"


def test_statistics_must_be_near(ads: Dataset):
    of = ads.histories
    assert of.actions is not None
    kinds = [None, *of.action_names]
    actions = [kinds[code] for code in of.actions.tolist()]
    clicks = actions.count(1) / sum(action is not None for action in actions)
    rows = ads.catalog.table.select(["reid", "retrieval_id"]).to_pylist()
    pool = [row["reid"] for row in rows if row["retrieval_id"] >= 0]
    measured = {
        "events per user": len(actions) / len(of),
        "clicks, share of actions": clicks,
        "candidates not in training, share": pool.count(0) / len(pool),
    }
    for shift, agrees in ((0.0, True), (0.004, True), (0.006, False), (-0.006, False)):
        _, found = compare_dataset(
            ads,
            counts={"mine": {"users": 600}},
            statistics={"mine": {what: (n + shift, 0.005) for what, n in measured.items()}},
        )
        assert [one.agrees for one in found] == [True, *[agrees] * 3]


def test_actions_that_are_not_known_may_have_been_taken_for_exposures(ads: Dataset):
    of = ads.histories
    assert of.actions is not None and (of.actions == 0).any()
    clicks = int((of.actions == 1 + of.action_names.index(1)).sum())
    shares = (clicks / int((of.actions > 0).sum()), clicks / len(of.actions))
    assert shares[0] > shares[1]
    for share, agrees in ((shares[0], True), (shares[1], True), (shares[0] + 1e-3, False)):
        _, found = compare_dataset(
            ads,
            counts={"mine": {"users": 600}},
            statistics={"mine": {"clicks, share of actions": (share, 1e-9)}},
        )
        assert found[1].agrees is agrees


def test_users_without_events_count_as_users(ads: Dataset):
    info = {**ads.info, "counts": {"users_without_events_dropped": 4}}
    more = Dataset(ads.catalog, ads.histories, info)
    assert compare_dataset(more, counts={"mine": {"users": 604}})[0] == "mine"


def test_the_hold_out_is_compared_with_the_reference(ads: Dataset):
    split = last_click_split(ads)
    mine = {what: split.info[what] for what in HOLD_OUT}
    found = compare_split(split.info, published=mine, users=600)
    assert [one.found for one in found] == list(mine.values())
    assert all(one.agrees for one in found)
    # The same users are drawn, so nothing may differ.
    for what in HOLD_OUT:
        other = {**mine, what: mine[what] + 1}
        compared = compare_split(split.info, published=other, users=600)
        assert [one.agrees for one in compared] == [key != what for key in HOLD_OUT]


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"share": 0.2}, {"actions": (1, 0)}, {"cut": "time"}]
)
def test_other_draws_are_not_compared(ads: Dataset, changed: dict[str, Any]):
    info = last_click_split(ads, **changed).info
    assert compare_split(info, published={**HOLD_OUT}, users=600) == []


def test_what_trains_and_validates_does_not_change_who_is_asked(ads: Dataset):
    asked = [
        last_click_split(ads, **options).test
        for options in ({}, {"train_on": "prefixes"}, {"validation_share": 0.3})
    ]
    for other in asked[1:]:
        assert other.users.tolist() == asked[0].users.tolist()
    info = last_click_split(ads, train_on="prefixes").info
    assert compare_split(info, published={"held_out": 60}, users=600)[0].agrees


def test_prepare_says_what_differs(
    tmp_path: Path, huggingface: Path, ads: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    counts = facts(ads)
    defaults = {key: {} for key in compare_dataset.__kwdefaults__}
    monkeypatch.setattr(
        published.compare_dataset, "__kwdefaults__", defaults | {"counts": {"mine": counts}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare("tencentgr", tmp_path / "same", huggingface, vectors=[])
    assert "same: users 600, as published; items in training" in capsys.readouterr().err
    fewer = {"mine": {**counts, "users": 599}}
    monkeypatch.setattr(published.compare_dataset, "__kwdefaults__", defaults | {"counts": fewer})
    with pytest.warns(UserWarning, match="out: is not mine as .*: users 600, published 599$"):
        prepare("tencentgr", tmp_path / "out", huggingface, progress=False, vectors=[])
