"""A synthetic world of advertisements with the statistics of TencentGR and structure to learn.

Each item belongs to a topic and is born on a day; it lives three days. Items are numbered by topic,
then birth, so the items of a topic and day are a range (a *cell*), and a draw by popularity is one
binary search. Three kinds of signal are planted:

- *content*: vectors and features tell the topic, a finer group inside it, and which two items
  belong together;
- *sequence*: every topic has a topic that follows it, every item an item (of its own cell);
- *action*: users click what they like; after a click the next item stays close, after a mere
  exposure it moves on;
- *time*: events come in sessions of some minutes. Within one an item leads to the next; after a
  break the user's taste decides, as if the last item had not been.

Everything is a function of the seed and an item's or block's number, so that blocks can be made in
any order and number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrec.data.tencentgr.schema import CLICK, CONVERSION, EXPOSURE, Feature
from genrec.errors import ConfigError

DAYS = 30
END = 1_748_620_800  # 2025-05-31 00:00 UTC, where TencentGR's clicks end
DAY = 86_400
AGES = (0.65, 0.25, 0.10)  # chance that an event shows an item 0, 1, 2 days after its birth
FAVOURITES = (0.50, 0.25, 0.15, 0.10)  # how often a user's taste takes each of four topics
SESSION, PAUSE = 8, 60  # events of a session and seconds between them, on average
BLOCK_USERS = 10_000
HEAD, BODY = 1.1, 1.6  # exponents of popularity in rank, of the first tenth and of the others
#: Chance of each reason for the next item after an exposure and after a click: the item that
#: follows the last one, its topic again, the topic that follows, taste, popularity.
REASONS = ((0.20, 0.05, 0.25, 0.40, 0.10), (0.40, 0.35, 0.05, 0.15, 0.05))
LIKED, OTHER, FOLLOWED = 2.2, 0.55, 1.6  # factors of the chance of a click
#: Of TencentGR-1M and -10M: shares of clicks and of conversions.
ACTION_SHARES = {"1M": (0.0981, 0.0), "10M": (0.0285, 0.0252)}
NO_ACTION = 0.0005  # share of events without an action


@dataclass(frozen=True)
class World:
    """Items `0 .. N-1` that histories can show, and cold ones behind them that none shows.

    Attributes:
        seed: of everything.
        topics: number of topics K.
        items: N.
        cold: number of items that only the candidates have.
        max_length: longest history.
        topic: int32 `[N + cold]`.
        birth: int16 `[N + cold]`, day 0 to 29.
        cumulative: float64 `[N + 1]`, running sum of popularity.
        cells: int64 `[K * DAYS + 1]`, where the items of each topic and day begin.
        topic_cumulative: float64 `[K]`, running sum of the topics' popularity, up to 1.
        follows: int32 `[K]`, the topic after each.
        base: chances of click and conversion per unit of liking.
    """

    seed: int
    topics: int
    items: int
    cold: int
    max_length: int
    topic: np.ndarray
    birth: np.ndarray
    cumulative: np.ndarray
    cells: np.ndarray
    topic_cumulative: np.ndarray
    follows: np.ndarray
    base: tuple[float, float]


@dataclass(frozen=True)
class Block:
    """Histories of some users, flat.

    Attributes:
        lengths: int64 `[B]`.
        items: int64 `[T]`, numbers of the world.
        times: int64 `[T]`, Unix seconds, in order within a user.
        actions: int8 `[T]`, -1 where none is known.
        favourites: int32 `[B, 4]`, topics.
        answers: int64 `[B]`, the clicked item that follows each history.
    """

    lengths: np.ndarray
    items: np.ndarray
    times: np.ndarray
    actions: np.ndarray
    favourites: np.ndarray
    answers: np.ndarray


def build_world(
    *, items: int, cold: int, max_length: int = 100, actions: str = "1M", seed: int = 0
) -> World:
    """Draw the items.

    Args:
        items: that histories can show, at least 240.
        cold: that only the candidates have.
        max_length: longest history.
        actions: `1M` (exposures and clicks) or `10M` (conversions too).
        seed: non-negative.

    Raises:
        ConfigError: if an option is out of range.
    """
    if items < 8 * DAYS or cold < 0 or max_length < 2 or seed < 0:
        raise ConfigError(
            f"items={items}, cold={cold}, max_length={max_length}, seed={seed}: expected at least "
            f"{8 * DAYS} items, histories of at least 2, and nothing negative"
        )
    if actions not in ACTION_SHARES:
        raise ConfigError(f"actions={actions!r}; expected one of {', '.join(ACTION_SHARES)}")
    rng = np.random.default_rng([seed, 0])
    topics = int(np.clip(items // (DAYS * 16), 8, 512))
    popularity = 1.0 / np.arange(1, topics + 1) ** 1.2
    rng.shuffle(popularity)
    popularity /= popularity.sum()
    # One item for each cell, so that none is empty; the others where their topic is popular, but
    # less than its events are: popular topics have more events per item.
    supply = popularity**0.5 / (popularity**0.5).sum()
    cell = np.arange(topics * DAYS)
    more = rng.choice(topics, size=items - len(cell), p=supply).astype(np.int64)
    cell = np.concatenate([cell, more * DAYS + rng.integers(0, DAYS, size=len(more))])
    cell.sort()
    cells = np.searchsorted(cell, np.arange(topics * DAYS + 1))
    late = rng.choice(topics, size=cold, p=supply)
    birth = np.concatenate([cell % DAYS, rng.integers(DAYS - 3, DAYS, size=cold)])
    # A Pareto tail that bends, so that a few items have most events and most items few. The items
    # of a cell go by popularity: one that follows a popular item is popular too.
    rank = 1 - rng.random(items)
    weight = np.where(rank < 0.1, rank**-HEAD, 0.1**-HEAD * (rank / 0.1) ** -BODY)
    weight = weight[np.lexsort((rank, cell))]
    cumulative = np.concatenate([[0.0], np.cumsum(weight)])
    world = World(
        seed=seed,
        topics=topics,
        items=items,
        cold=cold,
        max_length=max_length,
        topic=np.concatenate([cell // DAYS, late]).astype(np.int32),
        birth=birth.astype(np.int16),
        cumulative=cumulative,
        cells=cells,
        topic_cumulative=np.cumsum(popularity) / popularity.sum(),
        follows=_cycle(rng, topics),
        base=(0.05, 0.0),
    )
    return _calibrated(world, ACTION_SHARES[actions])


def _cycle(rng: np.random.Generator, topics: int) -> np.ndarray:
    order = rng.permutation(topics)
    follows = np.empty(topics, dtype=np.int32)
    follows[order] = np.roll(order, 1)
    return follows


def _calibrated(world: World, shares: tuple[float, float]) -> World:
    """The same world with chances that give the shares of actions asked for."""
    click, conversion = shares
    for _ in range(3):  # actions shape what is shown next, so the chances are approached
        pilot = simulate(world, block=-1, users=500)
        factor = (click + conversion) / max(float((pilot.actions > 0).mean()), 1e-6)
        total = sum(world.base) * factor
        share = conversion / (click + conversion)
        world = World(**{**world.__dict__, "base": (total * (1 - share), total * share)})
    return world


def simulate(world: World, *, block: int, users: int) -> Block:
    """Histories of the users of one block; about a microsecond an event.

    Args:
        world: the items.
        block: number of the block, which together with the seed decides everything.
        users: B.
    """
    rng = np.random.default_rng([world.seed, 1, block + 1])
    longest = world.max_length
    lengths = _lengths(rng, users, longest)
    favourites = np.searchsorted(world.topic_cumulative, rng.random((users, 4))).astype(np.int32)
    begins, times = _times(rng, users, longest + 1)
    days = (times - (END - DAYS * DAY)) // DAY
    shown = np.empty((users, longest + 1), dtype=np.int64)
    acted = np.zeros((users, longest + 1), dtype=np.int8)
    item = np.full(users, -1, dtype=np.int64)
    action = np.zeros(users, dtype=np.int8)
    tastes = np.cumsum(FAVOURITES)
    for step in range(longest + 1):
        taste = np.searchsorted(tastes, rng.random(users) * tastes[-1])
        topic = favourites[np.arange(users), taste]
        reason = _reasons(rng, action, begins[:, step])
        last = world.topic[item]
        topic = np.where(reason <= 1, last, topic)
        topic = np.where(reason == 2, world.follows[last], topic)
        popular = np.searchsorted(world.topic_cumulative, rng.random(users))
        topic = np.where(reason == 4, popular, topic)
        day = days[:, step]
        drawn = draw(world, rng, topic, day)
        again = drawn == item
        drawn[again] = draw(world, rng, topic[again], day[again])
        after = following(world, np.maximum(item, 0))
        alive = (reason == 0) & (day - world.birth[after] < len(AGES)) & (day >= world.birth[after])
        item = np.where(alive, after, drawn)
        liked = (favourites == world.topic[item][:, None]).any(axis=1)
        chance = np.where(liked, LIKED, OTHER) * np.where(alive & (action > 0), FOLLOWED, 1.0)
        u = rng.random(users)
        bought = u < chance * world.base[1]
        clicked = u < chance * (world.base[0] + world.base[1])
        action = np.where(bought, CONVERSION, np.where(clicked, CLICK, EXPOSURE)).astype(np.int8)
        shown[:, step], acted[:, step] = item, action
    acted[rng.random(acted.shape) < NO_ACTION] = -1
    inside = np.arange(longest + 1) < lengths[:, None]
    return Block(
        lengths=lengths,
        items=shown[inside],
        times=times[inside],
        actions=acted[inside],
        favourites=favourites,
        answers=shown[np.arange(users), lengths],
    )


def draw(world: World, rng: np.random.Generator, topic: np.ndarray, day: np.ndarray) -> np.ndarray:
    """An item of each topic that lives on each day, by popularity; int64, same shape."""
    age = np.searchsorted(np.cumsum(AGES), rng.random(len(day)))
    cell = topic.astype(np.int64) * DAYS + np.maximum(day - age, 0)
    low, high = world.cells[cell], world.cells[cell + 1]
    start, stop = world.cumulative[low], world.cumulative[high]
    place = start + rng.random(len(day)) * (stop - start)
    found = np.searchsorted(world.cumulative, place, side="right") - 1
    return np.clip(found, low, high - 1)


def following(world: World, items: np.ndarray) -> np.ndarray:
    """The item planted after each: one of the same cell, most often a popular one."""
    cell = world.topic[items].astype(np.int64) * DAYS + world.birth[items]
    low, high = world.cells[cell], world.cells[cell + 1]
    return low + ((high - low) * unit(world.seed, 7, items) ** 4).astype(np.int64)


def _reasons(rng: np.random.Generator, action: np.ndarray, begins: np.ndarray) -> np.ndarray:
    u = rng.random(len(action))
    exposed, clicked = (np.searchsorted(np.cumsum(r), u).clip(0, 4) for r in REASONS)
    reason = np.where(action > 0, clicked, exposed)
    return np.where(begins & (reason < 3), 3, reason)


def _lengths(rng: np.random.Generator, users: int, longest: int) -> np.ndarray:
    """Most histories are nearly or quite full: 90 of 100 on average."""
    kind = rng.random(users)
    usual = rng.integers(round(0.6 * longest), longest + 1, size=users)
    short = rng.integers(1, max(2, round(0.6 * longest)), size=users)
    return np.where(kind < 0.54, longest, np.where(kind < 0.985, usual, short))


def _times(rng: np.random.Generator, users: int, events: int) -> tuple[np.ndarray, np.ndarray]:
    """Which events begin a session, and seconds `[B, S]`, in order; some seconds are equal."""
    begins = rng.random((users, events)) < 1 / SESSION
    begins[:, 0] = True
    session = np.cumsum(begins, axis=1) - 1
    # The last hour of the period is left for the sessions that begin last.
    starts = np.sort(rng.integers(0, DAYS * DAY - 3_600, size=(users, events)), axis=1)
    # Of the sorted moments, as many as there are sessions, spread over the whole period.
    last = session[:, -1:]
    start = np.take_along_axis(starts, session * (events - 1) // np.maximum(last, 1), axis=1)
    gap = rng.exponential(PAUSE, size=(users, events)).astype(np.int64)
    since = np.cumsum(gap, axis=1)
    since -= np.maximum.accumulate(np.where(begins, since, 0), axis=1)
    times = np.maximum.accumulate(start + since, axis=1)
    return begins, END - DAYS * DAY + np.minimum(times, DAYS * DAY - 1)


def mixed(*parts: int | np.ndarray) -> np.ndarray:
    """A 64-bit hash of whole numbers, elementwise (splitmix64's finaliser)."""
    value = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            value = (value + np.asarray(part).astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(30)
            value *= np.uint64(0xBF58476D1CE4E5B9)
            value ^= value >> np.uint64(27)
            value *= np.uint64(0x94D049BB133111EB)
            value ^= value >> np.uint64(31)
    return value


def unit(*parts: int | np.ndarray) -> np.ndarray:
    """The hash as a number from 0 to below 1."""
    return (mixed(*parts) >> np.uint64(11)) * 2.0**-53


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
    centre = np.random.default_rng([world.seed, 2, number]).standard_normal((world.topics, width))
    vectors = centre[world.topic[items]]
    group = (mixed(world.seed, 9, items // 2) % np.uint64(8)).astype(np.int64)
    groups = np.random.default_rng([world.seed, 3, number]).standard_normal((8, width))
    vectors += 0.5 * groups[group]
    for salt, of, scale in ((4, items // 2, 0.5), (5, items, 0.3)):
        column = np.arange(width, dtype=np.uint64)
        noise = unit(world.seed, number, salt, of[:, None], column[None, :])
        vectors += scale * 3.46 * (noise - 0.5)
    return (vectors / np.sqrt(width)).astype(np.float32)
