from __future__ import annotations

import gzip
import json
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from genrec.data import download as downloads
from genrec.data.sources import json_lines
from genrec.data.sources.amazon import find_files, prepare_amazon, read_amazon
from genrec.data.sources.amazon_metadata import content, read_metadata
from genrec.data.sources.amazon_reviews import read_reviews
from genrec.data.sources.json_lines import read_blocks
from genrec.errors import ConfigError, DataError

DAY = 86_400


def old_review(user, item, day, rating=5.0, **more):
    return {
        "reviewerID": user,
        "asin": item,
        "helpful": [0, 0],
        "reviewText": 'so "good" & it\'s {cheap}',
        "overall": rating,
        "unixReviewTime": day * DAY,
        **more,
    }


def new_review(user, item, day, rating=5.0):
    return {
        "rating": rating,
        "title": "ok",
        "asin": item + "X",
        "parent_asin": item,
        "user_id": user,
        "timestamp": day * DAY * 1000 + 123,
    }


def write(path, records, render=json.dumps):
    lines = [r if isinstance(r, str) else render(r) + "\n" for r in records]
    data = "".join(lines).encode("utf-8", "surrogateescape")
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def grid(make, users=6, items=6):
    """Everybody reviews everything, on the same day two by two."""
    return [
        make(f"U{u}", f"I{(u + i) % items}", 100 + i // 2)
        for i in range(items)
        for u in range(users)
    ]


META_2014 = [
    {
        "asin": f"I{n}",
        "title": f'Nail\'s "Polish" {n}',
        "price": 3.5,
        "brand": "Opi",
        "categories": [["Beauty"], ["Beauty", "Nails", "Polish"]],
        "related": {"also_bought": ["I1"], "asin": "Z9"},
        "description": "Shiny.",
    }
    for n in range(6)
]
META_2018 = [
    {
        "asin": f"I{n}",
        "title": f"Polish {n}",
        "price": "$1,003.50",
        "brand": "Opi",
        "category": ["Beauty", "Nails"],
        "description": ["Shiny.", "", "Red."],
        "feature": ["dries fast", "vegan"],
        "also_buy": ["I1"],
    }
    for n in range(6)
]
META_2023 = [
    {
        "parent_asin": f"I{n}",
        "main_category": "All Beauty",
        "title": f"Polish {n}",
        "price": None if n else 2.0,
        "store": "Opi",
        "categories": ["Beauty", "Nails"] if n else [],
        "features": [],
        "description": ["Shiny."],
        "details": {"Item": 1},
    }
    for n in range(6)
]
VERSIONS = {
    "2014": ("reviews_Beauty_5.json.gz", "meta_Beauty.json.gz", old_review, META_2014, repr),
    "2018": (
        "Beauty_5.json.gz",
        "meta_Beauty.json.gz",
        partial(old_review, verified=True),
        META_2018,
        json.dumps,
    ),
    "2023": ("Beauty.jsonl", "meta_Beauty.jsonl", new_review, META_2023, json.dumps),
}


@pytest.fixture(params=VERSIONS)
def shipped(request, tmp_path):
    reviews, metadata, make, records, render = VERSIONS[request.param]
    other = {**records[0], "asin": "OTHER", "parent_asin": "OTHER"}
    write(tmp_path / reviews, grid(make))
    write(tmp_path / metadata, [*records, other, records[0]], render)
    return request.param, tmp_path


def test_every_version(shipped, tmp_path):
    version, folder = shipped
    dataset = prepare_amazon(tmp_path / "out", folder)
    assert dataset.name == f"amazon{version}-beauty"
    assert dataset.info["order"] == "file" and version in dataset.info["source"]
    assert len(dataset.catalog) == 6 and len(dataset.histories) == 6
    days = [time // DAY for time in dataset.histories.timestamps[:6].tolist()]
    assert days == [100, 100, 101, 101, 102, 102]
    assert dataset.histories.items[:6].tolist() == [0, 1, 2, 3, 4, 5], "ties stand as in the file"
    assert dataset.info["read"]["repeated_metadata"] == 1
    assert dataset.info["read"]["items_without_metadata"] == 0
    row = dataset.catalog.table.slice(1, 1).to_pylist()[0]
    expected = {
        "2014": {
            "title": 'Nail\'s "Polish" 1',
            "category": "Beauty > Nails > Polish",
            "price": 3.5,
            "description": "Shiny.",
        },
        "2018": {
            "title": "Polish 1",
            "category": "Beauty > Nails",
            "price": 1003.5,
            "description": "Shiny. Red.",
            "features": "dries fast vegan",
        },
        "2023": {
            "title": "Polish 1",
            "category": "Beauty > Nails",
            "price": None,
            "description": "Shiny.",
        },
    }[version]
    assert row == {"item_id": "I1", "brand": "Opi", **expected}
    first = dataset.catalog.table.slice(0, 1).to_pylist()[0]
    assert version != "2023" or (first["category"], first["price"]) == ("All Beauty", 2.0)


def test_blocks_do_not_change_anything(shipped, monkeypatch):
    _, folder = shipped
    reviews, metadata = find_files(folder, None)
    whole = read_amazon(reviews, metadata)
    monkeypatch.setattr(json_lines.read_blocks, "__defaults__", (50,))
    small = read_amazon(reviews, metadata)
    assert whole[0].equals(small[0]) and whole[1].equals(small[1]) and whole[2] == small[2]


@pytest.mark.parametrize("size", [1, 7, 20, 1000])
def test_read_blocks(tmp_path, size):
    text = b"first\n\nthird line\nlast without end"
    (tmp_path / "f").write_bytes(text)
    blocks = list(read_blocks(tmp_path / "f", size))
    assert b"".join(block for _, block in blocks) == text
    seen = b""
    for line, block in blocks:
        assert line == 1 + seen.count(b"\n") and (not seen or seen.endswith(b"\n"))
        seen += block


def test_shuffle_within_the_day(shipped):
    _, folder = shipped
    files = find_files(folder, "Beauty")
    _, plain, _ = read_amazon(*files)
    _, one, info = read_amazon(*files, order="shuffled-day", seed=1)
    _, again, _ = read_amazon(*files, order="shuffled-day", seed=1)
    assert info["order"] == "shuffled-day" and info["order_seed"] == 1
    assert one.equals(again) and not one["item_id"].equals(plain["item_id"])

    def days(table):
        rows = table.to_pylist()
        return sorted((r["user_id"], r["timestamp"] // DAY, r["item_id"]) for r in rows)

    assert days(one) == days(plain)
    assert [d // DAY for d in one["timestamp"].to_pylist()] == [
        d // DAY for d in plain["timestamp"].to_pylist()
    ]
    assert all(t % DAY == 0 for t in one["timestamp"].to_pylist())


def test_core_rating_and_duplicates(tmp_path):
    records = [
        *grid(old_review, 3, 3),
        old_review("U0", "I0", 300, 1.0),
        old_review("U9", "I0", 50),
        old_review("U0", "I9", 50, None),
    ]
    path = write(tmp_path / "reviews_Beauty.json", records)

    def count(**options):
        return read_amazon(path, None, **options)[1].num_rows

    assert count(core=0, duplicates="keep") == 12
    assert count(core=0) == 11
    assert count(core=3) == 9
    assert count(core=0, min_rating=2) == 10
    last = read_amazon(path, None, core=3, duplicates="last")[1].to_pylist()
    assert [r["rating"] for r in last if (r["user_id"], r["item_id"]) == ("U0", "I0")] == [1.0]
    items, interactions, info = read_amazon(path, None, core=0)
    assert items.column_names == ["item_id"]
    assert items["item_id"].to_pylist() == ["I0", "I1", "I2", "I9"]
    assert interactions["rating"].null_count == 1
    assert info["read"]["reviews"] == 12
    with pytest.raises(DataError, match="7-core"):
        count(core=7)


def test_ties_of_a_file_and_time_order(tmp_path):
    records = [old_review("U", f"I{n}", day) for n, day in enumerate([5, 3, 5, 3, 4])]
    path = write(tmp_path / "reviews_Beauty.json", records)
    _, interactions, _ = read_amazon(path, None, core=0)
    assert interactions["item_id"].to_pylist() == ["I1", "I3", "I4", "I0", "I2"]


def test_reviews_as_literals_and_loose_values(tmp_path):
    records = [old_review("U", "I", 1), {**old_review("V", "I", 2), "unixReviewTime": "172800"}]
    literal = read_reviews(write(tmp_path / "a.json", records, repr))
    loose = read_reviews(write(tmp_path / "b.json", records))
    for reviews in (literal, loose):
        assert reviews.times.tolist() == [DAY, 2 * DAY]
        assert reviews.user_ids.take(pa.array(reviews.users)).to_pylist() == ["U", "V"]


BROKEN = {
    '{"reviewerID": "U1", "asin": \n': "is not JSON",
    "[1, 2]\n": "no record",
    '{"reviewerID": "U1", "unixReviewTime": 1}\n': "has no 'asin'",
    '{"reviewerID": "", "asin": "I1", "unixReviewTime": 1}\n': "has no 'reviewerID'",
    '{"reviewerID": "U1", "asin": "I1", "unixReviewTime": "soon"}\n': "'soon'",
    '{"reviewerID": "U1", "asin": "I1", "unixReviewTime": 1, "overall": "bad"}\n': "'bad'",
    '{"reviewerID": "U1", "asin": "I1", "unixReviewTime": null}\n': "has no 'unixReviewTime'",
    '{"reviewerID": "\udcff", "asin": "I1", "unixReviewTime": 1}\n': "is not JSON",
}


@pytest.mark.parametrize("line", BROKEN)
def test_broken_reviews(tmp_path, line):
    records = [old_review("U0", "I0", 1), "\n", line, old_review("U0", "I1", 2)]
    path = write(tmp_path / "reviews_Beauty_5.json.gz", records)
    with pytest.raises(
        DataError, match=r"reviews_Beauty_5\.json\.gz: line 3 .*skip_broken"
    ) as raised:
        read_reviews(path)
    assert BROKEN[line] in str(raised.value)
    reviews = read_reviews(path, skip_broken=True)
    assert len(reviews) == 2 and reviews.broken == 1


def test_broken_metadata(tmp_path):
    good, danger = repr(META_2014[0]) + "\n", "{'asin': 'I1', 'title': print('x')}\n"
    path = write(tmp_path / "meta_Beauty.json", [good, "{'asin': 'I7', oops\n", danger])
    with pytest.raises(DataError, match=r"meta_Beauty\.json: line 3 is not a Python literal"):
        read_metadata(path, pa.array(["I0", "I1"]))
    table, counts = read_metadata(path, pa.array(["I0", "I1"]), skip_broken=True)
    assert counts["broken_metadata_lines"] == 1 and counts["items_without_metadata"] == 1
    assert table["title"].to_pylist() == ['Nail\'s "Polish" 0', None]
    with pytest.raises(DataError, match="none of the 1 items"):
        read_metadata(path, pa.array(["nothing"]))
    write(path, [good, "{'asin': 'I1', 'n': " + "[" * 100_000 + "}\n"])
    with pytest.raises(DataError, match="line 2 is not a Python literal"):
        read_metadata(path, pa.array(["I0", "I1"]))


def test_odd_metadata_values():
    assert content({}) == (None,) * 6
    assert content({"title": "var aPageStart = (new Date()).getTime();"})[0] is None
    assert content({"title": ["a", None, " b "], "price": True})[:4] == ("a b", None, None, None)
    assert content({"price": "$5.99 - $9.99"})[3] == 5.99
    assert content({"price": "\n".join(["a-box 12 "] * 30)})[3] is None
    assert content({"category": []})[2] is None


def test_unknown_or_empty_files(tmp_path):
    path = write(tmp_path / "x.json", [{"user": 1}])
    with pytest.raises(DataError, match=r"'user'.*parent_asin"):
        read_reviews(path)
    for text in ("", "\n\n"):
        path.write_text(text)
        with pytest.raises(DataError, match="holds no re"):
            read_reviews(path)
    path.write_text("nothing\nhere\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        read_reviews(path)
    with pytest.raises(DataError, match="no such file"):
        read_reviews(tmp_path / "gone.json")


def test_truncated_gz(tmp_path):
    path = tmp_path / "reviews_Beauty_5.json.gz"
    lines = (json.dumps(old_review(f"U{n}", f"I{n}", n)) + "\n" for n in range(3000))
    whole = gzip.compress("".join(lines).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"reviews_Beauty_5\.json\.gz: cannot be read .*truncated"):
        read_reviews(path)
    path.write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot be read after line 0"):
        read_reviews(path)


def test_finding_files(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_files(tmp_path / "gone", None)
    for name in ("reviews_Beauty.json.gz", "reviews_Beauty_5.json.gz", "notes.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=r"no meta_Beauty\.json\.gz"):
        find_files(tmp_path, None)
    assert find_files(tmp_path, None, metadata="none")[1] is None
    (tmp_path / "meta_Beauty.jsonl").write_text("")
    reviews, metadata = find_files(tmp_path, "Beauty")
    assert (reviews.name, metadata.name) == ("reviews_Beauty_5.json.gz", "meta_Beauty.jsonl")
    (tmp_path / "Toys_5.json").write_text("")
    with pytest.raises(DataError, match="several files"):
        find_files(tmp_path, None)
    with pytest.raises(DataError, match=r"no reviews of category Books.*Toys_5\.json"):
        find_files(tmp_path, "Books")
    named = find_files(tmp_path, None, "reviews_Beauty.json.gz", "meta_Beauty.jsonl")
    assert named[0].name == "reviews_Beauty.json.gz"


@pytest.mark.parametrize(
    "options",
    [
        {"duplicates": "some"},
        {"order": "random"},
        {"core": -1},
        {"seed": -1},
        {"download": True},
        {"download": True, "category": "Beauty", "reviews": "x"},
        {"download": True, "category": "Beauty", "version": "2016"},
        {},
    ],
)
def test_bad_options(tmp_path, options):
    with pytest.raises(ConfigError):
        prepare_amazon(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_download_from_a_publisher(tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    reviews, metadata, make, records, render = VERSIONS["2014"]
    write(site / reviews, grid(make))
    write(site / metadata, records, render)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(downloads, "AMAZON_2014", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GENREC_CACHE", str(tmp_path / "cache"))
    try:
        options = {"download": True, "category": "Beauty"}
        dataset = prepare_amazon(tmp_path / "out", **options)
        bare = prepare_amazon(tmp_path / "bare", metadata="none", **options)
        with pytest.raises(DataError, match="SHA-256"):
            prepare_amazon(tmp_path / "bad", **options, sha256={reviews: "0" * 64})
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert dataset.catalog.columns == [
        "item_id",
        "title",
        "brand",
        "category",
        "price",
        "description",
    ]
    assert bare.catalog.columns == ["item_id"]
    assert sorted(p.name for p in (tmp_path / "cache" / "amazon2014").iterdir()) == [
        metadata,
        reviews,
    ]
    assert np.array_equal(bare.histories.items, dataset.histories.items)
    assert not (tmp_path / "bad").exists()


@pytest.mark.real_data
@pytest.mark.skipif("GENREC_DATA" not in os.environ, reason="GENREC_DATA is not set")
def test_real_order(tmp_path):
    """Beauty laid out as its publisher does (by product) comes back in the published order."""
    joined = Path(os.environ["GENREC_DATA"]) / "amazon2014-beauty" / "joined"
    known = pd.read_csv(joined / "interactions.csv.gz", dtype={"item_id": str})
    undated = known[known["timestamp"].isna()]["user_id"].unique()
    known = known[~known["user_id"].isin(undated)]
    rows = known.sort_values(["item_id", "user_id"]).to_dict("records")
    records = [
        {
            "reviewerID": row["user_id"],
            "asin": row["item_id"],
            "unixReviewTime": int(row["timestamp"]),
        }
        for row in rows
    ]
    path = write(tmp_path / "reviews_Beauty_5.json", records)
    _, interactions, _ = read_amazon(path, None, core=0)
    read = interactions.to_pandas().sort_values("user_id", kind="stable")
    known = known.sort_values(["user_id", "position"])
    assert read["item_id"].tolist() == known["item_id"].tolist()
    core = read_amazon(path, None, core=5)[1].num_rows
    assert core == slow_core_size(known) < len(known)


def slow_core_size(frame):
    while True:
        users = frame["user_id"].map(frame["user_id"].value_counts())
        items = frame["item_id"].map(frame["item_id"].value_counts())
        kept = frame[(users >= 5) & (items >= 5)]
        if len(kept) == len(frame):
            return len(frame)
        frame = kept
