"""A quantizer fitted again whose codes mean what they meant: warm start, then matched labels.

RQ-k-means goes on from its codebooks. The other quantizers have no such start and are fitted anew.
In both cases the codes of each level are then renamed by the assignment that keeps most items: on
level l first those whose codes before l are kept, then any. A level has one codebook for all of its
prefixes, so it gets one renaming, not one per prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrec.errors import ConfigError, DataError
from genrec.quantization import Quantizer, RQKMeans, make_quantizer
from genrec.quantization.balanced import balanced_kmeans
from genrec.quantization.base import option_names
from genrec.quantization.fixed_codes import FixedCodes
from genrec.quantization.kmeans import assign, center, cluster, subtract
from genrec.quantization.vectors import Vectors

Arrays = dict[str, np.ndarray]


def refit_quantizer(old: Quantizer, vectors: np.ndarray, *, progress: bool = False) -> Quantizer:
    """A quantizer with the options of `old`, fitted on `vectors` `float32 [n, d]`.

    Raises:
        DataError: if the vectors have another width, or are fewer than the codes of a level.
        ConfigError: if it learns from more than the vectors.
    """
    if old.learns_from:
        raise ConfigError(
            f"quantizer {old.type!r}: learns from {', '.join(sorted(old.learns_from))} vectors "
            "too, which a refit does not have; refresh without refit, or build the vocabulary again"
        )
    if not isinstance(old, RQKMeans):
        return _unfitted(old).fit(vectors, progress=progress)
    matrix = Vectors(vectors, width=old.width)
    if len(matrix) < max(old.codebook_sizes):
        raise DataError(
            f"vectors: have {len(matrix)} rows to fit on, but a level has "
            f"{max(old.codebook_sizes)} codes; refresh without refit, or build a smaller vocabulary"
        )
    rng = np.random.default_rng(old.seed)
    rest = matrix.sample(old.samples_per_code * max(old.codebook_sizes), rng).to(old.device)
    mean = center(rest)
    state = {}
    for level, book in enumerate(old.codebooks()):
        start = rest.new_tensor(book) - (mean if level == 0 else 0)
        if old.balanced:
            fresh = balanced_kmeans(rest, len(book), rng=rng, iterations=old.iterations, init=start)
            codes = assign(rest, fresh)
        else:
            fresh, codes = cluster(rest, len(book), rng=rng, iterations=old.iterations, init=start)
        subtract(rest, fresh, codes)
        state[f"codebook.{level}"] = (fresh + (mean if level == 0 else 0)).cpu().numpy()
    return _with_state(old, state)


def match_labels(
    old_codes: np.ndarray, new_codes: np.ndarray, sizes: Sequence[int]
) -> list[np.ndarray]:
    """New names for the codes of each level, so that most items keep their codes.

    Args:
        old_codes: `int [n, L]`, what the items had.
        new_codes: `int [n, L]`, what the same items would get.
        sizes: codes per level.

    Returns:
        Per level `int64 [K_l]`, a permutation: code c becomes `labels[l][c]`.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    num_items = len(old_codes)
    kept = np.ones(num_items, dtype=bool)
    labels = []
    for level, size in enumerate(sizes):
        old, new = old_codes[:, level].astype(np.int64), new_codes[:, level].astype(np.int64)
        # An item with a kept prefix outweighs all others, and a name that stays decides ties.
        weight = 1.0 + kept * num_items
        pairs = np.bincount(new * size + old, weights=weight, minlength=size * size)
        gain = pairs.reshape(size, size) + np.eye(size) / (2 * size)
        label = linear_sum_assignment(gain, maximize=True)[1].astype(np.int64)
        kept &= label[new] == old
        labels.append(label)
    return labels


def relabel_quantizer(quantizer: Quantizer, labels: Sequence[np.ndarray]) -> Quantizer:
    """The same quantizer with code c of level l called `labels[l][c]`.

    Raises:
        ConfigError: if the codebooks of this type cannot be found in its state, or do not say
            which code a vector gets.
    """
    state = {name: array.copy() for name, array in quantizer._state().items()}
    for level, (book, label) in enumerate(zip(quantizer.codebooks(), labels, strict=True)):
        place = _codebook(state, level)
        fixed = isinstance(quantizer, FixedCodes)
        if fixed or place is None or place.shape != book.shape or not (place == book).all():
            raise ConfigError(
                f"quantizer {quantizer.type!r}: its codes cannot be renamed, so a refit would "
                "change most SIDs; refresh without refit, or build the vocabulary again"
            )
        place[label] = book
    return _with_state(quantizer, state)


def _codebook(state: Arrays, level: int) -> np.ndarray | None:
    """The codebook of a level, to be written to: one array a level, or one array for all levels."""
    name = f"codebook.{level}"
    if name in state:
        return state[name]
    if "codebooks" not in state:
        return None
    # By level [L, K, d], or by subspace and level [M, L, K, d]; a view, the array being contiguous.
    stacked = state["codebooks"].reshape(-1, *state["codebooks"].shape[-2:])
    return stacked[level] if level < len(stacked) else None


def _unfitted(like: Quantizer) -> Quantizer:
    names = like.runtime_options & set(option_names(type(like)))
    return make_quantizer(**like.config, **{name: getattr(like, name) for name in names})


def _with_state(like: Quantizer, state: Arrays) -> Quantizer:
    """A quantizer of the same options that holds `state`, as if it had been loaded."""
    assert like.width is not None
    made = _unfitted(like)
    made._load_state(state, like.width)
    made.width = like.width
    made.report = {}
    return made
