"""A synthetic world of advertisements with the statistics of TencentGR and structure to learn.

Each item belongs to a topic and is born on a day; it lives three days. Items are numbered by topic,
then birth, so the items of a topic and day are a range (a *cell*), and a draw by popularity is one
binary search. Popularity is planted with the skew that was published of TencentGR-1M. Whatever
leads to the next item goes by it, the topic as well as the item, or topics would even it out; only
what a user has just seen is left out, which keeps a history from being a few items over and over.
Four kinds of signal are planted:

- *content*: vectors and features tell the topic, a finer group inside it, and which two items
  belong together;
- *sequence*: every topic has a topic that follows it, every item an item (of its own cell, a
  popular one most often);
- *action*: users click what they like; after a click the next item stays close, after a mere
  exposure it moves on;
- *time*: events come in sessions of some minutes. Within one an item leads to the next; after a
  break the user's taste decides, as if the last item had not been.

Everything is a function of the seed and an item's or block's number, so that blocks can be made in
any order and number of processes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from genrec.data.ranges import draw_in_ranges
from genrec.data.tencentgr.hashes import unit
from genrec.data.tencentgr.schema import CLICK, CONVERSION, EXPOSURE
from genrec.errors import ConfigError

DAYS = 30
END = 1_748_620_800  # 2025-05-31 00:00 UTC, where TencentGR's clicks end
DAY = 86_400
AGES = (0.76, 0.16, 0.08)  # chance that an event shows an item 0, 1, 2 days after its birth
FAVOURITES = (0.50, 0.25, 0.15, 0.10)  # how often a user's taste takes each of four topics
SESSION, PAUSE = 8, 60  # events of a session and seconds between them, on average
BLOCK_USERS = 10_000
#: Popularity falls with its quantile by power laws: until each quantile, with this exponent.
POPULARITY = ((0.004, 0.6), (0.1, 2.4), (0.3, 1.4), (1.0, 0.2))
SIZES = 0.3  # exponent of the topics' sizes in rank
CELL = 16  # items of a topic and day, on average, at every size: popularity depends on it
RECENT = 24  # of a user's last events: an item of these is drawn again, twice at most
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
        alive: float64 `[K * DAYS * 3 + 1]`, running sum, by topic, day and age, of the popularity
            of the items that are so old on that day, times the chance of that age.
        topic_cumulative: float64 `[K]`, running sum of the topics' sizes, up to 1.
        day_cumulative: float64 `[DAYS * K]`, by day and topic, running sum of the topics' shares of
            the popularity that is alive, which is 1 for each day.
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
    alive: np.ndarray
    topic_cumulative: np.ndarray
    day_cumulative: np.ndarray
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
    topics = max(8, items // (DAYS * CELL))
    share = rng.permutation(np.arange(1, topics + 1) ** -SIZES)
    share /= share.sum()
    # One item for each cell, so that none is empty; the others where their topic is large.
    cell = np.arange(topics * DAYS)
    more = rng.choice(topics, size=items - len(cell), p=share).astype(np.int64)
    cell = np.concatenate([cell, more * DAYS + rng.integers(0, DAYS, size=len(more))])
    cell.sort()
    cells = np.searchsorted(cell, np.arange(topics * DAYS + 1))
    late = rng.choice(topics, size=cold, p=share)
    birth = np.concatenate([cell % DAYS, rng.integers(DAYS - 3, DAYS, size=cold)])
    # Every quantile once, so that a small world has the head of a large one.
    quantile = (rng.permutation(items) + 0.5) / items
    weight = _popularity(quantile)[np.lexsort((quantile, cell))]
    cumulative = np.concatenate([[0.0], np.cumsum(weight)])
    alive = _alive(np.add.reduceat(weight, cells[:-1]).reshape(topics, DAYS))
    days = alive.sum(axis=2)
    sizes = np.bincount(cell // DAYS)
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
        alive=np.concatenate([[0.0], np.cumsum(alive)]),
        topic_cumulative=np.cumsum(sizes) / items,
        day_cumulative=np.cumsum((days / days.sum(axis=0)).T),
        follows=_cycle(sizes),
        base=(0.05, 0.0),
    )
    return _calibrated(world, ACTION_SHARES[actions])


def _popularity(quantile: np.ndarray) -> np.ndarray:
    """Of the item at each quantile, the most popular first; power laws that meet."""
    weight = np.ones_like(quantile)
    for (start, _), (end, exponent) in itertools.pairwise(((quantile.min(), 0.0), *POPULARITY)):
        weight *= (np.clip(quantile, start, end) / start) ** -exponent
    return weight


def _alive(cells: np.ndarray) -> np.ndarray:
    """Popularity `[K, DAYS, 3]` by topic, day and age, from that by topic and day of birth."""
    alive = np.zeros((*cells.shape, len(AGES)))
    for age, chance in enumerate(AGES):
        alive[:, age:, age] = chance * cells[:, : DAYS - age]
    return alive


def _cycle(sizes: np.ndarray) -> np.ndarray:
    """A topic to follow each, about as large, so that no small one is shown more than its share."""
    order = np.argsort(-sizes)
    follows = np.empty(len(sizes), dtype=np.int32)
    follows[order] = np.roll(order, -1)
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
    """Histories of the users of one block; about two microseconds an event.

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
    everyone = np.arange(users)
    sizes = np.diff(world.topic_cumulative, prepend=0.0)
    # Of a user's topics the one with the better items of the day is taken more often.
    offer = np.diff(world.alive[:: len(AGES)]).reshape(-1, DAYS) / sizes[:, None]
    for step in range(longest + 1):
        day = days[:, step]
        tastes = np.cumsum(FAVOURITES * offer[favourites, day[:, None]], axis=1)
        taste = (rng.random(users) * tastes[:, -1] >= tastes[:, :-1].T).sum(axis=0)
        topic = favourites[everyone, taste]
        reason = _reasons(rng, action, begins[:, step])
        last = world.topic[item]
        topic = np.where(reason <= 1, last, topic)
        topic = np.where(reason == 2, world.follows[last], topic)
        topic = np.where(reason == 4, popular(world, rng, day), topic)
        recent = shown[:, max(0, step - RECENT) : step]
        drawn = draw(world, rng, topic, day)
        for other in (False, True):  # another item of the topic, then any
            again = np.flatnonzero((recent == drawn[:, None]).any(axis=1))
            when = day[again]
            wanted = popular(world, rng, when) if other else topic[again]
            drawn[again] = draw(world, rng, wanted, when)
        after = following(world, np.maximum(item, 0))
        alive = (reason == 0) & (day - world.birth[after] < len(AGES)) & (day >= world.birth[after])
        alive &= (recent != after[:, None]).all(axis=1)
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
        answers=shown[everyone, lengths],
    )


