"""Lists of items that users give as files: what may be recommended, to all or to each user."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from genrec.data import Catalog
from genrec.data.columns import as_table, find_ids, id_column, require_columns
from genrec.data.sources.readers import read_table
from genrec.decoding import Filter, PrefixTrie
from genrec.errors import DataError
from genrec.evaluation import history_matrix
from genrec.pipeline.notes import note, plural

ItemList: TypeAlias = "str | list[str | int]"


class Lists:
    """What users may be shown, as filters and exclusions of their searches.

    Args:
        catalog: the items.
        users: ids of the users, in the order of the searches.
        allow: only these items, for all users.
        deny: never these items, for all users.
        allow_per_user: table of `user_id` and `item_id`: only these; a user without a row gets
            nothing.
        deny_per_user: likewise: never these.

    Raises:
        DataError: naming the file, if it cannot be read, or if an allow-list has no item that the
            catalog knows or no user of these.
    """

    def __init__(
        self,
        catalog: Catalog,
        users: list[str],
        *,
        allow: ItemList | None = None,
        deny: ItemList | None = None,
        allow_per_user: str | None = None,
        deny_per_user: str | None = None,
    ) -> None:
        def shared(source: ItemList | None, option: str, needed: bool) -> np.ndarray | None:
            return None if source is None else read_items(source, catalog, option, needed=needed)

        def own(path: str | None, needed: bool) -> _PerUser | None:
            return None if path is None else _PerUser(path, catalog, users, needed=needed)

        self._allow, self._deny = shared(allow, "--allow", True), shared(deny, "--deny", False)
        self._own_allow, self._own_deny = own(allow_per_user, True), own(deny_per_user, False)
        self._for_all: tuple[PrefixTrie | int, Filter | None] | None = None

    def filter(self, of: PrefixTrie | int, part: slice) -> Filter | None:
        """The filter of some of the users; None if nothing restricts them.

        Args:
            of: what the ranker's filters are made for.
            part: which users.
        """
        if self._for_all is None or self._for_all[0] is not of:
            self._for_all = of, self._shared(of)
        shared = self._for_all[1]
        if self._own_allow is None:
            return shared
        own = Filter.allow(of, self._own_allow.matrix(part))
        return own if shared is None else own & shared

    def exclude(self, part: slice, seen: np.ndarray | None) -> torch.Tensor | None:
        """Items that some of the users may not be shown, int64 `[B, E]`, padded with -1.

        Args:
            part: which users.
            seen: int64 `[B, H]`, items of their histories, to be left out too.
        """
        own = None if self._own_deny is None else self._own_deny.matrix(part)
        given = [matrix for matrix in (seen, own) if matrix is not None]
        return torch.from_numpy(np.concatenate(given, axis=1)) if given else None

    def _shared(self, of: PrefixTrie | int) -> Filter | None:
        made = []
        if self._allow is not None:
            made.append(Filter.allow(of, self._allow))
        if self._deny is not None:
            made.append(Filter.deny(of, self._deny))
        return made[0] & made[-1] if made else None


class _PerUser:
    """The items of each user in a table of `user_id` and `item_id`."""

    def __init__(self, path: str, catalog: Catalog, users: list[str], *, needed: bool) -> None:
        table = _table(path, ["user_id", "item_id"])
        distinct = list(dict.fromkeys(users))
        user = find_ids(pa.array(distinct), id_column(table, "user_id", path))
        if (user < 0).all():
            problem = f"{path}: has no row of the users asked for, such as {users[0]!r}"
            if needed:
                raise DataError(f"{problem}; they would get nothing")
            note(problem, "yellow")
        item = _known(id_column(table, "item_id", path), catalog, path, needed=needed)
        real = (user >= 0) & (item >= 0)
        user, item = user[real], item[real]
        self._items = item[np.argsort(user, kind="stable")]
        counts = np.bincount(user, minlength=len(distinct))
        ends = np.cumsum(counts)
        rows = find_ids(pa.array(distinct), pa.array(users))
        self._start, self._end = (ends - counts)[rows], ends[rows]

    def matrix(self, part: slice) -> np.ndarray:
        """The items of some of the users, int64 `[B, E]`, padded with -1."""
        return history_matrix(self._items, self._start[part], self._end[part])


def read_items(
    source: ItemList, catalog: Catalog, option: str, *, needed: bool = True
) -> np.ndarray:
    """Numbers, int64 `[n]`, of listed items; unknown ones are reported and skipped.

    Args:
        source: a table with a column `item_id` (csv, tsv, jsonl or parquet, also .gz), a .txt file
            with one id a line, or the ids.
        catalog: the items.
        option: what messages call a list of ids.
        needed: whether it is an error if none is known.

    Raises:
        DataError: naming the file, if it cannot be read or no id is known though one is needed.
    """
    place = source if isinstance(source, str) else option
    if isinstance(source, str):
        ids = id_column(_table(source, ["item_id"]), "item_id", source)
    else:
        table = pa.table({"item_id": pa.array([str(name) for name in source], pa.string())})
        require_columns(table, ["item_id"], option)
        ids = id_column(table, "item_id", option)
    items = _known(pc.unique(ids), catalog, place, needed=needed)
    return items[items >= 0]


def _table(path: str, columns: list[str]) -> pa.Table:
    place = Path(path)
    if place.suffix.lower() == ".txt" and len(columns) == 1:
        try:
            lines = place.read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as text ({error})") from error
        ids = [line.strip() for line in lines if line.strip()]
        table = pa.table({columns[0]: pa.array(ids, pa.string())})
    else:
        table = as_table(read_table(place, text_columns=columns), path)
    require_columns(table, columns, path)
    return table


def _known(ids: pa.Array, catalog: Catalog, place: str, *, needed: bool) -> np.ndarray:
    """The number of each item, int64, -1 where unknown, which is said."""
    items = catalog.index(ids)
    strange = pc.unique(ids.filter(pa.array(items < 0)))
    some = ", ".join(map(str, strange[:5].to_pylist()))
    if needed and (items < 0).all():
        raise DataError(
            f"{place}: the catalog knows none of its items ({some}), so nothing could be "
            f"recommended; ids look like {str(catalog.item_ids[0].as_py())!r}"
        )
    if len(strange):
        note(
            f"{place}: skipped {plural(len(strange), 'item')} that the catalog does not know: "
            f"{some}",
            "yellow",
        )
    return items
