"""Features of items, users and events equal a slow reading of their definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genrec.errors import ConfigError, DataError
from genrec.models import ITEM_ENCODERS, ItemTables, Recommender, RecommenderConfig
from genrec.models.item_encoders.features import SparseFeatures
from genrec.models.meta import SequenceMeta

COLUMNS = [("a", 7, 1), ("tags", 5, 3), ("big", 1_000, 1)]
VECTORS = [("text", 4), ("image", 6)]
USERS = [("age", 4, 1), ("likes", 6, 2)]


@pytest.fixture
def tables() -> ItemTables:
    torch.manual_seed(0)
    sizes = torch.tensor([7, 5, 5, 5, 1_000])
    return ItemTables(
        num_items=30,
        feature_columns=COLUMNS,
        feature_vectors=VECTORS,
        user_columns=USERS,
        num_users=3,
    ).fill(
        features=(torch.rand(30, 5) * sizes).int(),
        more_vectors=torch.randn(30, 10),
        known=torch.rand(30, 2) < 0.6,
        user_features=torch.tensor([[1, 0, 5], [0, 0, 0], [3, 2, 2]]).int(),
    )


def encoder(tables: ItemTables, **options):
    given = {"columns": ["a", "tags", "big"], "vectors": ["image", "text"], **options}
    return ITEM_ENCODERS["features"](tables=tables, d_model=8, **given).eval()


@pytest.mark.parametrize("max_rows", [50, 5_000])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_equals_a_loop_over_items(tables: ItemTables, max_rows: int, activation: str):
    made = encoder(tables, max_rows=max_rows, width=3, activation=activation)
    weight = made.sparse.table.weight
    found = made(torch.arange(30))
    starts = {"a": 1, "tags": 8, "big": 13}
    for item in range(30):
        values = tables.features[item].tolist()
        parts = []
        for name, at in (("a", [0]), ("tags", [1, 2, 3]), ("big", [4])):
            total = torch.zeros(3)
            for value in (values[place] for place in at):
                if value == 0:
                    continue
                if name == "big" and max_rows == 50:
                    one = ((value * 0x9E3779B1) ^ (value >> 15)) % 50
                    two = ((value * 0x85EBCA77) ^ (value >> 13)) % 50
                    total = total + weight[13 + one] + weight[13 + two]
                else:
                    total = total + weight[starts[name] + value]
            parts.append(total)
        for place, (which, low, high) in enumerate(((1, 4, 10), (0, 0, 4))):
            if tables.known[item, which]:
                parts.append(made.projections[place](tables.more_vectors[item, low:high]))
            else:
                parts.append(made.missing[place])
        want = made.outer(torch.cat(parts))
        want = want.relu() if activation == "relu" else want
        torch.testing.assert_close(found[item], want)


def test_shapes_blocks_and_unknown_values(tables: ItemTables, monkeypatch: pytest.MonkeyPatch):
    made = encoder(tables)
    items = torch.randint(0, 30, (2, 3, 4))
    assert made(items).shape == (2, 3, 4, 8)
    torch.testing.assert_close(made(items)[1, 2, 3], made(items[1, 2, 3]))
    assert made.all_items().requires_grad
    monkeypatch.setattr("genrec.models.item_encoders.features._BLOCK", 7)
    with torch.no_grad():
        torch.testing.assert_close(made.all_items(), made(torch.arange(30)))
    made(items).sum().backward()
    assert (made.sparse.table.weight.grad[0] == 0).all(), "an unknown value learns nothing"


def test_hashed_values_hardly_ever_share_both_rows():
    sparse = SparseFeatures(columns={"id": (200_001, 1)}, used=["id"], width=1, max_rows=20_000)
    rows = sparse.rows(torch.arange(1, 200_001).int()[:, None])
    assert rows.min() >= 1 and rows.max() <= 20_000
    pairs = torch.unique(rows, dim=0)
    assert len(pairs) > 0.99 * 200_000
    share = torch.bincount(rows.flatten()).float()
    assert share.max() < 60, "rows are used about equally"


def test_columns_in_any_order_and_number(tables: ItemTables):
    made = encoder(tables, columns=["big", "a"], vectors=[], max_rows=5_000, width=2)
    weight = made.sparse.table.weight
    for item in range(5):
        a, big = tables.features[item, 0], tables.features[item, 4]
        parts = [
            weight[1 + big] if big else torch.zeros(2),
            weight[1_001 + a] if a else torch.zeros(2),
        ]
        torch.testing.assert_close(made(torch.tensor(item)), made.outer(torch.cat(parts)))


def meta(**known) -> SequenceMeta:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    return SequenceMeta.from_mask(mask, **known)


def part(name: str, tables: ItemTables, **options):
    return ITEM_ENCODERS[name](tables=tables, d_model=4, **options).eval()


def test_features_of_users(tables: ItemTables):
    made = part("user", tables, columns=["age", "likes"], width=2)
    user = torch.tensor([[2, 2, 2], [0, 0, 0]])
    found = made.events(meta(user=user))
    assert found.shape == (2, 3, 4)
    weight = made.sparse.table.weight
    # age has rows 1 to 4, likes 5 to 10; a user's two likes are summed.
    want = made.outer(torch.cat([weight[1 + 3], weight[5 + 2] * 2]))
    torch.testing.assert_close(found[0], want.expand(3, 4))
    want = made.outer(torch.cat([weight[1 + 1], weight[5 + 5]]))
    torch.testing.assert_close(found[1], want.expand(3, 4))
    nobody = made.outer(torch.zeros(4)).expand(2, 3, 4)
    for unknown in (None, torch.full((2, 3), -1), torch.full((2, 3), 3), torch.ones(2, 3).long()):
        torch.testing.assert_close(made.events(meta(user=unknown)), nobody)


def test_calendar(tables: ItemTables):
    # Friday 29 November 2024, 23:30 UTC; then Saturday 00:30; then Sunday.
    time = torch.tensor([[1_732_923_000, 1_732_926_600, 1_733_050_000]] * 2)
    made = part("calendar", tables)
    found = made.events(meta(event_time=time))
    for column, (hour, day) in enumerate(((23, 4), (0, 5), (10, 6))):
        want = made.hour.weight[hour] + made.weekday.weight[day]
        torch.testing.assert_close(found[0, column], want)
    asked = part("calendar", tables, times="request")
    assert asked.reads == {"query_time"} and made.reads == {"event_time"}
    with pytest.raises(ConfigError, match="needs the time of every event"):
        asked.events(meta(event_time=time))
    with pytest.raises(ConfigError, match="times='now'"):
        part("calendar", tables, times="now")


def test_next_action(tables: ItemTables):
    made = part("next-action", tables, num_actions=3)
    asked = torch.tensor([[1, 2, 0], [3, 1, 0]])
    torch.testing.assert_close(made.events(meta(query_action=asked)), made.table.weight[asked])
    nothing = made.table.weight[0].expand(2, 3, 4)
    torch.testing.assert_close(made.events(meta()), nothing)
    with pytest.raises(ConfigError, match="the data have action 4"):
        made.events(meta(query_action=asked + 1))
    always = part("next-action", tables, num_actions=3, unknown=0.999).train()
    torch.manual_seed(0)
    assert torch.equal(
        always.events(meta(query_action=asked)), always.table.weight[0] + 0 * nothing
    )
    with pytest.raises(ConfigError, match="unknown=1"):
        part("next-action", tables, unknown=1.0)


def test_an_item_is_told_its_own_action_only_where_it_is_asked_for():
    base = meta(
        action=torch.tensor([[1, 2, 3], [3, 1, 0]]),
        query_action=torch.tensor([[2, 3, 1], [1, 2, 0]]),
        user=torch.tensor([[5, 5, 5], [6, 6, 6]]),
        event_time=torch.zeros(2, 3).long(),
        query_time=torch.zeros(2, 3).long(),
    )
    codes = base.per_code(2)
    # The first code of an item predicts the item itself, so what is asked for is its own action.
    assert codes.query_action[0].tolist() == [1, 2, 2, 3, 3, 1]
    assert codes.user[1].tolist() == [6] * 6
    following = base.next_item(0)
    assert following.query_action.tolist() == [[1], [2]] and following.user.tolist() == [[5], [6]]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("features", {"columns": ["b"]}, "no column 'b'; the model was given"),
        ("features", {"columns": ["a", "a"]}, "column 'a' comes twice"),
        ("features", {"vectors": ["x"]}, "no vector 'x'"),
        ("features", {}, "reads nothing"),
        ("features", {"columns": ["a"], "activation": "gelu"}, "activation='gelu'"),
        ("features", {"columns": ["a"], "width": 0}, "width=0"),
        ("features", {"columns": ["a"], "max_rows": 1}, "max_rows=1"),
        ("features", {"vectors": ["text"], "max_rows": 9}, "max_rows=9 is of columns"),
        ("features", {"columns": ["a"], "missing": "zero"}, "missing='zero' is of vectors"),
        ("user", {}, "reads nothing"),
        ("user", {"columns": ["a"]}, "no column 'a'"),
    ],
)
def test_options_that_make_no_sense(tables: ItemTables, name: str, options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        part(name, tables, **options)


def test_values_outside_their_feature_are_named():
    tables = ItemTables(num_items=2, feature_columns=[("a", 3, 1), ("b", 4, 2)])
    with pytest.raises(DataError, match=r"column 'b' row 1 has \[0, 4\]; expected values from 0"):
        tables.fill(features=torch.tensor([[2, 3, 3], [0, 0, 4]]).int())


def test_a_recommender_with_everything_is_saved_and_loaded(tmp_path: Path, tables: ItemTables):
    parts = {
        "item": {"type": "features", "columns": ["a", "big"], "vectors": ["text"], "max_rows": 50},
        "user": {"type": "user", "columns": ["likes"]},
        "asked": {"type": "next-action", "num_actions": 3},
        "hour": {"type": "calendar"},
    }
    config = RecommenderConfig(
        num_items=30,
        feature_columns=COLUMNS,
        feature_vectors=VECTORS,
        user_columns=USERS,
        num_users=3,
        d_model=8,
        item_encoder={"type": "sum", "parts": parts},
        head={"type": "dense", "similarity": "cosine", "loss": "infonce"},
    )
    values = {
        name: getattr(tables, name)
        for name in ("features", "more_vectors", "known", "user_features")
    }
    model = Recommender(config, tables=values).eval()
    batch = {
        "items": torch.randint(0, 30, (2, 3)),
        "mask": meta().mask,
        "event_time": torch.randint(10**9, 2 * 10**9, (2, 3)).sort(1).values,
        "query_action": torch.randint(0, 4, (2, 3)),
        "user": torch.tensor([[2] * 3, [0] * 3]),
    }
    model.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path).eval()
    found, again = (m.search(batch, k=5) for m in (model, loaded))
    assert torch.equal(found.items, again.items)
    torch.testing.assert_close(found.scores, again.scores)
    other = model.search({**batch, "user": torch.zeros(2, 3).long()}, k=30)
    assert not torch.equal(other.scores[0], model.search(batch, k=30).scores[0])
    labels = torch.where(batch["mask"], batch["items"], -100)
    model.train()(**batch, labels=labels).loss.backward()
    assert model.item_encoder.parts["item"].sparse.table.weight.grad.abs().sum() > 0
