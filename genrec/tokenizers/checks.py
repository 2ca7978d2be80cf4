"""What must hold for the parts of a SID vocabulary; each failure names the row, id or level."""

from __future__ import annotations

import numpy as np

from genrec.errors import ArtefactError, DataError
from genrec.quantization import Quantizer


def check_ids(ids: np.ndarray) -> None:
    """Ids are there and distinct."""
    if not len(ids):
        raise DataError("item_id: no items; a SID vocabulary needs at least one")
    first: dict[object, int] = {}
    if len(set(ids.tolist())) == len(ids):
        return
    for row, item in enumerate(ids.tolist()):
        if first.setdefault(item, row) != row:
            raise DataError(
                f"item_id {item!r}: in row {first[item]} and again in row {row}; "
                "keep one row per item"
            )


def check_codes(codes: np.ndarray, ids: np.ndarray, sizes: tuple[int, ...]) -> None:
    """Codes are integers, one row per item, each within its level's codebook."""
    if not sizes or min(sizes) < 1:
        raise DataError(f"codebook_sizes: are {sizes}; expected at least one level of one code")
    if codes.ndim != 2 or codes.shape[1] != len(sizes) or codes.dtype.kind not in "iu":
        raise DataError(
            f"codes: {codes.dtype} of shape {codes.shape}; expected integers of shape "
            f"({len(ids)}, {len(sizes)}), one column per codebook"
        )
    if len(codes) != len(ids):
        raise DataError(f"codes: {len(codes):,} rows for {len(ids):,} item ids; expected as many")
    wrong = (codes < 0) | (codes >= np.asarray(sizes))
    if wrong.any():
        row, level = np.argwhere(wrong)[0].tolist()
        raise DataError(
            f"code_{level}, item {ids.item(row)!r} (row {row}): is {codes[row, level]}; expected "
            f"0..{sizes[level] - 1}, the codes of level {level}"
        )


def check_tie_order(tie_order: np.ndarray, num_items: int) -> None:
    """The tie order is a permutation of 0..N-1."""
    valid = tie_order.shape == (num_items,) and tie_order.dtype.kind in "iu"
    if not valid or not (np.sort(tie_order) == np.arange(num_items)).all():
        raise DataError(
            f"tie_order: is not a permutation of 0..{num_items - 1}; "
            "make it with make_tie_order(item_ids, seed)"
        )


def check_quantizer(quantizer: Quantizer, sizes: tuple[int, ...], policy: str) -> None:
    """The quantizer's codebooks are those of the codes; `append` adds one level at the end."""
    theirs = tuple(quantizer.codebook_sizes)
    ours = sizes[:-1] if policy == "append" else sizes
    if theirs != ours:
        raise DataError(
            f"quantizer: has codebooks of {theirs} codes, the codes of the SID vocabulary need "
            f"{ours}; they do not belong together, build the vocabulary again"
        )


def check_same_items(ours: np.ndarray, theirs: np.ndarray) -> None:
    """The catalog's ids are the vocabulary's, in the same order."""
    if len(ours) == len(theirs) and (ours == theirs).all():
        return
    absent = sorted(set(theirs.tolist()) - set(ours.tolist()), key=str)
    extra = sorted(set(ours.tolist()) - set(theirs.tolist()), key=str)
    if absent or extra:
        parts = [
            f"{len(ids):,} items only in the {where}, such as {ids[0]!r}"
            for ids, where in ((absent, "catalog"), (extra, "SID vocabulary"))
            if ids
        ]
        raise ArtefactError(
            f"the SID vocabulary does not belong to this catalog: {'; '.join(parts)}; "
            "build the vocabulary from this catalog"
        )
    row = int(np.flatnonzero(ours != theirs)[0])
    raise ArtefactError(
        f"the SID vocabulary has its items in another order than the catalog (row {row}: "
        f"{ours.item(row)!r}, catalog {theirs.item(row)!r}); build the vocabulary from this catalog"
    )
