from __future__ import annotations

import json
import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.artefacts import file_sha256
from genrec.data import Catalog, Dataset, Histories, write_dataset
from genrec.data.events import read_events
from genrec.data.index import open_index, write_index
from genrec.errors import ArtefactError, DataError, GenrecError

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 4),
        st.one_of(st.none(), st.integers(0, 5)),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=14,
)


def sequences(dataset: Dataset) -> dict[object, list[object]]:
    ids = dataset.catalog.item_ids.to_pylist()
    users = dataset.histories.user_ids.to_pylist()
    return {user: [ids[i] for i in dataset.histories.history(u)] for u, user in enumerate(users)}


def reference_order(rows: list[tuple], with_position: bool) -> dict[int, list[int]]:
    """Item sequences, user by user, as the documentation says."""
    users = list(dict.fromkeys(row[0] for row in rows))
    found = {}
    for user in users:
        mine = [row for row in rows if row[0] == user]
        if with_position:
            mine.sort(key=lambda row: row[3])
        times = [row[2] for row in mine]
        for i in range(1, len(times)):
            times[i] = times[i - 1] if times[i] is None else times[i]
        known = [t for t in times if t is not None]
        times = [known[0] if t is None and known else t or 0 for t in times]
        order = sorted(range(len(mine)), key=lambda i: times[i])
        found[user] = [mine[i][1] for i in order]
    return found


@settings(max_examples=150, deadline=None)
@given(ROWS, st.booleans())
def test_order_equals_a_loop(rows: list[tuple], with_position: bool) -> None:
    if all(row[2] is None for row in rows):
        rows = [(*rows[0][:2], 3, rows[0][3]), *rows[1:]]
    names = ("user_id", "item_id", "timestamp", "position")
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    if not with_position:
        table = table.drop_columns(["position"])
    events = read_events(table, Catalog.from_ids([0, 1, 2, 3, 4]))
    histories = events.histories
    found = {u: histories.history(i).tolist() for i, u in enumerate(histories.user_ids.to_pylist())}
    assert found == reference_order(rows, with_position)
    assert list(found) == list(dict.fromkeys(row[0] for row in rows))
    assert histories.timestamps is not None
    for u in range(len(histories)):
        span = slice(histories.offsets[u], histories.offsets[u + 1])
        assert (np.diff(histories.timestamps[span]) >= 0).all()
    assert table.column("item_id").take(events.rows).to_pylist() == histories.items.tolist()


def test_file_order_decides_ties(small: Dataset) -> None:
    assert sequences(small) == {"u": ["b", "a", "c"], "v": ["a", "c", "b"]}
    assert small.histories.timestamps is not None
    assert small.histories.timestamps.tolist() == [200, 200, 300, 10, 20, 30]
    stored = pd.read_parquet(small.folder / "interactions.parquet")
    assert stored.item_id.tolist() == ["b", "a", "c", "a", "c", "b"]


def test_parts_of_a_second_order_events(tmp_path: Path) -> None:
    millis = 1_500_000_000_000
    events = pd.DataFrame(
        {"user_id": [1, 1], "item_id": [1, 2], "timestamp": [millis + 9, millis + 2]}
    )
    dataset = write_dataset(tmp_path / "d", None, events)
    assert sequences(dataset) == {1: [2, 1]}


def test_info_says_what_was_found(small: Dataset) -> None:
    info = json.loads((small.folder / "dataset.json").read_text())
    assert info == small.info
    assert info["name"] == "small" and info["order"] == "file"
    assert info["counts"]["users"] == 2 and info["counts"]["events"] == 6
    assert info["counts"]["users_whose_last_two_share_a_day"] == 2
    assert "3 items" in repr(small) and "2 users" in repr(small)


def test_loading_maps_and_copies_nothing(small: Dataset) -> None:
    for array in (small.histories.items, small.histories.offsets, small.histories.timestamps):
        assert array is not None and not array.flags.owndata and not array.flags.writeable


def test_extra_columns_and_actions_survive(tmp_path: Path, events: pd.DataFrame) -> None:
    events["rating"] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    events["action"] = ["buy", "view", None, "view", "view", "buy"]
    dataset = write_dataset(tmp_path / "d", None, events)
    stored = pd.read_parquet(tmp_path / "d" / "interactions.parquet")
    assert stored.rating.tolist() == [3, 5, 1, 2, 6, 4]
    assert dataset.histories.actions is not None
    assert dataset.histories.actions.tolist() == [0, 2, 1, 2, 1, 2]
    assert dataset.histories.action_names == dataset.info["actions"] == ["buy", "view"]


