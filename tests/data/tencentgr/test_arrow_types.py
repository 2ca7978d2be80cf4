"""Every column of the hub's layout reads alike whichever way Arrow stores the same values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import Dataset
from genrec.data.tencentgr.parquet import lists, plain, whole_numbers
from genrec.errors import DataError
from tests.data.tencentgr.damage import refused
from tests.data.tencentgr.reading import ready, rewrite

TABLES = ("seq", "user_feat", "item_feat", "candidate", "mm_emb/emb_81_4_parquet")
Leaf = Callable[[pa.DataType], pa.DataType]


def large(kind: pa.DataType) -> pa.DataType:
    return pa.large_string() if pa.types.is_string(kind) else kind


def floats(kind: pa.DataType) -> pa.DataType:
    return pa.float64() if pa.types.is_integer(kind) else kind


def views(kind: pa.DataType) -> pa.DataType:
    return pa.string_view() if pa.types.is_string(kind) else kind


def dictionaries(kind: pa.DataType) -> pa.DataType:
    return pa.dictionary(pa.int32(), kind)


#: How leaves are stored, and lists.
KINDS: dict[str, tuple[Leaf, Callable[[pa.DataType], pa.DataType]]] = {
    "large": (large, pa.large_list),
    "whole floats": (floats, pa.list_),
    "views": (views, pa.list_view),
    "large views": (large, pa.large_list_view),
    "dictionaries": (dictionaries, pa.list_),
    "bytes": (lambda kind: pa.binary() if pa.types.is_string(kind) else kind, pa.list_),
    "views of bytes": (
        lambda kind: pa.binary_view() if pa.types.is_string(kind) else kind,
        pa.list_,
    ),
    "small": (lambda kind: pa.float32() if kind == pa.float64() else kind, pa.list_),
}


def stored(kind: pa.DataType, leaf: Leaf, listed: Callable[[pa.DataType], pa.DataType]) -> Any:
    """The type that holds the same values in another way."""
    if pa.types.is_list(kind):
        return listed(stored(kind.value_type, leaf, listed))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, stored(field.type, leaf, listed)) for field in kind])
    return leaf(kind)


@pytest.fixture(scope="module")
def want(tmp_path_factory: pytest.TempPathFactory, small: dict[str, Path]) -> Dataset:
    return ready(tmp_path_factory.mktemp("want") / "out", small["huggingface"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_stored_in_another_way(tmp_path: Path, files: Path, want: Dataset, kind: str):
    def other(table: pa.Table) -> pa.Table:
        columns = {
            field.name: pa.array(
                table.column(field.name).to_pylist(), stored(field.type, *KINDS[kind])
            )
            for field in table.schema
        }
        return pa.table(columns)

    for table in TABLES:
        for path in sorted((files / table).glob("*.parquet")):
            pq.write_table(other(pq.read_table(path)), path)
    if kind in ("dictionaries", "views"):
        name = {"dictionaries": "dictionary", "views": "string_view"}[kind]
        schema = pq.ParquetFile(path).schema_arrow
        assert name in str(schema.field("anonymous_cid").type), "the files keep the type"
    assert ready(tmp_path / "out", files).fingerprint == want.fingerprint


def test_lists_of_a_fixed_size(tmp_path: Path, files: Path, want: Dataset):
    nulls: list[int] = []

    def fixed(table: pa.Table) -> pa.Table:
        column = pa.array(table.column("emb").to_pylist(), pa.list_(pa.float32(), 4))
        nulls.append(column.null_count)
        return table.set_column(table.column_names.index("emb"), "emb", column)

    for path in sorted((files / TABLES[-1]).glob("*.parquet")):
        pq.write_table(fixed(pq.read_table(path)), path)
    assert sum(nulls) > 0
    assert ready(tmp_path / "out", files).fingerprint == want.fingerprint


def test_what_pandas_makes_of_the_tables(tmp_path: Path, files: Path, want: Dataset):
    """Nulls among integers become NaN and the column floating point numbers."""
    for table in ("item_feat", "user_feat"):
        for path in sorted((files / table).glob("*.parquet")):
            frame = pq.read_table(path).to_pandas()
            assert (frame.dtypes == np.float64).any() and frame.isna().any().any()
            frame.to_parquet(path, index=False)
    assert ready(tmp_path / "out", files).fingerprint == want.fingerprint


def cell(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, values)


def fraction(table: pa.Table, column: str, value: float, kind: pa.DataType) -> pa.Table:
    found = [2.0] * len(table)
    found[3] = value
    return cell(table, column, pa.array(found, kind))


@pytest.mark.parametrize(
    ("table", "column", "value", "kind", "message"),
    [
        ("item_feat", "101", 1.5, pa.float64(), "column '101' row 4 is 1.5; expected a whole"),
        ("item_feat", "101", np.inf, pa.float64(), "column '101' row 4 is inf; expected a whole"),
        ("item_feat", "101", -2.0, pa.float64(), "column '101' row 4 is -2; expected a number"),
        ("user_feat", "103", 0.25, pa.float16(), "column '103' row 4 is 0.25; expected a whole"),
        ("seq", "user_id", np.nan, pa.float64(), "column 'user_id' row 4 is null; expected"),
        ("candidate", "item_id", 3e10, pa.float32(), "column 'item_id' row 4 is 30000001024.0"),
        ("candidate", "retrieval_id", 2.5, pa.float64(), "'retrieval_id' row 4 is 2.5"),
    ],
)
def test_floats_that_are_no_numbers_of_rows(
    tmp_path: Path,
    files: Path,
    table: str,
    column: str,
    value: float,
    kind: pa.DataType,
    message: str,
):
    path = rewrite(files / table, lambda found: fraction(found, column, value, kind))
    refused(tmp_path, files, rf"{path.name}: .*{message}")


def test_bytes_that_are_no_text(tmp_path: Path, files: Path):
    path = rewrite(
        files / TABLES[-1],
        lambda table: cell(table, "anonymous_cid", pa.array([b"\xff"] * len(table))),
    )
    refused(tmp_path, files, rf"{path.name}: column 'anonymous_cid' holds binary that cannot be")


def test_a_value_of_a_dictionary_that_is_no_number(tmp_path: Path, files: Path):
    def worded(table: pa.Table) -> pa.Table:
        rows = table.column("100").to_pylist()
        rows[1] = {"cold_start": 0, "feature_value": "shoes"}
        kind = pa.struct([("cold_start", pa.int64()), ("feature_value", dictionaries(pa.string()))])
        return cell(table, "100", pa.array(rows, kind))

    path = rewrite(files / "candidate", worded)
    refused(tmp_path, files, rf"{path.name}: column '100.feature_value' row 2 is 'shoes'")


PLACE = Path("part-00000.parquet")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.integers(0, 2**31 - 1)), max_size=30),
    st.sampled_from(["int64", "uint64", "float64", "dictionary", "runs", "chunks"]),
)
def test_whole_numbers_equal_the_values(rows: list[int | None], kind: str):
    column: Any = pa.array(rows, pa.int64())
    if kind in ("int64", "uint64", "float64"):
        column = column.cast(kind)
    elif kind == "dictionary":
        column = column.dictionary_encode()
    elif kind == "runs":
        column = pc.run_end_encode(column)
    else:
        column = pa.chunked_array([column[:3].dictionary_encode(), column[3:].dictionary_encode()])
    found = whole_numbers(column, PLACE, "100", 0, null=0)
    assert found.dtype == np.int64 and found.tolist() == [row or 0 for row in rows]
    if None in rows:
        with pytest.raises(DataError, match=f"row {1 + rows.index(None)} is null"):
            whole_numbers(column, PLACE, "100", 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.lists(st.integers(0, 9), max_size=4)), max_size=12),
    st.sampled_from([pa.list_, pa.large_list, pa.list_view, pa.large_list_view]),
    st.booleans(),
)
def test_lists_equal_the_values(
    rows: list[list[int] | None], listed: Callable[[pa.DataType], pa.DataType], coded: bool
):
    column = pa.array(rows, listed(pa.int64()))
    if coded:
        column = pa.array(rows, listed(dictionaries(pa.int64())))
    flat, counts, places = lists(pa.chunked_array([column]), PLACE, "106")
    assert counts.tolist() == [len(row or []) for row in rows]
    assert flat.to_pylist() == [value for row in rows for value in row or []]
    assert places.tolist() == [at for at, row in enumerate(rows) for _ in row or []]


def test_plain_text_has_one_type():
    text = pa.array(["30000000001", None])
    ways = [text.cast(kind) for kind in (pa.large_string(), pa.binary(), pa.large_binary())]
    for way in [text, *ways, text.dictionary_encode(), ways[0].dictionary_encode()]:
        found = plain(pa.chunked_array([way]), PLACE, "anonymous_cid")
        assert found.type == pa.large_string() and found.to_pylist() == text.to_pylist()
