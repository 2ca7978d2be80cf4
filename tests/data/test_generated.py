from __future__ import annotations

import re
import time

import numpy as np
import pytest

from genrec.data.sources import generated
from genrec.data.sources.generated import (
    REASONS,
    SUBCATEGORIES,
    SUCCESSORS,
    generate,
    prepare_generated,
)
from genrec.errors import ConfigError

SMALL = {"num_items": 300, "num_users": 200, "max_length": 20}


@pytest.fixture(scope="module")
def made():
    started = time.perf_counter()
    tables = generate()
    return *tables, time.perf_counter() - started


def flat(items, interactions):
    """Item numbers, and the offsets of the users."""
    numbers = {item: n for n, item in enumerate(items["item_id"].to_pylist())}
    events = np.array([numbers[item] for item in interactions["item_id"].to_pylist()])
    users = np.unique(interactions["user_id"].to_pylist(), return_inverse=True)[1]
    return events, users, np.concatenate([[0], np.cumsum(np.bincount(users))])


def ndcg_at_10(scores, targets):
    target = np.take_along_axis(scores, targets[:, None], axis=1)
    rank = (scores > target).sum(axis=1) + ((scores == target).sum(axis=1) - 1) / 2
    return float(np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean())


def test_sizes_and_order(made):
    items, interactions, info, seconds = made
    assert items.num_rows == 2400
    assert seconds < 3
    events, users, offsets = flat(items, interactions)
    lengths = np.diff(offsets)
    assert len(lengths) == 5000 and lengths.min() == 6 and lengths.max() == 40
    assert (np.diff(users) >= 0).all()
    times = interactions["timestamp"].to_numpy()
    assert times.dtype == np.int64
    assert (np.diff(times)[np.diff(users) == 0] > 0).all()
    assert len(np.unique(users * len(items) + events)) == len(events), "no item twice"
    assert info["name"] == "generated" and info["licence"] == "Apache-2.0"


def test_text_is_readable(made):
    items = made[0]
    titles = items["title"].to_pylist()
    assert len(set(titles)) == len(titles)
    assert all(re.fullmatch(r"[A-Z0-9][\w .'&-]+", title) for title in titles)
    assert not any(None in column for column in items.to_pydict().values())
    row = items.slice(0, 1).to_pylist()[0]
    assert row["title"].startswith(row["brand"]) and row["brand"] in row["description"]
    assert len(set(items["category"].to_pylist())) == len(SUBCATEGORIES)


def test_same_seed_same_tables_other_seed_other_tables():
    first, second, other = generate(**SMALL), generate(**SMALL), generate(**SMALL, seed=1)
    assert first[0].equals(second[0]) and first[1].equals(second[1]) and first[2] == second[2]
    assert not first[0].equals(other[0]) and not first[1].equals(other[1])


def test_item_numbers_say_nothing(made):
    items, interactions, *_ = made
    events, _, offsets = flat(items, interactions)
    counts = np.bincount(events, minlength=len(items))
    number = np.arange(len(items))
    assert abs(np.corrcoef(number, np.log1p(counts))[0, 1]) < 0.08
    last, target = events[offsets[1:] - 2], events[offsets[1:] - 1]
    assert abs(np.corrcoef(last, target)[0, 1]) < 0.08


def oracle_scores(seed, num_items, num_users, events, offsets):
    """Chance of every item as the last event, from the generator's own plan, one user at a time."""
    rng = np.random.default_rng(seed)
    world = generated.build_world(rng, num_items)
    state = rng.bit_generator.state
    generated.simulate(rng, world, num_users, 6, 40)
    number = np.argsort(rng.permutation(num_items))  # world order -> row of the item table
    row = np.argsort(number)
    rng.bit_generator.state = state
    rng.exponential(1.0, num_users)
    favourites, styles = generated.tastes(rng, num_users)

    def share(first, last):
        chances = np.zeros(num_items)
        chances[first:last] = world.weight[first:last] / world.weight[first:last].sum()
        return chances

    scores = np.zeros((num_users, num_items))
    for user in range(num_users):
        seen = row[events[offsets[user] : offsets[user + 1] - 1]]
        chances = REASONS[3] * world.weight
        for place in favourites[user, 1] * generated.NUM_STYLES:
            for style in styles[user]:
                cell = place + style
                if world.cells[cell] < world.cells[cell + 1]:
                    chances = chances + REASONS[2] / 6 * share(*world.cells[cell : cell + 2])
        for back, reason in ((1, REASONS[0]), (2, REASONS[1])):
            for kind, weight in enumerate(SUCCESSORS):
                item = seen[-back]
                successors = share(world.first[item, kind], world.last[item, kind])
                chances = chances + reason * weight * successors
        chances[seen] = 0
        scores[user] = chances
    return scores[:, row]


