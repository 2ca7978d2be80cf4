"""Single rows for which the contest's own reader has a rule: taken by it, and counted."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data.tencentgr import vectors as vector_files
from genrec.data.tencentgr.lines import pieces
from tests.data.tencentgr.damage import refused
from tests.data.tencentgr.reading import ready

EMB = "mm_emb/emb_81_4_parquet"


def first(folder: Path) -> Path:
    return sorted(folder.glob("*.parquet"))[0]


def edit(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


@pytest.mark.parametrize("number", [12_345_678, 40_000_000_000])
def test_a_history_item_that_nothing_knows(tmp_path: Path, files: Path, number: int):
    want = ready(tmp_path / "want", files, vectors=[])

    def stranger(rows: list[dict[str, Any]]) -> None:
        rows[4]["seq"][-1] |= {"item_id": number, "action_type": 2}

    edit(first(files / "seq"), stranger)
    told = rf"part-00000.*: the history of user \d+ has item {number}, which neither .* as 1 of \d+"
    with pytest.warns(UserWarning, match=told):
        dataset = ready(tmp_path / "out", files, vectors=[])
    assert dataset.histories.num_events == want.histories.num_events - 1
    assert dataset.info["counts"]["events_of_unknown_items_dropped"] == 1
    assert dataset.info["counts"]["events_of_items_without_raw_id"] == 1
    assert dataset.histories.action_names == want.histories.action_names, "no action of it is left"


def test_a_tenth_of_strange_events_is_another_download(tmp_path: Path, files: Path):
    def strangers(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            for event in row["seq"][:3]:
                event["item_id"] = 12_345_678

    for path in (files / "seq").glob("*.parquet"):
        edit(path, strangers)
    refused(tmp_path, files, "which neither .*; the files are of different downloads", vectors=[])


def other_vector(rows: list[dict[str, Any]]) -> int:
    return next(n for n, row in enumerate(rows) if row["emb"] is not None)


@pytest.mark.parametrize("place", ["same part", "another part"])
def test_a_vector_that_comes_twice(tmp_path: Path, files: Path, place: str):
    want = ready(tmp_path / "want", files)
    parts = sorted((files / EMB).glob("*.parquet"))
    row = pq.read_table(parts[0]).to_pylist()
    row = row[other_vector(row)]
    edit(parts[0 if place == "same part" else 1], lambda rows: rows.append(row))
    dataset = ready(tmp_path / "same", files)
    assert dataset.catalog.table.equals(want.catalog.table)
    assert dataset.info["counts"]["vectors_81_repeated"] == 1
    assert want.info["counts"]["vectors_81_repeated"] == 0
    row["emb"] = row["emb"][::-1]
    edit(parts[-1], lambda rows: rows.append(row))
    raw = row["anonymous_cid"]
    refused(tmp_path, files, f"vectors 81: creative {raw} has two that differ")


@pytest.mark.parametrize("change", ["no emb", [], "", None])
def test_a_line_without_a_vector(tmp_path: Path, contest: Path, change: Any):
    part = contest / "creative_emb" / "emb_82_6" / "part-00000.json"
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    raw = int(rows[3]["anonymous_cid"])
    if change == "no emb":
        del rows[3]["emb"]
    else:
        rows[3]["emb"] = change
    want = ready(tmp_path / "want", contest, vectors=[82])
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = ready(tmp_path / "out", contest, vectors=[82])
    at = dataset.catalog.item_ids.to_pylist().index(raw)
    known = np.asarray(dataset.catalog.table.column("mm_82_known"))
    assert not known[at] and not dataset.catalog.vectors("mm_82")[at].any()
    for key in ("vectors_82_null", "vectors_82_missing"):
        assert dataset.info["counts"][key] == want.info["counts"][key] + 1


@pytest.mark.parametrize("text", [False, True])
def test_empty_vectors_of_parquet_are_missing(tmp_path: Path, files: Path, text: bool):
    path = first(files / EMB)
    rows = pq.read_table(path).to_pylist()
    at = other_vector(rows)
    want = ready(tmp_path / "want", files)
    rows[at]["emb"] = []
    if text:
        rows = [row | {"emb": json.dumps(row["emb"]) if row["emb"] else ""} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), path)
    dataset = ready(tmp_path / "out", files)
    for key in ("vectors_81_null", "vectors_81_missing"):
        assert dataset.info["counts"][key] == want.info["counts"][key] + 1


def test_empty_vectors_of_a_pickle_are_missing(tmp_path: Path):
    value = {5: [], 6: np.zeros(0, np.float32), 7: [1.0, 2.0], 8: (), 9: ""}
    (tmp_path / "emb_81_2.pkl").write_bytes(pickle.dumps(value))
    vector_files.write_ids(tmp_path / "ids.npy", np.array([8, 5, 7, 6]))
    np.save(tmp_path / "matrix.npy", np.zeros((4, 2), np.float32))
    found = vector_files.place_vectors(
        tmp_path / "emb_81_2.pkl", None, 2, tmp_path / "matrix.npy", tmp_path / "ids.npy"
    )
    assert found["rows"].tolist() == [2] and found["lost"].tolist() == [1, 4, 5]


def test_vectors_are_counted_over_pieces(
    tmp_path: Path, contest: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = contest / "creative_emb" / "emb_82_6"
    total = sum(len(path.read_text().splitlines()) for path in folder.iterdir())
    monkeypatch.setattr(vector_files, "pieces", lambda path: pieces(path, 1_000))
    dataset = ready(tmp_path / "out", contest, vectors=[82])
    assert dataset.info["tencentgr"]["tables"]["vectors_82"] == {
        "files": len(list(folder.iterdir())),
        "rows": total,
    }


@pytest.mark.parametrize("layout", ["huggingface", "competition"])
def test_a_candidate_that_comes_twice(tmp_path: Path, files: Path, contest: Path, layout: str):
    source = files if layout == "huggingface" else contest
    want = ready(tmp_path / "want", source, vectors=[])
    if layout == "huggingface":

        def twice(rows: list[dict[str, Any]]) -> None:
            value = {"cold_start": 0, "feature_value": "1"}
            again = {"item_id": rows[2]["item_id"], "retrieval_id": len(rows)}
            rows.append({name: again.get(name, value) for name in rows[2]})

        edit(first(files / "candidate"), twice)
    else:
        path = contest / "eval" / "predict_set.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows.append(rows[2] | {"retrieval_id": len(rows), "features": {"100": 1}})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = ready(tmp_path / "out", source, vectors=[])
    assert dataset.catalog.table.equals(want.catalog.table)
    counts = dict(dataset.info["counts"])
    assert counts.pop("candidates_repeated") == 1
    before = dict(want.info["counts"])
    assert before.pop("candidates_repeated") == 0 and counts == before


def test_files_of_candidates_without_any(tmp_path: Path, files: Path, contest: Path):
    edit(first(files / "candidate"), lambda rows: rows.clear())
    refused(tmp_path, files, "candidates: the files hold not a single one", vectors=[])
    (contest / "eval" / "predict_set.jsonl").write_text("")
    refused(tmp_path, contest, "candidates: the files hold not a single one", vectors=[])
