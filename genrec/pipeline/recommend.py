"""Recommendations from a trained run: item ids in, items out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from genrec.data import Histories, batch
from genrec.data.sources.readers import read_table
from genrec.errors import ConfigError, DataError
from genrec.evaluation import ModelRanker, history_matrix, item_titles
from genrec.pipeline.runs import Run

WRITERS = (".csv", ".parquet", ".jsonl")


def recommend(
    run: str,
    *,
    items: list[str] | None = None,
    users: list[str] | None = None,
    histories: str | None = None,
    k: int = 10,
    repeat: bool = False,
    beam_width: int | None = None,
    exact: bool = False,
    out: str | None = None,
    title_column: str = "title",
    batch_size: int = 512,
    dataset: str | None = None,
    vocabulary: str | None = None,
) -> pd.DataFrame:
    """Recommend the next items of histories.

    Example:
        genrec recommend runs/sid --items "[A1, B7, C3]" --k 5

    Args:
        run: run folder of a trained model.
        items: one history, item ids from the oldest to the latest.
        users: users of the dataset, by id.
        histories: a table (csv, jsonl or parquet, also .gz) with `user_id` and `item_id`, in time
            order or with a `timestamp` to sort by.
        k: items per user.
        repeat: also recommend items of the history.
        beam_width: of the search.
        exact: prove every list.
        out: file to write (.csv, .parquet or .jsonl); printed otherwise.
        title_column: column of the catalogue shown beside the ids.
        batch_size: users per batch.
        dataset: dataset folder, if it has moved since training.
        vocabulary: vocabulary folder, if it has moved.

    Returns:
        One row per user and place: `user_id`, `rank`, `item_id`, `title`, `score` (sum of
        log-probabilities), `certified`.

    Raises:
        ConfigError: unless exactly one of items, users and histories is given.
        DataError: if no history has an item the catalogue knows; unknown items in a history are
            reported and skipped.
    """
    given = [value is not None for value in (items, users, histories)]
    if sum(given) != 1:
        raise ConfigError("recommend: give exactly one of --items, --users and --histories")
    if k < 1:
        raise ConfigError(f"recommend: k={k}; expected at least 1")
    if out and Path(out).suffix not in WRITERS:
        raise ConfigError(f"{out}: expected a name that ends in {', '.join(WRITERS)}")
    opened = Run.open(run, dataset=dataset, vocabulary=vocabulary)
    data, _ = opened.data
    console = Console(stderr=True)
    if users is not None:
        rows = data.histories.index(users)
        if (rows < 0).any():
            unknown = users[int(np.flatnonzero(rows < 0)[0])]
            raise DataError(f"user {unknown!r} is not in {data.name}; give item ids by --items")
        names = [str(user) for user in users]
        flat, start, end = (
            data.histories,
            data.histories.offsets[rows],
            data.histories.offsets[rows + 1],
        )
    else:
        if items is not None:
            table = pd.DataFrame({"user_id": "you", "item_id": [str(item) for item in items]})
        else:
            table = _read_histories(str(histories))
        flat, names = _known_histories(table, data.catalog, console)
        start, end = flat.offsets[:-1], flat.offsets[1:]

    trie = opened.vocabulary.trie() if opened.vocabulary is not None else None
    ranker = ModelRanker(opened.model, trie, beam_width=beam_width, exact=exact, name=opened.name)
    frames = []
    for first in range(0, len(names), batch_size):
        part = slice(first, first + batch_size)
        inputs = batch(flat, start[part], end[part], max_length=opened.model.config.max_history)
        seen = (
            None if repeat else torch.from_numpy(history_matrix(flat.items, start[part], end[part]))
        )
        found = ranker.search(ranker.prepare(inputs), k=k, exclude=seen)
        frames.append(_frame(found, names[part], data.catalog, title_column))
    result = pd.concat(frames, ignore_index=True)
    if out:
        _write(result, Path(out))
        console.print(f"{len(result):,} recommendations for {len(names):,} users in {out}")
    else:
        _print(result)
    return result


def _read_histories(path: str) -> pd.DataFrame:
    table = read_table(Path(path), text_columns=("user_id", "item_id")).to_pandas()
    for column in ("user_id", "item_id"):
        if column not in table:
            raise DataError(
                f"{path}: has no column {column!r}; it has {', '.join(map(str, table.columns))}"
            )
    if table.empty:
        raise DataError(f"{path}: is empty; expected one row per user and item")
    if "timestamp" in table:
        table = table.sort_values("timestamp", kind="stable")
    return table


def _known_histories(
    table: pd.DataFrame, catalog: Any, console: Console
) -> tuple[Histories, list[str]]:
    """Flat histories of the known items; unknown items are reported and skipped."""
    numbers = catalog.index(table["item_id"].to_numpy())
    unknown = table["item_id"][numbers < 0]
    if len(unknown):
        shown = ", ".join(map(str, unknown.unique()[:5]))
        console.print(
            f"[yellow]skipped {len(unknown):,} events with items that the catalogue does not "
            f"know: {shown}[/yellow]"
        )
    known = table[numbers >= 0]
    if known.empty:
        raise DataError(
            "no history has an item of the catalogue; are these ids of another dataset?"
        )
    users, names = pd.factorize(known["user_id"])
    empty = table["user_id"].nunique() - len(names)
    if empty:
        console.print(f"[yellow]skipped {empty:,} users without a known item[/yellow]")
    order = np.argsort(users, kind="stable")
    offsets = np.concatenate([[0], np.bincount(users).cumsum()]).astype(np.int64)
    flat = Histories(offsets, numbers[numbers >= 0][order].astype(np.int32))
    return flat, [str(name) for name in names]


def _frame(found: Any, names: list[str], catalog: Any, title_column: str) -> pd.DataFrame:
    items = found.items.cpu().numpy()
    user, place = np.nonzero(items >= 0)
    chosen = items[user, place]
    return pd.DataFrame(
        {
            "user_id": np.asarray(names)[user],
            "rank": place + 1,
            "item_id": catalog.item_ids.take(chosen).to_pylist(),
            "title": item_titles(catalog, chosen, title_column),
            "score": found.scores.cpu().numpy()[user, place],
            "certified": found.certified.cpu().numpy()[user],
        }
    )


def _write(result: pd.DataFrame, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            result.to_csv(temporary, index=False)
        elif path.suffix == ".parquet":
            result.to_parquet(temporary, index=False)
        else:
            result.to_json(temporary, orient="records", lines=True)
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: writing failed ({error.strerror or error}); choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _print(result: pd.DataFrame) -> None:
    console = Console()
    for user, rows in result.groupby("user_id", sort=False):
        table = Table(title=f"for {user}", title_justify="left")
        for column in ("rank", "item_id", "title", "score"):
            table.add_column(column, justify="right" if column in ("rank", "score") else "left")
        for row in rows.itertuples():
            table.add_row(str(row.rank), str(row.item_id), row.title, f"{row.score:.3f}")
        console.print(table)
