from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from genrec.data import Dataset
from genrec.errors import ArtefactError, ConfigError, DataError
from genrec.pipeline import prepare, recommend
from genrec.pipeline.recommend import known_histories


@pytest.fixture(scope="module")
def data(shop):
    return Dataset.load(shop / "dataset")


def history(data, user: int) -> list[str]:
    start, end = data.histories.offsets[user : user + 2]
    return [data.catalog.item_ids[int(item)].as_py() for item in data.histories.items[start:end]]


@pytest.mark.parametrize("name", ["sid", "ids"])
def test_items_users_and_files_agree(shop, data, tmp_path, name):
    items = history(data, 3)
    by_items = recommend(str(shop / name), items=items, k=5)
    by_user = recommend(str(shop / name), users="U00003", k=5)
    table = pd.DataFrame({"user_id": "U00003", "item_id": items})
    table.to_csv(tmp_path / "h.csv", index=False)
    by_file = recommend(str(shop / name), histories=str(tmp_path / "h.csv"), k=5)
    for found in (by_items, by_user, by_file):
        assert list(found.columns) == [
            "user_id", "rank", "item_id", "title", "score", "certified",
        ]  # fmt: skip
        assert found["rank"].tolist() == [1, 2, 3, 4, 5]
        assert found["item_id"].tolist() == by_items["item_id"].tolist()
        np.testing.assert_allclose(found["score"], by_items["score"], rtol=1e-5)
        assert found["score"].is_monotonic_decreasing
    assert by_items["user_id"].unique().tolist() == ["you"]
    assert by_file["user_id"].unique().tolist() == ["U00003"]
    titles = dict(zip(data.catalog.item_ids.to_pylist(), data.catalog.text(["title"]), strict=True))
    assert by_items["title"].tolist() == [titles[item] for item in by_items["item_id"]]


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "parquet"])
def test_histories_in_every_format_sorted_by_their_time(shop, data, tmp_path, ending):
    rows = []
    for user in (4, 7, 9):
        for place, item in enumerate(history(data, user)):
            rows.append((f"U{user:05d}", item, 1000 + place))
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    table = table.sample(frac=1, random_state=0)  # no order but that of time
    path = tmp_path / f"histories.{ending}"
    if "csv" in ending or "tsv" in ending:
        table.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    elif "jsonl" in ending:
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path)
    found = recommend(str(shop / "sid"), histories=str(path), k=4)
    expected = recommend(str(shop / "sid"), users=["U00004", "U00007", "U00009"], k=4)
    by_user = [
        {user: part["item_id"].tolist() for user, part in frame.groupby("user_id")}
        for frame in (found, expected)
    ]
    assert by_user[0] == by_user[1]


def test_actions_and_times_of_a_file_mean_what_they_meant_in_training(tmp_path):
    table = pd.DataFrame(
        [("a", "x", 5, "view"), ("a", "y", 9, "buy"), ("b", "x", 7, "steal"), ("b", "z", 8, None)],
        columns=["user_id", "item_id", "timestamp", "action"],
    )
    table[:2].to_csv(tmp_path / "interactions.csv", index=False)
    pd.DataFrame({"item_id": ["x", "y", "z"]}).to_csv(tmp_path / "items.csv", index=False)
    data = prepare("tables", tmp_path / "shop", tmp_path)
    assert data.histories.action_names == ["buy", "view"]

    def read(columns):
        given = pa.Table.from_pandas(table[columns], preserve_index=False)
        return known_histories(given, "here", data)

    found = read(list(table))
    assert found.actions.tolist() == [2, 1, 0, 0]
    assert found.timestamps.tolist() == [5, 9, 7, 8]
    assert read(["user_id", "item_id"]).actions.tolist() == [0, 0, 0, 0]


def test_dates_in_a_file_are_times_and_not_text(shop, data, tmp_path):
    items = history(data, 4)[:3]
    path = tmp_path / "h.csv"
    days = ["2021-01-01T00:00:00Z", "2021-01-01T00:00:00+02:00", "2021-01-02"]
    table = pd.DataFrame({"user_id": "a", "item_id": items, "timestamp": days})
    table.to_csv(path, index=False)
    found = recommend(str(shop / "sid"), histories=str(path), k=4)
    in_time = recommend(str(shop / "sid"), items=[items[1], items[0], items[2]], k=4)
    assert found["item_id"].tolist() == in_time["item_id"].tolist()


