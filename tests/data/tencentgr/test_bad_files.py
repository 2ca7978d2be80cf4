"""Damaged and strange tables: the error names file and row, and nothing half-written remains."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data.sources import prepare
from genrec.errors import DataError
from tests.data.tencentgr.damage import refused

Change = Callable[[list[dict[str, Any]]], None]


def first(folder: Path) -> Path:
    return sorted(folder.glob("*.parquet"))[0]


def retype(path: Path, column: str, kind: pa.DataType) -> None:
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, table.column(column).cast(kind)), path)


def edit(path: Path, change: Change) -> None:
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


TABLES = ("seq", "user_feat", "item_feat", "candidate", "mm_emb/emb_81_4_parquet")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_truncated_parquet(tmp_path: Path, files: Path, table: str, share: float):
    path = first(files / table)
    os.truncate(path, int(share * path.stat().st_size))
    refused(tmp_path, files, rf"{path.name}: cannot be read as parquet")


@pytest.mark.parametrize("table", TABLES)
def test_damaged_pages(tmp_path: Path, files: Path, table: str):
    path = first(files / table)
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
    path.write_bytes(data)
    refused(tmp_path, files, rf"{path.name}: cannot be read as parquet")


@pytest.mark.parametrize("table", TABLES)
def test_an_empty_folder(tmp_path: Path, files: Path, table: str):
    for path in (files / table).iterdir():
        path.unlink()
    refused(tmp_path, files, "holds no (parquet file|file of vectors)")


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("seq", "user_id"),
        ("seq", "seq"),
        ("user_feat", "user_id"),
        ("item_feat", "item_id"),
        ("candidate", "item_id"),
        ("mm_emb/emb_81_4_parquet", "anonymous_cid"),
        ("mm_emb/emb_81_4_parquet", "emb"),
    ],
)
def test_missing_columns(tmp_path: Path, files: Path, table: str, column: str):
    path = first(files / table)
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    refused(tmp_path, files, rf"{path.name}: column '{column}' is missing; it has \[")


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("seq", "seq"),
        ("user_feat", "user_id"),
        ("user_feat", "106"),
        ("item_feat", "101"),
        ("candidate", "item_id"),
        ("candidate", "retrieval_id"),
        ("candidate", "101"),
        ("mm_emb/emb_81_4_parquet", "emb"),
    ],
)
def test_a_column_that_is_there_twice(tmp_path: Path, files: Path, table: str, column: str):
    path = first(files / table)
    whole = pq.read_table(path)
    pq.write_table(whole.append_column(column, whole.column(column)), path)
    refused(tmp_path, files, rf"{path.name}: column '{column}' is there 2 times; expected one")


@pytest.mark.parametrize(
    ("table", "column", "kind"),
    [
        ("seq", "user_id", pa.string()),
        ("user_feat", "user_id", pa.string()),
        ("user_feat", "103", pa.string()),
        ("item_feat", "item_id", pa.string()),
        ("item_feat", "101", pa.decimal128(20, 0)),
        ("candidate", "retrieval_id", pa.string()),
        ("candidate", "item_id", pa.timestamp("ms")),
    ],
)
def test_wrong_types(tmp_path: Path, files: Path, table: str, column: str, kind: pa.DataType):
    path = first(files / table)
    retype(path, column, kind)
    refused(
        tmp_path,
        files,
        rf"{path.name}: column '{column}' holds {re.escape(str(kind))}; expected whole numbers",
    )


def test_sequences_of_another_shape(tmp_path: Path, files: Path):
    path = first(files / "seq")
    table = pq.read_table(path)
    flat = pa.table({"user_id": table.column("user_id"), "seq": [[1, 2]] * len(table)})
    pq.write_table(flat, path)
    refused(tmp_path, files, rf"{path.name}: column 'seq' holds lists of int64; expected lists of")
    pq.write_table(flat.set_column(1, "seq", pa.array([1] * len(table))), path)
    refused(tmp_path, files, rf"{path.name}: column 'seq' holds int64; expected lists")
    rows = [
        {**row, "seq": [{"item_id": "a", "action_type": 0, "timestamp": 1}]}
        for row in table.to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    refused(tmp_path, files, rf"{path.name}: column 'seq.item_id' holds string")


def set_event(name: str, value: Any) -> Change:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[4]["seq"][-1][name] = value

    return change


def set_cell(row: int, column: str, value: Any) -> Change:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[row][column] = value

    return change


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("seq", set_event("item_id", None), "column 'seq.item_id' row 5 is null"),
        ("seq", set_event("item_id", -3), "column 'seq.item_id' row 5 is -3"),
        ("seq", set_event("timestamp", None), "column 'seq.timestamp' row 5 is null"),
        ("seq", set_event("timestamp", -1), "column 'seq.timestamp' row 5 is -1"),
        ("seq", set_event("action_type", 7), "column 'seq.action_type' row 5 is 7"),
        ("seq", set_cell(2, "user_id", None), "column 'user_id' row 3 is null"),
        ("seq", set_cell(2, "user_id", 0), "column 'user_id' row 3 is 0"),
        ("seq", set_cell(2, "user_id", 10**6), "user 1000000 has no raw id in indexer.pkl"),
        ("user_feat", set_cell(6, "105", -4), "column '105' row 7 is -4"),
        ("user_feat", set_cell(6, "106", [1, 2**40]), "column '106' row 7 is 1099511627776"),
        ("item_feat", set_cell(8, "item_id", None), "column 'item_id' row 9 is null"),
        ("item_feat", set_cell(8, "102", 2**33), "column '102' row 9 is 8589934592"),
        (
            "candidate",
            set_cell(1, "100", {"cold_start": 0, "feature_value": "shoes"}),
            "column '100.feature_value' row 2 is 'shoes'",
        ),
        ("candidate", set_cell(1, "item_id", None), "column 'item_id' row 2 is null"),
        (
            "mm_emb/emb_81_4_parquet",
            set_cell(3, "emb", [1.0, 2.0]),
            "column 'emb' row 4 has 2 numbers; expected 4",
        ),
        (
            "mm_emb/emb_81_4_parquet",
            set_cell(3, "emb", [1.0, float("nan"), 0.0, 0.0]),
            r"row 4: the vector of \d+ holds NaN",
        ),
        (
            "mm_emb/emb_81_4_parquet",
            set_cell(3, "anonymous_cid", "abc"),
            "column 'anonymous_cid' row 4 is 'abc'",
        ),
        (
            "mm_emb/emb_81_4_parquet",
            set_cell(3, "anonymous_cid", None),
            "column 'anonymous_cid' row 4 is null",
        ),
    ],
)
def test_strange_values(tmp_path: Path, files: Path, table: str, change: Change, message: str):
    path = first(files / table)
    edit(path, change)
    refused(
        tmp_path,
        files,
        rf"({path.name}|seq)[^ ]*: .*{message}" if "has" in message else rf"{path.name}: {message}",
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("seq", "user 'user_[0-9]+' has more than one history"),
        ("user_feat", "user_feat: user [0-9]+ has more than one row"),
        ("item_feat", "item_feat: item [0-9]+ has more than one row"),
        ("candidate", "retrieval_id does not run from 0"),
    ],
)
def test_rows_that_come_twice(tmp_path: Path, files: Path, table: str, message: str):
    path = first(files / table)
    found = pq.read_table(path)
    pq.write_table(pa.concat_tables([found, found[:1]]), path)
    refused(tmp_path, files, message)


def test_tables_of_different_downloads(tmp_path: Path, files: Path):
    index = pickle.loads((files / "indexer.pkl").read_bytes())
    number = max(index["i"].values())
    index["i"] = {raw: n for raw, n in index["i"].items() if n != number}
    (files / "indexer.pkl").write_bytes(pickle.dumps(index))
    refused(tmp_path, files, f"item {number} has no raw id in indexer.pkl")
    (files / "indexer.pkl").unlink()
    refused(tmp_path, files, "indexer.pkl: no such file")


def test_parts_with_other_features(tmp_path: Path, files: Path):
    path = sorted((files / "item_feat").glob("*.parquet"))[-1]
    pq.write_table(pq.read_table(path).drop_columns(["121"]), path)
    refused(tmp_path, files, rf"{path.name}: has the feature columns .*not in both: 121")


def test_no_event_at_all(tmp_path: Path, files: Path):
    def emptied(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["seq"] = []

    for path in (files / "seq").glob("*.parquet"):
        edit(path, emptied)
    with pytest.raises(DataError, match="no history has an event of a known item"):
        prepare("tencentgr", tmp_path / "out", files, progress=False)
