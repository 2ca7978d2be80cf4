from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.columns import (
    action_codes,
    id_column,
    integers_if_canonical,
    like_ids,
    parse_timestamps,
)
from genrec.errors import DataError

MOMENT = 1_519_905_600  # 2018-03-01T12:00:00Z
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
UTC = datetime.timezone.utc


def parse(values: object, unit: str = "auto") -> tuple[list[int], list[bool]]:
    column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    micros, missing = parse_timestamps(column, "log.csv", "when", unit)
    assert micros.dtype == np.int64 and missing.dtype == bool
    return micros.tolist(), missing.tolist()


@pytest.mark.parametrize(
    "values",
    [
        [MOMENT],
        [MOMENT * 1_000],
        [MOMENT * 1_000_000],
        [MOMENT * 1_000_000_000],
        [float(MOMENT)],
        [str(MOMENT)],
        [f" {MOMENT}.0 "],
        [str(MOMENT * 1_000)],
        ["2018-03-01T12:00:00"],
        ["2018-03-01 12:00:00Z"],
        ["2018-03-01T14:00:00+02:00"],
        [datetime.datetime(2018, 3, 1, 12)],
        [datetime.datetime(2018, 3, 1, 12, tzinfo=UTC)],
    ],
)
def test_every_usual_form_gives_the_same_moment(values: list) -> None:
    assert parse(values) == ([MOMENT * 1_000_000], [False])


def test_pandas_timestamps_and_dates() -> None:
    stamps = pd.Series(pd.to_datetime(["2018-03-01T12:00:00"]))
    assert parse(pa.Array.from_pandas(stamps))[0] == [MOMENT * 1_000_000]
    assert parse([datetime.date(2018, 3, 1)])[0] == [(MOMENT - 43_200) * 1_000_000]


def test_parts_of_a_second_are_kept_for_the_order() -> None:
    assert parse([MOMENT * 1_000 + 7])[0] == [MOMENT * 1_000_000 + 7_000]
    assert parse(["2018-03-01T12:00:00.25"])[0] == [MOMENT * 1_000_000 + 250_000]


@pytest.mark.parametrize(
    "values",
    [
        [MOMENT, None],
        [float(MOMENT), float("nan")],
        [str(MOMENT), ""],
        ["2018-03-01T12:00:00", " "],
    ],
)
def test_null_nan_and_empty_are_missing(values: list) -> None:
    assert parse(values) == ([MOMENT * 1_000_000, 0], [False, True])


def test_a_column_of_nothing() -> None:
    assert parse(pa.nulls(2)) == ([0, 0], [True, True])
    assert parse(pa.array([None, None], pa.int64())) == ([0, 0], [True, True])