def test_items_of_the_history_are_left_out_unless_repeats_are_wanted(shop, data):
    items = history(data, 5)
    everything = recommend(str(shop / "sid"), items=items, k=1000, repeat=True)
    assert sorted(everything["item_id"]) == sorted(data.catalog.item_ids.to_pylist())
    without = recommend(str(shop / "sid"), items=items, k=1000)
    assert set(without["item_id"]) == set(everything["item_id"]) - set(items)
    assert without["rank"].tolist() == list(range(1, len(without) + 1))


def test_one_batch_or_many_make_no_difference(shop):
    users = [f"U{n:05d}" for n in range(20)]
    one = recommend(str(shop / "sid"), users=users, k=5)
    many = recommend(str(shop / "sid"), users=users, k=5, batch_size=3)
    assert one["item_id"].tolist() == many["item_id"].tolist()


def test_exact_lists_are_certified_and_a_wide_beam_finds_them(shop):
    users = [f"U{n:05d}" for n in range(20)]
    exact = recommend(str(shop / "sid"), users=users, k=5, exact=True, beam_width=1)
    wide = recommend(str(shop / "sid"), users=users, k=5, beam_width=150)
    assert exact["certified"].all()
    assert exact["item_id"].tolist() == wide["item_id"].tolist()


def test_renormalised_scores_are_those_of_the_model_and_higher(shop):
    users = [f"U{n:05d}" for n in range(8)]
    options = {"users": users, "k": 150, "repeat": True, "exact": True}
    masked = recommend(str(shop / "sid"), **options).groupby("user_id")["score"].max()
    renormalised = recommend(str(shop / "sid"), renormalize=True, **options)
    assert (renormalised.groupby("user_id")["score"].max() > masked).all()
    buckets = renormalised.drop_duplicates(["user_id", "score"])  # items of a bucket share theirs
    totals = np.exp(buckets["score"]).groupby(buckets["user_id"]).sum()
    np.testing.assert_allclose(totals, 1, atol=1e-4)


def test_unknown_items_are_reported_and_skipped(shop, data, tmp_path, capsys):
    items = history(data, 3)
    path = tmp_path / "h.csv"
    rows = [("a", item) for item in items] + [("a", "[b]gone[/b]"), ("b", "gone too")]
    pd.DataFrame(rows, columns=["user_id", "item_id"]).to_csv(path, index=False)
    found = recommend(str(shop / "sid"), histories=str(path), k=3)
    error = capsys.readouterr().err.replace("\n", "")
    assert "skipped 2 events with items that the catalog does not know: [b]gone[/b]" in error
    assert "skipped 1 user without a known item" in error
    assert found["user_id"].unique().tolist() == ["a"]
    assert (
        found["item_id"].tolist()
        == recommend(str(shop / "sid"), items=items, k=3)["item_id"].tolist()
    )


@pytest.mark.parametrize(
    ("given", "error", "expected"),
    [
        ({}, ConfigError, "exactly one of"),
        ({"items": "a", "users": "b"}, ConfigError, "exactly one of"),
        ({"items": ["nope", "never"]}, DataError, "unknown item 'nope'; ids look like"),
        ({"items": ""}, ConfigError, "--items names none; give ids"),
        ({"users": "U00001, nobody"}, DataError, "user 'nobody' is not in"),
        ({"users": []}, DataError, "is not in"),
        ({"items": "G00001", "k": 0}, ConfigError, "k=0; expected at least 1"),
        ({"items": "G00001", "beam_width": 0}, ConfigError, "beam_width=0; expected at least 1"),
        ({"items": "G00001", "out": "a.xlsx"}, ConfigError, "ends in .csv, .parquet, .jsonl"),
        ({"histories": "nowhere.csv"}, DataError, r"nowhere.csv: no such file; .* has "),
        ({"histories": "no/where.csv"}, DataError, "no such file; there is no folder no"),
    ],
)
def test_bad_questions(shop, given, error, expected):
    with pytest.raises(error, match=expected):
        recommend(str(shop / "sid"), **given)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user_id,item\na,G00001\n", "column 'item_id' is missing"),
        ("user_id,item_id\n", "empty"),
        ("user_id,item_id,timestamp\na,G00001,soon\n", r"row 1 is 'soon'"),
        ("user_id,item_id\n,G00001\n", "column 'user_id' has no id in 1 rows"),
    ],
)
def test_bad_files_of_histories(shop, tmp_path, text, expected):
    path = tmp_path / "h.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=expected) as raised:
        recommend(str(shop / "sid"), histories=str(path))
    assert str(path) in str(raised.value)


