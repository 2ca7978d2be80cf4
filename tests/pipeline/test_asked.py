"""Users who are asked about are told to the model: their features, and the action asked for."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from genrec.data import Dataset, batch, write_dataset
from genrec.data.sources import prepare
from genrec.data.tencentgr import generate_tencentgr
from genrec.data.tencentgr.submission import read_result, users_asked, write_result
from genrec.decoding import Filter
from genrec.errors import ConfigError, DataError
from genrec.models import Recommender
from genrec.pipeline import recommend, train
from genrec.pipeline.asked import user_matrix
from genrec.pipeline.runs import Run
from genrec.pipeline.settings import SplitConfig
from genrec.training import TrainingConfig

COLUMNS = ["103", "106", "110"]
LENGTH = 12


def trained(root: Path, name: str, parts: dict[str, Any]) -> str:
    train(
        str(root / "dataset"),
        str(root / name),
        item_encoder={
            "type": "sum",
            "parts": {"item": {"type": "features", "columns": ["reid", "101"]}, **parts},
        },
        head={"type": "dense"},
        backbone={"type": "transformer", "layers": 1},
        d_model=16,
        max_history=LENGTH,
        training=TrainingConfig(epochs=2, batch_size=32, learning_rate=0.02),
        split=SplitConfig(type="last-click", share=0.3, targets=[1, 2]),
        progress=False,
    )
    return str(root / name)


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contest's files, both of its datasets, and a model of users and actions."""
    root = tmp_path_factory.mktemp("contest")
    files = generate_tencentgr(
        root / "files",
        users=300,
        items=300,
        layout="competition",
        actions="10M",
        vectors=(),
        max_length=20,
        seed=7,
    )
    for histories, name in (("train", "dataset"), ("predict", "asked")):
        prepare(
            "tencentgr", root / name, files, histories=histories, vectors=[], progress=False
        )  # fmt: skip
    trained(
        root,
        "run",
        {
            "user": {"type": "user", "columns": COLUMNS},
            "action": {"type": "action", "num_actions": 3},
            "asked": {"type": "next-action", "num_actions": 3, "unknown": 0.0},
        },
    )
    return root


def lists_of(found: pd.DataFrame) -> dict[str, list[int]]:
    return {user: rows["item_id"].tolist() for user, rows in found.groupby("user_id")}


def slow_lists(root: Path, told: bool) -> dict[str, list[int]]:
    """One user at a time, read from the contest's own files."""
    model = Recommender.from_pretrained(root / "run" / "model").eval()
    data = Dataset.load(root / "dataset")
    pool = pq.read_table(root / "dataset" / "candidates.parquet").column("item_id")
    allowed = Filter.allow(len(data.catalog), data.catalog.index(pool))
    index = Dataset.load(root / "asked")
    profiles = {}
    for text in (root / "files" / "eval" / "predict_seq.jsonl").read_text().splitlines():
        records = json.loads(text)
        profiles[records[1][5], len(records)] = records[0][2]
    wanted = json.loads((root / "files" / "eval" / "user_action_type.json").read_text())
    found = {}
    of = index.histories
    for row, name in enumerate(of.user_ids.to_pylist()):
        low, high = int(of.offsets[row]), int(of.offsets[row + 1])
        profile = profiles[int(of.timestamps[low]), high - low + 1]
        values: list[int] = []
        for column, (rows, width) in model.tables.user_columns.items():
            mine = profile.get(column, [])
            mine = (mine if isinstance(mine, list) else [mine])[:width]
            values += [v if v < rows else 0 for v in mine] + [0] * (width - len(mine))
        model.tables.user_features[0] = torch.tensor(values, dtype=torch.int32)
        inputs = batch(
            of,
            np.array([low]),
            np.array([high]),
            max_length=LENGTH,
            users=np.array([0]),
            query_action=np.array([1 + wanted[name]]) if told else None,
        )
        seen = torch.from_numpy(of.items[low:high].astype(np.int64))[None]
        made = model.search(inputs, k=10, filter=allowed, exclude=seen)
        found[name] = data.catalog.item_ids.take(pa.array(made.items[0].numpy())).to_pylist()
    return found


@pytest.mark.parametrize("told", [False, True])
def test_a_submission_from_the_contests_histories(contest: Path, tmp_path: Path, told: bool):
    pool = contest / "dataset" / "candidates.parquet"
    found = recommend(
        str(contest / "run"),
        histories=str(contest / "asked"),
        allow=str(pool),
        request_action_column="target_action" if told else None,
        k=10,
        batch_size=7,
    )
    assert lists_of(found) == slow_lists(contest, told)
    lists = found.pivot(index="user_id", columns="rank", values="item_id")
    write_result(tmp_path / "result.json", lists.to_numpy(), lists.index.tolist())
    items, users = read_result(tmp_path / "result.json")
    asked = json.loads((contest / "files" / "eval" / "user_action_type.json").read_text())
    assert sorted(users) == sorted(asked) and items.shape == (30, 10)
    assert np.isin(items, pq.read_table(pool).column("item_id").to_numpy()).all()


