from __future__ import annotations

import os
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest

from genrec.data import download as downloads
from genrec.data.sources.movielens import prepare_movielens, read_movielens
from genrec.errors import ConfigError, DataError

RATINGS = """userId,movieId,rating,timestamp
1,10,4.0,300
1,2,0.5,100
1,7,5.0,100
2,2,3.0,50
2,10,4.5,40
"""
MOVIES = """movieId,title,genres
10,"American President, The (1995)",Comedy|Drama
2,Babylon 5,(no genres listed)
7,Kurz & Gut (Short) (2003) ,Sci-Fi
99,Nobody Saw It (2010\u20132011),Drama
"""
TAGS = """userId,movieId,tag,timestamp
1,10,Politics,1
2,10,love,1
1,10, love ,2
2,7,"short, funny",5
"""


@pytest.fixture
def small(tmp_path):
    folder = tmp_path / "ml-latest-small"
    folder.mkdir()
    for name, text in (("ratings", RATINGS), ("movies", MOVIES), ("tags", TAGS)):
        (folder / f"{name}.csv").write_bytes(text.replace("\n", "\r\n").encode())
    return folder


@pytest.fixture
def million(tmp_path):
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    rows = [line.replace(",", "::") for line in RATINGS.splitlines()[1:]]
    (folder / "ratings.dat").write_text("\n".join(rows) + "\n")
    movies = "2::Am\xe9lie (2001)::Comedy|Romance\n7::Face/Off (1997)::Action\n10::M::Crime\n"
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    (folder / "users.dat").write_text("1::F::1::10::48067\n")
    return folder


def test_small(small, tmp_path):
    dataset = prepare_movielens(tmp_path / "out", small)
    assert dataset.name == "ml-latest-small" and "GroupLens" in dataset.info["licence"]
    assert dataset.catalog.table.to_pylist() == [
        {"item_id": 2, "title": "Babylon 5", "year": None, "genres": None, "tags": None},
        {
            "item_id": 7,
            "title": "Kurz & Gut (Short)",
            "year": 2003,
            "genres": "Sci-Fi",
            "tags": "short, funny",
        },
        {
            "item_id": 10,
            "title": "American President, The",
            "year": 1995,
            "genres": "Comedy, Drama",
            "tags": "love, politics",
        },
    ]
    assert dataset.histories.items.tolist() == [0, 1, 2, 2, 0], "in time, ties as in the file"
    assert dataset.histories.timestamps.tolist() == [100, 100, 300, 40, 50]


def test_million(million):
    items, interactions, info = read_movielens(million)
    assert info["name"] == "ml-1m"
    assert items["title"].to_pylist() == ["Amélie", "Face/Off", "M"]
    assert items["year"].to_pylist() == [2001, 1997, None]
    assert items["genres"].to_pylist() == ["Comedy, Romance", "Action", "Crime"]
    assert interactions["item_id"].to_pylist() == [2, 7, 10, 10, 2]
    assert interactions["rating"].to_pylist() == [0.5, 5.0, 4.0, 4.5, 3.0]


def test_options(small):
    items, interactions, _ = read_movielens(small, min_rating=4, tags=False)
    assert items["item_id"].to_pylist() == [7, 10] and "tags" not in items.column_names
    assert interactions.num_rows == 3
    items = read_movielens(small, min_rating=4, all_movies=True)[0]
    assert items["item_id"].to_pylist() == [2, 7, 10, 99]
    assert items["year"].to_pylist() == [None, 2003, 1995, 2010]
    with pytest.raises(DataError, match="min_rating"):
        read_movielens(small, min_rating=6)


