"""`result.json`, the file that the contest scores: ten creative ids per user."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrec.artefacts import read_json, replacing
from genrec.errors import DataError

LENGTH = 10


def write_result(
    path: str | os.PathLike[str],
    lists: np.ndarray | Sequence[Sequence[int]],
    users: Sequence[str],
    *,
    seconds: float = 0.0,
) -> None:
    """Write recommendations as the contest wants them: `{"time", "top10s", "user"}`.

    Args:
        path: file to write.
        lists: creative ids (raw ids), best first, ten for each user.
        users: raw user ids, in the same order.
        seconds: what it took.

    Raises:
        DataError: if a list is not of ten different ids, or a user comes twice.
        ArtefactError: if the file cannot be written.
    """
    rows = np.asarray(lists, dtype=np.int64)
    if rows.ndim != 2 or rows.shape[1] != LENGTH or len(rows) != len(users):
        raise DataError(
            f"{path}: lists of shape {rows.shape} for {len(users)} users; expected "
            f"[{len(users)}, {LENGTH}]"
        )
    ordered = np.sort(rows, axis=1)
    wrong = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1) | (ordered[:, 0] < 0)
    if wrong.any():
        user = int(np.argmax(wrong))
        raise DataError(
            f"{path}: the list of user {users[user]!r} is {rows[user].tolist()}; expected {LENGTH} "
            "different creative ids"
        )
    if len(set(users)) != len(users):
        raise DataError(f"{path}: a user comes twice; one list each")
    with replacing(path) as temporary, temporary.open("w") as file:
        json.dump({"time": seconds, "top10s": rows.tolist(), "user": list(users)}, file)


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