def test_every_user_asked_about_is_answered(
    contest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = tmp_path / "files"
    shutil.copytree(contest / "files", files)
    place = files / "eval" / "predict_seq.jsonl"
    lines = [json.loads(text) for text in place.read_text().splitlines()]
    # One user has a profile only, of another nobody has seen the items.
    lines[3] = [record for record in lines[3] if record[2] is not None]
    for record in lines[5]:
        if record[2] is None:
            record[1] = 99_000_000_001
    texts = [json.dumps(line) + "\n" for line in lines]
    place.write_text("".join(texts))
    ends = np.cumsum([0, *(len(text.encode()) for text in texts)]).tolist()
    (files / "eval" / "predict_seq_offsets.pkl").write_bytes(pickle.dumps(ends[:-1]))
    with pytest.warns(UserWarning, match="asked: 1 of 30 users asked about have no event"):
        prepare(
            "tencentgr", tmp_path / "asked", files, histories="predict", vectors=[], progress=False
        )  # fmt: skip
    everyone = users_asked(tmp_path / "asked")
    assert sorted(everyone) == sorted(users_asked(contest / "asked")) and len(everyone) == 30
    pool = contest / "dataset" / "candidates.parquet"
    options: dict[str, Any] = {"allow": str(pool), "k": 10, "batch_size": 7}
    capsys.readouterr()
    found = recommend(str(contest / "run"), histories=str(tmp_path / "asked"), **options)
    said = capsys.readouterr().err
    assert "2 users of whom no event of a known item is there: answered by popularity" in said
    lists = lists_of(found)
    before = lists_of(recommend(str(contest / "run"), histories=str(contest / "asked"), **options))
    strangers = {user for user in lists if lists[user] != before[user]}
    assert len(lists) == 30 and len(strangers) == 2
    assert set(found["user_id"].unique()[-2:]) == strangers
    run = Run.open(contest / "run")
    data, split = run.data
    counts = split.train_counts(data.histories, len(data.catalog))
    ties = run.model.tables.tie_order.numpy()
    inside = data.catalog.index(pq.read_table(pool).column("item_id"))
    popular = sorted(inside.tolist(), key=lambda item: (-counts[item], ties[item]))[:10]
    for user in strangers:
        assert lists[user] == data.catalog.item_ids.take(pa.array(popular)).to_pylist()
    wide = found.pivot(index="user_id", columns="rank", values="item_id")
    write_result(tmp_path / "result.json", wide, list(wide.index), asked=everyone)
    assert sorted(read_result(tmp_path / "result.json")[1]) == sorted(everyone)


def test_a_folder_is_read_as_its_tables_are(contest: Path, tmp_path: Path):
    run, asked = str(contest / "run"), contest / "asked"
    table = recommend(
        run,
        histories=str(asked / "interactions.parquet"),
        user_table=str(asked / "users.parquet"),
        k=5,
    )
    folder = recommend(run, histories=str(asked), k=5)
    assert lists_of(folder) == lists_of(table)
    other = tmp_path / "other"
    events = pa.table({"user_id": ["a"], "item_id": [-5], "timestamp": [1_700_000_000]})
    write_dataset(other, pa.table({"item_id": [-5]}), events)
    with pytest.raises(DataError, match="no history has an item that dataset knows"):
        recommend(run, histories=str(other), k=5)


def test_features_and_the_action_asked_for_change_the_lists(contest: Path, tmp_path: Path):
    run, asked = str(contest / "run"), contest / "asked"

    def scores(**told: Any) -> np.ndarray:
        found = recommend(run, histories=str(asked / "interactions.parquet"), k=5, **told)
        return found.groupby("user_id")["score"].first().to_numpy()

    nobody = scores()
    users = scores(user_table=str(asked / "users.parquet"))
    clicks = scores(request_action=1, user_table=str(asked / "users.parquet"))
    buys = scores(request_action="2", user_table=str(asked / "users.parquet"))
    for one, other in ((nobody, users), (users, clicks), (clicks, buys)):
        assert not np.allclose(one, other)
    # Each user's own action is that of all users where they agree.
    about = pq.read_table(asked / "users.parquet")
    same = about.set_column(
        about.column_names.index("target_action"), "target_action", pa.array([2] * len(about))
    )
    pq.write_table(same, tmp_path / "users.parquet")
    own = scores(
        request_action_column="target_action", user_table=str(tmp_path / "users.parquet")
    )  # fmt: skip
    np.testing.assert_array_equal(own, buys)


def test_users_of_the_dataset_have_their_features(contest: Path, tmp_path: Path):
    run = str(contest / "run")
    data = Dataset.load(contest / "dataset")
    ids = data.histories.user_ids[:6].to_pylist()
    want = recommend(run, users=ids, k=5)
    events = pq.read_table(contest / "dataset" / "interactions.parquet").to_pandas()
    mine = tmp_path / "h.parquet"
    events[events["user_id"].isin(ids)].to_parquet(mine)
    again = recommend(run, histories=str(mine), k=5)
    table = recommend(
        run, histories=str(mine), k=5, user_table=str(contest / "dataset" / "users.parquet")
    )
    assert lists_of(want) == lists_of(again) == lists_of(table)
    np.testing.assert_allclose(
        want.sort_values(["user_id", "rank"])["score"],
        again.sort_values(["user_id", "rank"])["score"],
        rtol=1e-5,
    )
    others = events[events["user_id"].isin(ids)].assign(user_id="x" + events["user_id"])
    others.to_parquet(tmp_path / "others.parquet")
    nobody = recommend(run, histories=str(tmp_path / "others.parquet"), k=5)
    assert not np.allclose(sorted(nobody["score"]), sorted(want["score"]))


def test_what_is_not_told_is_said(
    contest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, asked = str(contest / "run"), contest / "asked"
    recommend(run, histories=str(asked / "interactions.parquet"), k=2)
    said = capsys.readouterr().err
    assert "reads 103, 106, 110 of users, of which nothing is known for" in said
    assert "can be told which action is asked for, and is not" in said
    about = pq.read_table(asked / "users.parquet").to_pylist()
    for row in about:
        row["103"] = 10**6
        row["target_action"] = None
    about[0]["target_action"] = 2
    pq.write_table(pa.Table.from_pylist(about), tmp_path / "users.parquet")
    recommend(
        run,
        histories=str(asked),
        user_table=str(tmp_path / "users.parquet"),
        request_action_column="target_action",
        k=2,
    )
    said = capsys.readouterr().err
    assert "30 values that training did not have: unknown" in said
    assert "no known action is asked for of 29 users" in said and "of which nothing" not in said


def test_what_cannot_be_told(contest: Path, tmp_path: Path):
    run, asked = str(contest / "run"), contest / "asked"
    about = pq.read_table(asked / "users.parquet")
    pq.write_table(about.drop_columns(["106"]), tmp_path / "less.parquet")
    pq.write_table(pa.concat_tables([about, about[3:4]]), tmp_path / "twice.parquet")
    strange = about.set_column(1, "what", pa.array(["steal"] * len(about)))
    pq.write_table(strange, tmp_path / "strange.parquet")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"request_action": 7}, ConfigError, "request_action=7; dataset has the actions 0, 1, 2"),
        (
            {"request_action": 1, "request_action_column": "target_action"},
            ConfigError,
            "not both",
        ),
        (
            {"request_action_column": "wish"},
            ConfigError,
            r"'wish'; .*users.parquet have the columns",
        ),
        (
            {"user_table": str(tmp_path / "less.parquet")},
            DataError,
            r"less\.parquet: column '106' is missing",
        ),
        (
            {"user_table": str(tmp_path / "twice.parquet")},
            DataError,
            r"twice\.parquet: user '.*' comes twice \(row 31\)",
        ),
        (
            {"user_table": str(tmp_path / "strange.parquet"), "request_action_column": "what"},
            DataError,
            "column 'what' names none of the actions 0, 1, 2 .* it has steal",
        ),
        ({"user_table": str(tmp_path / "no.csv")}, DataError, "no such file"),
        ({"histories": str(tmp_path / "empty")}, DataError, "has no interactions.parquet"),
    ]
    for given, error, message in cases:
        with pytest.raises(error, match=message):
            recommend(run, **{"histories": str(asked), **given})
    item = Dataset.load(contest / "dataset").catalog.item_ids[0].as_py()
    for given in (
        {"user_table": str(asked / "users.parquet")},
        {"request_action_column": "target_action"},
    ):
        with pytest.raises(ConfigError, match="needs user ids, which --items has not"):
            recommend(run, items=[item], **given)
    plain = trained(contest, "plain", {})
    with pytest.raises(ConfigError, match="plain does not read which action is asked for"):
        recommend(plain, histories=str(asked), request_action=1)
    assert len(recommend(plain, histories=str(asked), k=2)) == 60