def test_without_tags_file(small):
    (small / "tags.csv").unlink()
    assert read_movielens(small)[0].column_names == ["item_id", "title", "year", "genres"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ratings.csv", RATINGS.replace("rating,", "stars,"), "ratings.csv: column 'rating'"),
        ("ratings.csv", RATINGS.replace("2,3.0", "2,good"), r"rating in row 4 is 'good'"),
        ("ratings.csv", RATINGS.replace(",50", ",5.5"), r"timestamp in row 4 is '5.5'"),
        ("ratings.csv", RATINGS.replace("1,7", ",7"), r"user_id in row 3 is ''"),
        ("ratings.csv", RATINGS.replace("2,2,3.0", "2,3,3.0"), r"'item_id' row \d is 3"),
        ("ratings.csv", "", "ratings.csv: the table is empty"),
        ("ratings.csv", RATINGS.splitlines()[0], "ratings.csv: the table is empty"),
        ("movies.csv", MOVIES + "7,Again,Drama\n", r"movie 7 is there twice \(row 5\)"),
        ("movies.csv", MOVIES + "8,a,b,c,d,e\n", "movies.csv: is not a table"),
    ],
)
def test_bad_tables(small, tmp_path, file, text, message):
    (small / file).write_text(text)
    with pytest.raises(DataError, match=message):
        prepare_movielens(tmp_path / "out", small)
    assert not (tmp_path / "out").exists()


def test_bad_bytes_and_fields(small, million):
    (small / "movies.csv").write_bytes(MOVIES.encode().replace(b"Kurz", b"K\xff"))
    with pytest.raises(DataError, match=r"movies\.csv: is not a table"):
        read_movielens(small)
    (million / "movies.dat").write_text("2::A::B\n7::no genres\n")
    with pytest.raises(DataError, match=r"movies\.dat: row 2 lacks a field"):
        read_movielens(million)
    for text, message in (
        ("2::A\n7::B\n", "row 1 has 2 fields"),
        ("2::A::B\n7::A::B::C\n", "is not a table"),
        ("2::A::B::C\n", "row 1 has 4 fields"),
        ("", "the table is empty"),
    ):
        (million / "movies.dat").write_text(text)
        with pytest.raises(DataError, match=message):
            read_movielens(million)


def test_bad_places(small, tmp_path):
    with pytest.raises(DataError, match="no such folder or zip"):
        read_movielens(tmp_path / "gone")
    (small / "movies.csv").unlink()
    with pytest.raises(DataError, match=r"found \['ratings\.csv', 'tags\.csv'\]"):
        read_movielens(small)
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="truncated"):
        read_movielens(tmp_path / "broken.zip")
    with pytest.raises(ConfigError, match="download"):
        prepare_movielens(tmp_path / "out")
    with pytest.raises(ConfigError, match="ml-20m"):
        prepare_movielens(tmp_path / "out", download=True, name="ml-20m")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_download_and_zip(million, tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(site / "ml-1m.zip", "w") as archive:
        for file in sorted(million.iterdir()):
            archive.write(file, f"ml-1m/{file.name}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(downloads, "MOVIELENS", f"http://127.0.0.1:{server.server_port}")
    try:
        dataset = prepare_movielens(tmp_path / "out", tmp_path / "got", download=True, name="ml-1m")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (tmp_path / "got" / "ml-1m.zip").is_file()
    local = prepare_movielens(tmp_path / "local", million)
    assert dataset.fingerprint == local.fingerprint


@pytest.mark.real_data
@pytest.mark.skipif("GENREC_DATA" not in os.environ, reason="GENREC_DATA is not set")
def test_real_data(tmp_path):
    original = Path(os.environ["GENREC_DATA"]) / "ml-latest-small" / "original"
    dataset = prepare_movielens(tmp_path / "out", original)
    assert len(dataset.histories) == 610 and dataset.histories.num_events == 100_836
    assert len(dataset.catalog) == 9_724
    assert len(read_movielens(original, all_movies=True)[0]) == 9_742
    first = dataset.catalog.table.slice(0, 1).to_pylist()[0]
    assert (first["title"], first["year"]) == ("Toy Story", 1995)
    ratings = pd.read_csv(original / "ratings.csv").query("userId == 1")
    expected = ratings.sort_values("timestamp", kind="stable")["movieId"].tolist()
    ids = dataset.catalog.table["item_id"].to_numpy()
    assert ids[dataset.histories.items[: len(expected)]].tolist() == expected
    assert dataset.catalog.table["genres"].null_count == 34