def test_without_items_the_catalog_is_the_sorted_ids(tmp_path: Path, events: pd.DataFrame) -> None:
    dataset = write_dataset(tmp_path / "d", None, events)
    assert dataset.catalog.item_ids.to_pylist() == ["a", "b", "c"]


def test_positions_alone_give_the_order(tmp_path: Path) -> None:
    events = pd.DataFrame({"user_id": [1, 1, 1], "item_id": [7, 8, 9], "position": [2, 0, 1]})
    dataset = write_dataset(tmp_path / "d", None, events)
    assert dataset.histories.timestamps is None
    assert sequences(dataset) == sequences(Dataset.load(tmp_path / "d")) == {1: [8, 9, 7]}
    events["timestamp"] = None
    assert sequences(write_dataset(tmp_path / "e", None, events)) == {1: [8, 9, 7]}


def test_a_user_without_any_time_has_no_ties(tmp_path: Path) -> None:
    events = pd.DataFrame(
        {"user_id": [1] * 6 + [2] * 2, "item_id": range(8),
         "timestamp": [None] * 6 + [1_500_000_000, 1_500_000_001]}
    )  # fmt: skip
    dataset = write_dataset(tmp_path / "d", None, events)
    assert dataset.info["counts"]["users_without_timestamp"] == 1
    assert dataset.info["counts"]["events_without_timestamp"] == 6
    for seed in range(5):
        shuffled = dataset.shuffled_within_day(seed)
        assert shuffled.histories.history(0).tolist() == [0, 1, 2, 3, 4, 5]
    stored = pq.read_table(tmp_path / "d" / "interactions.parquet")
    assert stored.column("timestamp").null_count == 6


def test_datetimes_with_gaps(tmp_path: Path) -> None:
    moments = pd.to_datetime(["2020-01-01", None, "2020-01-03"])
    events = pd.DataFrame({"user_id": [1, 1, 1], "item_id": [7, 8, 9], "timestamp": moments})
    dataset = write_dataset(tmp_path / "d", None, events)
    assert sequences(dataset) == {1: [7, 8, 9]}
    assert dataset.histories.timestamps is not None
    assert (dataset.histories.timestamps // 86_400 - 18_262).tolist() == [0, 0, 2]


def test_a_folder_made_with_pandas(
    tmp_path: Path, items: pd.DataFrame, events: pd.DataFrame, small: Dataset
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    items.to_parquet(folder / "items.parquet")
    events.assign(timestamp=pd.to_datetime(events.timestamp, unit="s")).to_parquet(
        folder / "interactions.parquet"
    )
    dataset = Dataset.load(folder)
    assert dataset.name == "mine"
    assert sequences(dataset) == sequences(small)
    assert dataset.fingerprint == small.fingerprint
    assert (folder / "index" / "events.arrow").is_file()
    written = (folder / "index" / "index.json").stat().st_mtime_ns
    assert Dataset.load(folder).fingerprint == dataset.fingerprint
    assert (folder / "index" / "index.json").stat().st_mtime_ns == written

    events.iloc[:4].to_parquet(folder / "interactions.parquet")
    edited = Dataset.load(folder)
    assert edited.histories.num_events == 4
    assert edited.fingerprint != dataset.fingerprint


def test_touching_a_table_does_not_rebuild_the_index(tmp_path: Path, small: Dataset) -> None:
    (small.folder / "manifest.json").unlink()
    os.utime(small.folder / "items.parquet", (1, 1))
    before = (small.folder / "index" / "index.json").stat().st_mtime_ns
    Dataset.load(small.folder)
    assert (small.folder / "index" / "index.json").stat().st_mtime_ns == before


def test_a_folder_that_cannot_be_written_still_loads(
    small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small.folder / "manifest.json").unlink()
    (small.folder / "index" / "index.json").unlink()

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("genrec.data.index.tempfile.mkdtemp", refuse)
    with pytest.warns(UserWarning, match="index cannot be written .Permission denied"):
        dataset = Dataset.load(small.folder)
    assert sequences(dataset) == sequences(small)
    assert dataset.fingerprint == small.fingerprint


def test_fingerprint_says_what_the_tables_say(
    tmp_path: Path, small: Dataset, items: pd.DataFrame, events: pd.DataFrame
) -> None:
    chunks = pa.concat_tables(
        [pa.Table.from_pandas(events.iloc[:2]), pa.Table.from_pandas(events.iloc[2:])]
    )
    same = write_dataset(tmp_path / "same", items, chunks, {"name": "other name"})
    assert same.fingerprint == small.fingerprint
    retitled = write_dataset(tmp_path / "r", items.assign(title=["A", "B", "C"]), events)
    later = write_dataset(tmp_path / "l", items, events.assign(timestamp=events.timestamp + 1))
    prints = {small.fingerprint, retitled.fingerprint, later.fingerprint}
    prints.add(small.shuffled_within_day(0).fingerprint)
    assert len(prints) == 4


def test_fingerprint_covers_every_column_type(tmp_path: Path, events: pd.DataFrame) -> None:
    base = {
        "item_id": ["a", "b", "c"],
        "nested": [[["x"], ["y", "z"]], None, []],
        "flag": [True, None, False],
        "vec": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32(), 2)),
        "struct": [{"k": 1}, {"k": 2}, None],
        "day": pa.array([1, 2, None], pa.int32()).cast(pa.date32()),
        "price": pa.array(["1.50", "2.00", None]).cast(pa.decimal128(6, 2)),
        "void": pa.nulls(3),
    }
    other = {
        "nested": [[["x", "y"], ["z"]], None, []],
        "flag": [True, False, False],
        "vec": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.5]], pa.list_(pa.float32(), 2)),
        "struct": [{"k": 1}, {"k": 3}, None],
        "day": pa.array([1, 3, None], pa.int32()).cast(pa.date32()),
        "price": pa.array(["1.50", "2.01", None]).cast(pa.decimal128(6, 2)),
        "void": ["", None, None],
    }
    prints = {write_dataset(tmp_path / "d", pa.table(base), events).fingerprint}
    assert {Dataset.load(tmp_path / "d").fingerprint} == prints
    for name, values in other.items():
        changed = write_dataset(tmp_path / "d", pa.table({**base, name: values}), events)
        prints.add(changed.fingerprint)
    assert len(prints) == 1 + len(other)