def test_signal_beyond_popularity(made):
    """Sequence (Markov chain), content (same style next) and their whole beat popularity."""
    items, interactions, *_ = made
    events, users, offsets = flat(items, interactions)
    train = np.ones(len(events), dtype=bool)
    train[offsets[1:] - 1] = train[offsets[1:] - 2] = False
    counts = np.bincount(events[train], minlength=len(items)).astype(float)
    targets, last = events[offsets[1:] - 1], events[offsets[1:] - 2]
    popularity = ndcg_at_10(np.tile(counts, (len(targets), 1)), targets)
    assert 0.007 < popularity < 0.02

    pair = np.flatnonzero((users[:-1] == users[1:]) & train[:-1] & train[1:])
    follows = np.zeros((len(items), len(items)))
    np.add.at(follows, (events[pair], events[pair + 1]), 1)
    markov = ndcg_at_10(follows[last] + counts / counts.sum(), targets)
    assert markov > 8 * popularity

    style = np.array(
        [re.search(r"of the (.*) line", t)[1] for t in items["description"].to_pylist()]
    )
    style_number = np.unique(style, return_inverse=True)[1]
    category = np.unique(items["category"].to_pylist(), return_inverse=True)[1]
    chain = np.zeros((category.max() + 1, category.max() + 1))
    np.add.at(chain, (category[events[pair]], category[events[pair + 1]]), 1)
    chain /= chain.sum(axis=1, keepdims=True)
    same = style_number[last][:, None] == style_number[None, :]
    content = ndcg_at_10(chain[category[last]][:, category] * (0.05 + same), targets)
    assert content > 4 * popularity

    oracle = ndcg_at_10(oracle_scores(0, len(items), len(targets), events, offsets), targets)
    assert oracle > 15 * popularity and oracle > 1.3 * max(markov, content)


@pytest.mark.parametrize("num_items", [108, 700, 3888])
def test_other_sizes(num_items):
    items, interactions, _ = generate(num_items=num_items, num_users=50, min_length=3, max_length=9)
    assert items.num_rows == num_items
    assert set(interactions["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())


def test_nobody_gets_an_item_twice_when_histories_fill_half_the_catalog():
    _, interactions, _ = generate(num_items=108, num_users=30, min_length=54, max_length=54)
    rows = list(zip(*interactions.select(["user_id", "item_id"]).to_pydict().values(), strict=True))
    assert len(rows) == 30 * 54 == len(set(rows))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"num_items": 50}, "num_items"),
        ({"num_items": 10_000}, "3888"),
        ({"num_users": 0}, "num_users"),
        ({"seed": -1}, "seed"),
        ({"min_length": 2}, "min_length"),
        ({"max_length": 5}, "max_length"),
    ],
)
def test_sizes_out_of_range(options, word):
    with pytest.raises(ConfigError, match=word):
        generate(**options)


def test_prepare_writes_a_dataset(tmp_path):
    dataset = prepare_generated(tmp_path / "out", **SMALL)
    assert len(dataset.catalog) == 300 and len(dataset.histories) == 200
    assert dataset.name == "generated" and dataset.info["options"]["seed"] == 0
    assert dataset.fingerprint == prepare_generated(tmp_path / "again", **SMALL).fingerprint
    with pytest.raises(ConfigError, match="reads nothing"):
        prepare_generated(tmp_path / "out", tmp_path)
