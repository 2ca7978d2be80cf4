"""Columns of a user's tables made uniform and checked: ids, timestamps, actions.

Everything here works on whole Arrow columns; no Python object is made per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from genrec.errors import DataError

MICROSECONDS = 1_000_000
# Magnitudes that tell the unit of a Unix time: seconds stay below this until the year 5138.
_UNITS = (("s", 1e11, MICROSECONDS), ("ms", 1e14, 1_000), ("us", 1e17, 1))
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# Seconds at which the year 1 and the year 10000 begin, as far as dates reach.
_YEAR_1, _YEAR_10000 = -62_135_596_800, 253_402_300_800
_INT64 = 2**63
# From here on a float stands for several integers.
_EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}


def as_table(value: Any, name: str) -> pa.Table:
    """Return `value` (Arrow table or pandas frame) as an Arrow table without dictionary columns.

    Raises:
        DataError: if it is neither, if a column mixes types, or if two columns share a name.
    """
    if isinstance(value, pa.Table):
        table = value
    elif isinstance(value, pd.DataFrame):
        try:
            table = pa.Table.from_pandas(value, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
            raise DataError(
                f"{name}: a column mixes types that no table can hold ({error}); "
                "make each column one type, for example with .astype(str)"
            ) from error
    else:
        raise DataError(
            f"{name}: expected a pyarrow.Table or a pandas.DataFrame, got {type(value).__name__}"
        )
    names = table.column_names
    doubled = sorted({n for n in names if names.count(n) > 1})
    if doubled:
        raise DataError(f"{name}: column {doubled[0]!r} appears twice; rename or remove one")
    for i, field in enumerate(table.schema):
        plain = _plain_type(field.type)
        if plain != field.type:
            table = table.set_column(i, field.name, table.column(i).cast(plain))
    return table.replace_schema_metadata(None)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return kind


def require_columns(
    table: pa.Table, columns: list[str], name: str, options: Mapping[str, str] | None = None
) -> None:
    """Check that `table` has `columns` and at least one row.

    Args:
        table: what is checked.
        columns: that it must have.
        name: what the message calls the table.
        options: column to the option that says which one it is.

    Raises:
        DataError: naming the missing column and those that are there.
    """
    for column in columns:
        if column not in table.column_names:
            option = f" with --{options[column]}" if options and column in options else ""
            raise DataError(
                f"{name}: column {column!r} is missing; it has {table.column_names}; "
                f"rename a column or say which one it is{option}"
            )
    if table.num_rows == 0:
        raise DataError(f"{name}: the table is empty; expected at least one row")


def id_column(table: pa.Table, column: str, name: str) -> pa.Array:
    """The ids of `column` as one int64 or large_string array [n].

    Raises:
        DataError: at null or empty ids, at types that cannot be ids and at numbers that int64 does
            not hold exactly, naming the first row.
    """
    values = table.column(column)
    if pa.types.is_floating(values.type):
        # pandas turns integers with gaps into floats; whole numbers are integers again.
        exact, values = _EXACT[values.type], values.cast(pa.float64())
        _require_id(pc.equal(values, pc.floor(values)), values, column, name)
        _require_id(pc.less(pc.abs(values), exact), values, column, name)
        values = values.cast(pa.int64())
    if pa.types.is_integer(values.type):
        if pa.types.is_uint64(values.type):
            _require_id(pc.less(values, pa.scalar(_INT64, pa.uint64())), values, column, name)
        values = values.cast(pa.int64())
        bad = values.is_null()
    elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = values.cast(pa.large_string())
        bad = pc.fill_null(pc.equal(pc.binary_length(values), 0), True)
    elif pa.types.is_null(values.type):
        bad = values.is_null()
    else:
        raise DataError(
            f"{name}: column {column!r} holds {values.type}; ids must be strings or integers"
        )
    if pc.any(bad).as_py():
        count, row = pc.sum(bad).as_py(), _first(bad)
        raise DataError(
            f"{name}: column {column!r} has no id in {count} rows (the first is row {row + 1}); "
            "remove or fill these rows"
        )
    return one_array(values)


def _require_id(usable: pa.ChunkedArray, values: pa.ChunkedArray, column: str, name: str) -> None:
    """Refuse the first of the numeric ids that is not usable; null ids are judged elsewhere."""
    usable = pc.fill_null(usable, True)
    if not pc.all(usable).as_py():
        row = _first(pc.invert(usable))
        raise DataError(
            f"{name}: column {column!r} row {row + 1} is {values[row].as_py()!r}; ids must be "
            "strings or integers, and integers must fit in 64 bits, with a sign, without rounding; "
            "store them as text"
        )


def integers_if_canonical(ids: pa.Array) -> pa.Array:
    """String ids as int64 where every one is an integer without leading zeros, else unchanged."""
    if pa.types.is_integer(ids.type):
        return ids
    if not pc.all(pc.match_substring_regex(ids, r"^(0|-?[1-9][0-9]{0,17})$")).as_py():
        return ids
    return ids.cast(pa.int64())


def like_ids(ids: pa.Array, others: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Bring two id arrays to one type: integers if both can be, strings otherwise."""
    if ids.type == others.type:
        return ids, others
    ids, others = integers_if_canonical(ids), integers_if_canonical(others)
    if ids.type == others.type:
        return ids, others
    return ids.cast(pa.large_string()), others.cast(pa.large_string())


