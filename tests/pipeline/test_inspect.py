from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data import Dataset
from genrec.data.dataset import write_dataset
from genrec.errors import ArtefactError, ConfigError
from genrec.pipeline import SplitConfig, embed, inspect, quantize


def test_inspect_gives_figures_and_writes_them(shop, tmp_path, capsys):
    out = tmp_path / "new" / "figures.json"
    summary = inspect(
        str(shop / "vocabulary"),
        vectors=str(shop / "vectors"),
        dataset=str(shop / "dataset"),
        out=str(out),
    )
    assert "SID vocabulary of 150 items" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert written.keys() == summary.keys()


def test_the_page_and_the_comparison(shop, tmp_path, capsys):
    out, page = tmp_path / "figures.json", tmp_path / "new" / "page.html"
    quantizer = {"type": "mhq", "num_subspaces": 2, "levels": 2, "codebook_size": 8, "epochs": 1}
    quantize(str(shop / "vectors"), str(tmp_path / "mhq"), quantizer=quantizer, progress=False)
    figures = inspect(
        str(shop / "vocabulary"),
        vectors=str(shop / "vectors"),
        dataset=str(shop / "dataset"),
        compare=str(tmp_path / "mhq"),
        category_column="category",
        facets=3,
        k=5,
        out=str(out),
        html=str(page),
    )
    captured = capsys.readouterr()
    assert captured.out.count("SID vocabulary of 150 items") == 2
    assert f"page: {page} (" in captured.err.replace("\n", "")
    assert json.loads(out.read_text()) == json.loads(json.dumps(figures))
    assert len(figures["levels"]) == 3 and len(figures["compare"]["levels"]) == 4
    assert len(figures["facets"]) == 1
    assert [facet["levels"] for facet in figures["compare"]["facets"]] == [2, 2]
    assert figures["churn"]["items_kept"] == 150 and figures["churn"]["changed_tuples"] == 1
    assert "changed SIDs" in captured.out
    order = [captured.out.index(f" {name}") for name in ("vocabulary \u2500", "mhq \u2500")]
    assert order == sorted(order) and "From vocabulary to mhq" in captured.out
    text = page.read_text()
    assert "<h2>From vocabulary to mhq</h2>" in text and ">100.00% of the items kept<" in text
    assert "<h1>vocabulary and mhq</h1>" in text and 'id="tree-1"' in text


def test_two_folders_of_one_name_are_told_apart(shop, tmp_path, capsys):
    quantizer = {"type": "random", "codebook_sizes": [8, 8, 8]}
    other = tmp_path / "vocabulary"
    quantize(str(shop / "vectors"), str(other), quantizer=quantizer, progress=False)
    page = tmp_path / "page.html"
    inspect(str(shop / "vocabulary"), compare=str(other), html=str(page))
    text, printed = page.read_text(), "".join(capsys.readouterr().out.split())
    assert f"<h1>{shop / 'vocabulary'} and {other}</h1>" in text
    assert f"From{shop / 'vocabulary'}to{other}" in printed


def test_only_training_events_are_looked_at(shop):
    data, parts = SplitConfig().apply(Dataset.load(shop / "dataset"))
    figures = inspect(str(shop / "vocabulary"), dataset=str(shop / "dataset"))
    expected = int(parts.train_counts(data.histories, len(data.catalog)).sum())
    assert figures["popularity"]["events"] == expected < data.histories.num_events


def with_columns(shop, folder, **columns):
    """The shop's dataset with the ids and titles of its items and these columns."""
    dataset = Dataset.load(shop / "dataset")
    items = dataset.catalog.table.select(["item_id", "title"])
    for name, values in columns.items():
        items = items.append_column(name, pa.array(values))
    write_dataset(folder, items, pq.read_table(shop / "dataset" / "interactions.parquet"))
    return str(folder)


@pytest.mark.parametrize(
    ("columns", "option", "expected"),
    [
        (["category", "categories"], {}, "category"),
        (["brand", "categories"], {}, "categories"),
        (["brand", "kind"], {}, None),
        (["category", "kind"], {"category_column": "kind"}, "kind"),
    ],
)
def test_the_column_of_categories_is_found(shop, tmp_path, columns, option, expected):
    names = {c: [f"{c} {n % (k + 2)}" for n in range(150)] for k, c in enumerate(columns)}
    dataset = with_columns(shop, tmp_path / "dataset", **names)
    page = tmp_path / "page.html"
    figures = inspect(str(shop / "vocabulary"), dataset=dataset, html=str(page), **option)
    assert figures.get("purity", {}).get("column") == expected
    if expected is not None:
        assert figures["purity"]["categories"] == columns.index(expected) + 2
    plain = tmp_path / "plain.html"
    named = {} if expected is None else {"category_column": expected}
    inspect(str(shop / "vocabulary"), dataset=dataset, html=str(plain), **named)
    assert page.read_text() == plain.read_text()


def test_a_column_of_categories_that_is_empty(shop, tmp_path):
    dataset = with_columns(shop, tmp_path / "dataset", category=[""] * 150)
    page = str(tmp_path / "page.html")
    figures = inspect(str(shop / "vocabulary"), dataset=dataset, html=page)
    assert figures["purity"]["categories"] == 0 and figures["purity"]["prefixes"] == []


def test_bad_input_is_found_before_the_work(shop, tmp_path):
    vocabulary = str(shop / "vocabulary")
    with pytest.raises(ConfigError, match="compare_vectors: needs compare"):
        inspect(vocabulary, compare_vectors=str(shop / "vectors"))
    for option in ("out", "html"):
        with pytest.raises(ArtefactError, match="is a folder, expected a file"):
            inspect("nowhere", **{option: str(tmp_path)})
    with pytest.raises(ArtefactError, match=r"compare: .*no such folder"):
        inspect(vocabulary, compare=str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="no column 'colour'"):
        inspect(vocabulary, dataset=str(shop / "dataset"), category_column="colour")


def test_the_vectors_of_the_other_vocabulary_are_named(shop, tmp_path):
    embed(
        str(shop / "dataset"),
        str(tmp_path / "v"),
        embedder={"type": "lexical", "dim": 6},
        progress=False,
    )
    quantizer = {"type": "rq-kmeans", "codebook_sizes": [8, 8]}
    quantize(str(tmp_path / "v"), str(tmp_path / "other"), quantizer=quantizer, progress=False)
    options = {"vectors": str(shop / "vectors"), "compare": str(tmp_path / "other"), "k": 5}
    with pytest.raises(ArtefactError, match=r"compare: vectors: are not those.*--compare_vectors"):
        inspect(str(shop / "vocabulary"), **options)
    figures = inspect(str(shop / "vocabulary"), **options, compare_vectors=str(tmp_path / "v"))
    assert figures["compare"]["effective_rank"]["dimensions"] == 6
