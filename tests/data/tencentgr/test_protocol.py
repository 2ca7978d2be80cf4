"""The hold-out equals a slow reading of each user's events, and lets no later event through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from genrec.data import Catalog, Dataset, Histories
from genrec.data.sources import prepare
from genrec.data.split_checks import check_split
from genrec.data.tencentgr.protocol import Cut, TrainOn, candidates, draw, last_click_split
from genrec.errors import ConfigError, DataError


def dataset(seed: int = 0, users: int = 300, **changed: Any) -> Dataset:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    times = rng.integers(10**9, 10**9 + 6, total)  # many equal times
    times = times[np.lexsort((times, np.repeat(np.arange(users), lengths)))]
    actions = rng.choice([0, 1, 2, 3], size=total, p=[0.1, 0.5, 0.3, 0.1])
    place = np.full(50, -1)
    inside = rng.permutation(50)[:35]
    place[inside] = np.arange(35)
    given = {
        "timestamps": times,
        "actions": actions,
        "names": [0, 1, 2],
        "items": pa.table({"item_id": np.arange(50), "retrieval_id": place}),
        **changed,
    }
    histories = Histories(
        offsets,
        rng.integers(0, 50, total).astype(np.int32),
        given["timestamps"],
        given["actions"],
        None,
        given["names"],
    )
    about = pa.table({"user_id": histories.user_ids, "reid": 1 + rng.permutation(users)})
    return Dataset(Catalog(given["items"]), histories, users=about)


HELD = [259_329, 257_098, 65_641]  # the first places drawn of TencentGR-1M's users


def drawn_by_torch(users: int, seed: int, share: float) -> tuple[list[int], list[int]]:
    """Places of the users that are left and of those held out, as the reference draws them."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.utils.data.random_split(range(users), [1.0 - share, share], generator=generator)
    return list(parts[0].indices), list(parts[1].indices)


@pytest.mark.filterwarnings("ignore:Length of split at index")
@pytest.mark.parametrize("share", [0.1, 0.3, 0.05, 1 / 3])
@pytest.mark.parametrize("users", [1, 7, 10, 99, 1000, 1001])
def test_the_draw_is_that_of_random_split(users: int, share: float):
    for seed in (0, 2025):
        left, held = draw(users, seed=seed, share=share)
        assert (left.tolist(), held.tolist()) == drawn_by_torch(users, seed, share)


def test_the_draw_of_a_million_users():
    left, held = draw(1_001_845, seed=2025, share=0.1)
    assert (len(left), len(held)) == (901_661, 100_184)
    assert (left.tolist(), held.tolist()) == drawn_by_torch(1_001_845, 2025, 0.1)
    # Another generator of a later PyTorch would ask other users, and no count would be the same.
    assert held[:3].tolist() == HELD


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("actions", [(1,), (1, 2)])
@pytest.mark.parametrize("cut", ["position", "time"])
@pytest.mark.parametrize("train_on", ["others", "prefixes"])
def test_equals_a_loop(seed: int, actions: tuple[int, ...], cut: Cut, train_on: TrainOn):
    data = dataset(seed)
    split = last_click_split(
        data,
        seed=seed,
        share=0.3,
        validation_share=0.2,
        cut=cut,
        train_on=train_on,
        actions=actions,
    )
    of = data.histories
    pool = set(candidates(data).tolist())
    assert data.users is not None
    numbers = data.users.column("reid").to_pylist()
    others, held = drawn_by_torch(300, seed, 0.3)
    groups = {"test": held, "validation": others[:60]}
    left = set(range(300))
    for name, ranks in groups.items():
        asked = getattr(split, name)
        rows = {int(user): row for row, user in enumerate(asked.users)}
        counts = {"without_click": 0, "target_outside_pool": 0, "with_empty_history": 0}
        for user in (numbers.index(place + 1) for place in ranks):
            left.discard(user)
            low, high = int(of.offsets[user]), int(of.offsets[user + 1])
            clicks = [e for e in range(low, high) if of.actions[e] - 1 in actions]
            if not clicks:
                counts["without_click"] += 1
                assert user not in rows
                assert split.train_end[user] == (low if train_on == "others" else high)
                continue
            at = clicks[-1]
            before = [
                e
                for e in range(low, at)
                if cut == "position" or of.timestamps[e] < of.timestamps[at]
            ]
            assert split.train_end[user] == low + (train_on == "prefixes") * len(before)
            if int(of.items[at]) not in pool:
                counts["target_outside_pool"] += 1
            else:
                counts["with_empty_history"] += not before
                row = rows.pop(user)
                assert (asked.start[row], asked.end[row]) == (low, low + len(before))
                assert asked.targets[row] == of.items[at]
                assert asked.times[row] == of.timestamps[at]
                assert asked.actions[row] == of.actions[at]
        assert not rows
        prefix = "held_out" if name == "test" else name
        assert {k: split.info[f"{prefix}_{k}"] for k in counts} == counts
        assert split.info[f"{prefix}_evaluated"] == len(asked) > 10
        assert counts["with_empty_history"] > 0
        gone = counts["without_click"] + counts["target_outside_pool"]
        assert gone + len(asked) == split.info[prefix]
        assert split.info[f"{prefix}_of_0_to_20_events"] == len(asked)
    for user in left:
        assert split.train_end[user] == of.offsets[user + 1]
    np.testing.assert_array_equal(split.train_start, of.offsets[:-1])
    trained = [user for user in range(300) if split.train_end[user] > split.train_start[user]]
    assert split.info["training_users"] == len(trained)
    assert train_on == "prefixes" or sorted(left) == trained
    rules = check_split(data, split)
    assert len(rules) == 12 + 2 * (train_on == "others")
    order = "the input is older than the answer" if cut == "time" else "no input is younger than it"
    assert f"test: {order}" in rules
    assert ("test: nothing of the user trains" in rules) == (train_on == "others")


