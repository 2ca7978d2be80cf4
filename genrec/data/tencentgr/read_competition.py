"""Reading the contest's layout: `seq.jsonl`, `item_feat_dict.json`, `predict_seq.jsonl` ..."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from genrec.artefacts import read_json
from genrec.data.plain_pickle import read_plain_pickle
from genrec.data.tencentgr.feature_names import (
    ITEM_NAMES,
    SINGLE,
    USER_NAMES,
    check_number,
    in_order,
    is_feature,
)
from genrec.data.tencentgr.lines import LARGEST_ID, line_in_file, parsed_lines, pieces, raw_id
from genrec.data.tencentgr.parquet import LARGEST
from genrec.data.tencentgr.sequences import ACTIONS, LATEST, in_time_order
from genrec.data.tencentgr.stage import Unit
from genrec.errors import DataError

_BLOCK = 8 << 20
_RECORD = "[user_id, item_id, user_feat, item_feat, action_type, timestamp]"


def units(root: Path, evaluation: Path, histories: str) -> dict[str, list[Unit]]:
    """The work of each table.

    Args:
        root: folder of the training files.
        evaluation: folder of `predict_seq.jsonl` and `predict_set.jsonl`.
        histories: `train` or `predict`, which sequences become histories.
    """
    paths = {"seq": root / "seq.jsonl", "predict": evaluation / "predict_seq.jsonl"}
    found: dict[str, list[Unit]] = {"seq": [], "predict": [], "item_feat": [], "candidate": []}
    for table, path in paths.items():
        # Items that training did not have appear in the histories of the asked users only, and
        # belong to the catalog in either case.
        if not path.is_file() or (table == "seq" and histories == "predict"):
            continue
        for piece, (low, high) in enumerate(pieces(path)):
            name = f"{table}-{piece:05d}"
            found[table].append(Unit(name, read_seq, (path, low, high), high - low))
    path = root / "item_feat_dict.json"
    size = path.stat().st_size if path.is_file() else 0
    found["item_feat"].append(Unit("item_feat", read_items, (path,), size))
    path = evaluation / "predict_set.jsonl"
    if path.is_file():
        found["candidate"].append(Unit("candidate", read_pool, (path,), path.stat().st_size))
    return found


def check_offsets(folder: Path, stem: str, lines: int) -> None:
    """Compare the number of lines with that of the offsets, if there are any.

    Raises:
        DataError: if the file has another number of lines.
    """
    path = folder / f"{stem}_offsets.pkl"
    if not path.is_file():
        return
    offsets = read_plain_pickle(path)
    if not isinstance(offsets, list) or len(offsets) != lines:
        count = len(offsets) if isinstance(offsets, list) else "no"
        raise DataError(
            f"{folder / stem}.jsonl: has {lines} lines, but {path.name} lists {count} offsets; the "
            "file is truncated, fetch it again"
        )


def read_seq(path: Path, low: int, high: int) -> dict[str, np.ndarray]:
    """Histories of the users of some lines.

    `users` int64 [n] (0 where the user has a raw id), `names` [n] (that raw id), `lengths` [n],
    `profiled` bool [n] (whether the line tells of the user);
    `items`, `times`, `actions` [T]; users' features as `read_huggingface.read_users` returns them;
    `cold`, `cold_features` and `cold_names`: items with a raw id, and what the lines say of them.
    """
    users, names, lengths = [], [], []
    items: list[int] = []
    times: list[int] = []
    actions: list[int] = []
    profiles: list[dict[str, list[int]]] = []
    profiled: list[bool] = []
    cold: dict[int, dict[str, Any]] = {}
    for number, records in parsed_lines(path, low, high):
        try:
            user, profile, events = _line(records)
            profiled.append(profile is not None)
            profiles.append(_profile(profile or {}))
            for item, features, _, _ in events:
                if item > LARGEST:
                    cold[item] = features or {}
            items.extend(event[0] for event in events)
            actions.extend(0 if event[2] is None else 1 + event[2] for event in events)
            times.extend(event[3] for event in events)
        except (TypeError, ValueError, AttributeError) as error:
            line = line_in_file(path, low, number)
            raise DataError(f"{path}: line {line}: {error}; fetch the file again") from error
        users.append(user if isinstance(user, int) else 0)
        names.append("" if isinstance(user, int) else user)
        lengths.append(len(events))
    counts = np.array(lengths, dtype=np.int64)
    ordered = in_time_order(
        counts,
        np.array(items, dtype=np.int64),
        np.array(times, dtype=np.int64),
        np.array(actions, dtype=np.int8),
    )
    cold_names, cold_features = _feature_rows(path, list(cold), list(cold.values()))
    return {
        "users": np.array(users, dtype=np.int64),
        "names": np.array(names, dtype="U"),
        "lengths": counts,
        "profiled": np.array(profiled, dtype=bool),
        **dict(zip(("items", "times", "actions"), ordered, strict=True)),
        **_profile_columns(path, profiles),
        "cold": np.array(list(cold), dtype=np.int64),
        "cold_features": cold_features,
        "cold_names": np.array(cold_names, dtype="U"),
    }


def _line(records: Any) -> tuple[int | str, dict[str, Any] | None, list[tuple[Any, ...]]]:
    """User, profile (None without one) and events (item, features, action, time) of one line."""
    if not isinstance(records, list) or not records:
        raise ValueError(f"expected a list of records {_RECORD}")
    user: int | str | None = None
    profile: dict[str, Any] | None = None
    events = []
    for place, record in enumerate(records):
        if not isinstance(record, list) or len(record) != 6:
            raise ValueError(f"record {place + 1} is {_shown(record)}; expected {_RECORD}")
        who, item, about, features, action, time = record
        if user is None:
            user = who
        named = type(who) is str and who != "" and who.isprintable()
        if not named and (type(who) is not int or not 1 <= who <= LARGEST):
            raise ValueError(
                f"record {place + 1} has the user {_shown(who)}; expected a number from 1 on, or a "
                "raw id as text"
            )
        if who != user:
            raise ValueError(f"record {place + 1} has the user {who!r}; the line is of {user!r}")
        if not isinstance(about, (dict, NoneType)) or not isinstance(features, (dict, NoneType)):
            raise ValueError(
                f"record {place + 1} has the features {_shown([about, features])}; expected an "
                "object or null for each"
            )
        if item is None:
            # The time of a profile is that of the answer: it is not read.
            profile = about or {}
            continue
        if type(item) is not int or not 0 <= item <= LARGEST_ID:
            raise ValueError(
                f"record {place + 1} has the item {_shown(item)}; expected a whole number from 0 "
                "to 2**62"
            )
        if type(time) is not int or not 0 <= time <= LATEST:
            raise ValueError(
                f"record {place + 1} has the time {_shown(time)}; expected Unix seconds"
            )
        if action is not None and (type(action) is not int or not 0 <= action < len(ACTIONS)):
            raise ValueError(
                f"record {place + 1} has the action {_shown(action)}; expected "
                f"0 to {len(ACTIONS) - 1} or null"
            )
        events.append((item, features, action, time))
    assert user is not None
    return user, profile, events


def _shown(value: Any) -> str:
    """A value of the file for a message, however long it is."""
    return reprlib.repr(value)


def _number(value: Any) -> int:
    """A value, or 0 where it is text: then training has not seen it."""
    if isinstance(value, str):
        return 0
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(f"the feature value {_shown(value)} is no number from 0 to {LARGEST}")
    return value


def _profile(given: dict[str, Any]) -> dict[str, list[int]]:
    """A user's values of each feature."""
    return {
        name: [_single(found)] if name in SINGLE else _listed(found)
        for name, found in given.items()
        if is_feature(name)
    }


