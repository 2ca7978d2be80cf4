"""The LIGER head against a slow version: union of beam and cold items, ranked by dense score."""

from __future__ import annotations

import pytest
import torch

from genrec.decoding import Filter, PrefixTrie, rank_candidates
from genrec.errors import ConfigError
from genrec.evaluation import ModelRanker
from genrec.models import (
    HEADS,
    ItemTables,
    LigerHead,
    Recommender,
    RecommenderConfig,
    SidEmbedding,
    SumEncoder,
)
from genrec.models.heads import liger

ITEMS, WIDTH, SIZES, DIM = 90, 8, (4, 5, 6), 5
COLD = [3, 17, 40, 41, 77]


def build(**options: object) -> LigerHead:
    torch.manual_seed(0)
    codes = torch.stack([torch.randint(0, k, (ITEMS,)) for k in SIZES], 1).int()
    counts = torch.randint(1, 9, (ITEMS,)).float()
    counts[COLD] = 0
    tables = ItemTables(num_items=ITEMS, codebook_sizes=SIZES, vector_dim=DIM).fill(
        codes=codes, vectors=torch.randn(ITEMS, DIM), counts=counts, tie_order=torch.randperm(ITEMS)
    )
    parts = {"codes": {"type": "sid"}, "content": {"type": "semantic"}}
    encoder = SumEncoder(parts=parts, tables=tables, d_model=WIDTH)
    head = LigerHead(tables=tables, encoder=encoder, d_model=WIDTH, **options).eval()
    for module in (head, encoder):
        for parameter in module.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    return head


def trie_of(head: LigerHead) -> PrefixTrie:
    return PrefixTrie.from_codes(head.tables.codes, SIZES, tie_order=head.tables.tie_order)


def slow_list(
    head: LigerHead, state: torch.Tensor, proposed: list[int], banned: set[int], k: int
) -> list[int]:
    """The union of what the codes propose and the cold items, item by item."""
    union = (set(proposed) | (set(COLD) if head.cold else set())) - banned - {-1}
    vectors = torch.nn.functional.normalize(head.encoder.all_items(), dim=-1)
    query = state / state.norm()
    scores = {item: float(query @ vectors[item]) / head.items.temperature for item in union}
    ties = head.tables.tie_order.tolist()
    return sorted(union, key=lambda item: (-scores[item], ties[item]))[:k]


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("width", [2, 7, 30])
@torch.no_grad()
def test_the_union_is_ranked_by_the_dense_score(cold: bool, width: int) -> None:
    head = build(cold=cold)
    trie, hidden = trie_of(head), torch.randn(6, WIDTH)
    exclude = torch.tensor(
        [[3, 5, -1], [-1, -1, -1], [41, 40, 8], [1, 2, 3], [77, 17, 3], [9, 9, 9]]
    )
    mask = torch.rand(6, ITEMS) < 0.7
    for filter, banned in (
        (None, torch.zeros(6, ITEMS, dtype=torch.bool)),
        (Filter.from_mask(trie, mask), ~mask),
        (Filter.from_mask(trie, mask[0]), ~mask[:1].expand(6, -1)),
    ):
        options = {"trie": trie, "exclude": exclude, "filter": filter, "beam_width": width}
        found = head.search(hidden, k=7, **options)
        proposed = head.codes.search(hidden, k=max(7, width), **options)
        for row in range(6):
            out = set(banned[row].nonzero().flatten().tolist()) | set(exclude[row].tolist())
            expected = slow_list(head, hidden[row], proposed.items[row].tolist(), out, 7)
            assert found.items[row].tolist() == expected
            assert found.leaves[row].tolist() == expected
        assert torch.equal(found.leaked, proposed.leaked)


@torch.no_grad()
def test_cold_items_are_reached() -> None:
    """A state that points at a cold item finds it, though the codes would not."""
    head = build()
    trie = trie_of(head)
    vectors = head.encoder.all_items()
    found = head.search(vectors[COLD], k=1, trie=trie, beam_width=1)
    assert found.items[:, 0].tolist() == COLD
    proposed = head.codes.search(vectors[COLD], k=1, trie=trie, beam_width=1)
    assert proposed.items[:, 0].tolist() != COLD


