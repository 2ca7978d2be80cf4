"""What is known of a synthetic world's items and users: features and vectors.

Everything is a function of the world's seed and an item's or user's number, so that parts can be
made in any order and number of processes.
"""

from __future__ import annotations

import functools

import numpy as np

from genrec.data.tencentgr.hashes import mixed, unit
from genrec.data.tencentgr.schema import Feature
from genrec.data.tencentgr.world import World


def num_values(feature: Feature, items: int, full: int) -> int:
    """How many values a feature has in a catalog of `items`; those of thousands shrink with it."""
    return (
        feature.values
        if feature.values < 5_000
        else max(16, min(feature.values, round(feature.values * items / full)))
    )


def item_feature(world: World, feature: Feature, values: int, items: np.ndarray) -> np.ndarray:
    """Re-numbered values (from 1; 0 where unknown) of a feature, int64 `[n]`.

    Features of few values tell the topic, of more the group inside it, of most the pair of items.
    """
    number = int(feature.name)
    topic = world.topic[items].astype(np.uint64)
    if values > 1_000_000 or feature.name == "121":
        told = mixed(world.seed, number, items // 2)
    elif values > 100:
        told = mixed(world.seed, number, topic, mixed(world.seed, 9, items // 2) % np.uint64(8))
    else:
        told = mixed(world.seed, number, topic)
    noisy = unit(world.seed, number, 1, items) < 0.1
    skewed = values * unit(world.seed, number, 2, items) ** 2
    value = np.where(noisy, skewed.astype(np.int64), (told % np.uint64(values)).astype(np.int64))
    known = unit(world.seed, number, 3, items) < feature.coverage
    return np.where(known, 1 + value, 0)


def user_feature(
    world: World, feature: Feature, users: np.ndarray, favourites: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values (from 1) of users and how many each has: int64 `[sum of counts]` and `[n]`.

    A user's favourite topics decide four values of five.
    """
    number, values = int(feature.name), feature.values
    known = unit(world.seed, number, 4, users) < feature.coverage
    most = 3 if feature.is_list else 1
    wanted = 1 + (mixed(world.seed, number, 5, users) % np.uint64(most)).astype(np.int64)
    columns = []
    for place in range(most):
        told = mixed(world.seed, number, favourites[:, place]) % np.uint64(values)
        drawn = mixed(world.seed, number, 6 + place, users) % np.uint64(values)
        noisy = unit(world.seed, number, 10 + place, users) < 0.2
        columns.append(1 + np.where(noisy, drawn, told).astype(np.int64))
    counts = np.where(known, wanted, 0)
    table = np.stack(columns, axis=1)
    return table[np.arange(most) < counts[:, None]], counts


def item_vectors(world: World, items: np.ndarray, *, name: str, width: int) -> np.ndarray:
    """Vectors float32 `[n, width]` of one set: topic, group, pair and noise."""
    number = int(name)
    vectors = _centres(world.seed, world.topics, number, width)[world.topic[items]]
    group = (mixed(world.seed, 9, items // 2) % np.uint64(8)).astype(np.int64)
    groups = np.random.default_rng([world.seed, 3, number]).standard_normal((8, width))
    vectors += 0.5 * groups[group]
    for salt, of, scale in ((4, items // 2, 0.5), (5, items, 0.3)):
        column = np.arange(width, dtype=np.uint64)
        noise = unit(world.seed, number, salt, of[:, None], column[None, :])
        vectors += scale * 3.46 * (noise - 0.5)
    return (vectors / np.sqrt(width)).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _centres(seed: int, topics: int, number: int, width: int) -> np.ndarray:
    """Of a set's topics, float64 `[topics, width]`; a large world asks for them again and again."""
    return np.random.default_rng([seed, 2, number]).standard_normal((topics, width))
