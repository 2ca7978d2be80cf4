"""Semantic IDs that somebody else made, as a SID vocabulary without quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.artefacts import file_sha256
from genrec.data import Catalog
from genrec.errors import ConfigError, DataError
from genrec.quantization.base import check_codebook_sizes
from genrec.tokenizers.checks import check_codes, check_ids
from genrec.tokenizers.collisions import resolve_collisions
from genrec.tokenizers.sid_files import ForeignSids, Layout, Names, read_sids
from genrec.tokenizers.ties import as_item_ids, make_tie_order
from genrec.tokenizers.vocabulary import SidVocabulary

LARGEST = 2**31 - 2


def import_vocabulary(
    path: str | Path,
    item_ids: Sequence[Any] | np.ndarray | pa.Array | None = None,
    *,
    names: Names = "numbers",
    codebook_sizes: Sequence[int] | None = None,
    collisions: str = "allow",
    layout: Layout = "auto",
    columns: Sequence[str] | None = None,
    seed: int = 0,
) -> SidVocabulary:
    """Read a file of SIDs as a SID vocabulary without quantizer.

    Args:
        path: .json, .npy, .pt or .parquet; `genrec.tokenizers.sid_files` has the table.
        item_ids: the items, in the order the vocabulary shall have; the file must hold just these.
            Without them the ids are those of the file, or its numbers in ascending order.
        names: what the keys of a JSON file are: `numbers` (key n is `item_ids[n]`) or `ids`.
        codebook_sizes: codes per level; by default the largest code of each level, and one.
        collisions: `allow`, or `append` a level that numbers the items of a tuple. The other
            policies need a quantizer.
        layout: of .npy and .pt: `items` (a row is an item), `levels` (a row is a level), or `auto`,
            which tells it by the number of items, or takes the longer side for the items.
        columns: of .parquet: the columns of codes, one list or one a level; found by default.
        seed: key of the tie order.

    Raises:
        DataError: naming the line, key, row, column or token of the file that is wrong.
        ConfigError: if an option does not suit the file.
    """
    path = Path(path)
    if collisions not in ("allow", "append"):
        raise ConfigError(
            f"collisions: is {collisions!r}; imported SIDs have no quantizer that knows what a "
            "code costs; choose 'allow' or 'append'"
        )
    ids = None if item_ids is None else as_item_ids(item_ids)
    found = read_sids(
        path,
        names=names,
        layout=layout,
        columns=columns,
        num_items=None if ids is None else len(ids),
    )
    _check_found(found)
    order, ids = _rows(found, ids)
    codes = found.codes[order]
    given = codebook_sizes if codebook_sizes is not None else found.codebook_sizes
    sizes = _sizes(given, codes, path)
    check_codes(codes, ids, sizes)
    tie_order = make_tie_order(ids, seed)
    resolved = resolve_collisions(collisions, codes, sizes, tie_order)
    return SidVocabulary(
        resolved.codes,
        ids,
        resolved.codebook_sizes,
        tie_order=tie_order,
        collision_policy=collisions,
        config={
            "imported": {"file": path.name, "sha256": file_sha256(path)},
            "collisions": resolved.report,
            "seed": seed,
        },
    )


def _check_found(found: ForeignSids) -> None:
    try:
        check_ids(found.keys)
    except DataError as error:
        raise DataError(f"{found.path}: {error}") from error
    wrong = (found.codes < 0) | (found.codes > LARGEST)
    if wrong.any():
        row, level = np.argwhere(wrong)[0].tolist()
        raise DataError(
            f"{found.path}: item {found.keys.item(row)!r} (row {row + 1}), level {level} is "
            f"{found.codes[row, level]}; expected a code from 0 to {LARGEST:,}"
        )


def _rows(found: ForeignSids, ids: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the file in the order of the vocabulary's items, and the ids of these."""
    if ids is None:
        order = np.argsort(found.keys) if found.numbered else np.arange(len(found.keys))
        return order, found.keys[order]
    known = np.arange(len(ids)) if found.numbered else ids
    place = Catalog.from_ids(known).index(found.keys)
    if (place < 0).any():
        wrong = found.keys[place < 0]
        what = "number" if found.numbered else "id"
        numbers = "; numbers go from 0, in the order of the ids" if found.numbered else ""
        raise DataError(
            f"{found.path}: item {wrong.item(0)!r}: is the {what} of none of the {len(ids):,} "
            f"items ({len(wrong):,} such){numbers}; use the ids that these SIDs were made for"
        )
    order = np.full(len(ids), -1, dtype=np.int64)
    order[place] = np.arange(len(place))
    missing = np.flatnonzero(order < 0)
    if len(missing):
        raise DataError(
            f"{found.path}: has no SID for {len(missing):,} of {len(ids):,} items, such as "
            f"{ids.item(missing[0])!r} (number {missing[0]}); add them or leave the items out"
        )
    return order, ids


def _sizes(given: Sequence[int] | None, codes: np.ndarray, path: Path) -> tuple[int, ...]:
    if given is None:
        return tuple((codes.max(axis=0) + 1).tolist())
    sizes = check_codebook_sizes(given)
    if len(sizes) != codes.shape[1]:
        raise ConfigError(
            f"codebook_sizes: are {len(sizes)} levels, {path} has {codes.shape[1]}; "
            "expected one size per level"
        )
    return sizes