def test_columns_of_the_histories_may_have_other_names(shop, data, tmp_path):
    items = history(data, 4)[:3]
    path = tmp_path / "h.csv"
    table = pd.DataFrame({"who": "a", "sku": items, "when": [3, 1, 2]})
    table.to_csv(path, index=False)
    names = {"user_column": "who", "item_column": "sku", "time_column": "when"}
    found = recommend(str(shop / "sid"), histories=str(path), k=4, device="cpu", **names)
    in_time = recommend(str(shop / "sid"), items=[items[1], items[2], items[0]], k=4)
    assert found["item_id"].tolist() == in_time["item_id"].tolist()
    with pytest.raises(DataError, match=r"'user_id' is missing.*with --user_column"):
        recommend(str(shop / "sid"), histories=str(path), item_column="sku")


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_lists_are_written_in_every_format_or_not_at_all(shop, tmp_path, ending, monkeypatch):
    out = tmp_path / "new" / f"lists.{ending}"
    made = recommend(str(shop / "sid"), users="U00001,U00002", k=3, out=str(out))
    read = {
        "csv": pd.read_csv,
        "parquet": pd.read_parquet,
        "jsonl": lambda path: pd.read_json(path, lines=True),
    }[ending](out)
    assert read["item_id"].tolist() == made["item_id"].tolist()
    assert [path.name for path in out.parent.iterdir()] == [out.name]

    def full(self, path, *args, **kwargs):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    before = out.read_bytes()
    for writer in ("to_csv", "to_parquet", "to_json"):
        monkeypatch.setattr(pd.DataFrame, writer, full)
    with pytest.raises(ArtefactError, match=r"lists.*No space left"):
        recommend(str(shop / "sid"), users="U00001", k=3, out=str(out))
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_run_folder_can_be_moved(shop, tmp_path):
    moved = tmp_path / "elsewhere" / "sid"
    shutil.copytree(shop / "sid", moved)
    with pytest.raises(ArtefactError, match=r"dataset: no such folder.*--dataset"):
        recommend(str(moved), users="U00001")
    with pytest.raises(ArtefactError, match=r"vocabulary: no such folder.*--vocabulary"):
        recommend(str(moved), users="U00001", dataset=str(shop / "dataset"))
    found = recommend(
        str(moved),
        users="U00001",
        dataset=str(shop / "dataset"),
        vocabulary=str(shop / "vocabulary"),
    )
    expected = recommend(str(shop / "sid"), users="U00001")
    assert found["item_id"].tolist() == expected["item_id"].tolist()


def test_the_whole_tree_can_be_moved_without_a_word(own_shop):
    assert len(recommend(str(own_shop / "sid"), users="U00001", k=3)) == 3


USERS = [f"U{n:05d}" for n in range(12)]


def by_user(found) -> dict[str, list[str]]:
    return {user: part["item_id"].tolist() for user, part in found.groupby("user_id")}


def write_list(path, ids, ending):
    table = pd.DataFrame({"item_id": ids})
    if ending == "txt":
        path.write_text("\ufeff" + "\n\n".join(ids) + "\n", encoding="utf-8")
    elif ending == "csv":
        table.assign(title="x").to_csv(path, index=False)
    elif ending == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path)
    return str(path)


@pytest.mark.parametrize("ending", ["txt", "csv", "parquet", "jsonl"])
@pytest.mark.parametrize("name", ["sid", "ids"])
def test_lists_of_items_filter_the_ranking(shop, data, tmp_path, name, ending):
    run, ids = str(shop / name), data.catalog.item_ids.to_pylist()
    ranking = by_user(recommend(run, users=USERS, k=150, exact=True))
    allow = write_list(tmp_path / f"allow.{ending}", ids[::2], ending)
    deny = write_list(tmp_path / f"deny.{ending}", ids[::3], ending)
    for options, allowed in (
        ({"allow": allow}, set(ids[::2])),
        ({"deny": deny}, set(ids) - set(ids[::3])),
        ({"allow": allow, "deny": deny}, set(ids[::2]) - set(ids[::3])),
        ({"allow": ids[::2], "deny": ids[::3]}, set(ids[::2]) - set(ids[::3])),
    ):
        found = by_user(recommend(run, users=USERS, k=10, exact=True, batch_size=5, **options))
        for user in USERS:
            assert found[user] == [item for item in ranking[user] if item in allowed][:10]


