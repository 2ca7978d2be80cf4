"""A generated catalog: readable items, and users whose next item can be predicted.

Nothing is downloaded; it takes less than a second. Items come from a latent structure (department >
subcategory, brand, style) and their text tells it. Users have planted tastes (a few subcategories,
two styles) that drift over their life. Every item has planned successors:

- *readable* ones: the items of the same style, and half the time of the same brand, in the
  subcategory bought next (camera, lens, bag). A model can find them from content;
- three *hidden* ones, two in the same department and one anywhere: only sequences show them.

The next item is a successor of the last item or of the one before it, or follows the user's taste,
or plain popularity. So content and sequence both carry signal, and both are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa

from genrec.data.dataset import Dataset, check_dataset_target, write_dataset
from genrec.data.ranges import draw_in_ranges
from genrec.data.sources.generated_words import DEPARTMENTS, DETAILS, STYLE_PHRASES
from genrec.data.sources.registry import register
from genrec.errors import ConfigError

NUM_STYLES = 6
SUBCATEGORIES = tuple(
    (number, place) for number, d in enumerate(DEPARTMENTS) for place in range(len(d.subcategories))
)
#: Chance of each reason for the next item: successor of the last item, successor of the one before
#: it, the user's taste, popularity.
REASONS = (0.40, 0.12, 0.39, 0.09)
#: Chance of each kind of successor: hidden ones in the department (two) and anywhere (one), then
#: readable ones of the same brand and style, and of the same style.
SUCCESSORS = (0.18, 0.12, 0.08, 0.31, 0.31)
POPULARITY_SPREAD = 1.0  # standard deviation of log-popularity
FAVOURITES = 3  # subcategories a user likes at any one time
FAVOURITE_STYLE = 0.8  # chance that taste picks one of the user's two styles
TRIES = 4  # draws before an item that the user already has is given up on
START = 1_577_836_800  # 2020-01-01 00:00 UTC
DAY = 86_400


@dataclass(frozen=True)
class World:
    """The latent structure of the items, sorted by subcategory, then style, then brand.

    Attributes:
        subcategory: int64 `[N]`, number of the pair in `SUBCATEGORIES`.
        style: int64 `[N]`, 0 to 5, with one meaning in all departments.
        brand: int64 `[N]`, number within the department.
        spec: int64 `[N]`, number within the subcategory's variants.
        weight: float64 `[N]`, popularity, sums to 1.
        cumulative: float64 `[N + 1]`, running sum of `weight` from 0.
        first: int64 `[N, 5]` and `last`: ranges `[first, last)` of items, one for each kind of
            successor in `SUCCESSORS`; those of hidden successors hold one item.
        cells: int64 `[subcategories * NUM_STYLES + 1]`, where each subcategory and style begins.
    """

    subcategory: np.ndarray
    style: np.ndarray
    brand: np.ndarray
    spec: np.ndarray
    weight: np.ndarray
    cumulative: np.ndarray
    first: np.ndarray
    last: np.ndarray
    cells: np.ndarray


def generate(
    *,
    num_items: int = 2400,
    num_users: int = 5000,
    min_length: int = 6,
    max_length: int = 40,
    seed: int = 0,
) -> tuple[pa.Table, pa.Table, dict[str, Any]]:
    """Generate a catalog and its users' histories; the same arguments give the same tables.

    Args:
        num_items: items, 108 to 3888.
        num_users: users, at least 1.
        min_length: shortest history, at least 3.
        max_length: longest history.
        seed: non-negative seed of everything random.

    Returns:
        Items (`item_id`, `title`, `brand`, `category`, `description`), interactions (`user_id`,
        `item_id`, `timestamp` in seconds; users in order, each in strict time order, no item twice)
        and what is known about them.

    Raises:
        ConfigError: if a size is out of range.
    """
    capacity = len(SUBCATEGORIES) * NUM_STYLES * 3 * 4
    if not 2 * len(SUBCATEGORIES) <= num_items <= capacity:
        raise ConfigError(
            f"num_items is {num_items}; the generated catalog holds {2 * len(SUBCATEGORIES)} to "
            f"{capacity} items"
        )
    if num_users < 1 or seed < 0:
        raise ConfigError(f"num_users is {num_users}, seed is {seed}; expected >= 1 and >= 0")
    if not 3 <= min_length <= max_length <= num_items // 2:
        raise ConfigError(
            f"min_length {min_length}, max_length {max_length}: expected "
            f"3 <= min_length <= max_length <= {num_items // 2} (half the items)"
        )
    rng = np.random.default_rng(seed)
    world = build_world(rng, num_items)
    users, items, timestamps = simulate(rng, world, num_users, min_length, max_length)

    # Item numbers say nothing: ids are a permutation and rows stand in the order of the ids.
    order = rng.permutation(num_items)
    number = np.empty(num_items, dtype=np.int64)
    number[order] = np.arange(num_items)
    item_ids = np.array([f"G{n:05d}" for n in range(num_items)], dtype=object)
    user_ids = np.array([f"U{n:05d}" for n in range(num_users)], dtype=object)
    item_table = pa.table({"item_id": item_ids, **_texts(rng, world, order)})
    interactions = pa.table(
        {
            "user_id": user_ids[users],
            "item_id": item_ids[number[items]],
            "timestamp": timestamps,
        }
    )
    info = {
        "name": "generated",
        "source": "genrec.data.sources.generated",
        "licence": "Apache-2.0",
        "order": "file",
        "options": {
            "num_items": num_items,
            "num_users": num_users,
            "min_length": min_length,
            "max_length": max_length,
            "seed": seed,
        },
    }
    return item_table, interactions, info


@register("generated")
def prepare_generated(
    folder: str | PathLike[str],
    path: str | PathLike[str] | None = None,
    *,
    num_items: int = 2400,
    num_users: int = 5000,
    min_length: int = 6,
    max_length: int = 40,
    seed: int = 0,
) -> Dataset:
    """Write the generated catalog as a dataset folder and return the dataset.

    Example:
        genrec prepare generated data/demo

    Args:
        folder: dataset folder to write.
        path: left out; nothing is read.
        num_items: items, 108 to 3888.
        num_users: users, at least 1.
        min_length: shortest history, at least 3.
        max_length: longest history.
        seed: non-negative seed of everything random.

    Raises:
        ConfigError: if a size is out of range or a path is given.
        ArtefactError: if the folder cannot be written.
    """
    check_dataset_target(folder)
    if path is not None:
        raise ConfigError(f"path {str(path)!r}: the generated catalog reads nothing; leave it out")
    items, interactions, info = generate(
        num_items=num_items,
        num_users=num_users,
        min_length=min_length,
        max_length=max_length,
        seed=seed,
    )
    return write_dataset(folder, items, interactions, info)


def build_world(rng: np.random.Generator, num_items: int) -> World:
    """Choose the items, their popularity and their successors."""
    # Brand b of a department carries the three styles b, b + 1 and b + 3, each in four variants.
    brand, offset, spec = (
        axis.ravel() for axis in np.meshgrid(np.arange(6), [0, 1, 3], np.arange(4), indexing="ij")
    )
    style = (brand + offset) % NUM_STYLES
    per_subcategory = np.full(len(SUBCATEGORIES), num_items // len(SUBCATEGORIES))
    per_subcategory[: num_items % len(SUBCATEGORIES)] += 1
    chosen = [rng.permutation(len(brand))[:count] for count in per_subcategory]
    subcategory = np.repeat(np.arange(len(SUBCATEGORIES)), per_subcategory)
    pick = np.concatenate(chosen)
    brand, style, spec = brand[pick], style[pick], spec[pick]
    order = np.lexsort((spec, brand, style, subcategory))
    brand, style, spec = brand[order], style[order], spec[order]

    weight = np.exp(POPULARITY_SPREAD * rng.standard_normal(num_items))
    weight /= weight.sum()
    cumulative = np.concatenate([[0.0], np.cumsum(weight)])
    cells = np.searchsorted(
        subcategory * NUM_STYLES + style, np.arange(len(SUBCATEGORIES) * NUM_STYLES + 1)
    )
    first, last = _plan_successors(rng, subcategory, style, brand, cumulative, cells)
    return World(subcategory, style, brand, spec, weight, cumulative, first, last, cells)


def _plan_successors(
    rng: np.random.Generator,
    subcategory: np.ndarray,
    style: np.ndarray,
    brand: np.ndarray,
    cumulative: np.ndarray,
    cells: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Ranges of successors of every item, int64 `[N, 5]` twice."""
    num_items = len(subcategory)
    per_department = len(DEPARTMENTS[0].subcategories)
    department = subcategory // per_department
    zero = np.zeros(num_items, dtype=np.int64)
    low = cells[department * per_department * NUM_STYLES]
    high = cells[(department + 1) * per_department * NUM_STYLES]
    hidden = [draw_in_ranges(rng, cumulative, low, high) for _ in range(2)]
    hidden.append(draw_in_ranges(rng, cumulative, zero, zero + num_items))

    following = department * per_department + (subcategory + 1) % per_department
    key = (subcategory * NUM_STYLES + style) * 6 + brand
    wanted = (following * NUM_STYLES + style) * 6 + brand
    line = np.searchsorted(key, wanted), np.searchsorted(key, wanted, side="right")
    line = _widen_empty(*line, following, style, cells)
    cell = _widen_empty(zero, zero, following, style, cells)
    first = np.stack([*hidden, line[0], cell[0]], axis=1)
    last = np.stack([*(item + 1 for item in hidden), line[1], cell[1]], axis=1)
    return first, last