def _profile_columns(path: Path, profiles: list[dict[str, list[int]]]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    names = in_order(set(USER_NAMES).union(*profiles))
    check_number(path, names)
    for name in names:
        rows = [one.get(name, []) for one in profiles]
        if name in SINGLE:
            columns[name] = np.array([row[0] if row else 0 for row in rows], dtype=np.int32)
            continue
        columns[name] = np.array([v for row in rows for v in row], dtype=np.int32)
        columns[f"{name}.counts"] = np.array([len(row) for row in rows], dtype=np.int64)
    return columns


def _single(value: Any) -> int:
    if isinstance(value, list):
        value = value[0] if value else None
    return 0 if value is None else _number(value)


def _listed(value: Any) -> list[int]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [_number(one) for one in values if one is not None]


def _feature_rows(
    path: Path, ids: list[Any], rows: list[dict[str, Any]]
) -> tuple[list[str], np.ndarray]:
    """Names of the features of items, and their values, int32 [n, F]."""
    if set(map(type, rows)) - {dict}:
        item, row = next(
            (i, row) for i, row in zip(ids, rows, strict=True) if type(row) is not dict
        )
        raise DataError(
            f"{path}: item {item}: the features are {_shown(row)}; expected an object; fetch the "
            "file again"
        )
    names = in_order(set(ITEM_NAMES).union(*rows))
    check_number(path, names)
    try:
        columns = [[_single(row.get(name)) for row in rows] for name in names]
    except (TypeError, ValueError):
        for item, row in zip(ids, rows, strict=True):
            try:
                _ = [_single(row.get(name)) for name in names]
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}: item {item}: {error}; fetch the file again") from error
        raise
    return names, np.array(columns, dtype=np.int32).T


