from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from genrec.data import Catalog
from genrec.errors import ConfigError, DataError


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(
        pa.table(
            {
                "item_id": ["a", "b", "c"],
                "title": ["Salt &amp; pepper  mill", None, "Cup"],
                "categories": [[["Kitchen", "Mills"], ["Kitchen"]], [["Toys"]], None],
                "price": [1.5, None, 2.0],
                "vec": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float64(), 2)),
            }
        )
    )


def test_what_the_columns_hold(catalog: Catalog) -> None:
    assert len(catalog) == 3
    assert catalog.columns == ["item_id", "title", "categories", "price", "vec"]
    assert catalog.text_columns == ["title", "categories"]
    assert catalog.vector_columns == ["vec"]


def test_text_unescapes_joins_lists_and_skips_nulls(catalog: Catalog) -> None:
    assert catalog.text() == ["Salt & pepper mill. Kitchen, Mills, Kitchen", "Toys", "Cup"]
    assert catalog.text(["title"]) == ["Salt & pepper mill", "", "Cup"]
    assert catalog.text(["price"]) == ["1.5", "", "2.0"]


def test_template_leaves_out_nulls_with_their_words(catalog: Catalog) -> None:
    texts = catalog.text(template="Title: {title}. In: {categories}!")
    assert texts[1:] == ["In: Toys!", "Title: Cup!"]
    empty = Catalog(pa.table({"item_id": [1], "title": pa.array([None], pa.string())}))
    assert empty.text(template="{title}.") == [""]


@pytest.mark.parametrize(
    ("template", "message"),
    [("{nothing}", "no column 'nothing'"), ("{title", "cannot be read"), ("{}", "plain"),
     ("{title!r}", "plain"), ("words", "no text column")],
)  # fmt: skip
def test_bad_templates(catalog: Catalog, template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        catalog.text(template=template)


def test_index_is_vectorised_and_knows_the_unknown(catalog: Catalog) -> None:
    found = catalog.index(pd.Series(["c", "x", "a", None]))
    assert found.dtype == np.int64
    assert found.tolist() == [2, -1, 0, -1]
    assert Catalog.from_ids([5, 3]).index(["3", "5", "05"]).tolist() == [1, 0, -1]


def test_vectors(catalog: Catalog) -> None:
    vectors = catalog.vectors("vec")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[1, 2], [3, 4], [5, 6]])
    lists = Catalog(pd.DataFrame({"item_id": [1, 2], "v": [[1.0, 2.0], [3.0, 4.0]]}))
    np.testing.assert_array_equal(lists.vectors("v"), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("values", "message"),
    [([[1.0], None], "item 'q' is null"), ([[1.0, 2.0], [1.0]], "item 'q' is of length 1"),
     ([[1.0], [float("nan")]], r"item 'q' \(row 2\) holds NaN"),
     ([[1.0], [float("inf")]], "item 'q'")],
)  # fmt: skip
def test_bad_vectors_name_the_item(values: list[list[float]], message: str) -> None:
    catalog = Catalog(pa.table({"item_id": ["p", "q"], "v": values}))
    with pytest.raises(DataError, match=message):
        catalog.vectors("v")


def test_vectors_of_a_wrong_column(catalog: Catalog) -> None:
    with pytest.raises(ConfigError, match="no column 'w'"):
        catalog.vectors("w")
    with pytest.raises(ConfigError, match="not vectors"):
        catalog.vectors("title")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": [1]}, "column 'item_id' is missing"),
        ({"item_id": pa.array([], pa.string())}, "table is empty"),
        ({"item_id": ["a", "b", "a"]}, "the first is 'a' in rows 1 and 3"),
        ({"item_id": ["a", None]}, r"no id in 1 rows \(the first is row 2\)"),
        ({"item_id": ["", "a"]}, r"no id in 1 rows \(the first is row 1\)"),
        ({"item_id": pa.nulls(2)}, "no id in 2 rows"),
        ({"item_id": [1.0, 2.5]}, "row 2 is 2.5"),
        ({"item_id": [True]}, "holds bool"),
    ],
)
def test_bad_ids(table: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Catalog(pa.table(table), name="things.csv")


def test_floats_that_are_whole_are_integers() -> None:
    assert Catalog(pd.DataFrame({"item_id": [3.0, 1.0]})).item_ids.to_pylist() == [3, 1]


def test_pandas_categories_and_mixed_columns() -> None:
    frame = pd.DataFrame({"item_id": pd.Categorical(["x", "y"])})
    assert Catalog(frame).item_ids.to_pylist() == ["x", "y"]
    with pytest.raises(DataError, match="mixes types"):
        Catalog(pd.DataFrame({"item_id": pd.Series([1, "a"], dtype=object)}))
    with pytest.raises(DataError, match="expected a pyarrow"):
        Catalog([1, 2])


def test_titles_fall_back_to_ids():
    table = pa.table({"item_id": ["a", "b", "c"], "title": ["A &amp; B ", None, ""]})
    catalog = Catalog(table)
    assert catalog.titles(np.array([2, 0, 1, 0])) == ["c", "A & B", "b", "A & B"]
    assert catalog.titles(np.array([1, 0]), "name") == ["b", "a"]
    assert catalog.titles(np.array([], dtype=int)) == []
