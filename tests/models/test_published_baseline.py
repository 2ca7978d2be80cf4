"""The parts that make up the published baseline of TencentGR, against slow readings of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from genrec.errors import ConfigError
from genrec.models import Recommender, RecommenderConfig
from genrec.models.embeddings import HeldRows, held_rows
from genrec.models.heads.dense_contrast import Seen

ITEMS, WIDTH = 30, 8
PARTS = {
    "item": {
        "type": "features",
        "columns": ["a", "b"],
        "vectors": ["text"],
        "activation": "relu",
        "missing": "zero",
    },
    "user": {"type": "user", "columns": ["age"], "token": True, "activation": "relu"},
}
BLOCK = {
    "type": "transformer",
    "layers": 1,
    "heads": 1,
    "ffn": WIDTH,
    "activation": "relu",
    "norm": "post",
    "norm_eps": 1e-8,
    "scale_input": True,
    "dropout_at": "sasrec",
    "dropout": 0.0,
}


def configured(**changes) -> RecommenderConfig:
    settings = {
        "num_items": ITEMS,
        "feature_columns": [("a", 7, 1), ("b", 40, 1)],
        "feature_vectors": [("text", 4)],
        "user_columns": [("age", 5, 1)],
        "num_users": 3,
        "d_model": WIDTH,
        "max_history": 6,
        "item_encoder": {"type": "sum", "parts": PARTS},
        "backbone": BLOCK,
        "head": {"type": "dense", "loss": "bce", "unseen": True},
        "initial": "xavier",
        **changes,
    }
    return RecommenderConfig(**settings)


@pytest.fixture
def model() -> Recommender:
    torch.manual_seed(0)
    tables = {
        "features": (torch.rand(ITEMS, 2) * torch.tensor([7, 40])).int(),
        "more_vectors": torch.randn(ITEMS, 4) * (torch.arange(ITEMS)[:, None] != 3),
        "known": torch.arange(ITEMS)[:, None] != 3,
        "user_features": torch.tensor([[1], [4], [0]]).int(),
    }
    return Recommender(configured(), tables=tables)


BATCH = {
    "items": torch.tensor([[3, 9, 4, 9], [7, 1, 0, 0]]),
    "mask": torch.tensor([[True] * 4, [True, True, False, False]]),
    "user": torch.tensor([[1] * 4, [0] * 4]),
    "action": torch.tensor([[1, 2, 1, 1], [2, 1, 0, 0]]),
    "query_action": torch.tensor([[2, 1, 1, 2], [1, 1, 0, 0]]),
}
LABELS = torch.tensor([[9, 4, 9, 11], [1, 5, -100, -100]])


def states_by_hand(model: Recommender, row: int, length: int) -> torch.Tensor:
    """States `[1 + length, D]` of one row: a user token and events through one post-norm block."""
    tables, parts = model.tables, model.item_encoder.parts
    item, user, block = parts["item"], parts["user"], model.backbone.blocks[0]
    tokens = []
    age = int(tables.user_features[BATCH["user"][row, 0], 0])
    table = user.sparse.table.weight
    tokens.append(user.outer(table[1 + age] if age else torch.zeros(WIDTH)).relu())
    for number in BATCH["items"][row, :length].tolist():
        a, b = tables.features[number].tolist()
        table = item.sparse.table.weight
        embedded = [
            table[1 + a] if a else torch.zeros(WIDTH),
            table[8 + b] if b else torch.zeros(WIDTH),
            item.projections[0](tables.more_vectors[number]),  # of zeros where there is none
        ]
        tokens.append(item.outer(torch.cat(embedded)).relu())
    hidden = torch.stack(tokens) * WIDTH**0.5 + model.backbone.position.weight[: 1 + length]
    query, key, value = (
        hidden @ weight.T + bias
        for weight, bias in zip(block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True)
    )
    out = []
    for place in range(1 + length):
        scores = query[place] @ key[: place + 1].T / WIDTH**0.5
        mixed = block.out(scores.softmax(0) @ value[: place + 1])
        one = F.layer_norm(
            hidden[place] + mixed, (WIDTH,), *block.attention_norm.parameters(), eps=1e-8
        )
        inner = block.ffn[0](one).relu()
        one = F.layer_norm(one + block.ffn[3](inner), (WIDTH,), *block.ffn_norm.parameters(), 1e-8)
        out.append(F.layer_norm(one, (WIDTH,), *model.backbone.norm.parameters(), eps=1e-8))
    return torch.stack(out)


def test_states_and_loss_are_those_of_a_user_token_before_the_events(model, monkeypatch):
    by_hand = [states_by_hand(model, 0, 4), states_by_hand(model, 1, 2)]
    model.eval()
    output = model(**BATCH, labels=LABELS)
    torch.testing.assert_close(output.hidden[0], by_hand[0][1:])
    torch.testing.assert_close(output.hidden[1, :2], by_hand[1][1:])
    torch.testing.assert_close(
        model.encode(**{key: BATCH[key] for key in ("items", "mask", "user")}),
        torch.stack([by_hand[0][-1], by_hand[1][-1]]),
    )
    # The user token predicts the first event, and each event the one after it.
    states, targets = torch.cat(by_hand), [3, 9, 4, 9, 11, 7, 1, 5]
    asked = {}

    def others(self, uniform, num_items):
        asked["rows"] = [set(row[row >= 0].tolist()) for row in self.items]
        return torch.full((len(uniform),), 20)

    monkeypatch.setattr(Seen, "others", others)
    loss = model(**BATCH, labels=LABELS).loss
    assert asked["rows"] == [{3, 9, 4, 11}, {7, 1, 5}]
    vectors = model.item_encoder.all_items()
    total = 0.0
    for state, target in zip(states, targets, strict=True):
        total += F.softplus(-state @ vectors[target]) + F.softplus(state @ vectors[20])
    torch.testing.assert_close(loss, total / len(targets))


def test_what_the_user_token_is_asked_has_its_action(model):
    given = {key: BATCH[key] for key in ("action", "query_action")}
    targets, actions = model.asked(BATCH["items"], BATCH["mask"], LABELS, **given)
    assert targets[:, 0].tolist() == [3, 7] and torch.equal(targets[:, 1:], LABELS)
    assert actions[:, 0].tolist() == [1, 2]
    nothing, _ = model.asked(BATCH["items"], BATCH["mask"], torch.full_like(LABELS, -100))
    assert (nothing == -100).all()
    plain = Recommender(configured(item_encoder={"type": "id"}, initial="parts"))
    assert plain.asked(BATCH["items"], BATCH["mask"], LABELS, **given)[0] is LABELS


def test_padding_on_either_side_changes_no_state(model):
    model.eval()
    known = {key: value[1:, :2] for key, value in BATCH.items()}
    alone = model(**known).hidden
    left = {key: F.pad(value, (2, 0)) for key, value in known.items()}
    left["user"][:] = 0
    torch.testing.assert_close(model(**left).hidden[:, 2:], alone)


def test_every_parameter_is_trained_and_the_model_survives_saving(model, tmp_path):
    model.train()
    model(**BATCH, labels=LABELS).loss.backward()
    for name, value in model.named_parameters():
        assert value.grad is not None or not value.requires_grad, name
    model.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path).eval()
    model.eval()
    assert torch.equal(loaded(**BATCH).hidden, model(**BATCH).hidden)


def test_xavier_is_per_feature_and_per_matrix():
    columns = [("a", 3_000, 1), ("b", 20_000, 1)]
    config = configured(feature_columns=columns, d_model=64)
    torch.manual_seed(1)
    model = Recommender(config)
    table = model.item_encoder.parts["item"].sparse.table.weight
    assert (table[0] == 0).all()
    for low, rows in ((1, 3_000), (3_001, 20_000)):
        assert float(table[low : low + rows].detach().std()) == pytest.approx(
            (2 / (rows + 64)) ** 0.5, rel=0.02
        )
    block = model.backbone.blocks[0]
    for weight in (*block.qkv.weight.chunk(3), block.out.weight):
        assert float(weight.detach().std()) == pytest.approx((2 / 128) ** 0.5, rel=0.1)
    outer = model.item_encoder.parts["item"].outer.weight
    assert float(outer.detach().std()) == pytest.approx((2 / (64 + 3 * 64)) ** 0.5, rel=0.1)
    for process in range(2):
        torch.manual_seed(1)
        with held_rows(process=process, processes=2, least=1_000):
            part = Recommender(config).item_encoder.parts["item"].sparse.table
        assert isinstance(part, HeldRows)
        assert torch.equal(part.held, table[part.first : part.first + len(part.held)])


@given(st.integers(0, 2**20), st.integers(1, 12), st.integers(1, 5), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_others_are_the_items_that_a_row_lacks_each_as_often(seed, num_items, rows, width):
    rng = np.random.default_rng(seed)
    items = rng.integers(-2, num_items, (rows, width))
    known = rng.random((rows, 3)) < 0.7
    # One draw in the middle of each of `n` equal parts of [0, 1) is every item once.
    seen = Seen(torch.from_numpy(items), torch.from_numpy(known))
    lacking = [sorted(set(range(num_items)) - set(row.tolist())) for row in items]
    lacking = [row or list(range(num_items)) for row in lacking]
    asked = known.nonzero()[0]
    for number in range(num_items):
        uniform = np.array([(number % len(lacking[r]) + 0.5) / len(lacking[r]) for r in asked])
        found = seen.others(torch.from_numpy(uniform), num_items)
        assert found.tolist() == [lacking[r][number % len(lacking[r])] for r in asked]


def with_part(name: str, **changes) -> dict:
    parts = {**PARTS, name: {**PARTS[name], **changes}}
    return {"item_encoder": {"type": "sum", "parts": parts}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial": "zeros"}, "initial='zeros'"),
        ({"head": {"type": "dense", "unseen": True}}, "unseen=True with loss='full'"),
        ({"backbone": {**BLOCK, "norm_eps": 0}}, "norm_eps=0; expected above 0"),
        ({"backbone": {**BLOCK, "dropout_at": "all"}}, "dropout_at='all'"),
        (
            with_part("item", missing="no"),
            "missing='no'",
        ),
        (
            with_part("user", activation="gelu"),
            "'user': activation='gelu'",
        ),
        (
            {
                "codebook_sizes": (4, 4),
                "item_encoder": {
                    "type": "sum",
                    "parts": {"codes": {"type": "sid-tokens"}, "user": PARTS["user"]},
                },
                "head": {"type": "tokens"},
            },
            "goes with one token per item, and this encoder has 2",
        ),
    ],
)
def test_options_that_make_no_sense(changes, message):
    with pytest.raises(ConfigError, match=message):
        Recommender(configured(**changes))


def test_pretrained_weights_are_not_drawn_anew():
    config = configured()
    config.backbone = {"type": "hf", "pretrained": "somewhere"}
    with pytest.raises(ConfigError, match="would draw the pretrained weights"):
        Recommender(config)


def test_dropout_stands_where_it_is_asked_for():
    counted = {}
    for where in ("outputs", "sasrec"):
        model = Recommender(configured(backbone={**BLOCK, "dropout_at": where, "dropout": 0.5}))
        seen: list[nn.Module] = []
        for module in model.backbone.modules():
            if isinstance(module, nn.Dropout) and module.p:
                module.register_forward_hook(lambda one, *_, seen=seen: seen.append(one))
        model.train()(**BATCH)
        names = {id(module): name for name, module in model.backbone.named_modules()}
        counted[where] = [names[id(one)] for one in seen]
    assert len(counted["outputs"]) == 2
    assert len(counted["sasrec"]) == 3 and counted["sasrec"][0] == "input_dropout"
