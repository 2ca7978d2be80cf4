"""What is known of the users who get recommendations: their features, and the action asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.data import Dataset
from genrec.data.columns import action_codes, as_table, find_ids, id_column, require_columns
from genrec.data.sources.readers import read_table
from genrec.errors import ConfigError, DataError
from genrec.models import Recommender
from genrec.pipeline.features import sparse_matrix
from genrec.pipeline.notes import note, plural


@dataclass(frozen=True)
class Asked:
    """What a batch tells a model of its users.

    Attributes:
        users: int64 `[n]`, row of each user's features in the model's table, -1 where nothing is
            known; None for models that read none.
        actions: int64 `[n]`, code of the action asked for, 0 where it is not known; None where
            nobody says it.
    """

    users: np.ndarray | None
    actions: np.ndarray | None

    def batch(self, part: slice) -> dict[str, np.ndarray]:
        """Arguments of `genrec.data.batch` for some of the users."""
        given = {"users": self.users, "query_action": self.actions}
        return {name: values[part] for name, values in given.items() if values is not None}


def folder_of_histories(
    histories: str | None, user_table: str | None
) -> tuple[str | None, str | None]:
    """The tables of a dataset folder given in place of a table of histories.

    Returns:
        The table of histories and that of its users; what was given, where it is no folder.

    Raises:
        DataError: if the folder has no interactions.
    """
    if histories is None or not Path(histories).is_dir():
        return histories, user_table
    events, users = Path(histories) / "interactions.parquet", Path(histories) / "users.parquet"
    if not events.is_file():
        raise DataError(
            f"{histories}: has no {events.name}; expected a table of histories or a dataset folder"
        )
    if user_table is None and users.is_file():
        user_table = str(users)
    return str(events), user_table


def asked_users(
    model: Recommender,
    data: Dataset,
    shown: list[str],
    *,
    table: str | None = None,
    action: str | int | None = None,
    action_column: str | None = None,
    name: str = "the model",
) -> Asked:
    """What a model is told of some users.

    Args:
        model: whose table of users gets those of `table` as further rows.
        data: the dataset that it was trained on.
        shown: ids of the users.
        table: file with `user_id` and the features that the model reads of users; without it users
            of the dataset have theirs, and of others nothing is known.
        action: asked for, of all users, as the dataset names it.
        action_column: column of the users with the action asked for.
        name: of the run, for messages.

    Raises:
        ConfigError: if the model does not read the action asked for, does not know it, or it is
            given twice.
        DataError: naming file, column and row, if the table is none.
    """
    reads_action = "query_action" in model.item_encoder.reads
    if action is not None and action_column is not None:
        raise ConfigError("recommend: give --request_action or --request_action_column, not both")
    if not reads_action and (action is not None or action_column is not None):
        raise ConfigError(
            f"recommend: {name} does not read which action is asked for: its item encoder has no "
            "part `next-action`; leave --request_action and --request_action_column out"
        )
    columns = model.tables.user_columns
    given, place = None, f"{data.name}: users"
    if table is not None:
        given, place = as_table(read_table(Path(table), text_columns=["user_id"]), table), table
        require_columns(given, ["user_id", *columns], place)
        # A user that comes twice would have two answers.
        ids = id_column(given, "user_id", place)
        first = find_ids(ids, ids)
        if (first != np.arange(len(ids))).any():
            row = int(np.argmax(first != np.arange(len(ids))))
            raise DataError(
                f"{place}: user {ids[row].as_py()!r} comes twice (row {row + 1}); keep one row"
            )
    users = _features(model, data, shown, given, place) if columns else None
    if users is not None and (users < 0).any():
        note(
            f"{name} reads {', '.join(columns)} of users, of which nothing is known for "
            f"{plural(int((users < 0).sum()), 'user')}; --user_table says it",
            "yellow",
        )
    actions = None
    if action is not None:
        actions = np.full(len(shown), _code(action, data), dtype=np.int64)
    elif action_column is not None:
        actions = _column(action_column, data, shown, data.users if given is None else given, place)
    elif reads_action:
        note(
            f"{name} can be told which action is asked for, and is not: --request_action or "
            "--request_action_column says it",
            "yellow",
        )
    return Asked(users, actions)


def user_matrix(
    table: pa.Table, columns: Mapping[str, tuple[int, int]], place: str
) -> tuple[np.ndarray, int]:
    """Features of users as a model holds them.

    Args:
        table: of users.
        columns: rows of an embedding and values per user of each, as the model has them.
        place: name of the table, for messages.

    Returns:
        int32 `[U, W]`, and how many values training did not have; they are 0, unknown.
    """
    parts, lost = [], 0
    for name, (rows, width) in columns.items():
        _, found = sparse_matrix(table, [name], f"{place}: users")
        part = np.zeros((len(table), width), dtype=np.int32)
        kept = min(width, found.shape[1])
        part[:, :kept] = found[:, :kept]
        lost += int((part >= rows).sum())
        parts.append(np.where(part < rows, part, 0))
    return np.concatenate(parts, axis=1), lost


def _features(
    model: Recommender, data: Dataset, shown: list[str], given: pa.Table | None, place: str
) -> np.ndarray:
    if given is None:
        return data.histories.index(shown)
    matrix, lost = user_matrix(given, model.tables.user_columns, place)
    if lost:
        note(f"{place}: {plural(lost, 'value')} that training did not have: unknown", "yellow")
    rows = find_ids(id_column(given, "user_id", place), pa.array(shown))
    return np.where(rows < 0, -1, rows + model.tables.add_users(matrix))


def _code(action: Any, data: Dataset) -> int:
    names = [str(name) for name in data.histories.action_names]
    if str(action) not in names:
        raise ConfigError(
            f"recommend: request_action={action!r}; {data.name} has the actions {', '.join(names)}"
        )
    return 1 + names.index(str(action))


def _column(
    column: str, data: Dataset, shown: list[str], table: pa.Table | None, place: str
) -> np.ndarray:
    if table is None or column not in table.column_names:
        there = [] if table is None else table.column_names
        raise ConfigError(
            f"recommend: request_action_column={column!r}; {place} have the columns {there}"
        )
    codes, actions = action_codes(table.column(column), place, column)
    names = [str(name) for name in data.histories.action_names]
    known = np.array([0, *(1 + names.index(str(a)) if str(a) in names else 0 for a in actions)])
    rows = find_ids(id_column(table, "user_id", place), pa.array(shown))
    found = np.where(rows < 0, 0, known[codes[np.maximum(rows, 0)]])
    if not found.any():
        raise DataError(
            f"{place}: column {column!r} names none of the actions {', '.join(names)} for any of "
            f"the users asked about; it has {', '.join(map(str, actions[:5])) or 'nothing'}"
        )
    if (found == 0).any():
        note(f"no known action is asked for of {plural(int((found == 0).sum()), 'user')}", "yellow")
    return found.astype(np.int64)