@torch.no_grad()
def test_certificates_say_what_is_proven() -> None:
    head = build()
    trie, hidden = trie_of(head), torch.randn(20, WIDTH)
    dense = head.items.search(hidden, k=5)
    exact = head.search(hidden, k=5, trie=trie, exact=True)
    assert exact.certified.all() and (exact.best_dropped == -torch.inf).all()
    assert torch.equal(exact.items, dense.items)
    torch.testing.assert_close(exact.scores, dense.scores, atol=1e-4, rtol=1e-4)
    narrow = head.search(hidden, k=5, trie=trie, beam_width=5)
    assert not narrow.certified.any() and (narrow.best_dropped == torch.inf).all()
    assert (narrow.items != dense.items).any()  # and rightly so
    # Where all that is allowed is in the union, nothing is left to prove.
    few = Filter.allow(trie, torch.tensor([2, 3, 9, 11]))
    assert head.search(hidden, k=3, trie=trie, filter=few, beam_width=5).certified.all()


@torch.no_grad()
def test_items_that_left_or_came_are_no_mistake() -> None:
    head = build()
    hidden = torch.randn(5, WIDTH)
    gone = trie_of(head).remove([3, 40, 8])
    for exact in (False, True):
        found = head.search(hidden, k=ITEMS, trie=gone, beam_width=ITEMS, exact=exact)
        for row in found.items.tolist():
            assert sorted(row) == [-1] * 3 + sorted(set(range(ITEMS)) - {3, 40, 8})
    # An item that the model has never heard of has no vector to rank it by.
    codes = torch.cat([head.tables.codes, head.tables.codes[:2]])
    grown = PrefixTrie.from_codes(codes, SIZES)
    for exact in (False, True):
        found = head.search(hidden, k=ITEMS + 2, trie=grown, beam_width=ITEMS + 2, exact=exact)
        assert (found.items < ITEMS).all() and (found.items >= 0).sum() == 5 * ITEMS


def test_the_loss_is_the_sum() -> None:
    head = build(weight=0.25)
    hidden, targets = torch.randn(4, WIDTH), torch.tensor([1, 2, 3, 4])
    expected = head.codes.loss(hidden, targets) + 0.25 * head.items.loss(hidden, targets)
    torch.testing.assert_close(head.loss(hidden, targets), expected)


def test_actions_weigh_the_dense_part_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    items = {"type": "dense", "loss": "sampled", "negatives": 9, "action_weights": [1.0, 0.0, 3.0]}
    head = build(weight=0.25, parts={"codes": {"type": "autoregressive"}, "items": items})
    hidden, targets = torch.randn(5, WIDTH), torch.tensor([4, 9, 17, 30, 2])
    actions = torch.tensor([2, 0, 1, 2, 0])
    head.seed_draws(7)
    whole = head.event_loss(hidden, targets, actions)
    dense = head.items.event_loss(hidden, targets, actions)
    torch.testing.assert_close(whole, head.codes.loss(hidden, targets) + 0.25 * dense)
    with pytest.raises(ConfigError, match="the data have no actions"):
        head.loss(hidden, targets)
    # Two processes, whose losses a trainer puts together by their numbers of targets.
    halves = [slice(0, 2), slice(2, 5)]
    own = [torch.tensor([4.0, 2.0]), torch.tensor([4.0, 3.0])]
    monkeypatch.setattr(liger, "gathered", lambda one: (torch.cat(own), 0))
    total = torch.tensor(0.0)
    for half, (_, count) in zip(halves, own, strict=True):
        total += head.event_loss(hidden[half], targets[half], actions[half]) * count / 5
    torch.testing.assert_close(total, whole)


