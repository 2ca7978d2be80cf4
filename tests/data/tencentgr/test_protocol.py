"""The hold-out equals a slow reading of each user's events, and lets no later event through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data import Catalog, Dataset, Histories
from genrec.data.sources import prepare
from genrec.data.split_checks import check_split
from genrec.data.tencentgr.protocol import candidates, last_click_split
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


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("actions", [(1,), (1, 2)])
def test_equals_a_loop(seed: int, actions: tuple[int, ...]):
    data = dataset(seed)
    split = last_click_split(data, seed=seed, share=0.3, validation_share=0.2, actions=actions)
    of = data.histories
    pool = set(candidates(data).tolist())
    assert data.users is not None
    numbers = data.users.column("reid").to_pylist()
    drawn = np.random.default_rng(seed).permutation(300)
    by_number = sorted(range(300), key=lambda user: numbers[user])
    groups = {"test": drawn[:90], "validation": drawn[90:150]}
    left = set(range(300))
    for name, ranks in groups.items():
        asked = getattr(split, name)
        rows = {int(user): row for row, user in enumerate(asked.users)}
        counts = {"without_click": 0, "target_outside_pool": 0, "without_history": 0}
        for user in (by_number[rank] for rank in ranks):
            left.discard(user)
            low, high = int(of.offsets[user]), int(of.offsets[user + 1])
            clicks = [e for e in range(low, high) if of.actions[e] - 1 in actions]
            if not clicks:
                counts["without_click"] += 1
                assert user not in rows and split.train_end[user] == high
                continue
            at = clicks[-1]
            before = [e for e in range(low, high) if of.timestamps[e] < of.timestamps[at]]
            assert split.train_end[user] == low + len(before)
            if int(of.items[at]) not in pool:
                counts["target_outside_pool"] += 1
            elif not before:
                counts["without_history"] += 1
            else:
                row = rows.pop(user)
                assert (asked.start[row], asked.end[row]) == (low, low + len(before))
                assert asked.targets[row] == of.items[at]
                assert asked.times[row] == of.timestamps[at]
                assert asked.actions[row] == of.actions[at]
        assert not rows
        prefix = "held_out" if name == "test" else name
        assert {k: split.info[f"{prefix}_{k}"] for k in counts} == counts
        assert split.info[f"{prefix}_evaluated"] == len(asked) > 10
        long = [row for row in range(len(asked)) if asked.end[row] - asked.start[row] >= 81]
        assert split.info[f"{prefix}_of_81_events"] == len(long)
        assert sum(counts.values()) + len(asked) == split.info[prefix]
    for user in left:
        assert split.train_end[user] == of.offsets[user + 1]
    np.testing.assert_array_equal(split.train_start, of.offsets[:-1])


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
    assert len(check_split(data, split)) == 12
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
    for shares in ((0.0, 0.1), (0.5, 0.6), (1.0, 0.1), (0.1, 0.0)):
        with pytest.raises(ConfigError, match="expected shares above 0"):
            last_click_split(dataset(), share=shares[0], validation_share=shares[1])
