"""Models over code tokens: what they learn from, and that their search is brute force."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import Filter, PrefixTrie, beam_search
from genrec.errors import ConfigError
from genrec.models import BACKBONES, Recommender, RecommenderConfig, code_decoder
from tests.decoding.cases import BACKENDS

ITEMS, SIZES, WIDTH = 30, (4, 3, 5), 16
# What belongs to a whole item joins its last token.
MIXED = {
    "type": "sum",
    "parts": {
        "text": {"type": "semantic"},
        "codes": {"type": "sid-tokens"},
        "prefix": {"type": "prefix"},
    },
}
VARIANTS = [
    *((name, {}) for name in BACKBONES),
    ("transformer", {"positions": "rotary"}),
    *((name, {"encoder": "mixed"}) for name in ("transformer", "hstu", "t5")),
    *((name, {"times": "request"}) for name in ("hstu", "fuxi-alpha", "fuxi-beta")),
]


def build(
    backbone: str = "transformer",
    *,
    head: dict | None = None,
    encoder: str = "",
    **options: object,
) -> Recommender:
    torch.manual_seed(0)
    config = RecommenderConfig(
        num_items=ITEMS,
        codebook_sizes=SIZES,
        vector_dim=5 if encoder else 0,
        d_model=WIDTH,
        max_history=6,
        item_encoder=MIXED if encoder else {"type": "sid-tokens"},
        backbone={"type": backbone, **options},
        head={"type": "tokens", **(head or {})},
        input_norm=True,
    )
    codes = torch.stack([torch.randint(0, k, (ITEMS,)) for k in SIZES], 1).int()
    tables = {"codes": codes, "tie_order": torch.randperm(ITEMS)}
    if encoder:
        tables["vectors"] = torch.randn(ITEMS, 5)
    model = Recommender(config, tables=tables)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}{v[1] or ''}")
def model(request: pytest.FixtureRequest) -> Recommender:
    name, options = request.param
    return build(name, **options)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    times = torch.randint(1, 10**5, (4, 6), generator=generator).cumsum(1)
    mask = torch.arange(5) < torch.tensor([5, 2, 1, 4])[:, None]
    return {
        "items": torch.randint(0, ITEMS, (4, 5), generator=generator),
        "mask": mask,
        "event_time": times[:, :5],
        "query_time": times[:, 1:],
    }


def trie_of(model: Recommender) -> PrefixTrie:
    tables = model.tables
    return PrefixTrie.from_codes(tables.codes, SIZES, tie_order=tables.tie_order)


def one_row(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    length = int(batch["mask"][row].sum())
    return {key: value[row : row + 1, :length] for key, value in batch.items()}


@torch.no_grad()
def score(model: Recommender, history: dict[str, torch.Tensor], item: int) -> float:
    """Log-probability of an item after one history, from the loss of a plain forward pass."""
    labels = torch.full_like(history["items"], -100)
    labels[0, -1] = item
    levels = len(model.tables.codebook_sizes)
    return -levels * float(model(**history, labels=labels).loss)


def test_the_search_is_brute_force(model: Recommender, batch: dict[str, torch.Tensor]) -> None:
    trie = trie_of(model)
    wide = model.search(batch, k=ITEMS, trie=trie, beam_width=ITEMS)
    narrow = model.search(batch, k=5, trie=trie, beam_width=3, exact=True)
    assert wide.certified.all() and narrow.certified.all()
    for row in range(4):
        scores = [score(model, one_row(batch, row), item) for item in range(ITEMS)]
        ties = model.tables.tie_order.tolist()
        found = wide.items[row].tolist()
        torch.testing.assert_close(
            wide.scores[row], torch.tensor([scores[i] for i in found]), atol=1e-4, rtol=1e-4
        )
        best = sorted(range(ITEMS), key=lambda i: (-round(scores[i], 4), ties[i]))
        assert [round(scores[i], 3) for i in found] == [round(scores[i], 3) for i in best]
        assert narrow.items[row].tolist() == found[:5]


@torch.no_grad()
def test_every_back_end_gives_the_same_lists(
    model: Recommender, batch: dict[str, torch.Tensor]
) -> None:
    """Beams and proven lists of ten items with a filter per user and items seen already."""
    trie = trie_of(model)
    allowed = torch.rand(4, ITEMS, generator=torch.Generator().manual_seed(3)) < 0.8
    options = {"k": 10, "exclude": batch["items"], "filter": Filter.from_mask(trie, allowed)}
    meta = {key: value for key, value in batch.items() if key not in ("items", "mask")}
    decoder = model.encode(batch["items"], batch["mask"], **meta)
    full = beam_search(decoder, trie, beam_width=ITEMS, backend="torch-only", **options)
    for width, exact in ((3, True), (5, False)):
        asked = {"beam_width": width, "exact": exact, **options}
        slow, *others = (
            beam_search(decoder, trie, backend=name, **asked)
            for name in BACKENDS
            if name != "triton" or model.config.backbone["type"] == "transformer"
        )
        for fast in others:
            assert torch.equal(slow.items, fast.items)
            torch.testing.assert_close(fast.scores, slow.scores, atol=1e-4, rtol=0)
        if exact:
            assert slow.certified.all() and torch.equal(slow.items, full.items)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_catalog_is_searched_exactly(data: st.DataObject) -> None:
    """Collisions, levels of one code, empty lists, users alone: the best of brute force, always."""
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=4), label="sizes")
    items = data.draw(st.integers(1, 12), label="items")
    users = data.draw(st.integers(1, 3), label="users")
    k = data.draw(st.integers(1, 8), label="k")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999), label="seed"))
    torch.manual_seed(0)
    config = RecommenderConfig(
        num_items=items,
        codebook_sizes=sizes,
        d_model=8,
        max_history=3,
        item_encoder={"type": "sid-tokens"},
        backbone={"type": "transformer", "layers": 1},
        head={"type": "tokens"},
    )
    codes = torch.stack([torch.randint(0, n, (items,), generator=generator) for n in sizes], 1)
    model = Recommender(config, tables={"codes": codes.int()}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    history = torch.randint(0, items, (users, 3), generator=generator)
    mask = torch.arange(3) < torch.randint(1, 4, (users, 1), generator=generator)
    seen = torch.randint(-1, items, (users, 2), generator=generator)
    allowed = torch.rand(users, items, generator=generator) < 0.7
    trie = PrefixTrie.from_codes(codes, sizes)
    found = model.search(
        {"items": history, "mask": mask},
        k=k,
        trie=trie,
        exclude=seen,
        filter=Filter.from_mask(trie, allowed),
        beam_width=data.draw(st.integers(1, 4), label="beam"),
        exact=True,
    )
    assert found.certified.all()
    for row in range(users):
        length = int(mask[row].sum())
        own = {"items": history[row : row + 1, :length], "mask": mask[row : row + 1, :length]}
        left = [i for i in range(items) if allowed[row, i] and i not in seen[row].tolist()]
        scores = {i: score(model, own, i) for i in left}
        best = sorted(scores.values(), reverse=True)[:k]
        lists = found.items[row, : len(best)].tolist()
        assert len(set(lists)) == len(lists) and set(lists) <= set(left)
        assert (found.items[row, len(best) :] == -1).all()
        given_scores = [scores[item] for item in lists]
        torch.testing.assert_close(
            torch.tensor(given_scores), torch.tensor(best), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            found.scores[row, : len(best)], torch.tensor(best), atol=1e-4, rtol=0
        )


def test_beams_may_be_fed_in_parts(
    model: Recommender, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    trie = trie_of(model)
    once = model.search(batch, k=ITEMS, trie=trie, beam_width=ITEMS)
    monkeypatch.setattr(code_decoder, "_TOKENS", 12)
    parts = model.search(batch, k=ITEMS, trie=trie, beam_width=ITEMS)
    torch.testing.assert_close(once.scores, parts.scores, atol=1e-5, rtol=1e-5)


def test_exclusions_and_filters(model: Recommender, batch: dict[str, torch.Tensor]) -> None:
    trie = trie_of(model)
    everything = model.search(batch, k=ITEMS, trie=trie, exact=True).items.tolist()
    deny = Filter.deny(trie, torch.arange(0, ITEMS, 3))
    found = model.search(
        batch, k=6, trie=trie, exclude=batch["items"], filter=deny, beam_width=4, exact=True
    ).items.tolist()
    for row in range(4):
        seen = batch["items"][row].tolist()
        left = [i for i in everything[row] if i % 3 and i not in seen]
        assert found[row] == left[:6]


def test_the_loss_is_the_mean_over_labels(
    model: Recommender, batch: dict[str, torch.Tensor]
) -> None:
    """Each label is predicted from the items before it, the codes from those before them."""
    generator = torch.Generator().manual_seed(2)
    after = torch.randint(0, ITEMS, (4, 1), generator=generator)
    labels = torch.cat([batch["items"][:, 1:], after], 1)
    lengths = batch["mask"].sum(1)
    labels[torch.arange(4), lengths - 1] = after[:, 0]
    labels[~batch["mask"]] = -100
    labels[0, 1] = labels[3, 3] = -100
    expected = []
    for row in range(4):
        for position in range(int(lengths[row])):
            if labels[row, position] >= 0:
                history = {k: v[:, : position + 1] for k, v in one_row(batch, row).items()}
                expected.append(-score(model, history, int(labels[row, position])) / len(SIZES))
    found = model(**batch, labels=labels).loss
    torch.testing.assert_close(found, torch.tensor(expected).mean(), atol=1e-5, rtol=1e-5)


def test_padding_on_the_left_changes_nothing(
    model: Recommender, batch: dict[str, torch.Tensor]
) -> None:
    labels = torch.cat([batch["items"][:, 1:], torch.full((4, 1), 7)], 1)
    labels[~batch["mask"]] = -100
    shift = [5 - int(n) for n in batch["mask"].sum(1)]
    left = {
        key: torch.stack([row.roll(n) for row, n in zip(value, shift, strict=True)])
        for key, value in {**batch, "labels": labels}.items()
    }
    for row, n in enumerate(shift):
        labels[row, 4 - n] = left["labels"][row, -1] = 7
    torch.testing.assert_close(
        model(**left).loss, model(**batch, labels=labels).loss, atol=1e-5, rtol=1e-5
    )
    left.pop("labels")
    one = model.search(batch, k=5, trie=trie_of(model), exact=True)
    two = model.search(left, k=5, trie=trie_of(model), exact=True)
    torch.testing.assert_close(one.scores, two.scores, atol=1e-4, rtol=1e-4)


def test_saved_and_loaded(
    model: Recommender, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    again = Recommender.from_pretrained(tmp_path).eval()
    one = model.search(batch, k=8, trie=trie_of(model))
    two = again.search(batch, k=8, trie=trie_of(again))
    assert torch.equal(one.items, two.items)
    assert torch.equal(one.scores, two.scores)


def test_a_full_history_fits(model: Recommender) -> None:
    """`max_history` items, in training and in search."""
    items = torch.randint(0, ITEMS, (2, 6))
    times = torch.arange(7).expand(2, 7) * 1000
    data = {
        "items": items,
        "mask": torch.ones_like(items, dtype=torch.bool),
        "event_time": times[:, :6],
        "query_time": times[:, 1:],
    }
    labels = torch.cat([items[:, 1:], items[:, :1]], 1)
    assert torch.isfinite(model(**data, labels=labels).loss)
    assert len(model.search(data, k=3, trie=trie_of(model))) == 2


@torch.no_grad()
def test_an_item_is_itself_from_its_last_token_on(batch: dict[str, torch.Tensor]) -> None:
    """Its vector matters to what follows it, and not to the prediction of its own codes."""
    for name in ("transformer", "hstu", "t5"):
        model = build(name, encoder="mixed")
        items = torch.tensor([[3, 8, 3, 20, 4]])
        data = {**one_row(batch, 0), "items": items}
        parts = model.item_encoder.parts
        whole = parts["text"](items) + parts["prefix"](items)
        expected = parts["codes"](items)
        expected[..., -1, :] += whole
        torch.testing.assert_close(model.item_encoder(items), expected)
        code = torch.tensor([[1, 0]])
        assert torch.equal(model.item_encoder.token(code, 1), parts["codes"].token(code, 1))

        def losses(model: Recommender = model, data: dict = data) -> list[float]:
            found = []
            for position in range(4):
                labels = torch.full_like(data["items"], -100)
                labels[0, position] = data["items"][0, position + 1]
                found.append(float(model(**data, labels=labels).loss))
            return found

        before = losses()
        model.tables.vectors[20] *= -1.0  # the fourth item
        after = losses()
        assert before[:3] == pytest.approx(after[:3], abs=1e-6)
        assert before[3] != pytest.approx(after[3], abs=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_learns_a_rule(tied: bool) -> None:
    """The next item is the present one plus one: a few steps must find it."""
    model = build(head={"tied": tied}, dropout=0.0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    codes = [torch.arange(ITEMS) % 4, torch.arange(ITEMS) % 3, torch.arange(ITEMS) // 12]
    model.tables.fill(codes=torch.stack(codes, 1).int())
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=5e-3)
    for step in range(120):
        torch.manual_seed(step)
        items = (torch.randint(0, ITEMS, (32, 1)) + torch.arange(6)) % ITEMS
        mask = torch.ones(32, 5, dtype=torch.bool)
        loss = model(items[:, :5], mask, labels=items[:, 1:]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    items = (torch.arange(ITEMS)[:, None] + torch.arange(4)) % ITEMS
    data = {"items": items, "mask": torch.ones_like(items, dtype=torch.bool)}
    found = model.eval().search(data, k=1, trie=trie_of(model), exact=True)
    assert (found.items[:, 0] == (items[:, -1] + 1) % ITEMS).float().mean() > 0.9


def test_a_head_of_whole_items_reads_the_last_code(batch: dict[str, torch.Tensor]) -> None:
    config = RecommenderConfig(
        num_items=ITEMS,
        codebook_sizes=SIZES,
        d_model=WIDTH,
        max_history=6,
        item_encoder={"type": "sid-tokens"},
        head={"type": "autoregressive"},
    )
    model = Recommender(config).eval()
    hidden = model(**batch).hidden
    assert hidden.shape == (4, 5, WIDTH)
    changed = dict(batch, items=batch["items"].clone())
    changed["items"][0, 3:] = (changed["items"][0, 3:] + 1) % ITEMS
    torch.testing.assert_close(model(**changed).hidden[0, :3], hidden[0, :3])
    states = model.encode(**batch)
    torch.testing.assert_close(states, hidden[torch.arange(4), batch["mask"].sum(1) - 1])


def test_labels_that_are_not_the_next_items_are_named(batch: dict[str, torch.Tensor]) -> None:
    labels = torch.cat([batch["items"][:, 1:], batch["items"][:, :1]], 1)
    labels[~batch["mask"]] = -100
    labels[1, 0] = (labels[1, 0] + 1) % ITEMS
    with pytest.raises(ConfigError, match="row 1 of the batch: the label at position 0"):
        build()(**batch, labels=labels)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"item_encoder": {"type": "sid"}, "head": {"type": "tokens"}}, "one token per code"),
        ({"item_encoder": {"type": "sid-tokens"}, "head": {"type": "dense"}}, "items: table"),
        ({"head": {"type": "tokens", "temperature": 0}}, "temperature=0"),
    ],
)
def test_parts_that_do_not_fit(parts: dict, message: str) -> None:
    settings = {"item_encoder": {"type": "sid-tokens"}, **parts}
    with pytest.raises(ConfigError, match=message):
        Recommender(RecommenderConfig(num_items=4, codebook_sizes=(2, 2), **settings))