def popular(world: World, rng: np.random.Generator, day: np.ndarray) -> np.ndarray:
    """A topic for each day, by the popularity of what is alive; int64, same shape."""
    place = day + rng.random(len(day))
    found = np.searchsorted(world.day_cumulative, place, side="right") - day * world.topics
    return np.clip(found, 0, world.topics - 1)


def draw(world: World, rng: np.random.Generator, topic: np.ndarray, day: np.ndarray) -> np.ndarray:
    """An item of each topic that lives on each day, by popularity and age; int64, same shape."""
    cell = topic.astype(np.int64) * DAYS + day
    slot = draw_in_ranges(rng, world.alive, cell * len(AGES), (cell + 1) * len(AGES))
    cell -= np.minimum(slot - cell * len(AGES), day)
    return draw_in_ranges(rng, world.cumulative, world.cells[cell], world.cells[cell + 1])


def following(world: World, items: np.ndarray) -> np.ndarray:
    """The item planted after each: another of its cell, by popularity, always the same."""
    cell = world.topic[items].astype(np.int64) * DAYS + world.birth[items]
    low, high = world.cells[cell], world.cells[cell + 1]
    own, end = world.cumulative[items], world.cumulative[items + 1]
    rest = world.cumulative[high] - world.cumulative[low] - (end - own)
    place = world.cumulative[low] + unit(world.seed, 7, items) * rest
    place += np.where(place >= own, end - own, 0.0)
    found = np.searchsorted(world.cumulative, place, side="right") - 1
    return np.clip(found, low, high - 1)


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