def test_the_unit_can_be_said() -> None:
    assert parse([5_000], "ms")[0] == [5_000_000]
    assert parse([5_000], "us")[0] == [5_000]
    assert parse([5_000], "ns")[0] == [5]
    with pytest.raises(DataError, match="'h' is unknown"):
        parse([5], "h")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["2018-03-01", "yesterday"], r"log.csv: column 'when' row 2 is 'yesterday' \(1 such rows"),
        (["1519905600", "1519905601", "2018-03-01"], "row 3 is '2018-03-01' .1 such rows"),
        ([MOMENT * 1_000, MOMENT], "mixes seconds and milliseconds .row 2 is 1519905600"),
        ([1.0, float("inf")], "row 2 is infinite"),
        ([True], "holds bool; expected Unix seconds"),
        (["1519905600", "9" * 23], f"'when' row 2 is {'9' * 23}, which is too large for a time"),
        ([1.0, 1e25], r"row 2 is 1e\+25, which in ns lies outside the years 1 to 9999 .1 such"),
        (["1.5", "9" * 23 + ".0"], "row 2 is 1e.23, which in ns lies outside"),
        ([-62_135_596_801_000, MOMENT * 1_000], "row 1 is -62135596801000, which in ms lies"),
        (pa.array([1, 2**63], pa.uint64()), "row 2 is 9223372036854775808, which is too large"),
        (pa.array([0, 10**12], pa.timestamp("s")), "row 2 is 1000000000000, which in s lies"),
        (pa.array([0, 2**31 - 1], pa.date32()), "row 2 is 185542587100800, which in s lies"),
    ],
)
def test_what_does_not_parse_is_named(values: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(values)


def test_a_unit_in_which_a_time_lies_beyond_all_dates() -> None:
    with pytest.raises(DataError, match=r"row 2 is 1000000000000000000, which in s lies outside"):
        parse([MOMENT, 10**18], "s")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    st.sampled_from(sorted(UNITS)),
)
def test_a_time_is_what_python_computes_or_an_error(values: list[int], unit: str) -> None:
    per_second = UNITS[unit]
    low, high = -62_135_596_800 * per_second, 253_402_300_800 * per_second
    if all(low <= value < high for value in values):
        assert parse(pa.array(values), unit)[0] == [v * 10**6 // per_second for v in values]
    else:
        with pytest.raises(DataError, match="outside the years 1 to 9999"):
            parse(pa.array(values), unit)


def test_actions_are_codes_from_one() -> None:
    codes, names = action_codes(pa.chunked_array([["view", None, "buy"], ["view"]]), "t")
    assert codes.tolist() == [2, 0, 1, 2] and codes.dtype == np.int16 and names == ["buy", "view"]
    codes, names = action_codes(pa.chunked_array([[1.0, None, 0.0]]), "t")
    assert codes.tolist() == [2, 0, 1] and names == [0, 1]
    codes, names = action_codes(pa.chunked_array([[True, False]]), "t")
    assert codes.tolist() == [2, 1] and names == [0, 1]
    codes, names = action_codes(pa.chunked_array([pa.nulls(2)]), "t")
    assert codes.tolist() == [0, 0] and names == []


def test_bad_actions() -> None:
    with pytest.raises(DataError, match="holds list"):
        action_codes(pa.chunked_array([[[1]]]), "t")
    with pytest.raises(DataError, match="40000 different values"):
        action_codes(pa.chunked_array([np.arange(40_000)]), "t")


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([[0.0, 0.5], [1.5]], "column 'action' row 2 is 0.5"),
        ([[1.0], [None, float("inf")]], "column 'action' row 3 is inf"),
        ([[1.0, 1e30]], r"column 'action' row 2 is 1e\+30"),
    ],
)
def test_actions_that_are_no_integers_are_not_rounded(actions, expected) -> None:
    with pytest.raises(DataError, match=f"log.csv: {expected}; .*use integers or strings"):
        action_codes(pa.chunked_array(actions), "log.csv")


def test_an_action_that_is_not_a_number_is_missing() -> None:
    codes, names = action_codes(pa.chunked_array([pa.array([2.0, float("nan"), None])]), "t")
    assert codes.tolist() == [1, 0, 0] and names == [2]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([5, 2**63], pa.uint64()),
        pa.array([5, 2**64 - 1], pa.uint64()),
        pa.array([5.0, 2.0**63]),
        pa.array([5.0, 2.0**53]),
        pa.array([5.0, 2.0**24], pa.float32()),
        pa.array([5.0, float("inf")]),
        pa.array([5.0, float("-inf")]),
        pa.array([5.0, float("nan")]),
        pa.array([5.0, 1.5]),
    ],
    ids=str,
)
def test_numeric_ids_that_int64_does_not_hold(values) -> None:
    # In a second chunk, so that the row is that of the column.
    table = pa.table({"sku": pa.chunked_array([values[:1], values[1:]])})
    said = f"column 'sku' row 2 is {values[1].as_py()!r}"
    with pytest.raises(DataError, match="store them as text") as error:
        id_column(table, "sku", "items")
    assert f"items: {said}" in str(error.value)


def test_numeric_ids_that_int64_holds() -> None:
    largest = {pa.uint64(): 2**63 - 1, pa.int64(): -(2**63), pa.float64(): -(2**53) + 1}
    for kind, value in {**largest, pa.float32(): 2**24 - 1, pa.uint8(): 255}.items():
        ids = id_column(pa.table({"sku": pa.array([value, 0], kind)}), "sku", "items")
        assert ids.type == pa.int64() and ids.to_pylist() == [value, 0]


def test_ids_meet_as_integers_or_as_text() -> None:
    text = pa.array(["1", "20", "-3"], pa.large_string())
    assert integers_if_canonical(text).to_pylist() == [1, 20, -3]
    kept = pa.array(["1", "007"], pa.large_string())
    assert integers_if_canonical(kept) is kept
    huge = pa.array(["99999999999999999999"], pa.large_string())
    assert integers_if_canonical(huge) is huge
    both = like_ids(pa.array([1, 7]), kept)
    assert [b.to_pylist() for b in both] == [["1", "7"], ["1", "007"]]
    both = like_ids(pa.array([1, 7]), text)
    assert [b.to_pylist() for b in both] == [[1, 7], [1, 20, -3]]
