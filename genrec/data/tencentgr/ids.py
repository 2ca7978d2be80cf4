"""Ids of a synthetic world: three spaces that say nothing of the world, the pool, the index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.tencentgr.content import num_values
from genrec.data.tencentgr.hashes import unit
from genrec.data.tencentgr.indexer import write_indexer
from genrec.data.tencentgr.schema import (
    CREATIVE,
    ITEM_FEATURES,
    ITEMS_1M,
    USER_FEATURES,
)
from genrec.data.tencentgr.world import BLOCK_USERS, Block, World

TARGETS = 0.4  # share of the candidates that are somebody's target
KEPT = 0.8  # share of targets that are candidates; by item, as many users want the same
_BLOCK_ITEMS = 100_000


@dataclass(frozen=True)
class Numbers:
    """Ids of a world's items and users: nothing of the world shows in them.

    Attributes:
        item: int64 `[N + cold]`, re-numbered id of each item of the world, 0 for cold ones.
        world: int64 `[N + 1]`, the item of the world behind each re-numbered id; -1 at 0.
        raw: int64 `[N + cold]`, raw id (creative id).
        user: int64 `[U + asked]`, re-numbered id of each user.
        user_raw: int64 `[U + asked]`, the number in each user's raw id.
        values: values of each item feature.
    """

    item: np.ndarray
    world: np.ndarray
    raw: np.ndarray
    user: np.ndarray
    user_raw: np.ndarray
    values: dict[str, int]

    def user_names(self, users: np.ndarray) -> pa.Array:
        """Raw ids of users of the world, `user_1109670`."""
        digits = pa.array(self.user_raw[users]).cast(pa.large_string())
        start = pa.scalar("user", pa.large_string())
        return pc.binary_join_element_wise(start, digits, pa.scalar("_", pa.large_string()))


def number(world: World, users: int) -> Numbers:
    """Draw the ids of a world's items and of `users` users."""
    rng = np.random.default_rng([world.seed, 4])
    total = world.items + world.cold
    item = np.zeros(total, dtype=np.int64)
    item[: world.items] = 1 + rng.permutation(world.items)
    back = np.full(world.items + 1, -1, dtype=np.int64)
    back[item[: world.items]] = np.arange(world.items)
    raw = 30_000_000_000 + rng.permutation(total) * 97 + rng.integers(0, 97, size=total)
    low = 10 ** max(6, len(str(4 * users)))
    return Numbers(
        item=item,
        world=back,
        raw=raw,
        user=1 + rng.permutation(users),
        user_raw=low + rng.permutation(users) * 2 + rng.integers(0, 2, size=users),
        values={f.name: num_values(f, world.items, ITEMS_1M) for f in ITEM_FEATURES},
    )


def last_clicks(block: Block) -> np.ndarray:
    """The item of each user's last click, int64 `[B]`; -1 without one."""
    ends = np.cumsum(block.lengths)
    place = np.where(block.actions > 0, np.arange(len(block.actions)), -1)
    last = np.maximum.accumulate(place)[ends - 1]
    return np.where(last >= ends - block.lengths, block.items[last], -1)


def choose_pool(world: World, clicked: np.ndarray, size: int) -> np.ndarray:
    """The candidates, items of the world in random order, int64 `[size]`.

    Cold items, targets (four of five, the most frequent ones as far as there is room) and others,
    newer ones more often, targets only if nothing else is left.

    Args:
        world: the items.
        clicked: int64, clicked items of users, with repeats.
        size: candidates wanted.
    """
    rng = np.random.default_rng([world.seed, 5])
    warm = size - world.cold
    wanted, counts = np.unique(clicked[clicked >= 0], return_counts=True)
    kept = rng.random(len(wanted)) < KEPT
    order = np.argsort(-counts[kept], kind="stable")
    targets = wanted[kept][order][: round(TARGETS * size)]
    chosen = np.zeros(world.items, dtype=bool)
    chosen[targets] = True
    # The largest of random keys: a draw without replacement.
    key = rng.random(world.items) * (1 + world.birth[: world.items])
    key[wanted] = 0
    key[chosen] = -1
    others = np.argsort(-key)[: warm - len(targets)]
    cold = world.items + np.arange(world.cold)
    return rng.permutation(np.concatenate([targets, others, cold]))


def unseen_value(world: World, name: str, values: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Which values of candidates were not seen in training, bool `[n]`: cold items have such."""
    share = {"121": 0.9, "102": 0.05, "122": 0.05}.get(name, 0.005)
    drawn = unit(world.seed, int(name), 20, items)
    return (items >= world.items) & (drawn < share) & (values > 0)


def raw_value(world: World, name: str, values: np.ndarray) -> np.ndarray:
    """The raw value behind a re-numbered one, int64; distinct."""
    return 100_000 + np.asarray(values, dtype=np.int64) * 1_009 + int(name) * 7


def write_index(path: Path, world: World, numbers: Numbers, users: int, actions: int) -> None:
    """Write `indexer.pkl` of the items and of the first `users` users."""

    def blocks(total: int) -> list[np.ndarray]:
        return [
            np.arange(low, min(low + _BLOCK_ITEMS, total)) for low in range(0, total, _BLOCK_ITEMS)
        ]

    def values(name: str, total: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(raw_value(world, name, 1 + part), 1 + part) for part in blocks(total)]

    creatives = [(numbers.raw[part], numbers.item[part]) for part in blocks(world.items)]
    features = {f.name: values(f.name, numbers.values[f.name]) for f in ITEM_FEATURES}
    features |= {f.name: values(f.name, f.values) for f in USER_FEATURES}
    write_indexer(
        path,
        users=((numbers.user_names(part), numbers.user[part]) for part in blocks(users)),
        items=creatives,
        features={**features, CREATIVE: creatives},
        actions={action: 1 + action for action in range(actions)},
    )


def blocks_of_users(world: World, users: int) -> list[tuple[int, int, int]]:
    """(block, first user, number of users) of all blocks."""
    lows = range(0, users, BLOCK_USERS)
    return [(n, low, min(BLOCK_USERS, users - low)) for n, low in enumerate(lows)]
