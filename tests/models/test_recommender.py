from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from genrec.decoding import PrefixTrie, default_tie_order
from genrec.errors import ArtefactError, ConfigError
from genrec.models import (
    BACKBONES,
    HEADS,
    ITEM_ENCODERS,
    ItemTables,
    Recommender,
    RecommenderConfig,
)
from genrec.models.item_encoders import EventFeature
from genrec.models.registry import build_part

ITEMS, SIZES = 40, (4, 5, 3)
ENCODERS = {
    "sid": {"type": "sid"},
    "semantic": {"type": "semantic", "experts": 2},
    "id": {"type": "id"},
    "sum": {"type": "sum", "parts": {"a": {"type": "sid"}, "b": {"type": "semantic"}}},
}


def build(encoder: str = "sum", head: str = "parallel", **config: object) -> Recommender:
    torch.manual_seed(0)
    made = RecommenderConfig(
        num_items=ITEMS,
        codebook_sizes=SIZES,
        vector_dim=7,
        d_model=16,
        max_history=10,
        item_encoder=ENCODERS[encoder],
        head={"type": head},
        **config,
    )
    codes = torch.stack([torch.randint(0, k, (ITEMS,)) for k in SIZES], 1).int()
    tables = {
        "codes": codes,
        "vectors": torch.randn(ITEMS, 7),
        "counts": torch.arange(1.0, ITEMS + 1),
        "tie_order": torch.randperm(ITEMS),
    }
    return Recommender(made, tables=tables)


def batch() -> dict[str, torch.Tensor]:
    items = torch.randint(0, ITEMS, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    return {"items": items, "mask": mask}


def trie_of(model: Recommender) -> PrefixTrie:
    tables = model.tables
    return PrefixTrie.from_codes(tables.codes, SIZES, tie_order=tables.tie_order)


@pytest.mark.parametrize(
    ("encoder", "head"),
    [
        ("sid", "autoregressive"),
        ("sum", "parallel"),
        ("id", "dense"),
        ("semantic", "dense"),
        ("semantic", "autoregressive"),
        ("sum", "dense"),
    ],
)
def test_saved_and_loaded_to_the_bit(encoder: str, head: str, tmp_path: Path) -> None:
    model = build(encoder, head).eval()
    model.save_pretrained(tmp_path)
    again = Recommender.from_pretrained(tmp_path).eval()
    state, loaded = model.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(state[key], loaded[key]) for key in state)
    one = model.search(batch(), k=8, trie=trie_of(model))
    two = again.search(batch(), k=8, trie=trie_of(again))
    assert torch.equal(one.items, two.items)
    assert torch.equal(one.scores, two.scores)


def test_loss_is_the_head_on_labelled_positions() -> None:
    model = build(input_norm=True).eval()
    data = batch()
    labels = torch.randint(0, ITEMS, (3, 6))
    labels[~data["mask"]] = -100
    labels[0, 2] = -100
    out = model(**data, labels=labels)
    states = [out.hidden[r, s] for r in range(3) for s in range(6) if labels[r, s] >= 0]
    targets = [labels[r, s] for r in range(3) for s in range(6) if labels[r, s] >= 0]
    expected = model.head.loss(torch.stack(states), torch.stack(targets))
    torch.testing.assert_close(out.loss, expected)


def test_users_are_encoded_by_their_last_item() -> None:
    model = build().eval()
    data = batch()
    states = model.encode(**data)
    hidden = model(**data).hidden
    torch.testing.assert_close(states, torch.stack([hidden[0, 5], hidden[1, 3], hidden[2, 5]]))
    short = {key: value[1:2, :4] for key, value in data.items()}
    torch.testing.assert_close(model.encode(**short)[0], states[1])


def test_empty_history_is_named() -> None:
    model, data = build(), batch()
    data["mask"][2] = False
    with pytest.raises(ConfigError, match="history 2 of the batch is empty"):
        model.search(data, k=3, trie=trie_of(model))


def test_another_vocabulary_is_refused() -> None:
    model = build(vocabulary_fingerprint="aaaa")
    model.check_vocabulary("aaaa")
    with pytest.raises(ArtefactError, match="trained with the SID vocabulary aaaa"):
        model.check_vocabulary("bbbb")


@pytest.mark.parametrize(
    ("part", "config", "message"),
    [
        ("backbone", {"type": "transfomer"}, "unknown type 'transfomer'"),
        ("backbone", {"type": "transformer", "layer": 3}, "did you mean 'layers'"),
        ("head", {"type": "dense", "temprature": 1}, "did you mean 'temperature'"),
        ("item_encoder", {"type": "sid", "d_model": 3}, "unknown key 'd_model'"),
        ("item_encoder", {"type": "sum"}, "parts"),
        ("item_encoder", {"type": "sum", "parts": {"x": {"type": "sid", "pol": 1}}}, "part x"),
    ],
)
def test_misspelt_parts(part: str, config: dict, message: str) -> None:
    settings = {"num_items": 4, "codebook_sizes": (2, 2), "vector_dim": 3, part: config}
    with pytest.raises(ConfigError, match=message):
        Recommender(RecommenderConfig(**settings))


