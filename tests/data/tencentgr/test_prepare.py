"""What `prepare` writes equals what a slow reading of the files with plain Python says."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data import Dataset
from genrec.data.sources import prepare
from genrec.data.tencentgr import vectors
from genrec.data.tencentgr.schema import ITEM_FEATURES, USER_FEATURES
from genrec.errors import ConfigError, DataError
from genrec.pipeline.features import sparse_matrix
from tests.data.tencentgr.reading import ready, rewrite

ITEM_NAMES = [f.name for f in ITEM_FEATURES]


def as_python(dataset: Dataset) -> dict[str, list[tuple[int, int, int | None]]]:
    """Raw user -> (raw item, time, action)."""
    raw = dataset.catalog.item_ids.to_pylist()
    of = dataset.histories
    assert of.timestamps is not None and of.actions is not None
    names = [None, *of.action_names]
    found = {}
    for user, name in enumerate(of.user_ids.to_pylist()):
        part = slice(of.offsets[user], of.offsets[user + 1])
        rows = zip(of.items[part], of.timestamps[part], of.actions[part], strict=True)
        found[name] = [(raw[i], int(t), names[a]) for i, t, a in rows]
    return found


def reference(root: Path) -> dict[str, list[tuple[int, int, int | None]]]:
    index = pickle.loads((root / "indexer.pkl").read_bytes())
    item = {n: raw for raw, n in index["i"].items()}
    user = {n: raw for raw, n in index["u"].items()}
    found = {}
    for part in sorted((root / "seq").glob("*.parquet")):
        for row in pq.read_table(part).to_pylist():
            events = [
                (item[e["item_id"]], e["timestamp"], e["action_type"]) for e in row["seq"] or []
            ]
            if events:
                found[user[row["user_id"]]] = sorted(events, key=lambda e: e[1])
    return found


def item_rows(dataset: Dataset) -> dict[int, dict[str, Any]]:
    return {row["item_id"]: row for row in dataset.catalog.table.to_pylist()}


def test_huggingface_equals_a_slow_reading(tmp_path: Path, huggingface: Path):
    dataset = ready(tmp_path / "out", huggingface, vectors=[81, 82])
    assert as_python(dataset) == reference(huggingface)
    index = pickle.loads((huggingface / "indexer.pkl").read_bytes())
    rows = item_rows(dataset)
    wanted = {row["item_id"]: row for row in pq.read_table(huggingface / "item_feat").to_pylist()}
    pool = {row["item_id"]: row for row in pq.read_table(huggingface / "candidate").to_pylist()}
    assert set(rows) == set(index["i"]) | set(pool)
    for raw, row in rows.items():
        number = index["i"].get(raw, 0)
        assert row["reid"] == number
        assert row["retrieval_id"] == (pool[raw]["retrieval_id"] if raw in pool else -1)
        for name in ITEM_NAMES:
            if raw in pool:
                cell = pool[raw][name]
                flagged = cell["cold_start"] != 0 or cell["feature_value"] is None
                assert row[name] == (0 if flagged else int(cell["feature_value"]))
            else:
                assert row[name] == (wanted[number][name] or 0)
    for number, width in (("81", 8), ("82", 16)):
        files = pq.read_table(huggingface / "mm_emb" / f"emb_{number}_{width}_parquet")
        stored = {int(r["anonymous_cid"]): r["emb"] for r in files.to_pylist()}
        for raw, row in rows.items():
            want = stored.get(raw)
            assert row[f"mm_{number}_known"] == (want is not None)
            np.testing.assert_array_equal(
                row[f"mm_{number}"], np.float32(np.zeros(width) if want is None else want)
            )
    counts = dataset.info["counts"]
    assert counts["candidates_not_in_training"] == sum(raw not in index["i"] for raw in pool)
    assert counts["vectors_81_null"] > 0
    known = sum(row["mm_81_known"] for row in rows.values())
    assert counts["vectors_81_missing"] == len(rows) - known
    assert dataset.catalog.vectors("mm_81").shape == (len(rows), 8)


def test_users_of_huggingface(tmp_path: Path, huggingface: Path):
    dataset = ready(tmp_path / "out", huggingface, vectors=[])
    index = pickle.loads((huggingface / "indexer.pkl").read_bytes())
    wanted = {row["user_id"]: row for row in pq.read_table(huggingface / "user_feat").to_pylist()}
    assert dataset.users is not None
    assert dataset.users.column("user_id").to_pylist() == dataset.histories.user_ids.to_pylist()
    for row in dataset.users.to_pylist():
        want = wanted[index["u"][row["user_id"]]]
        assert row["reid"] == want["user_id"]
        for feature in USER_FEATURES:
            assert row[feature.name] == (want[feature.name] or ([] if feature.is_list else 0))
    assert not any(name.startswith("mm_") for name in dataset.catalog.columns)


def lines(path: Path) -> list[Any]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def number_of(value: Any) -> int:
    return 0 if value is None or isinstance(value, str) else value


@pytest.mark.parametrize("histories", ["train", "predict"])
def test_competition_equals_a_slow_reading(tmp_path: Path, competition: Path, histories: str):
    dataset = ready(tmp_path / "out", competition, histories=histories, vectors=[81, 82])
    index = pickle.loads((competition / "indexer.pkl").read_bytes())
    item = {n: raw for raw, n in index["i"].items()}
    user = {n: raw for raw, n in index["u"].items()}
    name = "seq.jsonl" if histories == "train" else "eval/predict_seq.jsonl"
    events: dict[str, list[Any]] = {}
    profiles: dict[str, dict[str, Any]] = {}
    answers = {}
    for records in lines(competition / name):
        who = records[0][0]
        who = user[who] if isinstance(who, int) else who
        profiles[who], answers[who] = records[0][2], records[0][5]
        events[who] = [(item.get(r[1], r[1]), r[5], r[4]) for r in records[1:]]
    assert as_python(dataset) == events
    # The profile's time would tell when the answer comes; it is nowhere in the dataset.
    for who, one in as_python(dataset).items():
        assert answers[who] not in {time for _, time, _ in one}
    assert dataset.users is not None
    for row in dataset.users.to_pylist():
        assert answers[row["user_id"]] not in row.values()
        profile = profiles[row["user_id"]]
        assert row["reid"] == index["u"].get(row["user_id"], 0)
        for feature in USER_FEATURES:
            assert row[feature.name] == profile.get(feature.name, [] if feature.is_list else 0)
    rows = item_rows(dataset)
    features = json.loads((competition / "item_feat_dict.json").read_text())
    pool = {line["creative_id"]: line for line in lines(competition / "eval/predict_set.jsonl")}
    cold = {}
    for records in lines(competition / "eval/predict_seq.jsonl"):
        cold |= {r[1]: r[3] for r in records[1:] if r[1] not in item}
    assert set(rows) == set(index["i"]) | set(pool) | set(cold)
    for raw, row in rows.items():
        number = index["i"].get(raw, 0)
        assert row["reid"] == number
        want = pool[raw]["features"] if raw in pool else features.get(str(number), cold.get(raw))
        assert [row[n] for n in ITEM_NAMES] == [number_of(want.get(n)) for n in ITEM_NAMES]
        assert row["retrieval_id"] == (pool[raw]["retrieval_id"] if raw in pool else -1)
    stored = pickle.loads((competition / "creative_emb" / "emb_81_8.pkl").read_bytes())
    for part in (competition / "creative_emb" / "emb_82_16").iterdir():
        for line in lines(part):
            row = rows[int(line["anonymous_cid"])]
            np.testing.assert_array_equal(row["mm_82"], np.float32(line["emb"]))
    assert {(type(vector), vector.dtype) for vector in stored.values()} == {
        (np.ndarray, np.dtype(np.float32))
    }
    for raw, row in rows.items():
        assert row["mm_81_known"] == (raw in stored)
        np.testing.assert_array_equal(row["mm_81"], stored.get(raw, np.zeros(8)))
    if histories == "predict":
        asked = json.loads((competition / "eval" / "user_action_type.json").read_text())
        for row in dataset.users.to_pylist():
            assert row["target_action"] == asked[row["user_id"]]
        assert dataset.info["counts"]["users_not_in_training"] > 0


def test_both_histories_have_one_catalog(tmp_path: Path, competition: Path):
    made = [
        ready(tmp_path / name, competition, histories=name, vectors=[])
        for name in ("train", "predict")
    ]
    assert made[0].catalog.table.equals(made[1].catalog.table)


def test_ids_as_text_are_the_same_ids(tmp_path: Path, competition: Path):
    want = ready(tmp_path / "want", competition, vectors=[81, 82])
    place = Path(shutil.copytree(competition, tmp_path / "files"))

    def as_text(path: Path, name: str) -> None:
        rows = [{**row, name: str(row[name])} for row in lines(path)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    as_text(place / "eval" / "predict_set.jsonl", "creative_id")
    for part in (place / "creative_emb" / "emb_82_16").iterdir():
        rows = [{**row, "anonymous_cid": int(row["anonymous_cid"])} for row in lines(part)]
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ready(tmp_path / "out", place, vectors=[81, 82]).fingerprint == want.fingerprint


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("change", ["lists", "text keys", "float64, big-endian", "a slice"])
def test_other_pickles_of_vectors(tmp_path: Path, competition: Path, protocol: int, change: str):
    stored = pickle.loads((competition / "creative_emb" / "emb_81_8.pkl").read_bytes())
    changed: dict[Any, Any] = {
        "lists": lambda: {raw: row.tolist() for raw, row in stored.items()},
        "text keys": lambda: {str(raw): row for raw, row in stored.items()},
        "float64, big-endian": lambda: {raw: row.astype(">f8") for raw, row in stored.items()},
        "a slice": lambda: {raw: np.repeat(row, 2)[::2] for raw, row in stored.items()},
    }[change]()
    path = tmp_path / "emb_81_8.pkl"
    path.write_bytes(pickle.dumps(changed, protocol))
    raw = np.sort(np.array(list(stored)))[::2]  # every other creative is not asked for
    vectors.write_ids(tmp_path / "ids.npy", raw)
    matrix = np.lib.format.open_memmap(
        tmp_path / "matrix.npy", mode="w+", dtype=np.float32, shape=(len(raw), 8)
    )
    found = vectors.place_vectors(path, None, 8, tmp_path / "matrix.npy", tmp_path / "ids.npy")
    np.testing.assert_array_equal(np.sort(found["rows"]), np.arange(len(raw)))
    assert found["lost"].tolist() == [len(stored) - len(raw), 0, len(stored)]
    np.testing.assert_array_equal(matrix, np.stack([stored[key] for key in raw.tolist()]))


def test_other_spellings_of_candidates(tmp_path: Path, copy: Path, huggingface: Path):
    want = ready(tmp_path / "want", huggingface)

    def spelled(table: pa.Table) -> pa.Table:
        columns = {"creative_id": table.column("item_id").cast(pa.string())}
        columns["reid_creative_id"] = pa.array(np.zeros(len(table), dtype=np.int64))
        columns["retrieval_id"] = table.column("retrieval_id").cast(pa.int32())
        for name in ITEM_NAMES:
            rows = table.column(name).to_pylist()
            columns[name] = pa.array(
                [
                    {"feature_value": r["feature_value"], "is_str": bool(r["cold_start"])}
                    for r in rows
                ]
            )
        return pa.table(columns)

    rewrite(copy / "candidate", spelled)
    assert ready(tmp_path / "out", copy).fingerprint == want.fingerprint


def test_vectors_as_json_text(tmp_path: Path, copy: Path, huggingface: Path):
    def text(table: pa.Table) -> pa.Table:
        rows = [None if v is None else json.dumps(v) for v in table.column("emb").to_pylist()]
        return table.set_column(1, "emb", pa.array(rows, pa.string()))

    rewrite(copy / "mm_emb" / "emb_81_8_parquet", text)
    made = ready(tmp_path / "out", copy).catalog.vectors("mm_81")
    want = ready(tmp_path / "want", huggingface).catalog.vectors("mm_81")
    np.testing.assert_array_equal(made, want)


def test_events_out_of_order_empty_histories_and_unknown_items(tmp_path: Path, copy: Path):
    rng = np.random.default_rng(0)

    def shuffled(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for row in rows:
            rng.shuffle(row["seq"])
        rows[0]["seq"], rows[1]["seq"] = [], None
        rows[2]["seq"][0]["item_id"] = 0
        rows[3]["seq"] = [{"item_id": 0, "action_type": 1, "timestamp": 5}]
        return pa.Table.from_pylist(rows, schema=table.schema)

    path = rewrite(copy / "seq", shuffled)
    dataset = ready(tmp_path / "out", copy)
    assert dataset.info["counts"]["users_without_events_dropped"] == 3
    assert dataset.info["counts"]["events_of_unknown_items_dropped"] == 2
    index = pickle.loads((copy / "indexer.pkl").read_bytes())
    item = {n: raw for raw, n in index["i"].items()}
    user = {n: raw for raw, n in index["u"].items()}
    found = as_python(dataset)
    for row in pq.read_table(path).to_pylist():
        events = [
            (item[e["item_id"]], e["timestamp"], e["action_type"])
            for e in row["seq"] or []
            if e["item_id"]
        ]
        assert found.get(user[row["user_id"]], []) == sorted(events, key=lambda e: e[1])


def test_features_that_are_all_null(tmp_path: Path, copy: Path):
    def emptied(table: pa.Table) -> pa.Table:
        place = table.column_names.index("100")
        return table.set_column(place, "100", pa.nulls(len(table), pa.null()))

    for path in sorted((copy / "item_feat").glob("*.parquet")):
        pq.write_table(emptied(pq.read_table(path)), path)
    rewrite(copy / "candidate", emptied)
    dataset = ready(tmp_path / "out", copy)
    assert set(dataset.catalog.table.column("100").to_pylist()) == {0}


def test_tables_without_a_single_feature(tmp_path: Path, copy: Path):
    for folder in ("item_feat", "user_feat", "candidate"):
        for path in sorted((copy / folder).glob("*.parquet")):
            table = pq.read_table(path)
            for place, field in enumerate(table.schema):
                if field.name.isdigit():
                    table = table.set_column(place, field, pa.nulls(len(table), field.type))
            pq.write_table(table, path)
    dataset = ready(tmp_path / "out", copy)
    for name in ITEM_NAMES:
        assert set(dataset.catalog.table.column(name).to_pylist()) == {0}
    assert dataset.users is not None and len(dataset.users) == len(dataset.histories)
    for name in dataset.users.column_names[2:]:
        assert all(not value for value in dataset.users.column(name).to_pylist())
    # A model of them is one of unknown values.
    sizes, matrix = sparse_matrix(dataset.catalog.table, ITEM_NAMES, "items")
    assert {rows for _, rows, _ in sizes} == {1} and not matrix.any()


@pytest.mark.parametrize("groups", [0, 1])
def test_parts_without_a_row(tmp_path: Path, files: Path, small: dict[str, Path], groups: int):
    """Spark writes such parts, with no row group or an empty one."""
    for table in ("seq", "user_feat", "item_feat", "candidate", "mm_emb/emb_81_4_parquet"):
        part = sorted((files / table).glob("*.parquet"))[0]
        nothing = pq.read_table(part).slice(0, 0)
        with pq.ParquetWriter(part.with_name(f"empty-{part.name}"), nothing.schema) as writer:
            for _ in range(groups):
                writer.write_table(nothing)
    found, want = ready(tmp_path / "out", files), ready(tmp_path / "want", small["huggingface"])
    assert found.catalog.table.equals(want.catalog.table)
    assert found.users is not None and found.users.equals(want.users)
    assert np.array_equal(found.histories.items, want.histories.items)


def test_a_table_of_users_without_a_row(tmp_path: Path, files: Path):
    for path in sorted((files / "user_feat").glob("*.parquet")):
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.warns(UserWarning, match="users have no row of features"):
        found = ready(tmp_path / "out", files)
    assert found.users is not None
    for feature in USER_FEATURES:
        assert not any(found.users.column(feature.name).to_pylist())


def test_actions_that_are_all_null(tmp_path: Path, copy: Path):
    def emptied(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for row in rows:
            for event in row["seq"]:
                event["action_type"] = None
        return pa.Table.from_pylist(rows, schema=table.schema)

    for path in sorted((copy / "seq").glob("*.parquet")):
        pq.write_table(emptied(pq.read_table(path)), path)
    dataset = ready(tmp_path / "out", copy)
    assert dataset.histories.action_names == []
    assert dataset.info["counts"]["events_without_action"] == dataset.histories.num_events


def test_options_that_make_no_sense(tmp_path: Path, huggingface: Path):
    cases: list[tuple[dict[str, Any], str]] = [
        ({"vectors": [85]}, "vectors=85: .*the sets that are there: 81, 82"),
        ({"histories": "all"}, "histories='all'"),
        ({"histories": "predict"}, "has no seq.jsonl"),
        ({"workers": 0}, "workers=0"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError, match=message):
            ready(tmp_path / "out", huggingface, **options)
    with pytest.raises(ConfigError, match="say where the files are"):
        prepare("tencentgr", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds neither seq"):
        ready(tmp_path / "out", tmp_path / "empty")
    assert not (tmp_path / "out").exists()