def to_ids(values: Any) -> pa.Array:
    """Ids given as a list, numpy, pandas or Arrow array -> one Arrow array; null where unusable."""
    if isinstance(values, pa.ChunkedArray):
        array = one_array(values)
    elif isinstance(values, pa.Array):
        array = values
    else:
        try:
            array = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            array = pa.array([None if v is None else str(v) for v in values], pa.large_string())
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_integer(array.type):
        return array.cast(pa.int64())
    return array.cast(pa.large_string())


def find_ids(ids: pa.Array, values: Any) -> np.ndarray:
    """Row of each of `values` in `ids` as int64 [n], -1 where it is not there.

    A hash over `ids` is built per call (about 0.1 s per million ids), so ask in batches.
    """
    asked = to_ids(values)
    if pa.types.is_integer(ids.type) and not pa.types.is_integer(asked.type):
        known = pc.match_substring_regex(asked, r"^(0|-?[1-9][0-9]{0,17})$")
        asked = pc.if_else(known, asked, pa.scalar(None, pa.large_string())).cast(pa.int64())
    else:
        asked = asked.cast(ids.type)
    found = pc.index_in(asked, value_set=ids, skip_nulls=True)
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def parse_timestamps(
    column: pa.ChunkedArray, name: str, label: str, unit: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Timestamps of any usual form -> (microseconds since 1970 int64 [n], missing bool [n]).

    Reads Unix seconds, milliseconds, microseconds or nanoseconds (`unit="auto"` tells them apart by
    magnitude), Arrow and pandas timestamps and dates, ISO 8601 strings (UTC unless they name a
    zone) and numbers in strings. Null, NaN and the empty string are missing.

    Raises:
        DataError: naming file, column and row of the first value that does not parse, lies outside
            the years 1 to 9999, or where seconds and milliseconds are mixed.
    """
    kind = column.type
    where = f"{name}: column {label!r}"
    if pa.types.is_null(kind):
        n = len(column)
        return np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
    if pa.types.is_timestamp(kind):
        return _scale(_numpy(column.cast(pa.int64())), _missing(column), where, kind.unit)
    if pa.types.is_date32(kind):
        seconds = _numpy(column.cast(pa.int32())).astype(np.int64) * 86_400
        return _scale(seconds, _missing(column), where, "s")
    if pa.types.is_date64(kind):
        return _scale(_numpy(column.cast(pa.int64())), _missing(column), where, "ms")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
        empty = pc.fill_null(pc.equal(pc.binary_length(text), 0), True)
        text = pc.if_else(empty, pa.scalar(None, pa.large_string()), text)
        numeric = pc.fill_null(pc.match_substring_regex(text, r"^-?[0-9]+(\.[0-9]*)?$"), True)
        odd = ~np.asarray(numeric)
        if odd.any():
            if odd.sum() <= (~np.asarray(empty) & ~odd).sum():
                raise _unreadable(text, odd, where)
            return _parse_iso(text, where)
        whole = not pc.any(pc.match_substring(text, ".")).as_py()
        column = _integers(text, where) if whole else text.cast(pa.float64())
        kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(
            f"{where} holds {kind}; expected Unix seconds or milliseconds, or ISO 8601 strings"
        )
    if pa.types.is_floating(kind):
        return _scale(_floats(column), _missing(column), where, unit)
    return _scale(_numpy(_integers(column, where)), _missing(column), where, unit)


def _integers(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Integers, or text that holds some, as int64."""
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        sizes = np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), 0))
        row = int(np.argmax(np.abs(sizes) >= _INT64))
        raise DataError(
            f"{where} row {row + 1} is {column[row].as_py()}, which is too large for a time; "
            "mend the row"
        ) from error


def _parse_iso(text: pa.ChunkedArray, where: str) -> tuple[np.ndarray, np.ndarray]:
    missing = _missing(text)
    parsed = pd.to_datetime(text.to_pandas(), utc=True, format="ISO8601", errors="coerce")
    failed = np.asarray(parsed.isna()) & ~missing
    if failed.any():
        raise _unreadable(text, failed, where)
    micros = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    return np.where(missing, 0, micros), missing


