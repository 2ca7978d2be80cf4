"""Recommendations from a trained run: item ids in, items out."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from rich.table import Table
from rich.text import Text

from genrec.artefacts import check_place, replacing
from genrec.consoles import output_console
from genrec.data import Catalog, batch
from genrec.data.columns import as_table
from genrec.data.sources.readers import read_table
from genrec.data.sources.tables import OPTIONS, rename_columns
from genrec.data.splits import parse_moment
from genrec.errors import ConfigError, DataError
from genrec.evaluation import ModelRanker, PopularityRanker, history_matrix
from genrec.pipeline.asked import asked_users, folder_of_histories
from genrec.pipeline.given_histories import folder_histories, known_histories
from genrec.pipeline.lists import ItemList, Lists
from genrec.pipeline.notes import note, note_missing_titles, plural
from genrec.pipeline.runs import Run
from genrec.pipeline.settings import choose_device, names
from genrec.processes import processes, summed

WRITERS = (".csv", ".parquet", ".jsonl")


def recommend(
    run: str,
    *,
    items: str | list[str | int] | None = None,
    users: str | list[str | int] | None = None,
    histories: str | None = None,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str | None = None,
    k: int = 10,
    repeat: bool = False,
    allow: ItemList | None = None,
    deny: ItemList | None = None,
    allow_per_user: str | None = None,
    deny_per_user: str | None = None,
    beam_width: int | None = None,
    exact: bool = False,
    renormalize: bool = False,
    request_time: str | int | None = None,
    request_action: str | int | None = None,
    request_action_column: str | None = None,
    user_table: str | None = None,
    out: str | None = None,
    title_column: str = "title",
    batch_size: int = 512,
    dataset: str | None = None,
    vocabulary: str | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Recommend the next items of histories.

    Example:
        genrec recommend runs/sid --items G00012,G00034 --k 5

    Args:
        run: run folder of a trained model.
        items: one history, item ids from the oldest to the latest, with commas between them.
        users: users of the dataset, by id, likewise.
        histories: a table (csv, jsonl or parquet, also .gz) with `user_id` and `item_id`, in time
            order or with a `timestamp` to sort by, and perhaps an `action`; or a dataset folder,
            whose `users.parquet` is the table of its users. Users of the folder of whom no event of
            a known item is there get the most popular items of training, last in the result.
        user_column: of that table: who.
        item_column: of that table: what.
        time_column: of that table: when; `timestamp` if there is such a column.
        k: items per user; fewer where the catalog has no more.
        repeat: also recommend items of the history.
        allow: recommend only these items: a table with `item_id` (csv, jsonl or parquet), or a .txt
            file with one id a line.
        deny: never recommend these items; likewise.
        allow_per_user: a table with `user_id` and `item_id`: recommend to each user only these; a
            user without a row gets nothing.
        deny_per_user: likewise: never recommend these to the user.
        beam_width: of the search, at least 50 by default and more for long lists.
        exact: prove every list.
        renormalize: of heads that search by beams: score by the probabilities among the codes that
            exist; by default the model's own, which codes that do not exist have a part of.
        request_time: for models that know when they are asked (`times: request`): an ISO date,
            Unix seconds or `now`; by default the time of each history's last event.
        request_action: for models that can be told which action is asked for (`next-action`): the
            action, as the dataset names it; by default nothing is told.
        request_action_column: likewise for each user their own: a column of the users.
        user_table: a table with `user_id`, the features that the model reads of users (`user`), and
            the action asked for. Without it users of the dataset have theirs, and of others nothing
            is known.
        out: file to write (.csv, .parquet or .jsonl); printed otherwise.
        title_column: column of the catalog shown beside the ids.
        batch_size: users per batch.
        dataset: dataset folder, if it has moved since training.
        vocabulary: vocabulary folder, if it has moved.
        device: where the model runs: `auto` (an accelerator if there is one), `cpu`, `cuda` ...

    Returns:
        One row per user and place: `user_id`, `rank`, `item_id`, `title`, `score` (sum of
        log-probabilities; with a dense head a logit, which compares the items of one list and
        nothing else; of popular items, how often training has them), `certified`.

    Raises:
        ConfigError: unless exactly one of items, users and histories is given, for a list per
            user with items, which are nobody's, for a request time or action that is none, if the
            model reads times and the histories have none, or is told an action and reads none.
        DataError: if no history has an item the catalog knows, or an allow-list has none; other
            unknown items are reported and skipped.
        ArtefactError: if the run, its dataset or its vocabulary is not whole, or the file cannot
            be written.
    """
    given = [value is not None for value in (items, users, histories)]
    if sum(given) != 1:
        raise ConfigError("recommend: give exactly one of --items, --users and --histories")
    for name, value in (("k", k), ("batch_size", batch_size), ("beam_width", beam_width)):
        if value is not None and value < 1:
            raise ConfigError(f"recommend: {name}={value}; expected at least 1")
    of_users = {
        "allow_per_user": (allow_per_user, "give --allow, or --users or --histories"),
        "deny_per_user": (deny_per_user, "give --deny, or --users or --histories"),
        "user_table": (user_table, "give --users or --histories"),
        "request_action_column": (
            request_action_column,
            "give --request_action, or --users or --histories",
        ),
    }
    for name, (path, instead) in of_users.items():
        if items is not None and path is not None:
            raise ConfigError(f"recommend: {name} needs user ids, which --items has not; {instead}")
    if out and check_place(out).suffix not in WRITERS:
        raise ConfigError(f"{out}: expected a name that ends in {', '.join(WRITERS)}")
    asked_at = None if request_time is None else _moment(request_time)
    folder = histories if histories is not None and Path(histories).is_dir() else None
    histories, user_table = folder_of_histories(histories, user_table)
    # Launched as several processes, each searches for its batches; the first one alone writes.
    team = processes()
    place_of_model = choose_device(device)
    opened = Run.open(run, dataset=dataset, vocabulary=vocabulary)
    data, parts = opened.data
    if users is not None:
        flat, asked = data.histories, names(users)
        rows = flat.index(asked)
        if not asked or (rows < 0).any():
            unknown = asked[int(np.argmax(rows < 0))] if asked else ""
            raise DataError(
                f"user {unknown!r} is not in the dataset {data.name!r}, whose ids look like "
                f"{flat.user_ids[0].as_py()!r}; give users of it, or a history by --items or "
                "--histories"
            )
        start, end = flat.offsets[rows], flat.offsets[rows + 1]
        shown = asked
    elif folder is not None and (Path(folder) / "items.parquet").is_file():
        flat = folder_histories(folder, data)
        start, end = flat.offsets[:-1], flat.offsets[1:]
        # Those of whom nothing is known come last, and are answered apart.
        order = np.argsort(start == end, kind="stable")
        start, end = start[order], end[order]
        shown = [str(user) for user in flat.user_ids.take(pa.array(order)).to_pylist()]
    else:
        if items is not None:
            asked = names(items)
            if not asked:
                raise ConfigError("recommend: --items names none; give ids with commas between")
            _check_known(asked, data.catalog)
            table, place = pa.table({"item_id": asked}), "--items"
            table = table.append_column("user_id", pa.array(["you"] * len(table)))
        else:
            place = str(histories)
            columns = {"user_id": user_column, "item_id": item_column, "timestamp": time_column}
            text = [column or name for name, column in columns.items()]
            table = as_table(read_table(Path(place), text_columns=text), place)
            table = rename_columns(table, columns, place, OPTIONS)
        flat = known_histories(as_table(table, place), place, data)
        start, end = flat.offsets[:-1], flat.offsets[1:]
        shown = [str(user) for user in flat.user_ids.to_pylist()]

    answered = int((end > start).sum())
    if answered == 0:
        raise DataError(
            f"{folder}: no history has an item that {data.name} knows; is it of other items?"
        )
    lists = Lists(
        data.catalog,
        shown,
        allow=allow,
        deny=deny,
        allow_per_user=allow_per_user,
        deny_per_user=deny_per_user,
    )
    note_missing_titles(data.catalog, title_column)
    trie = opened.vocabulary.trie() if opened.vocabulary is not None else None
    model = opened.model_on(place_of_model)
    if model.reads_times and flat.timestamps is None:
        raise ConfigError(
            f"recommend: {opened.name} reads the time of every event, which the histories do not "
            "have; give --users, or --histories with a timestamp"
        )
    if asked_at is None and model.asks_when:
        note(
            f"{opened.name} knows when it is asked: answered as at the last event of each history; "
            "--request_time says otherwise",
            "yellow",
        )
    told = asked_users(
        model,
        data,
        shown[:answered],
        table=user_table,
        action=request_action,
        action_column=request_action_column,
        name=opened.name,
    )
    ranker = ModelRanker(
        model, trie, beam_width=beam_width, exact=exact, renormalize=renormalize, name=opened.name
    )
    items_found = np.zeros((len(shown), k), dtype=np.int64)
    scores = np.zeros((len(shown), k), dtype=np.float32)
    certified = np.zeros(len(shown), dtype=bool)
    step = batch_size * team.num_processes
    for first in range(batch_size * team.process_index, answered, step):
        part = slice(first, min(first + batch_size, answered))
        inputs = batch(
            flat,
            start[part],
            end[part],
            max_length=opened.model.config.max_history,
            query_time=None if asked_at is None else np.full(len(shown[part]), asked_at),
            **told.batch(part),
        )
        seen = None if repeat else history_matrix(flat.items, start[part], end[part])
        found = ranker.search(
            ranker.prepare(inputs),
            k=k,
            exclude=lists.exclude(part, seen),
            filter=lists.filter(ranker.filters_for, part),
        )
        items_found[part] = found.items.cpu().numpy() + 1  # 0 is a place without an item
        scores[part] = found.scores.cpu().numpy()
        certified[part] = found.certified.cpu().numpy()
    if answered < len(shown):
        if team.is_main_process:
            part = slice(answered, len(shown))
            counts = parts.train_counts(data.histories, len(data.catalog))
            popular = PopularityRanker(counts, model.tables.tie_order.cpu().numpy())
            found = popular.search(
                {"items": torch.zeros(len(shown) - answered, 1, dtype=torch.int64)},
                k=k,
                exclude=lists.exclude(part, None),
                filter=lists.filter(popular.filters_for, part),
            )
            items_found[part], scores[part] = found.items.numpy() + 1, found.scores.numpy()
            certified[part] = True
        note(
            f"{plural(len(shown) - answered, 'user')} of whom no event of a known item is there: "
            "answered by popularity",
            "yellow",
        )
    items_found, scores, certified = summed(items_found) - 1, summed(scores), summed(certified)
    result = _frame(items_found, scores, certified, shown, data.catalog, title_column)
    _note_short((items_found >= 0).sum(1), k, shown)
    if not team.is_main_process:
        return result
    if out:
        _write(result, Path(out))
        note(f"{plural(len(result), 'recommendation')} for {plural(len(shown), 'user')} in {out}")
    else:
        _print(result)
    return result