def test_saving_keeps_the_data(tmp_path: Path, small: Dataset) -> None:
    again = small.save(tmp_path / "again")
    assert again.fingerprint == small.fingerprint
    shuffled = small.shuffled_within_day(1)
    assert shuffled.info["order"] == "shuffled-day" and shuffled.info["order_seed"] == 1
    stored = shuffled.save(tmp_path / "shuffled")
    assert stored.fingerprint == shuffled.fingerprint
    assert stored.info["order"] == "shuffled-day"


def test_unknown_items(tmp_path: Path, items: pd.DataFrame, events: pd.DataFrame) -> None:
    events.loc[[1, 3], "item_id"] = ["z", "y"]
    with pytest.raises(DataError, match=r"log: column 'item_id' row 2 is 'z'.*2 such rows"):
        write_dataset(tmp_path / "d", items, events, interactions_name="log")
    dataset = write_dataset(tmp_path / "d", items, events, drop_unknown=True)
    assert sequences(dataset) == {"u": ["b", "a", "c"], "v": ["c"]}
    assert dataset.info["counts"]["events_of_unknown_items_dropped"] == 2
    assert len(pd.read_parquet(tmp_path / "d" / "interactions.parquet")) == 4
    events["item_id"] = "z"
    with pytest.raises(DataError, match="no event has an item of the catalog"):
        write_dataset(tmp_path / "e", items, events, drop_unknown=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.drop(columns="user_id"), "log.csv: column 'user_id' is missing"),
        (lambda e: e.drop(columns="item_id"), "log.csv: column 'item_id' is missing"),
        (lambda e: e.drop(columns="timestamp"), "log.csv: column 'timestamp' is missing"),
        (lambda e: e.iloc[:0], "log.csv: the table is empty"),
        (lambda e: e.assign(user_id=["u", None] * 3), "column 'user_id' has no id in 3 rows"),
        (lambda e: e.assign(item_id=["a", None] * 3), r"'item_id' has no id .*first is row 2"),
        (lambda e: e.assign(timestamp=["2018-01-01"] * 5 + ["no"]), "row 6 is 'no'"),
        (lambda e: e.assign(timestamp=None), "column 'timestamp' is empty in every row"),
        (lambda e: e.assign(position=[0, 1, None, 3, 4, 5]), "'position' row 3 is nan|None"),
        (
            lambda e: pa.table({**e.to_dict("list"), "position": [0.0] * 5 + [float("nan")]}),
            "'position' row 6 is nan",
        ),
        (lambda e: e.assign(position="x"), "'position' row 1 is 'x'"),
        (lambda e: pd.concat([e, e.user_id], axis=1), "log.csv: .*user_id|twice"),
    ],
)
def test_bad_interactions(
    tmp_path: Path, items: pd.DataFrame, events: pd.DataFrame, change: object, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write_dataset(tmp_path / "d", items, change(events), interactions_name="log.csv")
    assert list(tmp_path.iterdir()) == []


def test_bad_items_leave_nothing(tmp_path: Path, items: pd.DataFrame, events: pd.DataFrame) -> None:
    twice = pd.concat([items, items.iloc[:1]])
    with pytest.raises(DataError, match=r"things.csv: .*'a' in rows 1 and 4"):
        write_dataset(tmp_path / "d", twice, events, items_name="things.csv")
    odd = pa.table({"item_id": ["a", "b", "c"], "m": pa.array([[("k", 1)]] * 3, _map())})
    with pytest.raises(DataError, match="column 'm' holds map"):
        write_dataset(tmp_path / "d", odd, events)
    assert list(tmp_path.iterdir()) == []


def _map() -> pa.DataType:
    return pa.map_(pa.string(), pa.int64())


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, items: pd.DataFrame, events: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genrec.data.index._write_arrow", full)
    with pytest.raises(ArtefactError, match="No space left on device"):
        write_dataset(tmp_path / "d", items, events)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["items.parquet", "interactions.parquet", "dataset.json", "index/events.arrow",
             "index/users.arrow", "index/index.json"]
)  # fmt: skip
@pytest.mark.parametrize("damage", ["truncate", "edit", "remove"])
def test_a_damaged_folder_is_refused(small: Dataset, name: str, damage: str) -> None:
    path = small.folder / name
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "edit":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.unlink()
    with pytest.raises(GenrecError, match=Path(name).name):
        Dataset.load(small.folder)


