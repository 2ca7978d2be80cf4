"""Known counts of the published datasets, and their published order kept to the last event."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genrec.data import Dataset, leave_one_out
from genrec.data.sources import prepare_tables

pytestmark = pytest.mark.real_data

# users, items, events, untimed events, targets that never train, items that never train
KNOWN = {
    "amazon2014-beauty": (22_363, 12_101, 198_502, 287, 138, 33),
    "amazon2014-sports": (35_598, 18_357, 296_337, 2_937, 317, 73),
    "amazon2014-clothing": (39_387, 23_033, 278_677, 1_143, None, None),
}


def same_day_pairs(histories: pd.DataFrame) -> int:
    """Users whose last two events are known to share a day, counted one user at a time."""
    last = histories.groupby("user_id", sort=False).timestamp.apply(lambda t: t.tolist()[-2:])
    return sum(pair[0] == pair[1] for pair in last)


@pytest.mark.parametrize("name", KNOWN)
def test_amazon_keeps_the_published_order(real: Path, tmp_path: Path, name: str) -> None:
    source = real / name / "joined"
    dataset = prepare_tables(tmp_path / "out", source)
    published = pd.read_csv(source / "interactions.csv.gz", dtype={"item_id": str})
    users, items, events, untimed, cold_targets, cold_items = KNOWN[name]
    histories = dataset.histories
    assert (len(histories), len(dataset.catalog), histories.num_events) == (users, items, events)
    assert dataset.info["counts"]["events_without_timestamp"] == untimed
    ids = np.array(dataset.catalog.item_ids.to_pylist())
    assert (ids[histories.items] == published.item_id.to_numpy()).all()
    owner = np.repeat(np.array(histories.user_ids.to_pylist()), histories.lengths)
    assert (owner == published.user_id.to_numpy()).all()

    split = leave_one_out(histories)
    assert len(split.test) == len(split.validation) == users
    counts = split.train_counts(histories, items)
    assert counts.sum() == events - 2 * users
    if cold_items is not None:
        assert (counts == 0).sum() == cold_items
        assert (counts[split.test.targets] == 0).sum() == cold_targets

    shuffled = dataset.shuffled_within_day(0)
    changed = leave_one_out(shuffled.histories).test.targets != split.test.targets
    # A pair of two is swapped half of the time, longer ties more often.
    assert 0.5 < changed.sum() / same_day_pairs(published) < 0.8


def test_steam_by_column_names(real: Path, tmp_path: Path) -> None:
    source = real / "steam-100k"
    dataset = prepare_tables(
        tmp_path / "out",
        source,
        interactions="converted/seqrecbench_user2item.csv.gz",
        items="joined/items.jsonl.gz",
        user_column="UserID",
        item_column="ItemID",
        time_column="Timestamp",
    )
    published = pd.read_csv(source / "converted/seqrecbench_user2item.csv.gz")
    histories = dataset.histories
    assert (len(histories), len(dataset.catalog), histories.num_events) == (10_369, 3_593, 126_824)
    ids = np.array(dataset.catalog.item_ids.to_pylist())
    assert (ids[histories.items] == published.ItemID.to_numpy()).all()
    assert dataset.info["counts"]["users_whose_last_two_share_a_day"] == 1_074
    split = leave_one_out(histories)
    counts = split.train_counts(histories, len(dataset.catalog))
    assert (counts == 0).sum() == 8 and (counts[split.test.targets] == 0).sum() == 38


def test_popularity_known_answer(real: Path, tmp_path: Path) -> None:
    """S3-Rec's published PopRec row, seen items left out, counted over all interactions."""
    dataset = prepare_tables(tmp_path / "out", real / "amazon2014-beauty" / "joined")
    assert popularity(dataset, over_all=True) == (0.0152, 0.0068)
    # Over training events the order of equally frequent items moves the last digit.
    assert popularity(dataset, over_all=False) == pytest.approx((0.0115, 0.0055), abs=1.01e-4)


def popularity(dataset: Dataset, *, over_all: bool) -> tuple[float, float]:
    histories = dataset.histories
    split = leave_one_out(histories)
    n = len(dataset.catalog)
    counts = histories.counts(n) if over_all else split.train_counts(histories, n)
    order = np.lexsort((np.random.default_rng(0).random(n), -counts))
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    test = split.test
    hit, gain = [], []
    for start, end, target in zip(test.start, test.end, test.targets, strict=True):
        seen = place[np.unique(histories.items[start:end])]
        rank = place[target] - (seen < place[target]).sum()
        hit.append(rank < 10)
        gain.append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
    return round(float(np.mean(hit)), 4), round(float(np.mean(gain)), 4)
