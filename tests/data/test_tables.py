from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from genrec.data import Dataset
from genrec.data.sources import prepare, prepare_tables
from genrec.data.sources.readers import SUFFIXES, read_table
from genrec.errors import ConfigError, DataError

EVENTS = "user_id,item_id,timestamp\nu,007,300\nv,12,10\nu,12,200\nv,x,20\n"
ITEMS = "item_id,title\n007,Bond\n12,Twelve\nx,\n"


def write(frame: pd.DataFrame, path: Path) -> Path:
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    plain = path.with_name(path.name.removesuffix(".gz"))
    if kind == "parquet":
        frame.to_parquet(plain, index=False)
    elif kind == "jsonl":
        frame.to_json(plain, orient="records", lines=True)
    else:
        frame.to_csv(plain, index=False, sep="\t" if kind == "tsv" else ",")
    if plain != path:
        with open(plain, "rb") as source, gzip.open(path, "wb") as target:
            shutil.copyfileobj(source, target)
        plain.unlink()
    return path


def sequences(dataset: Dataset) -> dict[object, list[object]]:
    ids = dataset.catalog.item_ids.to_pylist()
    users = dataset.histories.user_ids.to_pylist()
    return {u: [ids[i] for i in dataset.histories.history(n)] for n, u in enumerate(users)}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_dataset(
    tmp_path: Path, items: pd.DataFrame, events: pd.DataFrame, small: Dataset, suffix: str
) -> None:
    source = tmp_path / "exports"
    source.mkdir()
    write(items, source / f"items{suffix}")
    write(events, source / f"interactions{suffix}")
    dataset = prepare("tables", tmp_path / "out", source)
    assert dataset.fingerprint == small.fingerprint
    assert dataset.info["source"] == f"tables: interactions{suffix}, items{suffix}"