def _moment(value: str | int) -> int:
    """Unix seconds of `now`, an ISO date or a number."""
    if value == "now":
        return int(time.time())
    try:
        return parse_moment(value)
    except ConfigError as error:
        raise ConfigError(f"recommend: request_time: {error}") from error


def _note_short(lengths: np.ndarray, k: int, users: list[str]) -> None:
    """Say whose lists are shorter than asked for, because no more items are allowed."""
    short = np.flatnonzero(lengths < k)
    if len(short):
        some = ", ".join(users[row] for row in short[:5])
        none = int((lengths == 0).sum())
        note(
            f"fewer than {plural(k, 'item')} allowed for {plural(len(short), 'user')}, who got "
            f"what is left{f' ({none:,} of them nothing)' if none else ''}: {some}",
            "yellow",
        )


def _check_known(items: list[str], catalog: Catalog) -> None:
    """Raise DataError if the catalog knows none of the items; some are reported by others."""
    if items and (catalog.index(items) < 0).all():
        some = str(catalog.item_ids[0].as_py())
        raise DataError(f"recommend: unknown item {items[0]!r}; ids look like {some!r}")


def _frame(
    items: np.ndarray,
    scores: np.ndarray,
    certified: np.ndarray,
    users: list[str],
    catalog: Catalog,
    title_column: str,
) -> pd.DataFrame:
    user, place = np.nonzero(items >= 0)
    chosen = items[user, place]
    return pd.DataFrame(
        {
            "user_id": np.asarray(users)[user],
            "rank": place + 1,
            "item_id": catalog.item_ids.take(chosen).to_pylist(),
            "title": catalog.titles(chosen, title_column),
            "score": scores[user, place],
            "certified": certified[user],
        }
    )


def _write(result: pd.DataFrame, path: Path) -> None:
    with replacing(path) as temporary:
        if path.suffix == ".csv":
            result.to_csv(temporary, index=False)
        elif path.suffix == ".parquet":
            result.to_parquet(temporary, index=False)
        else:
            result.to_json(temporary, orient="records", lines=True)


def _print(result: pd.DataFrame) -> None:
    console = output_console()
    for user, rows in result.groupby("user_id", sort=False):
        table = Table(title=Text(f"for {user}"), title_justify="left")
        for column in ("rank", "item_id", "title", "score"):
            table.add_column(column, justify="right" if column in ("rank", "score") else "left")
        for row in rows.itertuples():
            table.add_row(
                str(row.rank), Text(str(row.item_id)), Text(str(row.title)), f"{row.score:.3f}"
            )
        console.print(table)
