"""A synthetic world has the published statistics at every size, and something to learn."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.data.tencentgr import world as worlds
from genrec.data.tencentgr.content import item_feature, item_vectors
from genrec.data.tencentgr.schema import ITEM_FEATURES, ITEMS_1M, USERS_1M
from genrec.data.tencentgr.statistics import (
    PUBLISHED,
    day_overlap,
    mark_days,
    popularity_statistics,
)
from genrec.data.tencentgr.world import (
    AGES,
    Block,
    World,
    build_world,
    draw,
    following,
    popular,
    simulate,
)


@pytest.fixture(scope="module")
def learnable() -> tuple[World, Block]:
    world = build_world(items=9_600, cold=0, seed=5)
    return world, simulate(world, block=0, users=2_000)


def inner(made: Block) -> np.ndarray:
    """Places of the events that another of the same user follows."""
    found = np.ones(len(made.items), dtype=bool)
    found[np.cumsum(made.lengths) - 1] = False
    return np.flatnonzero(found)


@pytest.mark.parametrize(("users", "seed"), [(3_000, 0), (3_000, 1), (9_000, 2)])
def test_events_are_spread_over_items_as_published(users: int, seed: int):
    items = round(users * ITEMS_1M / USERS_1M)
    world = build_world(items=items, cold=100, seed=seed)
    made = simulate(world, block=0, users=users)
    counts = np.bincount(made.items, minlength=items)
    days = np.zeros(items, dtype=np.uint64)
    mark_days(days, made.items, made.times // 86_400 - made.times.min() // 86_400)
    near, far = day_overlap(days)
    found = {
        **popularity_statistics(counts),
        "items of two days in a row that are in both": near,
        "items of two days further apart than two in both": far,
        "events per user": float(made.lengths.mean()),
        "longest history": float(made.lengths.max()),
    }
    for one in PUBLISHED["1M"]:
        if one.what in found:
            assert one.low <= found.pop(one.what) <= one.high, one.what
    assert not found
    # About three items in ten are never shown.
    assert 0.2 < (counts == 0).mean() < 0.4


def test_a_large_world_is_made_of_more_cells_and_not_of_larger_ones():
    """Popularity depends on the size of cells and not on their number, so it holds at any size."""
    small, large = (build_world(items=items, cold=0, seed=0) for items in (14_400, 480_000))
    assert large.topics == 1_000 and small.topics == 30
    tops = []
    for one in (small, large):
        assert np.diff(one.cells).mean() == pytest.approx(16, abs=0.1)
        assert np.diff(one.cells).std() == pytest.approx(6, abs=2)
        weight = np.sort(np.diff(one.cumulative))[::-1]
        tops.append(weight[: one.items // 100].sum() / weight.sum())
    assert tops[0] == pytest.approx(tops[1], abs=0.01)


def test_items_live_three_days_and_the_first_most(learnable: tuple[World, Block]):
    world, made = learnable
    day = (made.times - 1_748_620_800) // 86_400 + 30
    age = day - world.birth[made.items]
    assert age.min() >= 0 and age.max() <= 2
    # What follows an item is as old as it, so fewer new ones are shown than are drawn.
    shares = np.bincount(age) / len(age)
    assert AGES[0] - 0.15 < shares[0] < AGES[0] and shares[1] > shares[2] > AGES[2]


def test_an_item_is_drawn_by_its_popularity_among_those_that_live():
    world = build_world(items=960, cold=0, seed=3)
    rng = np.random.default_rng(0)
    topic, day = 2, 7
    weight = np.diff(world.cumulative)
    want = np.zeros(world.items)
    for age, chance in enumerate(AGES):
        mine = (world.topic == topic) & (world.birth == day - age)
        want[mine] = chance * weight[mine]
    found = draw(world, rng, np.full(40_000, topic), np.full(40_000, day))
    share = np.bincount(found, minlength=world.items) / 40_000
    np.testing.assert_allclose(share, want / want.sum(), atol=0.012)
    # And a topic by the popularity of all its items that do.
    old = day - world.birth
    alive = np.where((old >= 0) & (old < 3), np.take(AGES, np.clip(old, 0, 2)) * weight, 0.0)
    topics = np.bincount(world.topic, weights=alive)
    found = popular(world, rng, np.full(40_000, day))
    share = np.bincount(found, minlength=world.topics) / 40_000
    np.testing.assert_allclose(share, topics / topics.sum(), atol=0.012)


def test_what_follows_is_another_item_of_the_cell_and_a_popular_one(
    learnable: tuple[World, Block],
):
    world, _ = learnable
    items = np.arange(world.items)
    after = following(world, items)
    assert np.array_equal(world.topic[after], world.topic[:-1] if world.cold else world.topic)
    assert np.array_equal(world.birth[after], world.birth[items])
    size = np.bincount(world.topic[items].astype(np.int64) * 30 + world.birth[items])
    alone = size[world.topic[items].astype(np.int64) * 30 + world.birth[items]] == 1
    assert np.array_equal(after == items, alone)
    weight = np.diff(world.cumulative)
    assert np.median(weight[after]) > 3 * np.median(weight)


def test_a_user_is_shown_again_less_often_than_by_chance(
    learnable: tuple[World, Block], monkeypatch: pytest.MonkeyPatch
):
    def repeated(made: Block) -> float:
        users = np.repeat(np.arange(len(made.lengths)), made.lengths)
        return 1 - len(np.unique(np.stack([users, made.items]), axis=1).T) / len(users)

    world, made = learnable
    monkeypatch.setattr(worlds, "RECENT", 0)
    chance = repeated(simulate(world, block=0, users=2_000))
    assert repeated(made) < 0.6 * chance


def test_conversions_have_the_shares_of_10m():
    world = build_world(items=4_800, cold=0, actions="10M", seed=2)
    actions = simulate(world, block=0, users=2_000).actions
    assert (actions == 1).mean() == pytest.approx(0.0285, abs=0.0025)
    assert (actions == 2).mean() == pytest.approx(0.0252, abs=0.0025)


def test_there_is_something_to_learn(learnable: tuple[World, Block]):
    world, made = learnable
    now = inner(made)
    topic = world.topic[made.items]
    clicked = made.actions[now] > 0
    stays = topic[now + 1] == topic[now]
    moves = topic[now + 1] == world.follows[topic[now]]
    # A click keeps the topic, an exposure moves on; both far above chance, one in twenty.
    assert stays[clicked].mean() == pytest.approx(0.51, abs=0.04)
    assert stays[~clicked].mean() == pytest.approx(0.27, abs=0.04)
    assert moves[~clicked].mean() == pytest.approx(0.22, abs=0.03)
    assert moves[clicked].mean() == pytest.approx(0.065, abs=0.02)
    # The planted item comes about as often as it is meant to where it still lives.
    follows = made.items[now + 1] == following(world, made.items[now])
    assert follows.mean() == pytest.approx(0.17, abs=0.02)
    assert follows[clicked].mean() > 1.5 * follows[~clicked].mean()
    top = np.argsort(-np.bincount(made.items))[:10]
    assert follows.mean() > 8 * np.isin(made.items, top).mean() / 10
    # Vectors and features of few values tell the topic.
    items = np.arange(0, 9_600, 7)
    vectors = item_vectors(world, items, name="81", width=32)
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    assert (world.topic[items][near.argmax(1)] == world.topic[items]).mean() > 0.93
    value = item_feature(world, ITEM_FEATURES[1], 51, items)
    for one in range(world.topics):
        mine = value[(world.topic[items] == one) & (value > 0)]
        assert (mine == np.bincount(mine).argmax()).mean() > 0.7


def test_events_come_in_sessions_and_a_break_forgets_the_last_item(
    learnable: tuple[World, Block],
):
    world, made = learnable
    now = inner(made)
    gap = made.times[now + 1] - made.times[now]
    assert gap.min() == 0
    broken = gap > 1_800
    assert broken.mean() == pytest.approx(1 / 8, abs=0.01)
    assert 20 < np.median(gap[~broken]) < 90 and (gap[broken] > 7_200).mean() > 0.9
    follows = made.items[now + 1] == following(world, made.items[now])
    topic = world.topic[made.items]
    stays = topic[now + 1] == topic[now]
    assert follows[~broken].mean() > 20 * follows[broken].mean()
    assert stays[~broken].mean() > 1.8 * stays[broken].mean()