def test_features_are_brought_into_the_models_shape():
    table = pa.table(
        {"a": [[1, 2, 3], None, [9]], "b": [4, None, 1], "c": [[], [], []], "d": [None] * 3}
    )
    matrix, lost = user_matrix(table, {"b": (4, 1), "a": (5, 2), "c": (9, 3), "d": (2, 1)}, "here")
    np.testing.assert_array_equal(matrix, [[0, 1, 2, 0, 0, 0, 0], [0] * 7, [1, 0, 0, 0, 0, 0, 0]])
    assert lost == 2 and matrix.dtype == np.int32
    with pytest.raises(DataError, match="here: users: column 'b' row 1 has"):
        user_matrix(pa.table({"b": [-1]}), {"b": (4, 1)}, "here")


def test_further_users_are_checked(contest: Path):
    model = Run.open(contest / "run").model
    before = len(model.tables.user_features)
    rows = np.zeros((2, model.tables.user_features.shape[1]), dtype=np.int32)
    assert model.tables.add_users(rows) == before
    assert len(model.tables.user_features) == before + 2
    with pytest.raises(DataError, match="features of users have shape"):
        model.tables.add_users(rows[:, 1:])
    with pytest.raises(DataError, match="column '103' row 0 has"):
        model.tables.add_users(rows + 10**6)