def test_over_code_tokens_the_state_of_the_history_asks() -> None:
    """A recommender whose backbone reads codes: the dense query is the state before the first."""
    torch.manual_seed(0)
    config = RecommenderConfig(
        num_items=ITEMS,
        codebook_sizes=SIZES,
        vector_dim=DIM,
        d_model=WIDTH,
        max_history=5,
        item_encoder={"type": "sid-tokens"},
        head={
            "type": "liger",
            "parts": {
                "codes": {"type": "tokens"},
                "items": {"type": "dense", "items": "content", "similarity": "cosine"},
            },
        },
    )
    codes = torch.stack([torch.randint(0, k, (ITEMS,)) for k in SIZES], 1).int()
    model = Recommender(config, tables={"codes": codes, "vectors": torch.randn(ITEMS, DIM)}).eval()
    items = torch.randint(0, ITEMS, (3, 4))
    data = {"items": items, "mask": torch.ones_like(items, dtype=torch.bool)}
    labels = torch.cat([items[:, 1:], items[:, :1]], 1)
    model(**data, labels=labels).loss.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    trie = PrefixTrie.from_codes(codes, SIZES, tie_order=model.tables.tie_order)
    found = model.search(data, k=6, trie=trie, exact=True)
    with torch.no_grad():
        dense = model.head.items.search(model.encode(**data).last, k=6)
    assert torch.equal(found.items, dense.items)
    ranker = ModelRanker(model, trie)
    assert not ranker.has_tuples and ranker.filters_for is trie
    assert torch.equal(ranker.leaf_of(items), items)


@torch.no_grad()
def test_any_registered_head_of_codes_may_propose(monkeypatch: pytest.MonkeyPatch) -> None:
    class Contributed(HEADS["parallel"]):
        pass

    monkeypatch.setitem(HEADS, "contributed", Contributed)
    head = build(parts={"codes": {"type": "contributed"}, "items": {"type": "dense"}})
    assert isinstance(head.codes, Contributed)
    found = head.search(torch.randn(2, WIDTH), k=4, trie=trie_of(head), beam_width=8)
    assert (found.items >= 0).all()


def test_bad_options() -> None:
    head = build()
    given = {"tables": head.tables, "encoder": head.encoder, "d_model": WIDTH}
    for options, message in (
        ({"parts": {"codes": {"type": "autoregressive"}}}, "parts=codes; expected codes and items"),
        (
            {"parts": {"codes": {"type": "dense"}, "items": {"type": "dense"}}},
            "part codes: unknown",
        ),
        (
            {"parts": {"codes": {"type": "liger"}, "items": {"type": "dense"}}},
            "part codes: unknown",
        ),
        ({"weight": -1}, "weight=-1"),
    ):
        with pytest.raises(ConfigError, match=message):
            HEADS["liger"](**given, **options)
    with pytest.raises(ConfigError, match="needs the prefix trie"):
        head.search(torch.randn(1, WIDTH), k=1)
    bare = ItemTables(num_items=4)
    bare_encoder = SidEmbedding(tables=head.tables, d_model=WIDTH)
    with pytest.raises(ConfigError, match="item vectors"):
        HEADS["dense"](tables=bare, encoder=bare_encoder, d_model=WIDTH, items="content")


def test_candidates_are_ranked_as_the_catalog_is() -> None:
    scores = torch.tensor([[2.0, 5.0, 2.0, 9.0], [1.0, 1.0, 1.0, float("nan")]])
    items = torch.tensor([[4, 2, 0, -1], [3, 1, 4, -1]])
    found = rank_candidates(items, scores, k=4, tie_order=torch.tensor([1, 0, 4, 2, 3]))
    assert found.items.tolist() == [[2, 0, 4, -1], [1, 3, 4, -1]]
    assert found.scores[0].tolist() == [5.0, 2.0, 2.0, -torch.inf]
    with pytest.raises(ConfigError, match="one score per candidate"):
        rank_candidates(items, scores[:, :2], k=1, tie_order=torch.arange(5))