def read_items(path: Path) -> dict[str, np.ndarray]:
    """Features of the items of training: `items` [n], `features` int32 [n, F], `names` [F].

    The file is one JSON object of gigabytes; it is read a block of entries at a time.
    """
    ids = [np.zeros(0, np.int64)]
    blocks: list[tuple[list[str], np.ndarray]] = []
    for start, block in _entries(path):
        try:
            found = json.loads(b"{" + block + b"}")
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}: is not a JSON object of item features (after byte {start:,}: {error}); "
                "fetch the file again"
            ) from error
        numbers = [_item_number(path, key) for key in found]
        ids.append(np.array(numbers, dtype=np.int64))
        blocks.append(_feature_rows(path, numbers, list(found.values())))
    items = np.concatenate(ids)
    names = in_order(set(ITEM_NAMES).union(*(have for have, _ in blocks)))
    check_number(path, names)
    features = np.zeros((len(items), len(names)), dtype=np.int32)
    at = 0
    for have, values in blocks:
        columns = [names.index(name) for name in have]
        features[at : at + len(values), columns] = values
        at += len(values)
    return {"items": items, "features": features, "names": np.array(names, dtype="U")}


def _item_number(path: Path, key: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", key) or not 1 <= int(key) <= LARGEST:
        raise DataError(
            f"{path}: has the item {_shown(key)}; expected a whole number from 1 to {LARGEST}; "
            "fetch the file again"
        )
    return int(key)


def _entries(path: Path, size: int = _BLOCK) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole entries of an object of flat objects, without the outer braces."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    with file:
        rest, start, opened = b"", 0, False
        while block := file.read(size):
            rest += block
            if not opened:
                if not rest.lstrip().startswith(b"{"):
                    raise DataError(f"{path}: is no JSON object; fetch the file again")
                rest, opened = rest.lstrip()[1:], True
            ends = [match.start() for match in re.finditer(rb'\}\s*,\s*"', rest)]
            if ends:
                cut = ends[-1] + 1
                yield start, rest[:cut]
                start += cut
                rest = rest[cut:].lstrip()[1:]
    rest = rest.strip()
    if not rest.endswith(b"}"):
        raise DataError(f"{path}: ends in the middle of an item; fetch the file again")
    if rest[:-1].strip():
        yield start, rest[:-1]


def read_pool(path: Path) -> dict[str, np.ndarray]:
    """The candidates, as `read_huggingface.read_pool` returns them."""
    raw, place, rows = [], [], []
    for number, line in parsed_lines(path, 0, path.stat().st_size):
        try:
            raw.append(raw_id(line["creative_id"]))
            place.append(line.get("retrieval_id", number - 1))
            if type(place[-1]) is not int or not 0 <= place[-1] <= LARGEST:
                raise ValueError(f"retrieval_id is {_shown(place[-1])}")
            rows.append(line.get("features") or {})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}: line {number}: expected an object with creative_id, retrieval_id and "
                f"features, got {_shown(line)} ({error})"
            ) from error
    names, features = _feature_rows(path, raw, rows)
    return {
        "raw": np.array(raw, dtype=np.int64),
        "retrieval": np.array(place, dtype=np.int64),
        "features": features,
        "names": np.array(names, dtype="U"),
    }


def target_actions(evaluation: Path) -> dict[str, int]:
    """The action asked of each user, by raw id; empty without `user_action_type.json`."""
    path = evaluation / "user_action_type.json"
    if not path.is_file():
        return {}
    found = read_json(path)
    right = isinstance(found, dict) and all(
        type(action) is int and 0 <= action < len(ACTIONS) for action in found.values()
    )
    if not right:
        raise DataError(f"{path}: expected an object of users to action types 0, 1 or 2")
    return found
