"""Times and actions at the input: what they add, where, and that nothing of a target leaks."""

from __future__ import annotations

import pytest
import torch

from genrec.decoding import PrefixTrie
from genrec.errors import ConfigError
from genrec.models import (
    ITEM_ENCODERS,
    ActionEmbedding,
    ItemTables,
    Recommender,
    RecommenderConfig,
    SequenceMeta,
    TimeGapEmbedding,
)
from genrec.models.item_encoders import EventFeature
from genrec.models.times import gap_buckets

ITEMS, SIZES, WIDTH = 24, (3, 4, 3), 16
FEATURES = {"gap": {"type": "time-gap"}, "action": {"type": "action", "num_actions": 3}}


def build(items: str, head: str) -> Recommender:
    torch.manual_seed(0)
    config = RecommenderConfig(
        num_items=ITEMS,
        codebook_sizes=SIZES,
        d_model=WIDTH,
        max_history=6,
        item_encoder={"type": "sum", "parts": {"item": {"type": items}, **FEATURES}},
        head={"type": head},
        input_norm=True,
    )
    codes = torch.stack([torch.randint(0, k, (ITEMS,)) for k in SIZES], 1).int()
    model = Recommender(config, tables={"codes": codes})
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    times = (10 ** (6 * torch.rand(3, 7, generator=generator))).long().cumsum(1)
    return {
        "items": torch.randint(0, ITEMS, (3, 6), generator=generator),
        "mask": torch.arange(6) < torch.tensor([6, 4, 6])[:, None],
        "event_time": times[:, :6],
        "query_time": times[:, 1:],
        "action": torch.randint(0, 4, (3, 6), generator=generator),
    }


def test_features_are_added_to_their_items() -> None:
    model, data = build("id", "dense"), batch()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(**data)
    parts = model.item_encoder.parts
    for row, column in data["mask"].nonzero().tolist():
        times = data["event_time"][row].tolist()
        gap = (
            129
            if column == 0
            else int(gap_buckets(torch.tensor(times[column] - times[column - 1])))
        )
        total = (
            parts["item"].table.weight[data["items"][row, column]]
            + parts["gap"].table.weight[gap]
            + parts["action"].table.weight[data["action"][row, column]]
        )
        torch.testing.assert_close(seen[0][row, column], model.input_norm(total))


def test_gaps_to_the_request_are_another_feature() -> None:
    tables = ItemTables(num_items=2)
    encoder = TimeGapEmbedding(tables=tables, d_model=4, times="request")
    meta = SequenceMeta.from_mask(
        torch.ones(1, 2, dtype=torch.bool),
        event_time=torch.tensor([[10, 20]]),
        query_time=torch.tensor([[20, 3620]]),
    )
    rows = gap_buckets(torch.tensor([10, 3600])).long()
    torch.testing.assert_close(encoder.events(meta)[0], encoder.table.weight[rows])
    assert encoder.reads == {"event_time", "query_time"}
    assert TimeGapEmbedding(tables=tables, d_model=4).reads == {"event_time"}


@pytest.mark.parametrize(("items", "head"), [("id", "dense"), ("sid-tokens", "tokens")])
@torch.no_grad()
def test_a_target_tells_nothing_of_its_event(items: str, head: str) -> None:
    """The time and action of an item matter to what follows it, and not to its own prediction."""
    model, data = build(items, head), batch()
    other = {name: value.clone() for name, value in data.items()}
    other["event_time"][:, 3:] += 10**7
    other["query_time"][:, 2:] += 10**7
    other["action"][:, 3:] = 3 - other["action"][:, 3:]
    for position, changes in ((2, False), (3, True)):
        labels = torch.full_like(data["items"], -100)
        labels[0, position] = data["items"][0, position + 1]
        labels[2, position] = data["items"][2, position + 1]
        before, after = (model(**one, labels=labels).loss for one in (data, other))
        assert torch.allclose(before, after, atol=1e-6) == (not changes)


@torch.no_grad()
def test_codes_are_searched_as_they_are_trained() -> None:
    model, data = build("sid-tokens", "tokens"), batch()
    trie = PrefixTrie.from_codes(model.tables.codes, SIZES, tie_order=model.tables.tie_order)
    found = model.search(data, k=ITEMS, trie=trie, exact=True)
    for row in range(3):
        length = int(data["mask"][row].sum())
        own = {name: value[row : row + 1, :length] for name, value in data.items()}
        for item, score in zip(found.items[row].tolist(), found.scores[row], strict=True):
            labels = torch.full_like(own["items"], -100)
            labels[0, -1] = item
            loss = model(**own, labels=labels).loss
            torch.testing.assert_close(score, -len(SIZES) * loss, atol=1e-4, rtol=1e-4)


def test_missing_and_unknown_values_are_named() -> None:
    tables = ItemTables(num_items=2)
    mask = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ConfigError, match="timestamps"):
        TimeGapEmbedding(tables=tables, d_model=4).events(SequenceMeta.from_mask(mask))
    action = ActionEmbedding(tables=tables, d_model=4, num_actions=2)
    with pytest.raises(ConfigError, match="dataset with actions"):
        action.events(SequenceMeta.from_mask(mask))
    with pytest.raises(ConfigError, match="action 3, but num_actions=2"):
        action.events(SequenceMeta.from_mask(mask, action=torch.tensor([[1, 3]])))
    with pytest.raises(ConfigError, match="times='none'; expected 'event' or 'request'"):
        TimeGapEmbedding(tables=tables, d_model=4, times="none")
    with pytest.raises(ConfigError, match="num_actions=0"):
        ActionEmbedding(tables=tables, d_model=4, num_actions=0)


@pytest.mark.parametrize(
    "name", [name for name, kind in ITEM_ENCODERS.items() if issubclass(kind, EventFeature)]
)
def test_what_reads_no_item_is_no_encoder_by_itself(name: str) -> None:
    options = {"columns": ["age"]} if name == "user" else {}
    config = RecommenderConfig(
        num_items=5,
        item_encoder={"type": name, **options},
        user_columns=[("age", 4, 1)],
        num_users=2,
    )
    with pytest.raises(ConfigError, match=f"'{name}': says nothing of items.* put it into a sum"):
        Recommender(config)
