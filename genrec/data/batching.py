"""Batches of histories as padded tensors, gathered from the flat arrays in one go.

No Python loop over samples: a batch is one index matrix and one gather per field. It costs
8 bytes per field and position of the padded matrix, whatever the size of the dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from genrec.data.augmentation import Augmentation
from genrec.data.histories import Histories
from genrec.data.splits import EvalSet, Split
from genrec.errors import ConfigError, DataError

IGNORED = -100
Batch = dict[str, torch.Tensor]


def batch(
    histories: Histories,
    start: np.ndarray,
    end: np.ndarray,
    *,
    max_length: int,
    targets: np.ndarray | None = None,
    query_time: np.ndarray | None = None,
    query_action: np.ndarray | None = None,
    users: np.ndarray | None = None,
) -> Batch:
    """Slices of the flat events as one padded batch.

    Args:
        histories: the events.
        start: int64 [B], first event of each slice.
        end: int64 [B], one past the last event of each slice; an empty slice is a row of padding.
        max_length: keep the last `max_length` events of a slice.
        targets: int64 [B], item numbers of the answers, passed through.
        query_time: int64 [B], Unix seconds at which the item after each slice is asked for; the
            time of the slice's last event by default.
        query_action: int64 [B], the action asked for, as a code of `Histories`; 0, unknown, by
            default.
        users: int64 [B], user of each slice, passed through for what is known of users.

    Returns:
        items: int64 [B, S], 0 at padding, which stands on the right; S is the longest slice of the
            batch (at least 1, at most max_length).
        mask: bool [B, S], True at events.
        event_time: int64 [B, S], Unix seconds, 0 at padding (if there are timestamps).
        query_time: int64 [B, S], time of the event that follows each event (ditto).
        action: int64 [B, S], 0 at padding and where unknown (if there are actions).
        query_action: int64 [B, S], action of the event that follows each event (ditto).
        user: int64 [B, S], the user at every position (if given).
        targets: int64 [B] (if given).
    """
    if max_length < 1:
        raise ConfigError(f"max_length is {max_length}; expected at least 1")
    end = np.asarray(end, dtype=np.int64)
    start = np.maximum(np.asarray(start, dtype=np.int64), end - max_length)
    lengths = end - start
    column = np.arange(max(1, int(lengths.max(initial=1))))
    mask = column < lengths[:, None]
    # Padding points at the slice's last event, so that every index exists; the mask clears it.
    index = np.minimum(start[:, None] + column, np.maximum(end - 1, 0)[:, None])
    result = {"items": _gather(histories.items, index, mask), "mask": torch.from_numpy(mask)}
    if histories.timestamps is not None:
        times = histories.timestamps
        result["event_time"] = _gather(times, index, mask)
        after = times[np.minimum(index + 1, len(times) - 1)]
        last = np.maximum(end - 1, 0)
        after[np.arange(len(end)), np.maximum(lengths - 1, 0)] = (
            times[last] if query_time is None else query_time
        )
        after[~mask] = 0
        result["query_time"] = torch.from_numpy(after)
    if histories.actions is not None:
        result["action"] = _gather(histories.actions, index, mask)
        following = np.zeros(mask.shape, dtype=np.int64)
        following[:, :-1] = result["action"].numpy()[:, 1:]
        if query_action is not None:
            following[np.arange(len(end)), np.maximum(lengths - 1, 0)] = query_action
            following[~mask] = 0
        result["query_action"] = torch.from_numpy(following)
    if users is not None:
        rows = np.asarray(users, dtype=np.int64)
        result["user"] = torch.from_numpy(rows)[:, None].expand(mask.shape)
    if targets is not None:
        result["targets"] = torch.from_numpy(np.asarray(targets, dtype=np.int64))
    return result


def training_windows(
    split_start: np.ndarray, split_end: np.ndarray, *, max_length: int, last_only: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Cut training slices into windows in which every event but a user's first is a label once.

    A window has at most `max_length` + 1 events: the inputs are all but the last, the labels all
    but the first. Windows of one user share one event (last label of one, first input of the
    next) and are cut from the end, so that the newest window is full. 16 bytes a window.

    Args:
        split_start: int64 [U], first training event of each user.
        split_end: int64 [U], one past the last.
        max_length: longest input.
        last_only: only the newest window of each user.

    Returns:
        start and end of each window, int64 [W]; users with fewer than two events have none.
    """
    if max_length < 1:
        raise ConfigError(f"max_length is {max_length}; expected at least 1")
    labels = np.maximum(split_end - split_start - 1, 0)
    windows = -(-labels // max_length)
    if last_only:
        windows = np.minimum(windows, 1)
    user = np.repeat(np.arange(len(labels)), windows)
    first = np.cumsum(windows) - windows
    back = np.repeat(windows, windows) - 1 - (np.arange(len(user)) - first[user])
    end = split_end[user] - back * max_length
    start = np.maximum(split_start[user], end - max_length - 1)
    return start, end


def training_batch(
    histories: Histories,
    start: np.ndarray,
    end: np.ndarray,
    *,
    max_length: int,
    order: np.ndarray | None = None,
) -> Batch:
    """Windows as inputs and labels.

    Args:
        histories: the events.
        start: int64 [B], first event of each window.
        end: int64 [B], one past the last event of each window (at least two events each).
        max_length: longest input.
        order: int64 [B, longest window], which event of a window stands at each place; items and
            actions change places, times stay. For windows of at most `max_length + 1` events.

    Returns:
        What `batch` returns for the inputs, and `labels` int64 [B, S]: the item after each
        position, -100 at padding. `query_time` is the time of the labelled event.
    """
    last = np.asarray(end, dtype=np.int64) - 1
    times = histories.timestamps
    result = batch(
        histories,
        start,
        last,
        max_length=max_length,
        query_time=None if times is None else times[last],
        query_action=None if histories.actions is None else histories.actions[last],
        users=np.searchsorted(histories.offsets, last, side="right") - 1,
    )
    begin = np.maximum(start, last - max_length)
    mask = result["mask"].numpy()
    column = np.arange(mask.shape[1])
    index = np.minimum(begin[:, None] + 1 + column, last[:, None])
    if order is not None:
        moved = begin[:, None] + np.minimum(order, (last - begin)[:, None])
        index = moved[:, 1:]
        result["items"] = _gather(histories.items, moved[:, :-1], mask)
        if histories.actions is not None:
            result["action"] = _gather(histories.actions, moved[:, :-1], mask)
            result["query_action"] = _gather(histories.actions, index, mask)
    result["labels"] = _gather(histories.items, index, mask, IGNORED)
    return result


def evaluation_batches(
    histories: Histories,
    eval_set: EvalSet,
    *,
    max_length: int,
    batch_size: int = 256,
    by_length: bool = True,
    part: tuple[int, int] = (0, 1),
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Questions as batches, each with the rows of `eval_set` that it holds.

    Args:
        histories: the events.
        eval_set: n questions.
        max_length: keep the last events of an input.
        batch_size: questions in a batch.
        by_length: put inputs of similar length together, which saves padding.
        part: (p, n) gives every n-th batch, from batch p on; the n parts together give all.

    Yields:
        (rows int64 [B], what `batch` returns with `targets`); every row comes exactly once.
    """
    order = np.arange(len(eval_set))
    if by_length:
        order = np.argsort(np.minimum(eval_set.end - eval_set.start, max_length), kind="stable")
    first, parts = part
    for low in range(first * batch_size, len(order), parts * batch_size):
        rows = order[low : low + batch_size]
        chosen = eval_set.take(rows)
        yield (
            rows,
            batch(
                histories,
                chosen.start,
                chosen.end,
                max_length=max_length,
                targets=chosen.targets,
                query_time=chosen.times,
                query_action=chosen.actions,
                users=chosen.users,
            ),
        )


class TrainingSequences(torch.utils.data.Dataset):
    """The training windows of a split, for a DataLoader: a list of indices gives a whole batch.

        loader = DataLoader(sequences, batch_size=256, shuffle=True, collate_fn=lambda b: b)

    Holds 16 bytes a window. Histories from a folder travel to worker processes as their path.

    Args:
        histories: the events.
        split: which of them train.
        max_length: longest input.
        last_only: only the newest window of each user.
        augmentation: crops and reorders windows, by default not at all.

    Number i is window `i % len` as it is in epoch `i // len`.

    Raises:
        DataError: if no user has two training events.
    """

    def __init__(
        self,
        histories: Histories,
        split: Split,
        *,
        max_length: int,
        last_only: bool = False,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.histories = histories
        self.max_length = max_length
        self.augmentation = augmentation
        self.start, self.end = training_windows(
            split.train_start, split.train_end, max_length=max_length, last_only=last_only
        )
        if len(self.start) == 0:
            raise DataError(
                "no user has two training events, so there is nothing to learn from; use longer "
                "histories or a later split"
            )

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.start)

    @property
    def lengths(self) -> np.ndarray:
        """Input length of each window, int64 [W], for samplers that group by length."""
        return self.end - self.start - 1

    def __getitem__(self, i: int) -> Batch:
        """Window i as a batch of one."""
        return self.__getitems__([i])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Windows as one batch: see `training_batch`."""
        numbers = np.asarray(indices, dtype=np.int64)
        epochs, rows = np.divmod(numbers, len(self))
        start, end, order = self.start[rows], self.end[rows], None
        if self.augmentation:
            epoch = int(epochs[0])  # all of a batch are of one
            start, end = self.augmentation.cropped(start, end, epoch=epoch, windows=rows)
            order = self.augmentation.order(end - start, epoch=epoch, windows=rows)
        return training_batch(self.histories, start, end, max_length=self.max_length, order=order)


def _gather(
    values: np.ndarray, index: np.ndarray, mask: np.ndarray, padding: int = 0
) -> torch.Tensor:
    gathered = values[index].astype(np.int64, copy=False)
    gathered[~mask] = padding
    return torch.from_numpy(gathered)
