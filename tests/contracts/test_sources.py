"""What every source must do. A new source adds its name and a function that lays out its input.

That function also says which events the dataset must have, from the rows that it wrote: it reads
nothing with the code under test.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from genrec.artefacts import check_folder
from genrec.data import Dataset
from genrec.data.sources import SOURCES, prepare, register
from genrec.data.sources.generated import generate
from genrec.data.tencentgr import generate_tencentgr
from genrec.errors import ConfigError, GenrecError

# (user, item, Unix seconds or None), each user's in the order of the dataset; users in any.
Events = list[tuple[Any, Any, Any]]
# `path` (None if nothing is read), options, and the events that must come out.
Input = tuple[Path | None, dict[str, Any], Events]


def in_time(events: Events) -> Events:
    """Oldest first, events of one time as they stood."""
    return sorted(events, key=lambda event: event[2])


def tables(place: Path) -> Input:
    rng = np.random.default_rng(0)
    pd.DataFrame({"item_id": range(30), "title": [f"thing {i}" for i in range(30)]}).to_csv(
        place / "items.csv", index=False
    )
    rows = [(int(u), int(i), 10**9 + int(t)) for u, i, t in rng.integers(0, [20, 30, 9], (200, 3))]
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(
        place / "interactions.csv", index=False
    )
    return place, {}, in_time(rows)


def amazon(place: Path) -> Input:
    rng = np.random.default_rng(0)
    pairs = list(dict.fromkeys((int(u), int(i)) for u, i in rng.integers(0, [20, 30], (300, 2))))
    rows: Events = [(f"U{u}", f"I{i}", 86_400 * (1 + (u + i) % 4)) for u, i in pairs]
    reviews = [
        {"reviewerID": user, "asin": item, "overall": 4.0, "unixReviewTime": time}
        for user, item, time in rows
    ]
    metadata = [{"asin": f"I{i}", "title": f"thing {i}"} for i in range(30)]
    (place / "reviews_Toys_5.json").write_text("\n".join(map(json.dumps, reviews)))
    (place / "meta_Toys.json").write_text("\n".join(map(repr, metadata)))
    left: Events = []
    while left != rows:
        left = rows
        users, items = (Counter(row[side] for row in rows) for side in (0, 1))
        rows = [row for row in rows if users[row[0]] >= 7 and items[row[1]] >= 7]
    return place, {"core": 7}, in_time(rows)


def generated(place: Path) -> Input:
    options = {"num_items": 200, "num_users": 40}
    drawn = generate(**options)[1].to_pylist()
    return None, options, [(row["user_id"], row["item_id"], row["timestamp"]) for row in drawn]


def movielens(place: Path) -> Input:
    rng = np.random.default_rng(0)
    rows = [(int(u), int(i), 10**9 + int(t)) for u, i, t in rng.integers(1, [30, 30, 9], (200, 3))]
    ratings = [f"{user},{item},4.0,{time}" for user, item, time in rows]
    movies = [f"{i},Thing {i} (1999),Drama" for i in range(1, 30)]
    (place / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *ratings]))
    (place / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]))
    return place, {}, in_time(rows)


def tencentgr(place: Path) -> Input:
    files = generate_tencentgr(
        place / "files", users=20, items=240, max_length=20, vectors=("emb_81_4",)
    )
    index = pickle.loads((files / "indexer.pkl").read_bytes())
    users, items = ({number: raw for raw, number in index[part].items()} for part in "ui")
    rows = [
        (users[row["user_id"]], items[event["item_id"]], event["timestamp"])
        for row in pq.read_table(files / "seq").to_pylist()
        for event in row["seq"]
    ]
    return files, {}, in_time(rows)


# Each lays out a small input in an empty folder; where it can, a user has several events at one
# time, so that their order shows.
LAYOUTS: dict[str, Callable[[Path], Input]] = {
    "amazon": amazon,
    "generated": generated,
    "movielens": movielens,
    "tables": tables,
    "tencentgr": tencentgr,
}


def lay_out(name: str, tmp_path: Path) -> Input:
    assert name in LAYOUTS, f"add a layout of {name!r} to this file"
    place = tmp_path / "input"
    place.mkdir()
    return LAYOUTS[name](place)


@pytest.fixture(params=sorted(SOURCES))
def laid_out(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Input]:
    return request.param, lay_out(request.param, tmp_path)


@pytest.fixture
def made(laid_out: tuple[str, Input], tmp_path: Path) -> Dataset:
    name, (path, options, _) = laid_out
    again = prepare(name, tmp_path / "again", path, **options)
    dataset = prepare(name, tmp_path / "out", path, **options)
    assert dataset.fingerprint == again.fingerprint, "the same input gives the same dataset"
    return dataset


def by_user(events: Events) -> dict[Any, Events]:
    found = defaultdict(list)
    for event in events:
        found[event[0]].append(event)
    return dict(found)


def test_the_events_are_those_of_the_input_in_their_order(
    laid_out: tuple[str, Input], made: Dataset
) -> None:
    expected = laid_out[1][2]
    histories = made.histories
    times = [None] * histories.num_events
    if histories.timestamps is not None:
        times = histories.timestamps.tolist()
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    columns = (histories.user_ids.take(users), made.catalog.item_ids.take(histories.items))
    user_ids, item_ids = (column.to_pylist() for column in columns)
    found = list(zip(user_ids, item_ids, times, strict=True))
    assert len(found) == len(expected)
    assert by_user(found) == by_user(expected)


def test_the_folder_holds_the_contract(made: Dataset) -> None:
    assert made.folder is not None
    check_folder(made.folder, kind="dataset")
    items = pq.read_schema(made.folder / "items.parquet").names
    events = pq.read_schema(made.folder / "interactions.parquet").names
    assert "item_id" in items
    assert {"user_id", "item_id"} <= set(events)
    assert {"timestamp", "position"} & set(events)
    info = json.loads((made.folder / "dataset.json").read_text())
    assert info["name"] and info["source"]
    assert info["order"] in ("file", "shuffled-day")
    assert info["counts"]["users"] == len(made.histories)
    assert info["counts"]["items"] == len(made.catalog)
    assert info["counts"]["events"] == made.histories.num_events


def test_histories_are_in_time_order_and_within_the_catalog(made: Dataset) -> None:
    histories = made.histories
    assert histories.lengths.min() >= 1
    assert histories.items.min() >= 0 and histories.items.max() < len(made.catalog)
    if histories.timestamps is not None:
        step = np.diff(histories.timestamps)
        step[histories.offsets[1:-1] - 1] = 0
        assert (step >= 0).all()
        assert np.abs(histories.timestamps).max() < 10**11, "timestamps are seconds"


def test_the_parquet_files_alone_give_the_same_dataset(made: Dataset, tmp_path: Path) -> None:
    assert made.folder is not None
    copy = tmp_path / "copy"
    copy.mkdir()
    for table in made.folder.glob("*.parquet"):
        (copy / table.name).write_bytes(table.read_bytes())
    assert Dataset.load(copy).fingerprint == made.fingerprint
    assert Dataset.load(made.folder).fingerprint == made.fingerprint


def test_ids_find_their_rows(made: Dataset) -> None:
    ids = made.catalog.item_ids
    np.testing.assert_array_equal(made.catalog.index(ids), np.arange(len(ids)))
    users = made.histories.user_ids
    np.testing.assert_array_equal(made.histories.index(users), np.arange(len(users)))


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_an_input_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    path, options, _ = lay_out(name, tmp_path)
    if path is None:
        assert prepare(name, tmp_path / "out", **options).histories.num_events > 0
        return
    with pytest.raises(GenrecError, match="nowhere"):
        prepare(name, tmp_path / "out", tmp_path / "nowhere", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_output_is_checked_before_anything_is_read(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    _, options, _ = lay_out(name, tmp_path)
    with pytest.raises(GenrecError, match="out: the folder exists and was not written by genrec"):
        prepare(name, out, tmp_path / "nowhere", **options)
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]


def test_a_dataset_that_is_replaced_is_named_before_anything_is_read(
    laid_out: tuple[str, Input], made: Dataset, tmp_path: Path
) -> None:
    name, (path, options, _) = laid_out
    said = f"{tmp_path / 'out'}: exists, and is replaced, with all that is in it, once the new"
    with pytest.warns(UserWarning, match=re.escape(said)):
        if path is None:
            prepare(name, tmp_path / "out", **options)
        else:
            with pytest.raises(GenrecError, match="nowhere"):
                prepare(name, tmp_path / "out", tmp_path / "nowhere", **options)
    assert Dataset.load(tmp_path / "out").fingerprint == made.fingerprint


def test_two_sources_cannot_have_one_name() -> None:
    with pytest.raises(ConfigError, match="prepare_tables is called 'tables' already"):
        register("tables")(SOURCES["amazon"])