def _unreadable(text: pa.ChunkedArray, failed: np.ndarray, where: str) -> DataError:
    row = int(np.argmax(failed))
    return DataError(
        f"{where} row {row + 1} is {text[row].as_py()!r} ({int(failed.sum())} such rows); "
        "expected Unix seconds or milliseconds in every row, or ISO 8601 in every row such as "
        "2018-03-01T12:00:00"
    )


def _scale(
    values: np.ndarray, missing: np.ndarray, where: str, unit: str
) -> tuple[np.ndarray, np.ndarray]:
    known = ~missing
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
        known = ~missing
        if np.isinf(values[known]).any():
            row = int(np.argmax(np.isinf(values)))
            raise DataError(f"{where} row {row + 1} is infinite; expected a Unix time")
    if not known.any():
        return np.zeros(len(values), dtype=np.int64), missing
    factors = {u: f for u, _, f in _UNITS}
    if unit == "auto":
        size = np.abs(values.astype(np.float64))
        largest = size[known].max()
        unit = next((u for u, limit, _ in _UNITS if largest < limit), "ns")
        # A column in milliseconds whose other rows would be seconds of this century is a mixture.
        mixed = known & (size >= 5e8) & (size < 1e11) if unit == "ms" else np.zeros(1, dtype=bool)
        if mixed.any():
            row = int(np.argmax(mixed))
            raise DataError(
                f"{where} mixes seconds and milliseconds (row {row + 1} is {values[row]}, the "
                f"largest is {largest:.0f}); make it one unit, or say which with timestamp_unit"
            )
    elif unit not in factors and unit != "ns":
        raise DataError(f"timestamp_unit {unit!r} is unknown; choose auto, s, ms, us or ns")
    values = np.where(missing, 0, values)
    low = max(_YEAR_1 * _PER_SECOND[unit], -_INT64)
    high = min(_YEAR_10000 * _PER_SECOND[unit], _INT64) - 1
    outside = (values < low) | (values > high)
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(
            f"{where} row {row + 1} is {values[row]}, which in {unit} lies outside the years 1 to "
            f"9999 ({int(outside.sum())} such rows); mend them, or say another unit with "
            "timestamp_unit"
        )
    if values.dtype.kind == "f":
        values = np.floor(values * (factors.get(unit, 1) if unit != "ns" else 1e-3))
        return values.astype(np.int64), missing
    micros = values // 1_000 if unit == "ns" else values * factors[unit]
    return micros, missing


def action_codes(
    column: pa.ChunkedArray, name: str, label: str = "action"
) -> tuple[np.ndarray, list[Any]]:
    """Actions (integers or strings) -> (int16 codes [n], the actions sorted).

    Whole floats are integers again; NaN is missing like null.

    Code 0 is an unknown (null) action, code a >= 1 is the (a-1)-th of the returned list, so the
    codes index an embedding whose row 0 is padding.

    Raises:
        DataError: at other types, at fractions and at more than 32,766 different actions.
    """
    kind = column.type
    usable = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if pa.types.is_floating(kind):
        column = _whole_actions(column, name, label)
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.int64())
    elif not usable and not pa.types.is_null(kind):
        raise DataError(f"{name}: column {label!r} holds {kind}; expected integers or strings")
    values = pc.unique(column).drop_null()
    values = values.take(pc.sort_indices(values))
    if len(values) > np.iinfo(np.int16).max - 1:
        raise DataError(
            f"{name}: column {label!r} has {len(values)} different values; "
            "an action is a kind of event (view, click, buy), at most 32,766 of them"
        )
    if len(values) == 0:
        return np.zeros(len(column), dtype=np.int16), []
    codes = pc.fill_null(pc.index_in(column, value_set=values, skip_nulls=True), -1)
    return (_numpy(codes) + 1).astype(np.int16), values.to_pylist()


def _whole_actions(column: pa.ChunkedArray, name: str, label: str) -> pa.ChunkedArray:
    """Float actions as int64."""
    values = column.cast(pa.float64())
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    whole = pc.and_(
        pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), _EXACT[values.type])
    )
    whole = pc.fill_null(whole, True)
    if not pc.all(whole).as_py():
        row = _first(pc.invert(whole))
        raise DataError(
            f"{name}: column {label!r} row {row + 1} is {values[row].as_py()!r}; an action "
            "is a kind of event: use integers or strings"
        )
    return values.cast(pa.int64())


def one_array(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array; copies only where it has several chunks."""
    if isinstance(values, pa.Array):
        return values
    return (
        values.chunk(0)
        if values.num_chunks == 1
        else pa.concat_arrays(values.chunks or [pa.array([], values.type)])
    )


def _missing(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.is_null().to_numpy(), dtype=bool)


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(column, 0).to_numpy())


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _first(mask: pa.ChunkedArray | pa.Array) -> int:
    return int(np.argmax(np.asarray(mask)))
