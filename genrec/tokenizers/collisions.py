"""What to do when several items share a tuple: `allow`, `append`, `reassign` or `sinkhorn`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrec.errors import ConfigError
from genrec.quantization import Quantizer
from genrec.quantization.vectors import block_rows
from genrec.tokenizers.keys import TupleKeys
from genrec.tokenizers.reassign import rank_within, reassign_codes
from genrec.tokenizers.sinkhorn import sinkhorn_codes


@dataclass(frozen=True)
class Resolved:
    """Codes after a collision policy.

    Attributes:
        codes: `int32 [N, L]`; L may have grown.
        codebook_sizes: codes per level.
        report: JSON-able figures, kept in the vocabulary's config.
    """

    codes: np.ndarray
    codebook_sizes: tuple[int, ...]
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Items:
    """What a policy is given: `resolve_collisions` says what the fields are."""

    codes: np.ndarray
    sizes: tuple[int, ...]
    tie_order: np.ndarray
    quantizer: Quantizer | None
    vectors: np.ndarray | None
    taken: np.ndarray | None


def resolve_collisions(
    policy: str,
    codes: np.ndarray,
    codebook_sizes: tuple[int, ...],
    tie_order: np.ndarray,
    *,
    quantizer: Quantizer | None = None,
    vectors: np.ndarray | None = None,
    taken: np.ndarray | None = None,
) -> Resolved:
    """Apply a collision policy and report what it changed.

    Args:
        policy: a name in `COLLISION_POLICIES`.
        codes: `int [N, L]`, the codes the quantizer gave.
        codebook_sizes: codes per level.
        tie_order: `int64 [N]`, rank of every item; the smaller rank is served first.
        quantizer: needed by `reassign` and `sinkhorn`, and for the report's distortion.
        vectors: `float32 [N, d]`, likewise.
        taken: `int [M, L]`, tuples of further items that keep what they have (with the appended
            level, if the policy appends one).

    Raises:
        ConfigError: if the policy is unknown or lacks what it needs.
    """
    check_policy(policy)
    codes = np.asarray(codes, dtype=np.int32)
    resolved = COLLISION_POLICIES[policy](
        Items(codes, codebook_sizes, tie_order, quantizer, vectors, taken)
    )
    after, before = resolved.codes, codes
    if taken is not None:
        after = np.concatenate([after, taken])
        before = np.concatenate([before, taken[:, : codes.shape[1]]])
    report = {
        "policy": policy,
        "colliding_items_before": colliding_items(before, codebook_sizes),
        "colliding_items_after": colliding_items(after, resolved.codebook_sizes),
        **resolved.report,
    }
    return Resolved(resolved.codes, resolved.codebook_sizes, report)


def check_policy(policy: str) -> None:
    """Check that there is such a policy.

    Raises:
        ConfigError: naming those there are.
    """
    if policy not in COLLISION_POLICIES:
        known = ", ".join(repr(name) for name in COLLISION_POLICIES)
        raise ConfigError(f"collisions: {policy!r} is no collision policy; choose one of {known}")


def colliding_items(codes: np.ndarray, sizes: tuple[int, ...]) -> int:
    """Number of items that share their tuple with another item."""
    keys = TupleKeys(codes, sizes)
    counts = np.bincount(keys.row, minlength=keys.num_tuples)
    return int(counts[counts > 1].sum())


def squared_distances(
    quantizer: Quantizer, codes: np.ndarray, vectors: np.ndarray, batch: int | None = None
) -> np.ndarray:
    """Squared distance `float32 [N]` between each vector and its decoded codes."""
    found = np.empty(len(codes), dtype=np.float32)
    batch = batch or block_rows(vectors.shape[1])
    for start in range(0, len(codes), batch):
        part = slice(start, start + batch)
        difference = quantizer.decode(codes[part])
        difference -= vectors[part]
        found[part] = np.einsum("nd,nd->n", difference, difference)
    return found


def mean_squared_distance(
    quantizer: Quantizer, codes: np.ndarray, vectors: np.ndarray, batch: int | None = None
) -> float:
    """Mean over items of the squared distance between a vector and its decoded codes."""
    return float(squared_distances(quantizer, codes, vectors, batch).mean(dtype=np.float64))


def _allow(items: Items) -> Resolved:
    return Resolved(items.codes, items.sizes)


def _append(items: Items) -> Resolved:
    """One more level, as in TIGER (arXiv 2305.05065), whose codes number a bucket's items."""
    codes, taken = items.codes, items.taken
    if taken is None:
        taken = np.zeros((0, codes.shape[1] + 1), dtype=np.int32)
    keys = TupleKeys(np.concatenate([codes, taken[:, :-1]]), items.sizes)
    bucket = keys.row[: len(codes)]
    order = np.argsort(items.tie_order)
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = rank_within(bucket[order])
    # The numbers that are taken, less how many are smaller: how many free ones lie below each.
    used = np.unique(np.column_stack([keys.row[len(codes) :], taken[:, -1]]), axis=0)
    free_below = used[:, 1] - rank_within(used[:, 0])
    width = int(max(free_below.max(initial=0), rank.max(initial=0))) + 1
    starts = np.searchsorted(used[:, 0], bucket)
    passed = np.searchsorted(used[:, 0] * width + free_below, bucket * width + rank, side="right")
    digit = (rank + passed - starts).astype(np.int32)
    size = int(max(digit.max(initial=0), taken[:, -1].max(initial=0))) + 1
    return Resolved(np.column_stack([codes, digit]), (*items.sizes, size), {"appended_codes": size})


def _reassign(items: Items) -> Resolved:
    return _moved(items, "reassign", reassign_codes)


def _sinkhorn(items: Items) -> Resolved:
    return _moved(items, "sinkhorn", sinkhorn_codes)


def _moved(items: Items, policy: str, move: Callable[..., np.ndarray]) -> Resolved:
    """Other codes of the same levels, and what they cost in distortion."""
    quantizer, vectors = items.quantizer, items.vectors
    if quantizer is None or vectors is None:
        raise ConfigError(
            f"collisions: {policy!r} needs the quantizer and the vectors to know what a code "
            "costs; give both, or choose 'append' or 'allow'"
        )
    moved = move(items.codes, items.sizes, items.tie_order, quantizer, vectors, taken=items.taken)
    before = mean_squared_distance(quantizer, items.codes, vectors)
    after = mean_squared_distance(quantizer, moved, vectors)
    changed = moved != items.codes
    report = {
        "moved_items": int(changed.any(axis=1).sum()),
        "moved_to_another_prefix": int(changed[:, :-1].any(axis=1).sum()),
        "distortion_before": before,
        "distortion_after": after,
        # A ratio to rounding errors says nothing.
        "distortion_increase": after / before - 1 if before > 1e-6 * after else None,
    }
    return Resolved(moved, items.sizes, report)


COLLISION_POLICIES: dict[str, Callable[[Items], Resolved]] = {
    "allow": _allow,
    "append": _append,
    "reassign": _reassign,
    "sinkhorn": _sinkhorn,
}
