import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.data import Catalog
from genrec.embedding import PrecomputedEmbedder
from genrec.errors import ConfigError, DataError

VALUES = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture
def items():
    return Catalog.from_ids(IDS)


def write(path, ids=IDS, values=VALUES, kind=None, **columns):
    kind = kind or pa.list_(pa.float32())
    values = values.tolist() if isinstance(values, np.ndarray) else values
    table = {"item_id": ids, "vector": pa.array(values, kind)} | columns
    pq.write_table(pa.table(table), path)
    return str(path)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.list_(pa.float32(), 3),
        pa.large_list(pa.float64()),
        pa.list_(pa.float64(), 3),
    ],
)
def test_parquet_in_any_order(tmp_path, items, kind):
    order = [4, 2, 0, 1, 3]
    path = write(tmp_path / "v.parquet", [IDS[i] for i in order], VALUES[order], kind)
    embedded = PrecomputedEmbedder(path=path).embed(items)
    np.testing.assert_array_equal(embedded.vectors, VALUES)
    assert embedded.item_ids.to_pylist() == IDS


def test_parquet_may_hold_more_items_than_the_catalog(tmp_path):
    path = write(tmp_path / "v.parquet")
    embedded = PrecomputedEmbedder(path=path).embed(Catalog.from_ids(["d", "b"]))
    np.testing.assert_array_equal(embedded.vectors, VALUES[[3, 1]])
    assert embedded.config["report"]["vectors_not_used"] == 3


def test_integer_ids_and_strings_of_them_are_the_same(tmp_path):
    path = write(tmp_path / "v.parquet", ["10", "11", "12", "13", "14"])
    embedded = PrecomputedEmbedder(path=path).embed(Catalog.from_ids([14, 13, 12, 11, 10]))
    np.testing.assert_array_equal(embedded.vectors, VALUES[::-1])


def test_the_vector_column_is_named_when_there_are_two(tmp_path, items):
    path = write(tmp_path / "v.parquet", image=pa.array((-VALUES).tolist()))
    with pytest.raises(DataError, match=r"'vector', 'image'.*vector_column"):
        PrecomputedEmbedder(path=path).embed(items)
    embedded = PrecomputedEmbedder(path=path, vector_column="image").embed(items)
    np.testing.assert_array_equal(embedded.vectors, -VALUES)


def test_npy_in_catalog_order(tmp_path, items):
    np.save(tmp_path / "v.npy", VALUES.astype(np.float64))
    embedded = PrecomputedEmbedder(path=str(tmp_path / "v.npy")).embed(items)
    np.testing.assert_array_equal(embedded.vectors, VALUES)


@pytest.mark.parametrize("suffix", [".txt", ".npy", ".parquet"])
def test_npy_with_a_file_of_ids(tmp_path, items, suffix):
    np.save(tmp_path / "v.npy", VALUES)
    ids = tmp_path / f"ids{suffix}"
    if suffix == ".txt":
        ids.write_text("\n".join(IDS[::-1]) + "\n")
    elif suffix == ".npy":
        np.save(ids, np.array(IDS[::-1]))
    else:
        pq.write_table(pa.table({"item_id": IDS[::-1]}), ids)
    embedded = PrecomputedEmbedder(path=str(tmp_path / "v.npy"), ids=str(ids)).embed(items)
    np.testing.assert_array_equal(embedded.vectors, VALUES[::-1])


def test_a_column_of_the_catalog():
    catalog = Catalog(pa.table({"item_id": IDS, "image": VALUES.tolist()}))
    embedded = PrecomputedEmbedder(column="image", normalize=True).embed(catalog)
    expected = VALUES / np.linalg.norm(VALUES, axis=1, keepdims=True)
    np.testing.assert_allclose(embedded.vectors, expected, atol=1e-6)
    with pytest.raises(ConfigError, match="sound"):
        PrecomputedEmbedder(column="sound").embed(catalog)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_values_that_are_not_finite_name_file_and_item(tmp_path, items, bad):
    values = VALUES.tolist()
    values[2][1] = bad
    path = write(tmp_path / "v.parquet", values=values)
    with pytest.raises(DataError, match=r"v\.parquet: item 'c'"):
        PrecomputedEmbedder(path=path).embed(items)


