"""What to do when several items share a tuple of codes: `allow`, `append` a digit or `reassign`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrec.errors import ConfigError
from genrec.quantization import Quantizer
from genrec.tokenizers.keys import TupleKeys
from genrec.tokenizers.reassign import reassign_codes

BATCH = 65536


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


Policy = Callable[
    [np.ndarray, tuple[int, ...], np.ndarray, "Quantizer | None", "np.ndarray | None"], Resolved
]


def resolve_collisions(
    policy: str,
    codes: np.ndarray,
    codebook_sizes: tuple[int, ...],
    tie_order: np.ndarray,
    *,
    quantizer: Quantizer | None = None,
    vectors: np.ndarray | None = None,
) -> Resolved:
    """Apply a collision policy and report what it changed.

    Args:
        policy: a name in `COLLISION_POLICIES`.
        codes: `int [N, L]`, the codes the quantizer gave.
        codebook_sizes: codes per level.
        tie_order: `int64 [N]`, rank of every item; the smaller rank is served first.
        quantizer: needed by `reassign`, and for the report's distortion.
        vectors: `float32 [N, d]`, likewise.

    Raises:
        ConfigError: if the policy is unknown or lacks what it needs.
    """
    check_policy(policy)
    codes = np.asarray(codes, dtype=np.int32)
    resolved = COLLISION_POLICIES[policy](codes, codebook_sizes, tie_order, quantizer, vectors)
    report = {
        "policy": policy,
        "colliding_items_before": colliding_items(codes, codebook_sizes),
        "colliding_items_after": colliding_items(resolved.codes, resolved.codebook_sizes),
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


def mean_squared_distance(
    quantizer: Quantizer, codes: np.ndarray, vectors: np.ndarray, batch: int = BATCH
) -> float:
    """Mean over items of the squared distance between a vector and its decoded codes."""
    total = 0.0
    for start in range(0, len(codes), batch):
        decoded = quantizer.decode(codes[start : start + batch])
        difference = np.asarray(vectors[start : start + batch], dtype=np.float32) - decoded
        total += float(np.einsum("nd,nd->n", difference, difference).sum(dtype=np.float64))
    return total / len(codes)


def _allow(
    codes: np.ndarray,
    sizes: tuple[int, ...],
    tie_order: np.ndarray,
    quantizer: Quantizer | None,
    vectors: np.ndarray | None,
) -> Resolved:
    return Resolved(codes, sizes)


def _append(
    codes: np.ndarray,
    sizes: tuple[int, ...],
    tie_order: np.ndarray,
    quantizer: Quantizer | None,
    vectors: np.ndarray | None,
) -> Resolved:
    """One more level, as in TIGER (arXiv 2305.05065), whose codes number a bucket's items."""
    keys = TupleKeys(codes, sizes)
    order = np.lexsort((tie_order, keys.row))
    counts = np.bincount(keys.row, minlength=keys.num_tuples)
    starts = np.cumsum(counts) - counts
    digit = np.empty(len(codes), dtype=np.int32)
    digit[order] = np.arange(len(codes)) - np.repeat(starts, counts)
    size = int(counts.max())
    return Resolved(np.column_stack([codes, digit]), (*sizes, size), {"appended_codes": size})


def _reassign(
    codes: np.ndarray,
    sizes: tuple[int, ...],
    tie_order: np.ndarray,
    quantizer: Quantizer | None,
    vectors: np.ndarray | None,
) -> Resolved:
    if quantizer is None or vectors is None:
        raise ConfigError(
            "collisions: 'reassign' needs the quantizer and the vectors to know what a code costs; "
            "give both, or choose 'append' or 'allow'"
        )
    moved = reassign_codes(codes, sizes, tie_order, quantizer, vectors)
    before = mean_squared_distance(quantizer, codes, vectors)
    after = mean_squared_distance(quantizer, moved, vectors)
    changed = moved != codes
    report = {
        "moved_items": int(changed.any(axis=1).sum()),
        "moved_to_another_prefix": int(changed[:, :-1].any(axis=1).sum()),
        "distortion_before": before,
        "distortion_after": after,
        "distortion_increase": after / before - 1 if before > 0 else 0.0,
    }
    return Resolved(moved, sizes, report)


COLLISION_POLICIES: dict[str, Policy] = {
    "allow": _allow,
    "append": _append,
    "reassign": _reassign,
}
