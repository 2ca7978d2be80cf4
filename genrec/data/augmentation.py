"""Training windows that differ from epoch to epoch: random crops, and events in another order.

What is drawn for a window depends on the seed, the epoch and the window alone. Batches, processes,
workers and resumed runs therefore see the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrec.errors import ConfigError

_GOLDEN = 0x9E3779B97F4A7C15  # the increment of splitmix64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Augmentation:
    """Chances and sizes of the changes (crop and reorder of CL4SRec, Xie et al. 2022).

    Attributes:
        crop: chance that a window is cut to a contiguous part of itself.
        crop_share: a crop keeps at least this share of the events (and at least two); its length
            is uniform from there to the whole, and so is its place.
        shuffle: chance that a contiguous part of a window, after the crop, is put in random order.
        shuffle_share: at most this share of the events is reordered; the length is uniform from
            two to there, and so is the place.
        seed: of all draws.
    """

    crop: float = 0.0
    crop_share: float = 0.5
    shuffle: float = 0.0
    shuffle_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for a chance outside 0 to 1 or a share that is not above 0."""
        for name in ("crop", "shuffle"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)}; expected a chance from 0 to 1")
        for name in ("crop_share", "shuffle_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)}; expected a share above 0, up to 1"
                )

    def __bool__(self) -> bool:
        """Whether anything is ever changed."""
        return self.crop > 0 or self.shuffle > 0

    def cropped(
        self, start: np.ndarray, end: np.ndarray, *, epoch: int, windows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the windows after the crop.

        Args:
            start: int64 [B], first event of each window.
            end: int64 [B], one past its last.
            epoch: which epoch it is.
            windows: int64 [B], number of each window in its dataset.

        Returns:
            start and end, int64 [B], inside the given ones, at least two events apart where the
            window has two.
        """
        if not self.crop:
            return start, end
        chance, size, place = uniforms(self.seed, epoch, windows, 3).T
        length = end - start
        least = np.minimum(np.maximum(np.ceil(self.crop_share * length), 2), length)
        kept = least + np.floor(size * (length - least + 1))
        first = np.floor(place * (length - kept + 1))
        begin = (start + first).astype(np.int64)
        cut = chance < self.crop
        return np.where(cut, begin, start), np.where(cut, begin + kept.astype(np.int64), end)

    def order(self, lengths: np.ndarray, *, epoch: int, windows: np.ndarray) -> np.ndarray | None:
        """Which event stands at each place of a window after the shuffle.

        Args:
            lengths: int64 [B], events of each window.
            epoch: which epoch it is.
            windows: int64 [B], number of each window in its dataset.

        Returns:
            int64 [B, S], S the longest window: a permutation of `0 .. length - 1` in the first
            `length` columns of a row, and `j` in column j beyond; None if nothing is shuffled.
        """
        if not self.shuffle:
            return None
        width = int(lengths.max(initial=1))
        drawn = uniforms(self.seed, epoch, windows, 6 + width)
        chance, size, place = drawn[:, 3:6].T
        most = np.minimum(np.maximum(np.floor(self.shuffle_share * lengths), 2), lengths)
        count = np.minimum(2 + np.floor(size * (most - 1)), most)
        first = np.floor(place * (lengths - count + 1))
        column = np.arange(width)
        moved = (column >= first[:, None]) & (column < (first + count)[:, None])
        moved &= (chance < self.shuffle)[:, None]
        # Keys inside a part are drawn from that part's own range, so that sorting mixes it alone.
        keys = np.where(moved, first[:, None] + drawn[:, 6:] * count[:, None], column)
        return np.argsort(keys, axis=1, kind="stable")


def uniforms(seed: int, epoch: int, rows: np.ndarray, columns: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on (seed, epoch, row, column) alone (splitmix64).

    Args:
        seed: of the run.
        epoch: which epoch.
        rows: int64 [B], at least 0.
        columns: how many numbers a row needs.

    Returns:
        float64 [B, columns].
    """
    key = _mixed(np.array([seed], dtype=np.uint64))
    key = _mixed(key + np.uint64(epoch))
    row = _mixed(key + rows.astype(np.uint64))
    column = np.arange(1, columns + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return (_mixed(row[:, None] + column) >> np.uint64(11)) * 2.0**-53


def _mixed(x: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 (Steele, Lea and Flood 2014), on uint64 that wraps."""
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
    return x ^ (x >> np.uint64(31))
