"""Vectors to a SID vocabulary: fit the quantizer, encode every item, resolve the collisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.artefacts import vectors_fingerprint
from genrec.errors import ConfigError, DataError
from genrec.quantization import Quantizer
from genrec.tokenizers.checks import check_ids
from genrec.tokenizers.collisions import check_policy, resolve_collisions
from genrec.tokenizers.ties import as_item_ids, make_tie_order
from genrec.tokenizers.vocabulary import SidVocabulary


def build_vocabulary(
    vectors: np.ndarray,
    item_ids: Sequence[Any] | np.ndarray | pa.Array,
    quantizer: Quantizer,
    *,
    collisions: str = "reassign",
    fit_items: np.ndarray | Sequence[int] | None = None,
    fit: bool = True,
    side_vectors: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SidVocabulary:
    """Build a SID vocabulary.

    Args:
        vectors: `float32 [N, d]`, one row per item.
        item_ids: N distinct strings or integers.
        quantizer: vectors -> codes; it is fitted here, in place.
        collisions: `reassign` (own tuples at least added distortion), `append` (a further code
            that numbers the items of a tuple), `allow`, or `sinkhorn` (last codes balanced within
            each prefix).
        fit_items: `bool [N]` or item indices: the items the quantizer is fitted on. For an honest
            evaluation these are the items that occur in training; all items by default.
        fit: `False` keeps a quantizer that is fitted already; `fit_items` then only records what
            it was fitted on.
        side_vectors: further arrays with N rows that the quantizer learns from, see
            `Quantizer.fit`.
        seed: key of the tie order. The quantizer has a seed of its own.
        progress: show the quantizer's progress bar.

    Raises:
        DataError: if vectors and ids do not fit together or a vector is not finite (the message
            names the item), or there are too few items for the quantizer.
        ConfigError: if `collisions` or `fit_items` is wrong.
    """
    ids = as_item_ids(item_ids)
    check_ids(ids)
    vectors = check_vectors(vectors, ids)
    check_policy(collisions)
    fitted = None if fit_items is None and not fit else fit_mask(fit_items, len(ids))
    if fit and fitted is not None:
        rows = None if fitted.all() else np.flatnonzero(fitted)
        quantizer.fit(vectors, rows=rows, side_vectors=side_vectors, progress=progress)
    tie_order = make_tie_order(ids, seed)
    resolved = resolve_collisions(
        collisions,
        quantizer.encode(vectors),
        tuple(quantizer.codebook_sizes),
        tie_order,
        quantizer=quantizer,
        vectors=vectors,
    )
    return SidVocabulary(
        resolved.codes,
        ids,
        resolved.codebook_sizes,
        tie_order=tie_order,
        collision_policy=collisions,
        quantizer=quantizer,
        vectors_fingerprint=vectors_fingerprint(vectors, ids),
        fitted=fitted,
        config={
            "quantizer": quantizer.config,
            "collisions": resolved.report,
            "fitted_items": None if fitted is None else int(fitted.sum()),
            "seed": seed,
        },
    )


def check_vectors(vectors: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Vectors as `float32 [N, d]`, one finite row for each of the N ids.

    Raises:
        DataError: naming the item.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not vectors.shape[1]:
        raise DataError(
            f"vectors: {vectors.dtype} of shape {vectors.shape}; expected numbers of shape "
            "(items, dimensions)"
        )
    if len(vectors) != len(ids):
        raise DataError(
            f"vectors: {len(vectors):,} rows for {len(ids):,} items; expected one row per item, "
            "embed this catalog again"
        )
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    # A row's sum is finite only if its parts are; the few rows whose sum is not get a second look.
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(vectors.sum(axis=1)))
    wrong = suspects[~np.isfinite(vectors[suspects]).all(axis=1)]
    if len(wrong):
        row = int(wrong[0])
        column = int(np.flatnonzero(~np.isfinite(vectors[row]))[0])
        raise DataError(
            f"vectors, item {ids.item(row)!r} (row {row}), dimension {column}: is "
            f"{vectors[row, column]}; {len(wrong):,} items have such vectors, expected finite "
            "numbers; repair them or leave these items out"
        )
    return vectors


def fit_mask(fit_items: np.ndarray | Sequence[int] | None, num_items: int) -> np.ndarray:
    """The items to fit on as `bool [N]`; all of them for None.

    Raises:
        ConfigError: if they are no mask and no item indices, or none.
    """
    if fit_items is None:
        return np.ones(num_items, dtype=bool)
    chosen = np.asarray(fit_items)
    mask = np.zeros(num_items, dtype=bool)
    if chosen.dtype == bool:
        if chosen.shape != (num_items,):
            raise ConfigError(
                f"fit_items: a mask of shape {chosen.shape} for {num_items:,} items; "
                "expected one flag per item"
            )
        mask = chosen.copy()
    elif chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise ConfigError(
            f"fit_items: {chosen.dtype} of shape {chosen.shape}; expected item indices or a mask"
        )
    else:
        wrong = chosen[(chosen < 0) | (chosen >= num_items)]
        if len(wrong):
            raise ConfigError(
                f"fit_items: holds {wrong[0]}; expected item indices below {num_items}"
            )
        mask[chosen.astype(np.int64)] = True
    if not mask.any():
        raise ConfigError("fit_items: is empty; the quantizer needs items to be fitted on")
    return mask