def _widen_empty(
    low: np.ndarray, high: np.ndarray, subcategory: np.ndarray, style: np.ndarray, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Replace empty item ranges by the cell of subcategory and style, or by the subcategory."""
    cell = subcategory * NUM_STYLES + style
    for wider_low, wider_high in (
        (cells[cell], cells[cell + 1]),
        (cells[subcategory * NUM_STYLES], cells[(subcategory + 1) * NUM_STYLES]),
    ):
        empty = low >= high
        low, high = np.where(empty, wider_low, low), np.where(empty, wider_high, high)
    return low, high


def simulate(
    rng: np.random.Generator, world: World, num_users: int, min_length: int, max_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histories of all users at once, one step of everybody at a time.

    Returns:
        User number, item number (in the world's order) and timestamp of every event, sorted by user
        and time; int64 `[events]` each.
    """
    mean_extra = (max_length - min_length) / 4
    lengths = min_length + rng.exponential(mean_extra + 1e-9, num_users).astype(np.int64)
    lengths = np.minimum(lengths, max_length)
    favourites, styles = tastes(rng, num_users)

    items = np.full((num_users, max_length), -1, dtype=np.int64)
    seen = np.zeros((num_users, len(world.weight)), dtype=bool)
    for step in range(max_length):
        active = np.flatnonzero(lengths > step)
        phase = step / np.maximum(lengths[active] - 1, 1)
        chosen = np.full(len(active), -1, dtype=np.int64)
        for attempt in range(TRIES + 1):
            left = np.flatnonzero(chosen < 0)
            who = active[left]
            if attempt < TRIES:
                past, likes = items[who, :step], (favourites[who], styles[who])
                drawn = _next_item(rng, world, past, phase[left], *likes)
            else:
                drawn = np.argmax(~seen[who] * world.weight, axis=1)
            chosen[left] = np.where(seen[who, drawn], -1, drawn)
        items[active, step] = chosen
        seen[active, chosen] = True

    users = np.repeat(np.arange(num_users), lengths)
    # A user shops in bursts: often minutes after the last item, sometimes weeks.
    scale = np.where(rng.random(len(users)) < 0.3, 600.0, 9.0 * DAY)
    gap = 20 + (scale * -np.log1p(-rng.random(len(users)))).astype(np.int64)
    begin = START + (rng.random(num_users) * 500 * DAY).astype(np.int64)
    elapsed = np.cumsum(gap)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    timestamps = begin[users] + elapsed - elapsed[offsets[:-1]][users]
    return users, items[items >= 0], timestamps


def tastes(rng: np.random.Generator, num_users: int) -> tuple[np.ndarray, np.ndarray]:
    """Planted tastes.

    Returns:
        Favourite subcategories, int64 `[users, 2, FAVOURITES]` (early and late in the user's life;
        half of them from one department), and favourite styles, int64 `[users, 2]`.
    """
    per_department = len(DEPARTMENTS[0].subcategories)
    home = rng.integers(0, len(DEPARTMENTS), size=(num_users, 2, 1))
    home[:, 1] = np.where(rng.random((num_users, 1)) < 0.5, home[:, 0], home[:, 1])
    inside = home * per_department + rng.integers(0, per_department, (num_users, 2, FAVOURITES))
    anywhere = rng.integers(0, len(SUBCATEGORIES), (num_users, 2, FAVOURITES))
    favourites = np.where(rng.random(inside.shape) < 0.75, inside, anywhere)
    return favourites, rng.integers(0, NUM_STYLES, (num_users, 2))


def _next_item(
    rng: np.random.Generator,
    world: World,
    history: np.ndarray,
    phase: np.ndarray,
    favourites: np.ndarray,
    styles: np.ndarray,
) -> np.ndarray:
    """Draw the next item of each user, int64 `[users]`, given histories `[users, step]`."""
    count, step = history.shape
    rows = np.arange(count)
    reason = np.searchsorted(np.cumsum(REASONS), rng.random(count) * sum(REASONS), side="right")
    kind = np.searchsorted(np.cumsum(SUCCESSORS), rng.random(count) * sum(SUCCESSORS), side="right")

    late = (rng.random(count) < phase).astype(np.int64)
    subcategory = favourites[rows, late, rng.integers(0, FAVOURITES, count)]
    own_style = styles[rows, rng.integers(0, 2, count)]
    style = np.where(
        rng.random(count) < FAVOURITE_STYLE, own_style, rng.integers(0, NUM_STYLES, count)
    )
    nothing = np.zeros(count, dtype=np.int64)
    low, high = _widen_empty(nothing, nothing, subcategory, style, world.cells)
    by_popularity = reason == 3
    low = np.where(by_popularity, 0, low)
    high = np.where(by_popularity, len(world.weight), high)
    for back, number in ((1, 0), (2, 1)):
        if step >= back:
            before = history[:, -back]
            low = np.where(reason == number, world.first[before, kind], low)
            high = np.where(reason == number, world.last[before, kind], high)
    return draw_in_ranges(rng, world.cumulative, low, high)


def _texts(rng: np.random.Generator, world: World, order: np.ndarray) -> dict[str, list[str]]:
    """Title, brand, category path and description of the items, in the given order."""
    purposes = rng.integers(0, 4, len(order))
    details = rng.integers(0, len(DETAILS), len(order))
    texts: dict[str, list[str]] = {"title": [], "brand": [], "category": [], "description": []}
    for item, purpose, detail in zip(order, purposes, details, strict=True):
        department_number, place = SUBCATEGORIES[world.subcategory[item]]
        department = DEPARTMENTS[department_number]
        subcategory = department.subcategories[place]
        brand, style = department.brands[world.brand[item]], department.styles[world.style[item]]
        spec = subcategory.specs[world.spec[item]]
        texts["title"].append(f"{brand} {style} {spec} {subcategory.noun}")
        texts["brand"].append(brand)
        texts["category"].append(f"{department.name} > {subcategory.name}")
        texts["description"].append(
            f"{STYLE_PHRASES[world.style[item]]}: {subcategory.name.lower()} of the "
            f"{brand} {style} line for {department.purposes[purpose]}. {DETAILS[detail]}"
        )
    return texts
