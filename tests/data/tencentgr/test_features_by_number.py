"""Features that the paper does not list: one rule for both layouts, and a count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data import Dataset
from genrec.data.tencentgr.completeness import told_counts
from genrec.data.tencentgr.feature_names import check_number, in_order
from genrec.data.tencentgr.schema import ITEM_FEATURES, USER_FEATURES
from genrec.errors import DataError
from tests.data.tencentgr.damage import refused
from tests.data.tencentgr.reading import ready

ITEMS = {"123": [7, None, "unseen"], "99": [1, 2, 3]}
USERS = {"211": [[4, 5], None, 6], "212": [8, 0, None]}


def extra(number: int, of: dict[str, list[Any]], missing: bool) -> dict[str, Any]:
    """The features beyond the published ones of an item or user, by its number."""
    found = {name: values[number % len(values)] for name, values in of.items()}
    return {name: value for name, value in found.items() if not missing or value is not None}


def number_of(value: Any) -> int:
    return value if isinstance(value, int) else 0


def write_lines(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def more_columns(files: Path) -> Path:
    """The hub's layout with further columns of items and users."""
    for folder, key, of in (("item_feat", "item_id", ITEMS), ("user_feat", "user_id", USERS)):
        for path in (files / folder).glob("*.parquet"):
            table = pq.read_table(path)
            rows = [extra(n, of, False) for n in table.column(key).to_pylist()]
            for name in of:
                values = [row[name] for row in rows]
                if name == "211":
                    values = [[v] if isinstance(v, int) else v for v in values]
                else:  # there is no text among the numbers of a column
                    values = [v if isinstance(v, int) else None for v in values]
                table = table.append_column(name, pa.array(values))
            pq.write_table(table.append_column("note", pa.array(["x"] * len(table))), path)
    return files


@pytest.fixture
def more_keys(contest: Path) -> Path:
    """The contest's layout with further keys in what it says of items and users."""
    path = contest / "item_feat_dict.json"
    features = json.loads(path.read_text())
    for item, row in features.items():
        row |= extra(int(item), ITEMS, True) | {"note": "x"}
    path.write_text(json.dumps(features))
    path = contest / "seq.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        profile = next(record for record in line if record[1] is None)
        profile[2] |= extra(profile[0], USERS, True)
    write_lines(path, lines)
    return contest


def check(dataset: Dataset, want: Dataset) -> None:
    """The further features are columns like the others, and nothing else changed."""
    items, users = dataset.catalog.table, dataset.users
    assert users is not None and want.users is not None
    assert items.select(want.catalog.columns).equals(want.catalog.table)
    assert users.select(want.users.column_names).equals(want.users)
    assert set(items.column_names) - set(want.catalog.columns) == set(ITEMS)
    assert set(users.column_names) - set(want.users.column_names) == set(USERS)
    for row in items.to_pylist():
        if row["reid"] and row["retrieval_id"] < 0:
            stated = extra(row["reid"], ITEMS, False)
            assert {name: row[name] for name in ITEMS} == {
                name: number_of(value) for name, value in stated.items()
            }
        if not row["reid"]:
            assert all(row[name] == 0 for name in ITEMS)
    for row in users.to_pylist():
        stated = extra(row["reid"], USERS, False)
        several = stated["211"] or []
        assert row["211"] == (several if isinstance(several, list) else [several])
        assert row["212"] == (stated["212"] or 0), "never several values: a single one"
    counts = dataset.info["counts"]
    assert counts["item_features_not_published"] == counts["user_features_not_published"] == 2
    told = told_counts(counts)
    assert "2 features of items that the paper does not list" in told
    assert "2 features of users that the paper does not list" in told
    assert "that the paper does not list" not in told_counts(want.info["counts"])


def test_columns_of_the_hub(tmp_path: Path, small: dict[str, Path], more_columns: Path):
    check(ready(tmp_path / "out", more_columns), ready(tmp_path / "want", small["huggingface"]))


def test_keys_of_the_contest(tmp_path: Path, small: dict[str, Path], more_keys: Path):
    check(ready(tmp_path / "out", more_keys), ready(tmp_path / "want", small["competition"]))


def test_features_of_candidates_and_of_new_items_alone(tmp_path: Path, contest: Path):
    asked = contest / "eval" / "predict_seq.jsonl"
    histories = [json.loads(line) for line in asked.read_text().splitlines()]
    event = histories[0][-1]
    event[1], event[3] = 40_000_000_000, {"100": 3}
    write_lines(asked, histories)
    want = ready(tmp_path / "want", contest)
    event[3]["131"] = 4
    write_lines(asked, histories)
    path = contest / "eval" / "predict_set.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2]["features"]["130"] = 9
    write_lines(path, lines)
    dataset = ready(tmp_path / "out", contest)
    rows = {row["item_id"]: row for row in dataset.catalog.table.to_pylist()}
    assert {raw: row["130"] for raw, row in rows.items() if row["130"]} == {
        lines[2]["creative_id"]: 9
    }
    assert {raw: row["131"] for raw, row in rows.items() if row["131"]} == {40_000_000_000: 4}
    assert rows[40_000_000_000]["100"] == 3
    assert dataset.catalog.table.select(want.catalog.columns).equals(want.catalog.table)


def test_a_list_of_users_in_a_column_of_numbers(tmp_path: Path, files: Path):
    """What the paper calls a list is one, and what it calls a number is one, however stored."""
    for path in (files / "user_feat").glob("*.parquet"):
        table = pq.read_table(path)
        ones = pa.array([None if n % 3 == 0 else n % 5 for n in range(len(table))])
        lists = pa.array([[n % 4, 2] if n % 2 else None for n in range(len(table))])
        table = table.set_column(table.column_names.index("106"), "106", ones)
        pq.write_table(table.set_column(table.column_names.index("103"), "103", lists), path)
    dataset = ready(tmp_path / "out", files)
    found = pq.read_table(files / "user_feat").to_pylist()
    stated = {row["user_id"]: row for row in found}
    assert dataset.users is not None
    for row in dataset.users.to_pylist():
        want = stated[row["reid"]]
        assert row["106"] == ([] if want["106"] is None else [want["106"]])
        assert row["103"] == (want["103"][0] if want["103"] else 0)


def test_names_that_are_features():
    assert in_order(["note", "12", "9", "x1", "101", "12", "", "\uff11", "-3"]) == [
        "9",
        "12",
        "101",
    ]


def test_a_file_of_ids_where_features_are_due(tmp_path: Path, contest: Path, files: Path):
    many = {str(n): 1 for n in range(300)}
    path = contest / "item_feat_dict.json"
    features = json.loads(path.read_text())
    features[min(features, key=int)] |= many
    path.write_text(json.dumps(features))
    refused(tmp_path, contest, r"item_feat_dict.json: has 300 features \(0, 1, 2 ... 299\)")
    path = next((files / "user_feat").glob("*.parquet"))
    table = pq.read_table(path)
    columns = {"user_id": table.column("user_id"), **{n: [1] * len(table) for n in many}}
    pq.write_table(pa.table(columns), path)
    refused(tmp_path, files, rf"{path.name}: has 300 features .*at most 256 are expected")
    published = [*ITEM_FEATURES, *USER_FEATURES]
    check_number(path, [feature.name for feature in published])
    with pytest.raises(DataError, match="has 257 features"):
        check_number(path, [str(n) for n in range(257)])
