"""k-core: the largest part of the interactions in which every user and item has enough of them."""

from __future__ import annotations

import numpy as np

from genrec.errors import ConfigError


def k_core(
    users: np.ndarray, items: np.ndarray, *, user_min: int = 5, item_min: int = 5
) -> np.ndarray:
    """Which interactions belong to the k-core.

    Users with fewer than `user_min` and items with fewer than `item_min` interactions are removed,
    again and again until none is left to remove. The result does not depend on the order of
    removal. Every round is two counts over what is left.

    Args:
        users: user numbers, integers >= 0 `[n]`.
        items: item numbers, integers >= 0 `[n]`.
        user_min: interactions that a user needs; 0 or 1 removes no user.
        item_min: interactions that an item needs; 0 or 1 removes no item.

    Returns:
        bool `[n]`, True for interactions that stay.

    Raises:
        ConfigError: if a minimum is negative or the arrays differ in length.
    """
    if user_min < 0 or item_min < 0:
        raise ConfigError(f"k-core of {user_min} and {item_min}: expected numbers >= 0")
    if users.shape != items.shape:
        raise ConfigError(f"k-core of {len(users)} users and {len(items)} items: lengths differ")
    left = np.arange(len(users))
    while len(left):
        of_users, of_items = users[left], items[left]
        enough = np.bincount(of_users)[of_users] >= user_min
        enough &= np.bincount(of_items)[of_items] >= item_min
        if enough.all():
            break
        left = left[enough]
    mask = np.zeros(len(users), dtype=bool)
    mask[left] = True
    return mask
