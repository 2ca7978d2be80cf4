"""What every source must do. A new source adds its name and a function that lays out its input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from genrec.artefacts import check_folder
from genrec.data import Dataset
from genrec.data.sources import SOURCES, prepare
from genrec.data.tencentgr import generate_tencentgr
from genrec.errors import GenrecError


def tables(place: Path) -> tuple[Path, dict[str, Any]]:
    rng = np.random.default_rng(0)
    pd.DataFrame({"item_id": range(30), "title": [f"thing {i}" for i in range(30)]}).to_csv(
        place / "items.csv", index=False
    )
    pd.DataFrame(
        {
            "user_id": rng.integers(0, 20, size=200),
            "item_id": rng.integers(0, 30, size=200),
            "timestamp": rng.integers(10**9, 10**9 + 10**6, size=200),
        }
    ).to_csv(place / "interactions.csv", index=False)
    return place, {}


def amazon(place: Path) -> tuple[Path, dict[str, Any]]:
    rng = np.random.default_rng(0)
    pairs = {(int(u), int(i)) for u, i in rng.integers(0, [20, 30], size=(300, 2))}
    reviews = [
        {"reviewerID": f"U{u}", "asin": f"I{i}", "overall": 4.0, "unixReviewTime": 86_400 * (u + i)}
        for u, i in sorted(pairs)
    ]
    metadata = [{"asin": f"I{i}", "title": f"thing {i}"} for i in range(30)]
    (place / "reviews_Toys_5.json").write_text("\n".join(map(json.dumps, reviews)))
    (place / "meta_Toys.json").write_text("\n".join(map(repr, metadata)))
    return place, {"core": 3}


def generated(place: Path) -> tuple[None, dict[str, Any]]:
    return None, {"num_items": 200, "num_users": 40}


def movielens(place: Path) -> tuple[Path, dict[str, Any]]:
    rng = np.random.default_rng(0)
    ratings = [f"{u},{i},4.0,{10**9 + t}" for u, i, t in rng.integers(1, 30, size=(200, 3))]
    movies = [f"{i},Thing {i} (1999),Drama" for i in range(1, 30)]
    (place / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *ratings]))
    (place / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]))
    return place, {}


def tencentgr(place: Path) -> tuple[Path, dict[str, Any]]:
    return generate_tencentgr(
        place / "files", users=20, items=240, max_length=20, vectors=("emb_81_4",)
    ), {}


# Lays out a small input in an empty folder; returns `path` (None if nothing is read) and options.
Layout = Callable[[Path], tuple["Path | None", dict[str, Any]]]
LAYOUTS: dict[str, Layout] = {
    "amazon": amazon,
    "generated": generated,
    "movielens": movielens,
    "tables": tables,
    "tencentgr": tencentgr,
}


@pytest.fixture(params=sorted(SOURCES))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    assert request.param in LAYOUTS, f"add a layout of {request.param!r} to this file"
    place = tmp_path / "input"
    place.mkdir()
    path, options = LAYOUTS[request.param](place)
    again = prepare(request.param, tmp_path / "again", path, **options)
    dataset = prepare(request.param, tmp_path / "out", path, **options)
    assert dataset.fingerprint == again.fingerprint, "the same input gives the same dataset"
    return dataset


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
    place = tmp_path / "input"
    place.mkdir()
    path, options = LAYOUTS[name](place)
    if path is None:
        assert prepare(name, tmp_path / "out", **options).histories.num_events > 0
        return
    with pytest.raises(GenrecError, match="nowhere"):
        prepare(name, tmp_path / "out", tmp_path / "nowhere", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_output_is_checked_before_anything_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    place = tmp_path / "input"
    place.mkdir()
    path, options = LAYOUTS[name](place)
    module = sys.modules[SOURCES[name].__module__]
    for reader in ("fetch", "read_amazon", "read_movielens", "read_table", "generate", "_root"):
        monkeypatch.setattr(module, reader, None, raising=False)
    with pytest.raises(GenrecError, match="out: the folder exists and was not written by genrec"):
        prepare(name, out, path, **options)
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]
