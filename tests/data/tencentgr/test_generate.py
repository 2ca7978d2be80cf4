"""The generated files have the layout, the statistics and the structure of the real ones."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data.tencentgr import generate_tencentgr
from genrec.data.tencentgr.schema import ITEM_FEATURES, USER_FEATURES
from genrec.errors import ConfigError, DataError

SINGLE = ("103", "104", "105", "109")


def test_the_huggingface_layout_to_the_letter(huggingface: Path):
    assert sorted(p.name for p in huggingface.iterdir()) == [
        "candidate",
        "indexer.pkl",
        "item_feat",
        "mm_emb",
        "seq",
        "user_feat",
    ]
    for part in (huggingface / "seq").iterdir():
        assert part.name.startswith("part-0000") and part.name.endswith("-c000.snappy.parquet")
    seq = pq.read_schema(next((huggingface / "seq").iterdir()))
    event = pa.struct(
        [("item_id", pa.int64()), ("action_type", pa.int32()), ("timestamp", pa.int64())]
    )
    assert seq.field("user_id").type == pa.int64()
    assert seq.field("seq").type.value_type == event
    users = pq.read_schema(next((huggingface / "user_feat").iterdir()))
    assert users.names == ["user_id", "103", "104", "105", "106", "107", "108", "109", "110"]
    assert all(
        users.field(n).type == (pa.int64() if n in (*SINGLE, "user_id") else pa.list_(pa.int64()))
        for n in users.names
    )
    items = pq.read_schema(next((huggingface / "item_feat").iterdir()))
    numbers = [f.name for f in ITEM_FEATURES]
    assert items.names == ["item_id", *numbers] and set(items.types) == {pa.int64()}
    pool = pq.read_schema(next((huggingface / "candidate").iterdir()))
    value = pa.struct([("cold_start", pa.int64()), ("feature_value", pa.string())])
    assert pool.names == ["item_id", "retrieval_id", *numbers]
    assert all(pool.field(n).type == value for n in numbers)
    for name, width in (("81", 8), ("82", 16)):
        vectors = pq.read_table(huggingface / "mm_emb" / f"emb_{name}_{width}_parquet")
        assert vectors.schema.field("anonymous_cid").type == pa.string()
        assert vectors.schema.field("emb").type == pa.list_(pa.float64())
        assert vectors.column("emb").null_count > 0


def test_the_index_is_what_pickle_reads(huggingface: Path):
    index = pickle.loads((huggingface / "indexer.pkl").read_bytes())
    assert list(index) == ["u", "i", "f", "a"] and len(index["f"]) == 22
    items = pq.read_table(huggingface / "item_feat").column("item_id").to_numpy()
    assert sorted(index["i"].values()) == sorted(items) == list(range(1, len(items) + 1))
    assert min(index["i"]) > 2**31 and index["a"] == {0: 1, 1: 2}
    assert sorted(index["u"].values()) == list(range(1, 601))
    assert all(name.startswith("user_") for name in index["u"])


def test_the_id_spaces_meet_where_they_should(huggingface: Path):
    index = pickle.loads((huggingface / "indexer.pkl").read_bytes())
    pool = pq.read_table(huggingface / "candidate")
    ids = pool.column("item_id").to_pylist()
    assert pool.column("retrieval_id").to_pylist() == list(range(len(ids)))
    cold = np.array([i not in index["i"] for i in ids])
    assert cold.mean() == pytest.approx(0.226, abs=0.01)
    known = {str(i) for i in (*index["i"], *ids)}
    vectors = pq.read_table(huggingface / "mm_emb" / "emb_81_8_parquet").column("anonymous_cid")
    assert set(vectors.to_pylist()) <= known
    assert len(vectors) / len(known) == pytest.approx(0.966, abs=0.01)
    items = pq.read_table(huggingface / "item_feat").to_pylist()
    by_number = {row["item_id"]: row for row in items}
    for row in pool.to_pylist()[:200]:
        number = index["i"].get(row["item_id"], 0)
        for feature in ITEM_FEATURES:
            cell = row[feature.name]
            if number:  # the same value, as text in the space of the numbers
                want = by_number[number][feature.name]
                assert cell == {
                    "cold_start": 0,
                    "feature_value": None if want is None else str(want),
                }
    # Values are flagged in cold items only, most of them in the feature of most values.
    flags = {new: [] for new in (False, True)}
    for row in pool.to_pylist():
        flags[row["item_id"] not in index["i"]].append(row["121"]["cold_start"])
    assert set(flags[False]) == {0} and set(flags[True]) == {0, 1}
    assert np.mean(flags[True]) == pytest.approx(0.9, abs=0.1)
    # Two candidates in five are somebody's last click, as in the real pool.
    raw = {number: name for name, number in index["i"].items()}
    wanted = set()
    for row in pq.read_table(huggingface / "seq").to_pylist():
        clicks = [event["item_id"] for event in row["seq"] if event["action_type"] == 1]
        wanted |= {raw[item] for item in clicks[-1:]}
    assert np.mean([i in wanted for i in ids]) == pytest.approx(0.4, abs=0.07)


def test_statistics_of_histories_and_features(huggingface: Path):
    seq = pq.read_table(huggingface / "seq")
    rows = seq.to_pylist()
    lengths = np.array([len(row["seq"]) for row in rows])
    assert len(rows) == 600 and lengths.max() == 100
    assert lengths.mean() == pytest.approx(90, abs=1.5) and (lengths >= 60).mean() > 0.96
    ids = [row["user_id"] for row in rows]
    assert sorted(ids) == list(range(1, 601)) and ids != sorted(ids)
    events = [event for row in rows for event in row["seq"]]
    actions = [event["action_type"] for event in events]
    assert None in actions and set(actions) == {0, 1, None}
    assert np.mean([a == 1 for a in actions]) == pytest.approx(0.098, abs=0.006)
    assert np.mean([a is None for a in actions]) == pytest.approx(5e-4, abs=3e-4)
    for row in rows[:50]:
        times = [event["timestamp"] for event in row["seq"]]
        assert times == sorted(times) and times[-1] < 1_748_620_800
    items = pq.read_table(huggingface / "item_feat")
    for feature in ITEM_FEATURES:
        column = items.column(feature.name)
        known = 1 - column.null_count / len(column)
        assert known == pytest.approx(feature.coverage, abs=0.03)
    users = pq.read_table(huggingface / "user_feat")
    for feature in USER_FEATURES:
        column = users.column(feature.name)
        assert 1 - column.null_count / 600 == pytest.approx(feature.coverage, abs=0.07)


def test_the_same_options_give_the_same_files(tmp_path: Path):
    options = {
        "users": 10,
        "items": 300,
        "max_length": 20,
        "candidates": 40,
        "vectors": ("emb_81_4",),
    }
    made = [generate_tencentgr(tmp_path / str(n), seed=n // 2, **options) for n in range(3)]
    files = [
        {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file()}
        for place in made
    ]
    assert files[0] == files[1] != files[2]


def test_the_competition_layout(competition: Path):
    offsets = pickle.loads((competition / "seq_offsets.pkl").read_bytes())
    data = (competition / "seq.jsonl").read_bytes()
    assert len(offsets) == 120 and offsets[0] == 0
    for line, start in enumerate(offsets[:20]):
        records = json.loads(data[start : data.index(b"\n", start)])
        user, item, profile, features, action, answered = records[0]
        assert item is features is action is None and isinstance(profile, dict) and user >= 1
        assert all(type(v) is (int if k in SINGLE else list) for k, v in profile.items()), line
        for one in records[1:]:
            assert len(one) == 6 and one[0] == user and one[2] is None
            assert one[4] in (0, 1, 2, None) and one[5] < answered
    index = pickle.loads((competition / "indexer.pkl").read_bytes())
    assert index["a"] == {0: 1, 1: 2, 2: 3}
    features = json.loads((competition / "item_feat_dict.json").read_text())
    assert sorted(map(int, features)) == list(range(1, len(index["i"]) + 1))
    vectors = pickle.loads((competition / "creative_emb" / "emb_81_8.pkl").read_bytes())
    assert all(len(vector) == 8 for vector in vectors.values())
    lines = (competition / "creative_emb" / "emb_82_16" / "part-00000.json").read_text()
    assert set(json.loads(lines.splitlines()[0])) == {"anonymous_cid", "emb"}


def test_cold_marks_of_the_competition(competition: Path):
    index = pickle.loads((competition / "indexer.pkl").read_bytes())
    folder = competition / "eval"
    users, items = set(), []
    for text in (folder / "predict_seq.jsonl").read_text().splitlines():
        for user, item, _, features, *_ in json.loads(text):
            users.add(type(user))
            if item is not None:
                items.append(item)
                assert isinstance(features, dict)
    assert users == {int, str}
    raw = [item for item in items if item > 2**31]
    assert raw and not set(raw) & set(index["i"])
    lines = [json.loads(t) for t in (folder / "predict_set.jsonl").read_text().splitlines()]
    assert [line["retrieval_id"] for line in lines] == list(range(len(lines)))
    texts = [v for line in lines for v in line["features"].values() if isinstance(v, str)]
    assert texts and all(text.isdigit() for text in texts)
    wanted = json.loads((folder / "user_action_type.json").read_text())
    assert len(wanted) == 12 and set(wanted.values()) <= {1, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "csv"}, "layout='csv'"),
        ({"actions": "2M"}, "actions='2M'"),
        ({"vectors": ("emb_99_32",)}, "vectors='emb_99_32'"),
        ({"users": 0}, "users=0"),
        ({"items": 100}, "items=100"),
        ({"items": 300, "candidates": 400}, "candidates=400"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        generate_tencentgr(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="exists; choose another folder"):
        generate_tencentgr(tmp_path)
