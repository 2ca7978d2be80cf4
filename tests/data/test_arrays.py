"""Datasets from arrays equal those from tables; what is known of users stays with them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data import Catalog, Dataset, Histories, write_dataset
from genrec.data.arrays import user_blocks, write_arrays
from genrec.errors import DataError


def histories(users: int = 40, seed: int = 0) -> Histories:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    times = rng.integers(10**9, 10**9 + 999, total)
    times = times[np.lexsort((times, np.repeat(np.arange(users), lengths)))]
    return Histories(
        offsets,
        rng.integers(0, 30, total).astype(np.int32),
        times,
        rng.integers(0, 3, total).astype(np.int16),
        [f"u{n}" for n in range(users)],
        [0, 1],
    )


def catalog() -> Catalog:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(60, dtype=np.float32)), 2)
    return Catalog(pa.table({"item_id": np.arange(100, 130), "mm": vectors, "f": np.arange(30)}))


def about(of: Histories) -> pa.Table:
    lists = [[n, n + 1][: n % 3] for n in range(len(of))]
    return pa.table({"user_id": of.user_ids, "age": np.arange(len(of)), "tags": lists})


def test_as_from_tables(tmp_path: Path) -> None:
    of, items = histories(), catalog()
    made = write_arrays(tmp_path / "a", items, of, {"name": "x"}, users=about(of))
    events = of.interactions(items.item_ids)
    want = write_dataset(tmp_path / "b", items.table, events, {"name": "x"}, users=about(of))
    assert made.fingerprint == want.fingerprint
    assert made.info["actions"] == want.info["actions"]
    assert made.info["counts"].items() <= want.info["counts"].items()
    for name in ("items", "interactions", "users"):
        files = [pq.read_table(d / f"{name}.parquet") for d in (tmp_path / "a", tmp_path / "b")]
        assert files[0].equals(files[1])
    assert made.users is not None and made.users.equals(want.users)


def test_blocks_cover_every_user_once() -> None:
    of = histories(200)
    for size in (1, 7, 100, 10**6):
        blocks = user_blocks(of, size)
        assert blocks[0][0] == 0 and blocks[-1][1] == 200
        assert all(a[1] == b[0] for a, b in itertools.pairwise(blocks))


def test_many_blocks_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = write_arrays(tmp_path / "one", catalog(), histories())
    monkeypatch.setattr("genrec.data.arrays.user_blocks", lambda of: user_blocks(of, 5))
    made = write_arrays(tmp_path / "many", catalog(), histories())
    assert pq.ParquetFile(tmp_path / "many" / "interactions.parquet").num_row_groups > 3
    assert made.fingerprint == want.fingerprint
    (tmp_path / "many" / "manifest.json").unlink()
    assert Dataset.load(tmp_path / "many").fingerprint == want.fingerprint


def changed(**arrays: np.ndarray) -> Histories:
    of = histories()
    given = {n: arrays.get(n, getattr(of, n)) for n in ("offsets", "items", "timestamps")}
    return Histories(*given.values(), of.actions, of.user_ids, [0, 1])


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    of = histories()
    assert of.timestamps is not None
    falling = of.timestamps.copy()
    user = int(np.argmax(of.lengths))
    falling[of.offsets[user] + 1] = 5
    gone = of.offsets.copy()
    gone[3] = gone[2]
    cases = [
        (changed(timestamps=falling), None, f"times of user 'u{user}' fall"),
        (changed(items=of.items + 30), None, "not in the catalog of 30 items"),
        (changed(items=of.items - 30), None, "not in the catalog"),
        (changed(offsets=gone), None, "user 'u2' has no event"),
        (of, about(of)[:-1], "users has 39 rows for 40 users"),
    ]
    for given, users, message in cases:
        with pytest.raises(DataError, match=message):
            write_arrays(tmp_path / "out", catalog(), given, users=users)
    assert not (tmp_path / "out").exists()


def test_users_of_a_folder_made_with_pandas(tmp_path: Path) -> None:
    pd.DataFrame({"item_id": [7, 8]}).to_parquet(tmp_path / "items.parquet")
    events = {"user_id": ["b", "a", "b", "c"], "item_id": [7, 8, 8, 7], "timestamp": [1, 2, 3, 4]}
    pd.DataFrame(events).to_parquet(tmp_path / "interactions.parquet")
    without = Dataset.load(tmp_path)
    assert without.users is None
    told = pd.DataFrame({"user_id": ["a", "x", "b"], "age": [30, 40, 50]})
    told.to_parquet(tmp_path / "users.parquet")
    dataset = Dataset.load(tmp_path)  # the index is made again for the new table
    assert dataset.users is not None and dataset.fingerprint != without.fingerprint
    assert dataset.users.to_pydict() == {"user_id": ["b", "a", "c"], "age": [50, 30, None]}
    assert dataset.shuffled_within_day(0).users is dataset.users
    saved = dataset.save(tmp_path / "saved")
    assert saved.fingerprint == dataset.fingerprint
    told.iloc[[0, 0]].to_parquet(tmp_path / "users.parquet")
    with pytest.raises(DataError, match=r"users\.parquet: column 'user_id' has 'a' more than once"):
        Dataset.load(tmp_path)


def test_groups_of_rows_are_smaller_where_vectors_are_wide(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("genrec.data.arrays._NUMBERS", 100)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(240, dtype=np.float32)), 24)
    catalog = Catalog(pa.table({"item_id": np.arange(10), "v": wide}))
    histories = Histories.from_lists([[0, 1], [9]])
    made = write_arrays(str(tmp_path / "out"), catalog, histories, {})
    file = pq.ParquetFile(tmp_path / "out" / "items.parquet")
    groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert groups == [4, 4, 2]
    np.testing.assert_array_equal(made.catalog.vectors("v"), np.arange(240).reshape(10, 24))
