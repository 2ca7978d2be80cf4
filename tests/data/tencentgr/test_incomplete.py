"""Downloads that lack files: what is missing is said, and counted in the dataset."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from genrec.data.tencentgr import generate_tencentgr
from genrec.data.tencentgr.completeness import gaps, told_counts
from genrec.data.tencentgr.published import COUNTS, TABLES, compare_dataset
from tests.data.tencentgr.reading import ready


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("parts") / "files"
    generate_tencentgr(
        place, users=200, items=300, max_length=4, vectors=("emb_81_4",), files=2, seed=1
    )
    whole = next((place / "user_feat").iterdir())
    table = pq.read_table(whole)
    pq.write_table(table[:120], whole)
    pq.write_table(table[120:], whole.with_name(whole.name.replace("part-00000", "part-00001")))
    return place


@pytest.fixture
def parts(tmp_path: Path, in_parts: Path) -> Path:
    return Path(shutil.copytree(in_parts, tmp_path / "files"))


def tables(root: Path) -> dict[str, Path]:
    plain = {name: root / name for name in ("seq", "user_feat", "item_feat", "candidate")}
    return plain | {"vectors_81": root / "mm_emb" / "emb_81_4_parquet"}


def test_files_and_rows_are_kept(tmp_path: Path, parts: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = ready(tmp_path / "out", parts)
    want = {
        name: {
            "files": len(list(folder.glob("*.parquet"))),
            "rows": sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet")),
        }
        for name, folder in tables(parts).items()
    }
    assert dataset.info["tencentgr"]["tables"] == want
    assert dataset.info["counts"]["users_without_features"] == 0


@pytest.mark.parametrize("table", ["item_feat", "user_feat"])
def test_half_of_the_features_are_gone(tmp_path: Path, parts: Path, table: str):
    gone = sorted((parts / table).glob("*.parquet"))[-1]
    lost = set(pq.read_table(gone).column(0).to_pylist())
    gone.unlink()
    what = "users" if table == "user_feat" else "items of histories"
    with pytest.warns(UserWarning, match=rf"\d {what} have no row of features: is the download"):
        dataset = ready(tmp_path / "out", parts, vectors=[])
    counts = dataset.info["counts"]
    if table == "user_feat":
        users = dataset.users
        assert users is not None
        assert counts["users_without_features"] == len(lost & set(users["reid"].to_pylist()))
    else:
        items = dataset.catalog.table.column("reid").to_pylist()
        assert counts["items_without_features"] == len(lost & set(items)) > 0


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_part_in_the_middle_is_gone(tmp_path: Path, parts: Path, number: int):
    folder = tables(parts)["vectors_81"]
    sorted(folder.iterdir())[number].unlink()
    with pytest.warns(UserWarning, match=rf"{folder.name} has no part-0000{number}: is the"):
        dataset = ready(tmp_path / "out", parts)
    assert dataset.info["tencentgr"]["tables"]["vectors_81"]["files"] == 4


def test_gaps_in_the_numbers_of_parts():
    def named(*numbers: int) -> list[Path]:
        return [Path("seq") / f"part-{n:05d}-ab-c000.snappy.parquet" for n in numbers]

    assert gaps({"seq": named(0, 1, 2), "user_feat": [Path("seq.jsonl")], "none": []}, {}) == []
    assert gaps({"seq": named(2, 0, 5)}, {}) == ["seq has no part-00001, part-00003, part-00004"]
    assert gaps({"seq": named(8)}, {})[0].endswith("part-00004 and 3 more")


def test_a_line_without_a_profile_is_counted(tmp_path: Path, contest: Path):
    path = contest / "seq.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[3] = lines[3][1:]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.warns(UserWarning, match="1 users have no row of features"):
        dataset = ready(tmp_path / "out", contest, vectors=[])
    assert dataset.info["counts"]["users_without_features"] == 1


def test_rows_are_compared_and_files_where_rows_are_missing(tmp_path: Path, parts: Path):
    dataset = ready(tmp_path / "out", parts)
    read = dataset.info["tencentgr"]["tables"]
    mine = {name: (read[name]["files"], read[name]["rows"]) for name in TABLES["TencentGR-1M"]}
    null = dataset.info["counts"]["vectors_81_null"]
    options: dict[str, Any] = {"counts": {"mine": {"users": 200}}, "statistics": {}}
    _, found = compare_dataset(
        dataset, **options, tables={"mine": mine}, counted={"mine": {"vectors_81_null": null}}
    )
    assert [str(one) for one in found[1:3]] == [
        f"rows of seq {mine['seq'][1]:,}, as published",
        f"rows of user_feat {mine['user_feat'][1]:,}, as published",
    ]
    assert len(found) == 1 + len(mine) + 1 and all(one.agrees for one in found)
    repackaged = {name: (files + 3, rows) for name, (files, rows) in mine.items()}
    _, found = compare_dataset(dataset, **options, tables={"mine": repackaged}, counted={})
    assert all(one.agrees for one in found)
    files, rows = mine["item_feat"]
    more = {"mine": mine | {"item_feat": (files + 1, rows + 7)}}
    _, found = compare_dataset(dataset, **options, tables=more, counted={})
    assert [str(one) for one in found if not one.agrees] == [
        f"rows of item_feat {rows}, published {rows + 7}",
        f"files of item_feat {files}, published {files + 1}",
    ]


def test_published_tables_go_with_the_published_counts():
    counts, tables = COUNTS["TencentGR-1M"], TABLES["TencentGR-1M"]
    assert tables["seq"][1] == tables["user_feat"][1] == counts["users"]
    assert tables["item_feat"][1] == counts["items in training"]
    assert tables["candidate"][1] == counts["candidates"]


def test_what_was_counted_is_told(tmp_path: Path, parts: Path, capsys: Any):
    folder = tables(parts)["seq"]
    path = sorted(folder.iterdir())[0]
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["seq"] = []
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    dataset = ready(tmp_path / "out", parts)
    assert capsys.readouterr().err == ""
    told = told_counts(dataset.info["counts"])
    assert "1 users without an event left out" in told
    null = dataset.info["counts"]["vectors_81_null"]
    assert f"vectors of set 81 null: {null}" in told
    assert "repeated" not in told and "twice" not in told
