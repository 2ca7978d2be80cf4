"""A SID vocabulary for a catalog that has changed: items come and go, SIDs stay.

A trained model knows the SIDs it was trained with. So items that stay keep theirs whatever the
collision policy, and new items are placed around them by it. A refit moves the codebooks as well,
and then only items that are quantized differently than before are placed anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from genrec.artefacts import vectors_fingerprint
from genrec.data import Catalog
from genrec.errors import ConfigError, DataError
from genrec.quantization import Quantizer
from genrec.tokenizers.build import check_vectors, fit_mask
from genrec.tokenizers.checks import check_ids
from genrec.tokenizers.churn import churn
from genrec.tokenizers.collisions import resolve_collisions
from genrec.tokenizers.refit import match_labels, refit_quantizer, relabel_quantizer
from genrec.tokenizers.ties import as_item_ids, extend_tie_order
from genrec.tokenizers.vocabulary import SidVocabulary

Ids: TypeAlias = "Sequence[Any] | np.ndarray | pa.Array"


def refresh_vocabulary(
    vocabulary: SidVocabulary,
    vectors: np.ndarray,
    item_ids: Ids,
    *,
    refit: bool = False,
    fit_items: np.ndarray | Sequence[int] | None = None,
    progress: bool = False,
) -> SidVocabulary:
    """The vocabulary of these items: those it has keep their SIDs, others are added, the rest go.

    Args:
        vocabulary: what to start from; its collision policy goes on.
        vectors: `float32 [N, d]` of all items there shall be, from the same embedder.
        item_ids: their N ids, in the order the new vocabulary shall have.
        refit: fit the quantizer on the new vectors too. Items that it then quantizes differently
            get new SIDs. Nothing is done if vectors and items to fit on are what they were.
        fit_items: `bool [N]` or item indices, what to refit on; all items by default.
        progress: show the quantizer's progress bar.

    Returns:
        A new vocabulary. `config["refresh"]` holds the churn, the policy's report on the items
        placed, and the fingerprint of the vocabulary it was made from.

    Raises:
        DataError: if vectors and ids do not fit together, or the tie order is not that of the ids.
        ConfigError: if items are to be placed and the vocabulary has no quantizer.
    """
    ids = as_item_ids(item_ids)
    check_ids(ids)
    vectors = check_vectors(vectors, ids)
    before = Catalog.from_ids(vocabulary.item_ids).index(ids)
    known = before >= 0
    fitted = None if vocabulary.fitted is None else known & vocabulary.fitted[before]
    quantizer = vocabulary.quantizer
    staying = known
    if refit:
        mask = fit_mask(fit_items, len(ids))
        if not _same_fit(vocabulary, vectors, before, mask):
            old = _needed(vocabulary)
            shared = np.flatnonzero(known)
            codes = old.encode(vectors[shared])
            quantizer = _refitted(old, vectors, mask, shared, codes, progress)
            fitted = mask
            staying = known.copy()
            staying[shared] = (quantizer.encode(vectors[shared]) == codes).all(axis=1)
    return _rebuilt(vocabulary, ids, vectors, before, staying, quantizer, fitted, refit=refit)


def add_items(vocabulary: SidVocabulary, vectors: np.ndarray, item_ids: Ids) -> SidVocabulary:
    """The vocabulary with further items behind its own, which keep their SIDs.

    The result does not know the vectors of its old items, so it carries no fingerprint of vectors;
    `refresh_vocabulary` with the vectors of all items does.

    Args:
        vocabulary: what to add to.
        vectors: `float32 [n, d]` of the new items, from the same embedder.
        item_ids: their n ids.

    Raises:
        DataError: if an item is there already, or vectors and ids do not fit together.
        ConfigError: if the vocabulary has no quantizer.
    """
    ids = as_item_ids(item_ids)
    check_ids(ids)
    vectors = check_vectors(vectors, ids)
    there = vocabulary.index(ids) >= 0
    if there.any():
        raise DataError(
            f"item id {ids[there].item(0)!r}: is in the SID vocabulary already ({there.sum():,} of "
            f"{len(ids):,} are); add new items only"
        )
    old = len(vocabulary)
    if vocabulary.item_ids.dtype != ids.dtype:
        raise DataError(
            f"item id {ids.item(0)!r}: expected ids like {vocabulary.item_ids.item(0)!r}; the "
            "vocabulary's are all integers or all strings"
        )
    everyone = np.concatenate([vocabulary.item_ids, ids])
    before = np.concatenate([np.arange(old), np.full(len(ids), -1)])
    fitted = vocabulary.fitted
    if fitted is not None:
        fitted = np.concatenate([fitted, np.zeros(len(ids), dtype=bool)])
    return _rebuilt(
        vocabulary, everyone, vectors, before, before >= 0, vocabulary.quantizer, fitted
    )


def remove_items(vocabulary: SidVocabulary, item_ids: Ids) -> SidVocabulary:
    """The vocabulary without these items; the others keep their order, SIDs and codebook sizes.

    As with `add_items`, the result carries no fingerprint of vectors.

    Raises:
        DataError: if an item is not there, or none would be left.
    """
    ids = as_item_ids(item_ids)
    gone = vocabulary.index(ids)
    if (gone < 0).any():
        raise DataError(
            f"item id {ids[gone < 0].item(0)!r}: not in the SID vocabulary ({(gone < 0).sum():,} "
            f"unknown of {len(ids):,}); remove items that it has"
        )
    left = np.ones(len(vocabulary), dtype=bool)
    left[gone] = False
    before = np.flatnonzero(left)
    fitted = None if vocabulary.fitted is None else vocabulary.fitted[before]
    return _rebuilt(
        vocabulary,
        vocabulary.item_ids[before],
        None,
        before,
        np.ones(len(before), dtype=bool),
        vocabulary.quantizer,
        fitted,
    )


def _rebuilt(
    old: SidVocabulary,
    ids: np.ndarray,
    vectors: np.ndarray | None,
    before: np.ndarray,
    staying: np.ndarray,
    quantizer: Quantizer | None,
    fitted: np.ndarray | None,
    *,
    refit: bool = False,
) -> SidVocabulary:
    """The vocabulary of `ids`, in which those that stay keep their codes and others are placed.

    `vectors` are those of all items, or of the items to be placed only.
    """
    seed = int(old.config.get("seed", 0))
    if not old.has_tie_seed(seed):
        raise DataError(
            f"tie_order: is not make_tie_order(item_ids, {seed}), so it does not say where further "
            "items belong; build the vocabulary with that tie order"
        )
    tie_order = extend_tie_order(ids, np.where(before >= 0, old.tie_order[before], -1), seed)
    sizes = list(old.codebook_sizes)
    codes = np.zeros((len(ids), len(sizes)), dtype=np.int32)
    taken = old.codes[before[staying]]
    codes[staying] = taken
    placed = ~staying
    report: dict[str, Any] = {}
    if placed.any():
        assert vectors is not None
        quantizer = _needed(old) if quantizer is None else quantizer
        some = vectors[placed] if len(vectors) == len(ids) else vectors
        resolved = resolve_collisions(
            old.collision_policy,
            quantizer.encode(some),
            tuple(quantizer.codebook_sizes),
            tie_order[placed],
            quantizer=quantizer,
            vectors=some,
            taken=taken,
        )
        codes[placed] = resolved.codes
        # An appended level does not shrink: a model has a row for each of its codes.
        sizes = [max(pair) for pair in zip(sizes, resolved.codebook_sizes, strict=True)]
        report = resolved.report
    print_of_vectors = ""
    if vectors is not None and len(vectors) == len(ids):
        print_of_vectors = vectors_fingerprint(vectors, ids)
    made = SidVocabulary(
        codes,
        ids,
        sizes,
        tie_order=tie_order,
        collision_policy=old.collision_policy,
        quantizer=quantizer,
        vectors_fingerprint=print_of_vectors,
        fitted=fitted,
    )
    made.continue_from(old, np.where(staying, before, -1))
    made.config = {
        **old.config,
        "collisions": {"policy": old.collision_policy},
        "fitted_items": None if fitted is None else int(fitted.sum()),
        "refresh": {
            "from": old.fingerprint,
            "refit": refit,
            "churn": churn(old, made),
            "placed": report,
        },
    }
    return made


def _needed(vocabulary: SidVocabulary) -> Quantizer:
    if vocabulary.quantizer is None:
        raise ConfigError(
            "vocabulary: has no quantizer (it was imported), so nothing can be encoded with it; "
            "items can be removed only, or build a vocabulary from vectors"
        )
    return vocabulary.quantizer


def _same_fit(
    old: SidVocabulary, vectors: np.ndarray, before: np.ndarray, mask: np.ndarray
) -> bool:
    """Whether the same items have the same vectors, and the quantizer was fitted on the same."""
    if len(before) != len(old) or (before < 0).any() or old.fitted is None:
        return False
    place = np.argsort(before)
    same = vectors_fingerprint(vectors[place], old.item_ids) == old.vectors_fingerprint
    return same and bool((mask[place] == old.fitted).all())


def _refitted(
    old: Quantizer,
    vectors: np.ndarray,
    mask: np.ndarray,
    shared: np.ndarray,
    codes: np.ndarray,
    progress: bool,
) -> Quantizer:
    """Fitted on the items of `mask`; the items `shared` had `codes`, and keep what they can."""
    # A type whose codes cannot be renamed is found before the work, not after it.
    relabel_quantizer(old, [np.arange(size) for size in old.codebook_sizes])
    fresh = refit_quantizer(old, vectors if mask.all() else vectors[mask], progress=progress)
    labels = match_labels(codes, fresh.encode(vectors[shared]), old.codebook_sizes)
    return relabel_quantizer(fresh, labels)
