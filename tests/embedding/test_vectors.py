import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genrec.artefacts import MANIFEST, file_sha256
from genrec.data import Catalog
from genrec.embedding import ItemVectors
from genrec.errors import ArtefactError, DataError


def make(n=5, d=3, seed=0, **kwargs):
    values = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return ItemVectors(values, [f"i{k}" for k in range(n)], {"type": "test"}, **kwargs)


@settings(max_examples=20, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 5)),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    st.booleans(),
)
def test_save_and_load_give_the_same_back(tmp_path_factory, values, integers):
    ids = [k * 7 if integers else f"item {k}" for k in range(len(values))]
    folder = tmp_path_factory.mktemp("vectors") / "v"
    saved = ItemVectors(values, ids, {"type": "test", "dim": 3})
    saved.save_pretrained(folder)
    loaded = ItemVectors.from_pretrained(folder)
    np.testing.assert_array_equal(loaded.vectors, values)
    assert loaded.item_ids.to_pylist() == ids
    assert loaded.config == saved.config
    assert loaded.fingerprint == saved.fingerprint


def test_fingerprint_changes_with_values_ids_and_order():
    base = make()
    changed = base.vectors.copy()
    changed[2, 1] = np.nextafter(changed[2, 1], np.float32(9))
    ids = base.item_ids.to_pylist()
    others = [
        ItemVectors(changed, ids),
        ItemVectors(base.vectors, [*ids[:-1], "other"]),
        ItemVectors(base.vectors[::-1], ids[::-1]),
    ]
    assert len({base.fingerprint, *(o.fingerprint for o in others)}) == 4
    assert ItemVectors(base.vectors, ids, {"other": "config"}).fingerprint == base.fingerprint


def test_aligned_to_reorders_rows():
    vectors = make(6)
    order = [3, 1, 5, 0, 2, 4]
    catalog = Catalog.from_ids([f"i{k}" for k in order])
    aligned = vectors.aligned_to(catalog)
    np.testing.assert_array_equal(aligned.vectors, vectors.vectors[order])
    assert aligned.item_ids.to_pylist() == catalog.item_ids.to_pylist()
    assert aligned.config == vectors.config
    assert aligned.aligned_to(catalog) is aligned


def test_aligned_to_names_what_is_missing_on_either_side():
    catalog = Catalog.from_ids(["i0", "i1", "i2", "i3", "new"])
    with pytest.raises(DataError, match=r"1 items of the catalog.*'new'.*1 vectors.*'i4'"):
        make(5).aligned_to(catalog)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_the_item(bad):
    values = np.zeros((4, 3))
    values[2, 1] = bad
    with pytest.raises(DataError, match=r"file\.npy: item 'c' \(row 3\) has .* in dimension 1"):
        ItemVectors(values, ["a", "b", "c", "d"], source="file.npy")


def test_a_value_too_large_for_float32_is_reported():
    with pytest.raises(DataError, match="item 'a'"):
        ItemVectors(np.array([[1e300]]), ["a"])


@pytest.mark.parametrize(
    ("values", "ids", "message"),
    [
        (np.zeros((3, 2)), ["a", "b"], "3 vectors for 2 items"),
        (np.zeros((3, 2)), ["a", "b", "a"], "'a' in rows 1 and 3"),
        (np.zeros((3, 2)), ["a", None, "b"], "row 2"),
        (np.zeros((3, 2)), ["a", 1, "b"], "all strings or all integers"),
        (np.zeros((3, 2)), [1.5, 2.5, 3.5], "strings or integers"),
        (np.zeros(3), ["a", "b", "c"], r"found \(3,\)"),
        (np.zeros((3, 0)), ["a", "b", "c"], r"found \(3, 0\)"),
        (np.array([["x"], ["y"], ["z"]]), ["a", "b", "c"], "expected numbers"),
        (np.zeros((0, 2)), [], "empty"),
    ],
)
def test_bad_input_is_named(values, ids, message):
    with pytest.raises(DataError, match=message):
        ItemVectors(values, ids)


def test_a_truncated_file_is_reported(tmp_path):
    make().save_pretrained(tmp_path / "v")
    file = tmp_path / "v" / "vectors.npy"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ArtefactError, match=r"vectors\.npy"):
        ItemVectors.from_pretrained(tmp_path / "v")


def _sign(folder):
    """Make the manifest agree with files that a test has edited."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {name: file_sha256(folder / name) for name in manifest["files"]}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_edited_values_disagree_with_the_fingerprint(tmp_path):
    folder = tmp_path / "v"
    make().save_pretrained(folder)
    np.save(folder / "vectors.npy", make(seed=1).vectors)
    _sign(folder)
    with pytest.raises(ArtefactError, match="fingerprint"):
        ItemVectors.from_pretrained(folder)


def test_files_that_do_not_fit_together_are_reported(tmp_path):
    folder = tmp_path / "v"
    make().save_pretrained(folder)
    pq.write_table(pa.table({"item_id": ["a"]}), folder / "items.parquet")
    _sign(folder)
    with pytest.raises(ArtefactError, match="5 vectors for 1 items"):
        ItemVectors.from_pretrained(folder)


def test_an_embedding_json_without_its_keys_is_reported(tmp_path):
    folder = tmp_path / "v"
    make().save_pretrained(folder)
    (folder / "embedding.json").write_text("{}")
    _sign(folder)
    with pytest.raises(ArtefactError, match="config"):
        ItemVectors.from_pretrained(folder)


def test_pickled_arrays_are_refused(tmp_path):
    folder = tmp_path / "v"
    make().save_pretrained(folder)
    np.save(folder / "vectors.npy", np.array([[object()]] * 5), allow_pickle=True)
    _sign(folder)
    with pytest.raises(ArtefactError, match="cannot be read"):
        ItemVectors.from_pretrained(folder)