@pytest.mark.parametrize("name", ["items.parquet", "index/events.arrow"])
def test_a_large_edited_file_is_found_by_its_digest(
    small: Dataset, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("genrec.data.dataset._SMALL", 0)
    assert len(Dataset.load(small.folder).catalog) == 3
    path = small.folder / name
    os.utime(path, (1, 1))
    assert len(Dataset.load(small.folder).catalog) == 3
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtefactError, match=rf"{path.name}: was changed"):
        Dataset.load(small.folder)


def test_an_edited_index_of_a_user_is_built_again(small: Dataset) -> None:
    (small.folder / "manifest.json").unlink()
    path = small.folder / "index" / "users.arrow"
    whole = path.read_bytes()
    before = Dataset.load(small.folder).histories.user_ids.to_pylist()
    path.write_bytes(whole.replace(before[0].encode(), b"?" * len(before[0])))
    assert path.read_bytes() != whole
    assert Dataset.load(small.folder).histories.user_ids.to_pylist() == before


def test_an_index_that_knows_sizes_only_is_still_read(small: Dataset) -> None:
    path = small.folder / "index" / "index.json"
    about = json.loads(path.read_text())
    about |= {"format": 1, "files": {name: s["size"] for name, s in about["files"].items()}}
    path.write_text(json.dumps(about))
    manifest = small.folder / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["index/index.json"] = file_sha256(path)
    manifest.write_text(json.dumps(content))
    assert sequences(Dataset.load(small.folder)) == sequences(small)


def test_a_truncated_index_of_a_user_is_named(small: Dataset) -> None:
    (small.folder / "manifest.json").unlink()
    (small.folder / "index" / "events.arrow").write_bytes(b"")
    with pytest.raises(DataError, match=r"events.arrow: is missing or truncated; delete"):
        Dataset.load(small.folder)


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Dataset.load(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"items.parquet: no such file"):
        Dataset.load(tmp_path)
    (tmp_path / "items.parquet").write_bytes(b"not parquet")
    (tmp_path / "interactions.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"items.parquet: cannot be read as parquet"):
        Dataset.load(tmp_path)


def test_info_must_be_an_object(small: Dataset) -> None:
    (small.folder / "manifest.json").unlink()
    (small.folder / "dataset.json").write_text("[1]")
    with pytest.raises(DataError, match="expected a JSON object"):
        Dataset.load(small.folder)


def test_catalog_and_histories_must_fit() -> None:
    with pytest.raises(DataError, match="histories use item 5, the catalog has 2 items"):
        Dataset(Catalog.from_ids(["a", "b"]), Histories.from_lists([[5]]))


@pytest.mark.slow
def test_ten_million_users_open_in_seconds(tmp_path: Path) -> None:
    users, per_user, items = 10_000_000, 5, 1_000_000
    rng = np.random.default_rng(0)
    histories = Histories(
        np.arange(users + 1, dtype=np.int64) * per_user,
        rng.integers(0, items, size=users * per_user, dtype=np.int32),
        np.arange(users * per_user, dtype=np.int64),
    )
    for name in ("items.parquet", "interactions.parquet"):
        (tmp_path / name).write_bytes(b"")
    write_index(tmp_path, Catalog.from_ids(np.arange(items)), histories)
    del histories
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    started = time.perf_counter()
    catalog, opened, _ = open_index(tmp_path)
    seconds = time.perf_counter() - started
    memory = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - arrow
    tracemalloc.stop()
    assert len(opened) == users and len(catalog) == items
    assert seconds < 2 and memory < 50 << 20