@pytest.mark.parametrize("name", ["sid", "ids"])
def test_lists_of_each_user_filter_their_own_ranking(shop, data, tmp_path, name, capsys):
    run, ids = str(shop / name), data.catalog.item_ids.to_pylist()
    ranking = by_user(recommend(run, users=USERS, k=150, exact=True, repeat=True))
    rng = np.random.default_rng(0)
    sets = [
        {user: set(rng.choice(ids, rng.integers(1, 60)).tolist()) for user in [*USERS[2:], "other"]}
        for _ in range(2)
    ]
    paths = []
    for place, one in zip(("allow", "deny"), sets, strict=True):
        rows = [(user, item) for user, items in one.items() for item in items] * 2  # repeats
        table = pd.DataFrame(rows, columns=["user_id", "item_id"]).sample(frac=1, random_state=0)
        table.to_parquet(tmp_path / f"{place}.parquet")
        paths.append(str(tmp_path / f"{place}.parquet"))
    allowed, denied = sets
    some = set(ids[:120])
    for options, wanted in (
        ({"allow_per_user": paths[0]}, lambda u: allowed.get(u, set())),
        ({"deny_per_user": paths[1]}, lambda u: set(ids) - denied.get(u, set())),
        (
            {"allow_per_user": paths[0], "deny_per_user": paths[1], "allow": ids[:120]},
            lambda u: (allowed.get(u, set()) - denied.get(u, set())) & some,
        ),
    ):
        for repeat in (False, True):
            options |= {"repeat": repeat, "exact": True, "k": 8}
            capsys.readouterr()
            found = by_user(recommend(run, users=USERS, batch_size=5, **options))
            once = by_user(recommend(run, users=USERS, **options))
            assert found == once
            short = []
            for number, user in enumerate(USERS):
                seen = set() if repeat else set(history(data, number))
                left = [item for item in ranking[user] if item in wanted(user) - seen][:8]
                assert found.get(user, []) == left
                short += [user] if len(left) < 8 else []
            error = capsys.readouterr().err
            if short:
                nothing = sum(user not in found for user in USERS)
                assert f"fewer than 8 items allowed for {len(short)} user" in error
                assert ("of them nothing" in error) == (nothing > 0)
            else:
                assert "fewer than" not in error


def test_unknown_items_of_lists_are_counted(shop, data, tmp_path, capsys):
    item = data.catalog.item_ids[3].as_py()
    path = write_list(tmp_path / "l.txt", [item, item, "gone", "lost", "gone"], "txt")
    found = recommend(str(shop / "sid"), users=USERS[:2], allow=path, k=3, repeat=True)
    error = capsys.readouterr().err
    assert found["item_id"].tolist() == [item, item]
    assert f"{path}: skipped 2 items that the catalog does not know: gone, lost" in error
    assert "fewer than 3 items allowed for 2 users, who got what is left: U00000, U00001" in error
    none = write_list(tmp_path / "none.txt", ["gone"], "txt")
    recommend(str(shop / "sid"), users=USERS[:2], deny=none, k=3)
    assert "none.txt: skipped 1 item that the catalog" in capsys.readouterr().err
    table = pd.DataFrame({"user_id": ["nobody", "none"], "item_id": [item, "gone"]})
    table.to_csv(tmp_path / "own.csv", index=False)
    recommend(str(shop / "sid"), users=USERS[:2], deny_per_user=str(tmp_path / "own.csv"), k=3)
    assert "has no row of the users asked for, such as 'U00000'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("allow", "item_id\ngone\nlost\n", "knows none of its items (gone, lost), so nothing"),
        ("allow", "item\nG00001\n", "column 'item_id' is missing"),
        ("allow", "item_id\n", "the table is empty"),
        ("deny", None, "no such file"),
        ("allow_per_user", "item_id\nG00001\n", "column 'user_id' is missing"),
        ("allow_per_user", "user_id,item_id\nno,G00001\n", "has no row of the users asked for"),
        ("allow_per_user", "user_id,item_id\nU00001,gone\n", "knows none of its items (gone)"),
        ("deny_per_user", "user_id,item_id\n,G00001\n", "column 'user_id' has no id in 1 rows"),
    ],
)
def test_bad_lists_end_with_code_2(shop, tmp_path, refused, option, text, expected):
    path = tmp_path / "list.csv"
    if text is not None:
        path.write_text(text)
    command = ["recommend", shop / "sid", "--users=U00001", f"--{option}={path}"]
    refused(command, path, expected)


def test_lists_that_cannot_be_meant_end_with_code_2(shop, tmp_path, refused):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\xff")
    refused(
        ["recommend", shop / "ids", "--users=U00001", f"--allow={tmp_path / 'list.txt'}"],
        "list.txt: cannot be read as text",
    )
    refused(
        ["recommend", shop / "ids", "--users=U00001", f"--allow={tmp_path / 'nowhere.txt'}"],
        "nowhere.txt: no such file",
    )
    (tmp_path / "own.csv").write_text("user_id,item_id\nyou,G00001\n")
    refused(
        ["recommend", shop / "ids", "--items=G00001", f"--deny_per_user={tmp_path / 'own.csv'}"],
        "deny_per_user needs user ids, which --items has not; give --deny",
    )