def test_the_configuration_says_the_defaults_too(tmp_path: Path) -> None:
    made = RecommenderConfig(
        num_items=4,
        codebook_sizes=(2, 2),
        vector_dim=3,
        item_encoder={
            "type": "sum",
            "parts": {"a": {"type": "sid"}, "b": {"type": "semantic", "experts": 3}},
        },
        backbone={"type": "transformer", "layers": 1},
        head={"type": "parallel", "tied": False},
    )
    assert made.item_encoder["parts"] == {
        "a": {"type": "sid", "pool": "mean", "dropout": 0.0},
        "b": {"type": "semantic", "experts": 3, "hidden": None, "dropout": 0.0},
    }
    assert made.backbone == {
        "type": "transformer", "layers": 1, "heads": 2, "ffn": None, "dropout": 0.2,
        "attention_dropout": 0.0, "positions": "learned", "activation": "gelu",
        "norm": "pre", "norm_eps": 1e-5, "dropout_at": "outputs", "scale_input": False,
    }  # fmt: skip
    assert made.head["temperature"] == 0.05 and made.head["tied"] is False
    Recommender(made).save_pretrained(tmp_path)
    loaded = json.loads((tmp_path / "config.json").read_text())
    for part in ("item_encoder", "backbone", "head"):
        assert loaded[part] == getattr(made, part)
        assert getattr(RecommenderConfig.from_pretrained(tmp_path), part) == getattr(made, part)


def test_a_layer_that_torch_refuses_is_an_error_of_the_part() -> None:
    class Broken(torch.nn.Module):
        def __init__(self, *, width: int) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, width)

    with pytest.raises(ConfigError, match=r"head 'broken': .*negative dimension"):
        build_part("head", {"broken": Broken}, {"type": "broken", "width": -2})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("nan")]])
def test_options_are_finite_numbers(value: float | list[float]) -> None:
    class Part(torch.nn.Module):
        def __init__(self, *, weight: float) -> None:
            super().__init__()

    with pytest.raises(ConfigError, match=r"head 'part': weight=.*; expected a finite number"):
        build_part("head", {"part": Part}, {"type": "part", "weight": value})
    build_part("head", {"part": Part}, {"type": "part", "weight": 0.5})


@pytest.mark.parametrize("head", ["autoregressive", "parallel"])
def test_the_trie_of_another_vocabulary_is_refused(head: str) -> None:
    model = build("sum", head).eval()
    codes = model.tables.codes.clone()
    codes[7, 2] = (codes[7, 2] + 1) % SIZES[2]
    other = PrefixTrie.from_codes(codes, SIZES)
    with pytest.raises(ArtefactError, match=r"\[3, 0, 2\] for item 7, the model .*1 such"):
        model.search(batch(), k=3, trie=other)
    for sizes in ((*SIZES, 2), (5, *SIZES[1:])):
        wide = torch.cat([codes, codes[:, :1] * 0], 1)[:, : len(sizes)]
        with pytest.raises(ArtefactError, match="codebook sizes"):
            model.search(batch(), k=3, trie=PrefixTrie.from_codes(wide, sizes))
    # More items than the model's catalog had are no mistake.
    more = PrefixTrie.from_codes(torch.cat([model.tables.codes, codes[:2]]), SIZES)
    assert len(model.search(batch(), k=3, trie=more)) == 3


def test_without_a_tie_order_ties_are_no_item_numbers() -> None:
    order = ItemTables(num_items=30).tie_order
    assert order.tolist() == default_tie_order(30).tolist() != list(range(30))


def test_a_model_learns_a_rule() -> None:
    """The next item is the present one plus one: a few steps must find it."""
    model = build("sid", "autoregressive").train()
    codes = torch.stack(
        [torch.arange(ITEMS) % 4, torch.arange(ITEMS) % 5, torch.arange(ITEMS) // 20], 1
    )
    model.tables.fill(codes=codes.int())
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(150):
        torch.manual_seed(step)
        start = torch.randint(0, ITEMS, (32, 1))
        items = (start + torch.arange(6)) % ITEMS
        mask = torch.ones(32, 5, dtype=torch.bool)
        loss = model(items[:, :5], mask, labels=items[:, 1:]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    items = (torch.arange(ITEMS)[:, None] + torch.arange(4)) % ITEMS
    data = {"items": items, "mask": torch.ones_like(items, dtype=torch.bool)}
    found = model.search(data, k=1, trie=trie_of(model), exact=True)
    assert (found.items[:, 0] == (items[:, -1] + 1) % ITEMS).float().mean() > 0.9


PARTS = [
    *(("sid-tokens", name, "tokens") for name in BACKBONES),
    *(("sid-tokens" if HEADS[name].reads_tokens else "sid", "transformer", name) for name in HEADS),
    *((name, "hstu", "autoregressive") for name in ITEM_ENCODERS if name not in ("sum", "user")),
]


@pytest.mark.parametrize(("encoder", "backbone", "head"), PARTS)
def test_every_parameter_has_a_gradient(encoder: str, backbone: str, head: str) -> None:
    """Several processes wait for the gradient of every parameter in every step."""
    config: dict[str, Any] = {"type": encoder}
    if issubclass(ITEM_ENCODERS[encoder], EventFeature):
        config = {"type": "sum", "parts": {"item": {"type": "id"}, "more": config}}
    if encoder == "features":
        config["columns"] = ["colour"]
    model = Recommender(
        RecommenderConfig(
            num_items=ITEMS,
            codebook_sizes=SIZES,
            vector_dim=7,
            feature_columns=[("colour", 4, 1)],
            d_model=16,
            max_history=10,
            item_encoder=config,
            backbone={"type": backbone},
            head={"type": head},
        )
    )
    given = batch()
    given["mask"][:] = True
    times = torch.arange(21).view(3, 7) * 10_000
    last = torch.randint(0, ITEMS, (3, 1))
    given |= {
        "labels": torch.cat([given["items"][:, 1:], last], 1),
        "event_time": times[:, :6],
        "query_time": times[:, 1:],
        "action": torch.zeros(3, 6, dtype=torch.int64),
        "query_action": torch.ones(3, 6, dtype=torch.int64),
    }
    model(**given).loss.backward()
    trained = {n: value for n, value in model.named_parameters() if value.requires_grad}
    assert trained and [name for name, value in trained.items() if value.grad is None] == []
