"""What both layouts share about histories."""

from __future__ import annotations

import numpy as np

#: Action types: exposure, click, conversion. Units store one more, and 0 where an event has none.
ACTIONS = (0, 1, 2)
LATEST = 253_402_300_800  # seconds: the year 10000


def in_time_order(
    lengths: np.ndarray, items: np.ndarray, times: np.ndarray, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events sorted by time within each user; events of one time keep their order.

    Args:
        lengths: int64 [n], events of each user.
        items: int64 [T].
        times: int64 [T], seconds.
        actions: int8 [T].
    """
    users = np.repeat(np.arange(len(lengths)), lengths)
    falls = (users[1:] == users[:-1]) & (times[1:] < times[:-1])
    if not falls.any():
        return items, times, actions
    order = np.lexsort((times, users))
    return items[order], times[order], actions[order]
