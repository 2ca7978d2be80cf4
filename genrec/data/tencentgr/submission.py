"""`result.json`, the file that the contest scores: ten creative ids per user."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artefacts import read_json, replacing
from genrec.errors import DataError

LENGTH = 10
#: Table of a dataset folder, without `.parquet`: users of whom no event of a known item is there.
SILENT = "users_without_events"


def write_result(
    path: str | os.PathLike[str],
    lists: np.ndarray | Sequence[Sequence[int]],
    users: Sequence[str],
    *,
    asked: Sequence[str] | None = None,
    seconds: float = 0.0,
) -> None:
    """Write recommendations as the contest wants them: `{"time", "top10s", "user"}`.

    Args:
        path: file to write.
        lists: creative ids (raw ids), best first, ten for each user; whole numbers.
        users: raw user ids, in the same order.
        asked: all users that the contest asks about, in any order, as `users_asked` reads them: who
            has no list is an error, and who was not asked too. By default nothing is compared.
        seconds: what it took.

    Raises:
        DataError: if a list is not of ten different ids, a user comes twice, or the users are not
            those asked.
        ArtefactError: if the file cannot be written.
    """
    names = _names(users)
    rows = _ids(path, lists)
    if rows.ndim != 2 or rows.shape[1] != LENGTH or len(rows) != len(names):
        raise DataError(
            f"{path}: lists of shape {rows.shape} for {len(names)} users; expected "
            f"[{len(names)}, {LENGTH}]"
        )
    ordered = np.sort(rows, axis=1)
    wrong = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1) | (ordered[:, 0] < 0)
    if wrong.any():
        user = int(np.argmax(wrong))
        raise DataError(
            f"{path}: the list of user {names[user]!r} is {rows[user].tolist()}; expected {LENGTH} "
            "different creative ids"
        )
    if len(set(names)) != len(names):
        raise DataError(f"{path}: a user comes twice; one list each")
    if asked is not None:
        _check_asked(path, names, _names(asked))
    with replacing(path) as temporary, temporary.open("w") as file:
        json.dump({"time": float(seconds), "top10s": rows.tolist(), "user": names}, file)


def read_result(path: str | os.PathLike[str]) -> tuple[np.ndarray, list[str]]:
    """Lists int64 `[n, 10]` and raw user ids of a `result.json`.

    Raises:
        DataError: if it is not such a file.
        ArtefactError: if it is missing or no JSON.
    """
    found: Any = read_json(Path(path))
    if not isinstance(found, dict) or not {"top10s", "user"} <= set(found):
        raise DataError(f"{path}: expected an object with top10s and user")
    try:
        rows = np.array(found["top10s"], dtype=np.int64).reshape(len(found["user"]), LENGTH)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: top10s does not hold ten whole numbers for each user") from error
    return rows, [str(user) for user in found["user"]]


def users_asked(folder: str | os.PathLike[str]) -> list[str]:
    """Raw ids of all users of a dataset of the contest's questions, those without an event last.

    Args:
        folder: dataset that `genrec prepare tencentgr --histories predict` wrote.

    Raises:
        DataError: if it has no table of users.
    """
    about = Path(folder) / "users.parquet"
    if not about.is_file():
        raise DataError(f"{about}: no such file; expected a dataset of TencentGR's questions")
    known: list[str] = pq.read_table(about, columns=["user_id"]).column("user_id").to_pylist()
    return known + silent_users(folder)


def silent_users(folder: str | os.PathLike[str]) -> list[str]:
    """Raw ids of the users of a dataset folder of whom no event of a known item is there."""
    path = Path(folder) / f"{SILENT}.parquet"
    if not path.is_file():
        return []
    return [str(user) for user in pq.read_table(path).column("user_id").to_pylist()]


def _names(users: Any) -> list[str]:
    """Ids of users as text, whatever holds them."""
    if isinstance(users, pa.Array | pa.ChunkedArray):
        users = users.to_pylist()
    return [str(user) for user in users]


def _ids(path: str | os.PathLike[str], lists: Any) -> np.ndarray:
    """Whole numbers int64, of integers or of floats that are whole (what pandas makes of gaps)."""
    try:
        rows = np.asarray(lists)
        whole = rows.astype(np.int64) if rows.dtype.kind in "iuO" else None
        if rows.dtype.kind == "O" and not all(_is_whole(one) for one in rows.flat):
            whole = None
        if rows.dtype.kind == "f":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # NaN is refused below
                whole = rows.astype(np.int64)
            whole = whole if (whole == rows).all() else None
        if rows.dtype.kind == "u" and rows.size and int(rows.max()) > np.iinfo(np.int64).max:
            whole = None
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: lists are no table of creative ids ({error})") from error
    if whole is None:
        raise DataError(
            f"{path}: lists hold {rows.dtype} that are no whole numbers; expected creative ids, "
            f"{LENGTH} for each user"
        )
    return whole


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_asked(path: str | os.PathLike[str], names: list[str], asked: list[str]) -> None:
    answered, wanted = set(names), set(asked)
    for missing, problem in (
        ([user for user in asked if user not in answered], "have no list"),
        ([user for user in names if user not in wanted], "were not asked about"),
    ):
        if missing:
            raise DataError(
                f"{path}: {len(missing):,} of {len(asked):,} users {problem}, such as "
                f"{missing[0]!r}; the contest scores one list for each of its users"
            )
