"""Damaged and strange files of the contest: the error names file and line."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.tencentgr.damage import refused


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
            lambda t: '{"emb": [1, 2, 3, 4, 5, 6]}',
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
        ("i", "a", 7, "'i': keys are neither"),
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
    index[part][key] = number
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


@pytest.mark.parametrize("who", ["a number", "a name", "a name that has a number"])
@pytest.mark.parametrize("silent", [False, True])
def test_two_histories_of_one_user(tmp_path: Path, contest: Path, who: str, silent: bool):
    path = contest / "eval" / "predict_seq.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    numbers = pickle.loads((contest / "indexer.pkl").read_bytes())["u"]
    known = next(line for line in lines if isinstance(line[0][0], int))
    if who == "a name":
        line = next(line for line in lines if isinstance(line[0][0], str))
        name = line[0][0]
    else:
        line = known
        name = next(raw for raw, number in numbers.items() if number == known[0][0])
    other = name if who == "a name that has a number" else line[0][0]
    again = [[other, *record[1:]] for record in line]
    lines.append(again[:1] if silent else again)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (contest / "eval" / "predict_seq_offsets.pkl").unlink()
    refused(
        tmp_path,
        contest,
        f"user '{name}' has more than one history",
        histories="predict",
        vectors=[],
    )
