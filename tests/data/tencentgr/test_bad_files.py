"""Damaged and strange files: the error names file and row, and nothing half-written remains."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data.sources import prepare
from genrec.data.tencentgr import generate_tencentgr
from genrec.errors import DataError, GenrecError

Change = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    options: dict[str, Any] = {"users": 30, "items": 300, "max_length": 12, "seed": 1}
    return {
        layout: generate_tencentgr(
            tmp_path_factory.mktemp("small") / layout,
            layout=layout,
            vectors=("emb_81_4", "emb_82_6"),
            **options,
        )
        for layout in ("huggingface", "competition")
    }


@pytest.fixture
def files(tmp_path: Path, small: dict[str, Path]) -> Path:
    return Path(shutil.copytree(small["huggingface"], tmp_path / "files"))


@pytest.fixture
def contest(tmp_path: Path, small: dict[str, Path]) -> Path:
    return Path(shutil.copytree(small["competition"], tmp_path / "contest"))


def refused(tmp_path: Path, source: Path, message: str, **options: Any) -> None:
    with pytest.raises(GenrecError, match=message):
        prepare("tencentgr", tmp_path / "out", source, progress=False, **options)
    assert not (tmp_path / "out").exists()


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
    ("table", "column", "kind"),
    [
        ("seq", "user_id", pa.string()),
        ("seq", "user_id", pa.float64()),
        ("user_feat", "user_id", pa.string()),
        ("user_feat", "103", pa.string()),
        ("item_feat", "item_id", pa.string()),
        ("item_feat", "101", pa.float64()),
        ("candidate", "retrieval_id", pa.string()),
        ("candidate", "item_id", pa.float64()),
    ],
)
def test_wrong_types(tmp_path: Path, files: Path, table: str, column: str, kind: pa.DataType):
    path = first(files / table)
    retype(path, column, kind)
    refused(
        tmp_path, files, rf"{path.name}: column '{column}' holds {kind}; expected whole numbers"
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
        ("seq", set_event("item_id", 12_345_678), "has item 12345678, which neither indexer.pkl"),
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
        ("candidate", "41 rows are 41 different items|rows are|retrieval_id does not run"),
        ("mm_emb/emb_81_4_parquet", "vectors 81: creative [0-9]+ has more than one"),
    ],
)
def test_rows_that_come_twice(tmp_path: Path, files: Path, table: str, message: str):
    path = first(files / table)
    found = pq.read_table(path)
    known = found.filter(found.column(1).is_valid()) if "emb" in table else found
    pq.write_table(pa.concat_tables([found, known[:1]]), path)
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


def edit_line(path: Path, line: int, change: Callable[[str], str]) -> None:
    rows = path.read_text().splitlines()
    rows[line] = change(rows[line])
    path.write_text("\n".join(rows) + "\n")


def record(place: int, field: int, value: Any) -> Callable[[str], str]:
    def change(text: str) -> str:
        rows = json.loads(text)
        rows[place][field] = value
        return json.dumps(rows)

    return change


def field(name: str, value: Any) -> Callable[[str], str]:
    def change(text: str) -> str:
        return json.dumps({**json.loads(text), name: value})

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("seq.jsonl", lambda t: t[: len(t) // 2], "line {} is not JSON"),
        ("seq.jsonl", lambda t: "{}", "line {}: expected a list of records"),
        ("seq.jsonl", lambda t: "[]", "line {}: expected a list of records"),
        ("seq.jsonl", lambda t: "[[1, 2]]", "line {}: record 1 is"),
        ("seq.jsonl", record(2, 0, 99), "line {}: record 3 has the user 99"),
        ("seq.jsonl", record(2, 1, "a7"), "line {}: record 3 has the item 'a7'"),
        ("seq.jsonl", record(2, 4, 9), "line {}: record 3 has the action 9"),
        ("seq.jsonl", record(2, 5, None), "line {}: record 3 has the time None"),
        ("seq.jsonl", record(0, 0, -3), "line {}: record 1 has the user -3; expected a number"),
        ("seq.jsonl", record(0, 0, 0), "line {}: record 1 has the user 0"),
        ("seq.jsonl", record(0, 0, 2**63), "line {}: record 1 has the user 9223372036854775808"),
        ("seq.jsonl", record(0, 0, True), "line {}: record 1 has the user True"),
        ("seq.jsonl", record(0, 0, 1.0), "line {}: record 1 has the user 1.0"),
        ("seq.jsonl", record(0, 0, ""), "line {}: record 1 has the user ''"),
        ("seq.jsonl", record(0, 0, "\ud800"), r"line {}: record 1 has the user '\\ud800'"),
        ("seq.jsonl", record(0, 0, [1]), r"line {}: record 1 has the user \[1\]"),
        ("seq.jsonl", record(2, 1, -7), "line {}: record 3 has the item -7"),
        ("seq.jsonl", record(2, 1, 2**63), "line {}: record 3 has the item 9223372036854775808"),
        ("seq.jsonl", record(2, 1, 10**60), "line {}: record 3 has the item 1000"),
        ("seq.jsonl", record(2, 1, 5.0), "line {}: record 3 has the item 5.0"),
        ("seq.jsonl", record(2, 1, True), "line {}: record 3 has the item True"),
        ("seq.jsonl", record(2, 4, True), "line {}: record 3 has the action True"),
        ("seq.jsonl", record(2, 5, 2**63), "line {}: record 3 has the time 9223372036854775808"),
        ("seq.jsonl", record(2, 5, 1.7e9), "line {}: record 3 has the time 1700000000.0"),
        ("seq.jsonl", record(0, 2, {"103": -4}), "line {}: the feature value -4"),
        ("seq.jsonl", record(0, 2, {"103": 2**40}), "line {}: the feature value 1099511627776"),
        ("seq.jsonl", record(0, 2, {"106": [1, 2.5]}), "line {}: the feature value 2.5"),
        ("seq.jsonl", record(0, 2, {"106": True}), "line {}: the feature value True"),
        ("seq.jsonl", record(0, 2, [103, 4]), r"line {}: record 1 has the features \[\[103, 4\]"),
        ("seq.jsonl", record(2, 3, "shoes"), r"line {}: record 3 has the features \[None, 'shoes'"),
        ("eval/predict_seq.jsonl", lambda t: t[:-3], "line {} is not JSON"),
        ("eval/predict_set.jsonl", lambda t: "[1]", "line {}: expected an object with creative_id"),
        ("eval/predict_set.jsonl", lambda t: t[:-9], "line {} is not JSON"),
        *(
            ("eval/predict_set.jsonl", field(name, value), "line {}: expected an object with " + to)
            for name, value, to in (
                ("creative_id", 3e10, r"creative_id.*30000000000.0 is no raw id"),
                ("creative_id", 30000000000.7, r"creative_id.*30000000000.7 is no raw id"),
                ("creative_id", True, "creative_id.*True is no raw id"),
                ("creative_id", -30000000000, "creative_id.*-30000000000 is no raw id"),
                ("creative_id", 2**63, "creative_id.*9223372036854775808 is no raw id"),
                ("creative_id", 10**40, "creative_id.*is no raw id"),
                ("creative_id", "ad 7", "creative_id.*'ad 7' is no raw id"),
                ("creative_id", "3_000", "creative_id.*'3_000' is no raw id"),
                ("creative_id", None, "creative_id.*None is no raw id"),
                ("retrieval_id", "4", "creative_id.*retrieval_id is '4'"),
                ("retrieval_id", 4.0, "creative_id.*retrieval_id is 4.0"),
                ("retrieval_id", -1, "creative_id.*retrieval_id is -1"),
                ("retrieval_id", 2**63, "creative_id.*retrieval_id is 9223372036854775808"),
            )
        ),
        *(
            (
                "creative_emb/emb_82_6/part-00000.json",
                field("anonymous_cid", value),
                "line {}: expected an object with anonymous_cid",
            )
            for value in (3.5, 3.0, True, None, "x", "3_0", " 30", -3, 2**63, "9" * 30)
        ),
        *(
            (
                "creative_emb/emb_82_6/part-00000.json",
                field("emb", [1, 2, 3, 4, 5, value]),
                "line {}: (the vector of|'emb')",
            )
            for value in (True, "6", None, [6], 10**400, 1e300, float("nan"), float("-inf"))
        ),
        (
            "creative_emb/emb_82_6/part-00000.json",
            lambda t: '{"emb": [1]}',
            "line {}: expected an object with anonymous_cid",
        ),
        (
            "creative_emb/emb_82_6/part-00000.json",
            lambda t: '{"anonymous_cid": "3", "emb": [1, 2]}',
            "line {}: 'emb' is",
        ),
        (
            "creative_emb/emb_82_6/part-00000.json",
            lambda t: '{"anonymous_cid": "3", "emb": [1, 2, 3, 4, 5, "x"]}',
            "line {}: 'emb'",
        ),
    ],
)
def test_broken_lines(
    tmp_path: Path, contest: Path, name: str, change: Callable[[str], str], message: str
):
    line = 2 if "predict_seq" in name else 4
    edit_line(contest / name, line, change)
    last = name.split("/")[-1]
    refused(tmp_path, contest, rf"{last}: {message.format(line + 1)}", vectors=[81, 82])


def test_lines_are_counted_over_pieces(
    tmp_path: Path, contest: Path, monkeypatch: pytest.MonkeyPatch
):
    from genrec.data.tencentgr import lines, read_competition

    monkeypatch.setattr(read_competition, "pieces", lambda path: lines.pieces(path, 3_000))
    edit_line(contest / "seq.jsonl", 23, lambda text: text[:-1])
    refused(tmp_path, contest, r"seq\.jsonl: line 24 is not JSON")


def test_a_truncated_file_of_lines(tmp_path: Path, contest: Path):
    path = contest / "seq.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")
    refused(tmp_path, contest, r"seq\.jsonl: has 27 lines, but seq_offsets\.pkl lists 30 offsets")


@pytest.mark.parametrize("end", [1, 40, 2_000, -1])
def test_truncated_item_features(tmp_path: Path, contest: Path, end: int):
    path = contest / "item_feat_dict.json"
    path.write_bytes(path.read_bytes()[:end])
    refused(tmp_path, contest, r"item_feat_dict\.json: (is|ends)")


@pytest.mark.parametrize("key", ["-4", "0", "1.0", " 1", "1_0", "x", "", "9" * 25, "4294967296"])
def test_items_that_are_no_numbers(tmp_path: Path, contest: Path, key: str):
    path = contest / "item_feat_dict.json"
    path.write_text(json.dumps({"1": {"100": 3}, key: {"100": 4}}))
    refused(tmp_path, contest, rf"item_feat_dict\.json: has the item '{key[:8]}")


@pytest.mark.parametrize("layout", ["huggingface", "competition"])
@pytest.mark.parametrize(
    ("part", "key", "number", "message"),
    [
        ("i", -7, 900, "'i' has the raw id -7"),
        ("i", 2**63, 900, "'i': Python int too large"),
        ("i", 7, 2**63, "'i': Python int too large"),
        ("i", 7, -1, "'i' has the number -1"),
        ("u", "user_7", -2, "'u' has the number -2"),
        ("u", "user_7", 2**70, "'u': Python int too large"),
        ("f", 7, 2**70, r"'f'\['103'\]: Python int too large"),
        ("f", 2**70, 7, r"'f'\['103'\]: Python int too large"),
        ("f", "a", 7, r"'f'\['103'\]: keys are neither"),
    ],
)
def test_strange_ids_of_the_index(
    tmp_path: Path,
    small: dict[str, Path],
    layout: str,
    part: str,
    key: Any,
    number: int,
    message: str,
):
    place = Path(shutil.copytree(small[layout], tmp_path / "files"))
    index = pickle.loads((place / "indexer.pkl").read_bytes())
    (index["f"]["103"] if part == "f" else index[part])[key] = number
    (place / "indexer.pkl").write_bytes(pickle.dumps(index))
    refused(tmp_path, place, rf"indexer\.pkl: {message}")


def test_item_features_that_are_none(tmp_path: Path, contest: Path):
    path = contest / "item_feat_dict.json"
    path.write_text('{"1": {"100": 3}, "2": {"100": -4}}')
    refused(tmp_path, contest, r"item_feat_dict\.json: item 2: the feature value -4")
    path.write_text('{"1": {"100": 3}, "2": {"100": {"a": 1}}}')
    refused(tmp_path, contest, r"item_feat_dict\.json: item 2: the feature value")
    path.write_text("[1]")
    refused(tmp_path, contest, r"item_feat_dict\.json: is no JSON object")
    path.unlink()
    refused(tmp_path, contest, r"item_feat_dict\.json: no such file")


def test_a_hostile_vector_file_runs_nothing(tmp_path: Path, contest: Path):
    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "it ran"),)

    array = np.zeros(4, dtype=np.float32)
    for name in ("indexer.pkl", "creative_emb/emb_81_4.pkl", "seq_offsets.pkl"):
        before = (contest / name).read_bytes()
        (contest / name).write_bytes(pickle.dumps({6: array, 30_000_000_000: Attack()}))
        refused(tmp_path, contest, rf"{name}: holds .* nothing of it was run")
        (contest / name).write_bytes(before)
    assert not (tmp_path / "it ran").exists()


def vector_pickle(contest: Path, value: Any, protocol: int = 4) -> None:
    path = contest / "creative_emb" / "emb_81_4.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({7: np.zeros(4, dtype=object)}, "holds an array of the type 'O8'"),
        ({7: np.zeros(5)}, r"entry 1: 'emb' is 'an array of shape \(5,\)'; expected a list of 4"),
        ({6: [0.0] * 4, 7: np.zeros((2, 2))}, r"entry 2: 'emb' is 'an array of shape \(2, 2\)'"),
        ({7: np.float32(1)}, "entry 1: 'emb' is 1.0; expected a list of 4 numbers"),
        ({7: np.ndarray}, "entry 1: 'emb' is <Name.ARRAY"),
        ({7: np.array([1, np.nan, 0, 0])}, "entry 1: the vector of 7 holds NaN"),
        ({7: np.array([1, 1e300, 0, 0])}, "entry 1: the vector of 7 holds NaN, infinity"),
        ({7: [1, 2, 3, True]}, "entry 1: 'emb' is"),
        ({7: [1, 2, 3, "4"]}, "entry 1: 'emb' is"),
        ({7: [1, 2, 3, None]}, "entry 1: 'emb' is"),
        ({7: [1, 2, 3, 10**400]}, "entry 1: 'emb' "),
        ({7: {8: [0.0] * 4}}, "entry 2: 'emb' is"),
        ({7.0: [0.0] * 4}, "has a key that is no creative id: 7.0 is no raw id"),
        ({True: [0.0] * 4}, "has a key that is no creative id: True"),
        ({"7_0": [0.0] * 4}, "has a key that is no creative id: '7_0'"),
        ({-7: [0.0] * 4}, "has a key that is no creative id: -7"),
        ({2**63: [0.0] * 4}, "has a key that is no creative id: 9223372036854775808"),
        ([[0.0] * 4], "expected a dict of creative ids"),
        (np.zeros((3, 4)), "expected a dict of creative ids"),
    ],
)
def test_a_pickle_of_other_vectors(tmp_path: Path, contest: Path, value: Any, message: str):
    vector_pickle(contest, value)
    refused(tmp_path, contest, rf"emb_81_4\.pkl: {message}")


def test_a_list_of_lists_of_lists_is_not_written_out(tmp_path: Path, contest: Path):
    laugh: list[Any] = [0.0] * 10
    for _ in range(40):
        laugh = [laugh] * 10
    vector_pickle(contest, {7: laugh})
    refused(tmp_path, contest, r"emb_81_4\.pkl: entry 1: 'emb' is \[\[")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_for_vectors_only(tmp_path: Path, contest: Path, protocol: int):
    for name in ("indexer.pkl", "seq_offsets.pkl"):
        before = (contest / name).read_bytes()
        value: Any = pickle.loads(before)
        value = {**value, "i": np.zeros(4)} if isinstance(value, dict) else np.array(value)
        (contest / name).write_bytes(pickle.dumps(value, protocol=protocol))
        refused(tmp_path, contest, rf"{name}: holds (the name of a class or function|bytes)")
        (contest / name).write_bytes(before)


def test_no_event_at_all(tmp_path: Path, files: Path):
    def emptied(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["seq"] = []

    for path in (files / "seq").glob("*.parquet"):
        edit(path, emptied)
    with pytest.raises(DataError, match="no history has an event of a known item"):
        prepare("tencentgr", tmp_path / "out", files, progress=False)