def test_leading_zeros_stay(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(EVENTS)
    (tmp_path / "items.csv").write_text(ITEMS)
    dataset = prepare_tables(tmp_path / "out", tmp_path)
    assert sequences(dataset) == {"u": ["12", "007"], "v": ["12", "x"]}
    assert dataset.catalog.text() == ["Bond", "Twelve", ""]


def test_numbers_in_csv_meet_numbers_in_json(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n1,5,3\n1,40,2\n")
    (tmp_path / "items.jsonl").write_text('{"item_id": 40}\n\n{"item_id": 5, "tags": ["a"]}\n')
    dataset = prepare_tables(tmp_path / "out", tmp_path)
    assert sequences(dataset) == {1: [40, 5]}
    (tmp_path / "items.jsonl").write_text('{"item_id": "40"}\n{"item_id": "5"}\n')
    assert sequences(prepare_tables(tmp_path / "out", tmp_path)) == {1: [40, 5]}
    (tmp_path / "items.jsonl").write_text('{"item_id": "40"}\n{"item_id": "5"}\n{"item_id": "x"}\n')
    assert sequences(prepare_tables(tmp_path / "out", tmp_path)) == {1: ["40", "5"]}


def test_columns_by_name(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "who;what;bought;kind;item_id\nu;a;2018-03-02;buy;9\nu;b;2018-03-01T10:00:00+02:00;view;9\n"
    )
    (tmp_path / "things.csv").write_text("sku;title\na;A\nb;B\nc;C\n")
    dataset = prepare_tables(
        tmp_path / "out",
        tmp_path / "log.csv",
        items="things.csv",
        user_column="who",
        item_column="what",
        time_column="bought",
        action_column="kind",
        items_id_column="sku",
        delimiter=";",
        name="shop",
        source="our till",
        licence="ours",
    )
    assert sequences(dataset) == {"u": ["b", "a"]}
    assert dataset.info["actions"] == ["buy", "view"]
    assert (dataset.name, dataset.info["source"], dataset.info["licence"]) == (
        "shop",
        "our till",
        "ours",
    )
    assert len(dataset.catalog) == 3


def test_position_orders_and_completes(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(
        "user_id,item_id,rank,timestamp\nu,a,2,\nu,b,0,86400\nu,c,1,86400\nu,d,3,172800\n"
    )
    dataset = prepare_tables(tmp_path / "out", tmp_path, position_column="rank")
    assert sequences(dataset) == {"u": ["b", "c", "a", "d"]}
    assert dataset.histories.timestamps is not None
    assert dataset.histories.timestamps.tolist() == [86400, 86400, 86400, 172800]


def test_titles_with_commas_quotes_newlines_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(EVENTS)
    text = '\ufeffitem_id,title\r\n007,"a, ""b""\nc"\r\n12,é\r\nx,\r\n'
    (tmp_path / "items.csv").write_text(text, newline="")
    dataset = prepare_tables(tmp_path / "out", tmp_path)
    assert dataset.catalog.text() == ['a, "b" c', "é", ""]


def test_numbers_that_turn_into_text_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec.data.sources.readers._BLOCK", 64)
    rows = [f"{i},{i}" for i in range(100)] + ["100,three"]
    (tmp_path / "items.csv").write_text("item_id,size\n" + "\n".join(rows) + "\n")
    table = read_table(tmp_path / "items.csv", text_columns=["item_id"])
    assert table.column("size").to_pylist()[98:] == ["98", "99", "three"]
    lines = [f'{{"item_id": {i}, "size": "{i}"}}' for i in range(50)]
    lines += ['{"item_id": 50, "size": "x", "brand": "B"}']
    (tmp_path / "items.jsonl").write_text("\n".join(lines) + "\n")
    table = read_table(tmp_path / "items.jsonl")
    assert table.column("size")[50].as_py() == "x"
    assert table.column("brand").to_pylist()[49:] == [None, "B"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("interactions.csv", "", "interactions.csv: the table is empty"),
        ("interactions.csv", "user_id,item_id,timestamp\n", "interactions.csv: the table is empty"),
        ("interactions.csv", "user_id,timestamp\nu,1\n", "column 'item_id' is missing; it has"),
        ("interactions.csv", EVENTS + "u,b\n", "interactions.csv: is not a table.*Row #6"),
        ("interactions.csv", EVENTS + "u,x,soon\n", "'timestamp' row 5 is 'soon'"),
        ("interactions.csv", EVENTS + ",x,5\n", "'user_id' has no id in 1 rows .*row 5"),
        ("interactions.csv", EVENTS + "u,z,5\n", "row 5 is 'z', which is not among"),
        ("interactions.jsonl", '{"user_id": 1}\nnot json\n', "line 2 is not JSON"),
        ("interactions.jsonl", '{"user_id": 1}\n[1]\n', "line 2 is no JSON object"),
        ("interactions.jsonl", "", "interactions.jsonl: the table is empty"),
        ("interactions.jsonl", '{"user_id": 1}\n{"user_id": "a"}\n', "'user_id' mixes types"),
        ("interactions.parquet", "nonsense", "interactions.parquet: is not parquet or truncated"),
        ("interactions.csv.gz", "nonsense", "interactions.csv.gz: cannot be read"),
        ("interactions.jsonl.gz", "nonsense", "interactions.jsonl.gz: cannot be read"),
        ("interactions.parquet.gz", "nonsense", "interactions.parquet.gz: cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / name).write_text(content)
    (source / "items.csv").write_text(ITEMS)
    with pytest.raises(DataError, match=message):
        prepare_tables(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def test_a_gz_cut_short(tmp_path: Path) -> None:
    for name in ("interactions.csv.gz", "interactions.jsonl.gz"):
        path = write(pd.DataFrame({"user_id": range(9999)}), tmp_path / name)
        path.write_bytes(path.read_bytes()[:-300])
        with pytest.raises(DataError, match=f"{name}: cannot be read .*truncated"):
            read_table(path)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_bytes(EVENTS.encode() + b"u,\xff\xfe,5\n")
    with pytest.raises(DataError, match="UTF-8"):
        prepare_tables(tmp_path / "out", tmp_path)


def test_an_integer_of_more_than_64_bits_in_jsonl(tmp_path: Path) -> None:
    # The mixed column makes Arrow give up, and the lines are read one by one.
    lines = '{"n": 1, "x": "a"}\n{"n": 36893488147419103232, "x": 1}\n'
    (tmp_path / "items.jsonl").write_text(lines)
    with pytest.raises(
        DataError, match=r"items.jsonl: column 'n' holds an integer of more than 64"
    ):
        read_table(tmp_path / "items.jsonl")


def test_places_without_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        prepare_tables(tmp_path / "out", tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no interactions file.*notes.txt"):
        prepare_tables(tmp_path / "out", tmp_path)
    with pytest.raises(DataError, match=r"notes.txt: unknown format; expected one of .parquet"):
        prepare_tables(tmp_path / "out", tmp_path / "notes.txt")
    with pytest.raises(DataError, match=r"log.csv: no such file; .* has no table"):
        prepare_tables(tmp_path / "out", tmp_path, interactions="log.csv")
    for name in ("interactions.csv", "interactions.csv.gz"):
        (tmp_path / name).write_text(EVENTS)
    with pytest.raises(DataError, match="say which one"):
        prepare_tables(tmp_path / "out", tmp_path)


def test_a_missing_table_in_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"log.csv: no such file; .* cannot be listed \(Permission"):
        read_table(tmp_path / "log.csv")


def test_a_column_that_was_named_must_exist(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(EVENTS)
    with pytest.raises(DataError, match=r"column 'when' is missing; it has.*--time_column"):
        prepare_tables(tmp_path / "out", tmp_path, time_column="when")
    (tmp_path / "items.csv").write_text("sku,title\na,A\n")
    with pytest.raises(DataError, match=r"items.csv: column .item_id. is missing.*items_id_column"):
        prepare_tables(tmp_path / "out", tmp_path)
    (tmp_path / "interactions.csv").write_text("customer,sku\nu,a\n")
    named = {"user_column": "customer", "item_column": "sku"}
    for option, given in (("user", {}), ("item", {"user_column": "customer"}), ("time", named)):
        with pytest.raises(DataError, match=rf"is missing; it has.*--{option}_column"):
            prepare_tables(tmp_path / "out", tmp_path, **given)


def test_errors_name_the_columns_of_the_file(tmp_path: Path) -> None:
    named = {"user_column": "customer", "time_column": "bought_at"}
    (tmp_path / "interactions.csv").write_text("customer,item_id,bought_at\nu,a,1\nu,b,soon\n")
    with pytest.raises(DataError, match=r"row 2 is 'soon'.*'timestamp' is its column 'bought_at'"):
        prepare_tables(tmp_path / "out", tmp_path, **named)
    (tmp_path / "interactions.csv").write_text("customer,item_id,bought_at\nu,,1\nu,b,2\n")
    with pytest.raises(DataError, match=r"column 'item_id' has no id in 1 rows") as caught:
        prepare_tables(tmp_path / "out", tmp_path, **named)
    assert "its column" not in str(caught.value)


def test_drop_unknown(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(EVENTS)
    (tmp_path / "items.csv").write_text("item_id\n007\n12\n")
    dataset = prepare_tables(tmp_path / "out", tmp_path, drop_unknown=True)
    assert sequences(dataset) == {"u": ["12", "007"], "v": ["12"]}


def test_a_source_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="source 'tabels' is unknown; choose one of"):
        prepare("tabels", tmp_path / "out", tmp_path)


def test_an_output_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(EVENTS)
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="was not written by genrec"):
        prepare_tables(out, tmp_path)
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_arrow_tables_keep_nested_columns(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(EVENTS)
    (tmp_path / "items.jsonl").write_text(
        '{"item_id": "007", "categories": [["A", "B"]]}\n{"item_id": "12", "categories": null}\n'
        '{"item_id": "x", "categories": []}\n'
    )
    dataset = prepare_tables(tmp_path / "out", tmp_path)
    assert dataset.catalog.text() == ["A, B", "", ""]
    assert pa.types.is_list(dataset.catalog.table.schema.field("categories").type)


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes("ref,title\na,Brie\nb,Comté\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"items.csv: column 'title' row 2 is b'Comt\\xe9', which"):
        read_table(path)
    path.write_text("ref,title\na,Brie\nb,Comté\n", encoding="utf-8")
    assert read_table(path)["title"].to_pylist() == ["Brie", "Comté"]