def numbers_tested(data: Dataset) -> set[int]:
    """Own numbers of the users that test."""
    assert data.users is not None
    numbers = np.asarray(data.users.column("reid"))
    return set(numbers[last_click_split(data).test.users].tolist())


def test_the_order_of_the_files_draws_nobody():
    data = dataset()
    assert data.users is not None
    first = numbers_tested(data)
    order = np.random.default_rng(1).permutation(300)
    of = data.histories
    moved = Histories.from_lists(
        [of.history(user) for user in order],
        timestamps=[of.timestamps[of.offsets[u] : of.offsets[u + 1]] for u in order],
        actions=[of.actions[of.offsets[u] : of.offsets[u + 1]] for u in order],
    )
    again = Dataset(
        data.catalog,
        Histories(moved.offsets, moved.items, moved.timestamps, moved.actions, None, [0, 1, 2]),
        users=data.users.take(pa.array(order)),
    )
    assert first == numbers_tested(again)


@pytest.mark.parametrize(("users", "expected"), [(40, 9), (300, 50), (3000, 60)])
def test_more_than_a_handful_validates(users: int, expected: int):
    split = last_click_split(dataset(users=users))
    assert split.info["validation"] == expected
    assert split.info["training_users"] == users - expected - split.info["held_out"]
    others, _ = drawn_by_torch(users, 2025, 0.1)
    numbers = dataset(users=users).users.column("reid").to_pylist()
    chosen = {place + 1 for place in others[:expected]}
    assert {numbers[user] for user in split.validation.users} <= chosen


def test_published_slices_of_the_input():
    lengths = [1, 2, 21, 22, 51, 52, 81, 82, 101]
    users = 40 * len(lengths)
    items = [[0] * lengths[user % len(lengths)] for user in range(users)]
    of = Histories.from_lists(
        items,
        timestamps=[list(range(len(row))) for row in items],
        actions=[[1] * len(row) for row in items],
    )
    pool = Catalog(pa.table({"item_id": [0], "retrieval_id": [0]}))
    split = last_click_split(Dataset(pool, of), share=0.5)
    read = split.test.end - split.test.start
    edges = {"0_to_20": (0, 20), "21_to_50": (21, 50), "51_to_80": (51, 80)}
    for name, (least, most) in edges.items():
        count = sum(least <= length <= most for length in read.tolist())
        assert split.info[f"held_out_of_{name}_events"] == count > 0
    assert split.info["held_out_of_81_events"] == (read >= 81).sum() > 0
    assert split.info["held_out_evaluated"] == len(split.test) == users // 2