def test_nan_is_not_hidden_by_normalising(tmp_path, items):
    values = VALUES.copy()
    values[1, 0] = np.nan
    np.save(tmp_path / "v.npy", values)
    with pytest.raises(DataError, match="item 'b'"):
        PrecomputedEmbedder(path=str(tmp_path / "v.npy"), normalize=True).embed(items)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2], [1, 2], [1, 2], None, [1, 2]], "'d'.*no vector"),
        ([[1.0, 2], [1, 2], [1, 2], [1, 2, 3], [1, 2]], "'d'.*length 3"),
        ([[], [], [], [], []], "'a'.*no vector"),
    ],
)
def test_vectors_of_other_lengths_name_the_item(tmp_path, items, values, message):
    path = write(tmp_path / "v.parquet", values=values)
    with pytest.raises(DataError, match=message):
        PrecomputedEmbedder(path=path).embed(items)


def test_a_null_in_a_fixed_size_column_is_no_vector(tmp_path, items):
    values = [*VALUES[:4].tolist(), None]
    path = write(tmp_path / "v.parquet", values=values, kind=pa.list_(pa.float32(), 3))
    with pytest.raises(DataError, match=r"'e'.*no vector"):
        PrecomputedEmbedder(path=path).embed(items)


def test_a_missing_item_is_named(tmp_path):
    path = write(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"1 of 2 items.*'z'"):
        PrecomputedEmbedder(path=path).embed(Catalog.from_ids(["a", "z"]))


def test_duplicate_ids_are_named(tmp_path, items):
    path = write(tmp_path / "v.parquet", ["a", "b", "c", "d", "a"])
    with pytest.raises(DataError, match=r"v\.parquet.*'a'"):
        PrecomputedEmbedder(path=path).embed(items)


def test_another_count_is_named(tmp_path, items):
    np.save(tmp_path / "v.npy", VALUES[:4])
    (tmp_path / "ids.txt").write_text("a\nb\n")
    path = str(tmp_path / "v.npy")
    with pytest.raises(DataError, match=r"4 vectors for 5 items"):
        PrecomputedEmbedder(path=path).embed(items)
    with pytest.raises(DataError, match=r"ids\.txt: 2 ids for 4 vectors"):
        PrecomputedEmbedder(path=path, ids=str(tmp_path / "ids.txt")).embed(items)


def test_columns_that_are_missing_or_hold_no_vectors_are_named(tmp_path, items):
    path = write(tmp_path / "v.parquet", title=["t"] * 5)
    for arguments, message in [
        ({"id_column": "asin"}, "no column 'asin'"),
        ({"vector_column": "image"}, "no column 'image'"),
        ({"vector_column": "title"}, "expected a list of numbers"),
    ]:
        with pytest.raises(DataError, match=message):
            PrecomputedEmbedder(path=path, **arguments).embed(items)
    pq.write_table(pa.table({"item_id": IDS}), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="none"):
        PrecomputedEmbedder(path=str(tmp_path / "none.parquet")).embed(items)


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_files_that_cannot_be_read_are_named(tmp_path, items, name):
    with pytest.raises(DataError, match=name):
        PrecomputedEmbedder(path=str(tmp_path / name)).embed(items)
    (tmp_path / name).write_bytes(b"not this")
    with pytest.raises(DataError, match=name):
        PrecomputedEmbedder(path=str(tmp_path / name)).embed(items)


def test_ids_that_cannot_be_read_are_named(tmp_path, items):
    np.save(tmp_path / "v.npy", VALUES)
    pq.write_table(pa.table({"asin": IDS}), tmp_path / "ids.parquet")
    for name in ("ids.parquet", "absent.txt", "absent.npy"):
        embedder = PrecomputedEmbedder(path=str(tmp_path / "v.npy"), ids=str(tmp_path / name))
        with pytest.raises(DataError, match=name):
            embedder.embed(items)


def test_pickled_npy_is_refused(tmp_path, items):
    np.save(tmp_path / "v.npy", np.array([[object()]] * 5), allow_pickle=True)
    with pytest.raises(DataError, match=r"v\.npy"):
        PrecomputedEmbedder(path=str(tmp_path / "v.npy")).embed(items)


def test_a_vector_instead_of_a_matrix_is_named(tmp_path, items):
    np.save(tmp_path / "v.npy", np.zeros(5))
    with pytest.raises(DataError, match=r"\(5,\)"):
        PrecomputedEmbedder(path=str(tmp_path / "v.npy")).embed(items)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"path": "v.npy", "column": "image"},
        {"path": "v.csv"},
        {"path": "v.parquet", "ids": "ids.txt"},
        {"path": "v.npy", "vector_column": "v"},
    ],
)
def test_contradictory_arguments_are_refused(arguments):
    with pytest.raises(ConfigError, match="precomputed"):
        PrecomputedEmbedder(**arguments)