def test_users_without_an_event_are_drawn_and_not_asked():
    data = dataset()
    assert data.users is not None
    numbers = np.asarray(data.users.column("reid"))
    # Users 301 to 320 are of the files and left no event, or the gaps are among the others.
    spread = np.where(numbers > 150, numbers + 20, numbers)
    info = {"counts": {"users_without_events_dropped": 20}}
    for given, absent in ((numbers, range(301, 321)), (spread, range(151, 171))):
        users = data.users.set_column(1, "reid", pa.array(given))
        split = last_click_split(Dataset(data.catalog, data.histories, info, users=users))
        _, held = drawn_by_torch(320, 2025, 0.1)
        own = {place + 1 for place in held}
        assert set(given[split.test.users].tolist()) <= own
        assert split.info["held_out"] == 32 and split.info["users"] == 320
        silent = len(own & set(absent))
        clicks = data.histories.actions == 2
        without = [
            user
            for user in range(300)
            if given[user] in own
            and not clicks[data.histories.offsets[user] : data.histories.offsets[user + 1]].any()
        ]
        assert silent > 0
        assert split.info["held_out_without_click"] == silent + len(without)


def test_gaps_between_numbers_of_a_part_of_the_files_are_closed_up():
    data = dataset()
    assert data.users is not None
    numbers = np.asarray(data.users.column("reid"))
    users = data.users.set_column(1, "reid", pa.array(numbers * 7))
    wide = Dataset(data.catalog, data.histories, users=users)
    assert numbers_tested(wide) == {7 * number for number in numbers_tested(data)}
    # Users of no number are left, and train.
    users = data.users.set_column(1, "reid", pa.array(np.where(numbers > 200, 0, numbers)))
    split = last_click_split(Dataset(data.catalog, data.histories, users=users))
    assert split.info["users"] == 200 and split.info["held_out"] == 20
    assert (numbers[split.test.users] <= 200).all()
    of = data.histories
    strange = numbers > 200
    np.testing.assert_array_equal(split.train_end[strange], of.offsets[1:][strange])


def test_on_the_generated_set(tmp_path: Path, huggingface: Path):
    data = prepare("tencentgr", tmp_path / "out", huggingface, progress=False, vectors=[])
    split = last_click_split(data)
    assert split.info["held_out"] == 60
    # Four targets in five are in the pool, as in the real data.
    held = split.info["held_out"] - split.info["held_out_without_click"]
    assert 0.55 < 1 - split.info["held_out_target_outside_pool"] / held < 0.95
    pool = candidates(data)
    raw = np.asarray(data.catalog.table.column("retrieval_id"))[pool]
    np.testing.assert_array_equal(raw, np.arange(len(pool)))
    assert np.isin(split.test.targets, pool).all()
    longest = split.test.end - split.test.start
    assert split.info["held_out_of_81_events"] == (longest >= 81).sum() > 0
    assert len(check_split(data, split)) == 14
    table = pq.read_table(tmp_path / "out" / "candidates.parquet")
    np.testing.assert_array_equal(data.catalog.index(table.column("item_id")), pool)


def test_data_without_what_is_needed():
    cases: list[tuple[dict[str, Any], str]] = [
        ({"timestamps": None}, "needs timestamps and actions"),
        ({"actions": None}, "needs timestamps and actions"),
        ({"names": [0, 5, 7]}, r"no event has an action of \[1\]; it has \[0, 5, 7\]"),
        ({"items": pa.table({"item_id": np.arange(50)})}, "no column 'retrieval_id'"),
        (
            {"items": pa.table({"item_id": np.arange(50), "retrieval_id": np.full(50, -1)})},
            "none of the 30 users drawn",
        ),
    ]
    for changed, message in cases:
        with pytest.raises(DataError, match=message):
            last_click_split(dataset(**changed))
    for options, message in (
        ({"cut": "event"}, "cut='event'; expected one of position, time"),
        ({"train_on": "all"}, "train_on='all'; expected one of others, prefixes"),
    ):
        with pytest.raises(ConfigError, match=message):
            last_click_split(dataset(), **options)
    for shares in ((0.0, 0.1), (0.5, 0.6), (1.0, 0.1), (0.1, 0.0)):
        with pytest.raises(ConfigError, match="expected shares above 0"):
            last_click_split(dataset(), share=shares[0], validation_share=shares[1])
