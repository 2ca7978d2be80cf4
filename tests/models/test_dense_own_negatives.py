"""Negatives of each state's own: products in blocks, and a loss that equals a loop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from genrec.errors import ConfigError
from genrec.models import DenseHead, IdEmbedding, ItemTables
from genrec.models.heads import dense_products
from genrec.models.heads.dense_products import own_products

ITEMS, WIDTH = 40, 6


def head(**options):
    torch.manual_seed(1)
    tables = ItemTables(num_items=ITEMS).fill(
        counts=torch.rand(ITEMS) ** 2 * 100 + 2, tie_order=torch.randperm(ITEMS)
    )
    encoder = IdEmbedding(tables=tables, d_model=WIDTH)
    with torch.no_grad():
        encoder.table.weight.mul_(30)
    options = {"loss": "sampled", "shared": False, **options}
    return DenseHead(tables=tables, encoder=encoder, d_model=WIDTH, **options).eval()


@pytest.mark.parametrize("budget", [1, 4 * 5 * WIDTH * 2, 2**20])
def test_products_in_blocks_are_those_of_all_pairs(budget: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dense_products, "BLOCK_BYTES", {"default": budget})
    torch.manual_seed(0)
    states = torch.randn(7, WIDTH, dtype=torch.float64)
    items = torch.randn(9, WIDTH, dtype=torch.float64)
    places = torch.randint(0, 8, (7, 5))  # the last item is never asked for
    places[2] = 3
    weights = torch.randn(7, 5)
    found = []
    for product in (own_products, lambda s, i, p: (s[:, None] * i[p]).sum(-1).float()):
        leaves = states.clone().requires_grad_(), items.clone().requires_grad_()
        values = product(*leaves, places)
        (values * weights).sum().backward()
        found.append((values, *(leaf.grad for leaf in leaves)))
    for got, want in zip(*found, strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert not own_products(states[:0], items, places[:0]).numel()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("log_q", [True, False])
@pytest.mark.parametrize("power", [0.0, 0.75])
def test_the_loss_equals_a_loop(similarity: str, log_q: bool, power: float):
    made = head(
        similarity=similarity, log_q=log_q, negative_power=power, negatives=30, temperature=0.5
    )
    made.seed_draws(3)
    hidden = torch.randn(7, WIDTH, requires_grad=True)
    targets = torch.tensor([3, 3, 9, 1, 0, 25, 39])
    drawn, expected = made._draw(targets)
    assert drawn.shape == expected.shape == (7, 30)
    assert (drawn == targets[:, None]).any() and not torch.equal(drawn[0], drawn[1])
    chance = made.tables.counts.double() ** power
    chance = (chance / chance.sum()).tolist()
    items, states = made.encoder.all_items(), hidden
    if similarity == "cosine":
        items, states = F.normalize(items, dim=1), F.normalize(states, dim=1)
    losses = []
    for state, target, others in zip(states, targets.tolist(), drawn.tolist(), strict=True):
        terms = [state @ items[target] / 0.5]
        for item in others:
            if item != target:
                correction = math.log(30 * chance[item]) if log_q else 0.0
                terms.append(state @ items[item] / 0.5 - correction)
        losses.append(torch.stack(terms).logsumexp(0) - terms[0])
    want = torch.stack(losses).mean()
    found = made.loss(hidden, targets)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)
    leaves = (hidden, made.encoder.table.weight)
    for got, exact in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(want, leaves), strict=True
    ):
        torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-6)


def test_draws_are_uniform_for_each_state_and_unbiased():
    made = head(negatives=20_000)
    targets = torch.tensor([5, 8])
    drawn, expected = made._draw(targets)
    for row in drawn:
        assert (torch.bincount(row, minlength=ITEMS) / 20_000 - 1 / ITEMS).abs().max() < 0.006
    hidden = torch.randn(2, WIDTH)
    estimate = (made._drawn_scores(hidden, drawn) - expected.log()).logsumexp(1)
    whole = (hidden @ made.encoder.all_items().T).logsumexp(1)
    torch.testing.assert_close(estimate, whole, atol=0.1, rtol=0)


def test_only_different_items_are_encoded(monkeypatch: pytest.MonkeyPatch):
    made = head(negatives=50)
    asked = []
    real = made.candidates
    monkeypatch.setattr(made, "candidates", lambda items: (asked.append(items), real(items))[1])
    targets = torch.arange(9)
    made.seed_draws(1)
    made.loss(torch.randn(9, WIDTH), targets)
    positive, negative = asked
    assert torch.equal(positive, targets)
    assert torch.equal(negative, made._draw(targets)[0].unique()) and len(negative) <= ITEMS


def test_a_state_whose_draws_are_all_its_target_has_no_loss(monkeypatch: pytest.MonkeyPatch):
    made = head(negatives=4)
    drawn = torch.tensor([[2, 2, 2, 2]])
    monkeypatch.setattr(made, "_draw", lambda _: (drawn, torch.ones(1, 4)))
    hidden = torch.randn(1, WIDTH, requires_grad=True)
    loss = made.loss(hidden, torch.tensor([2]))
    loss.backward()
    assert float(loss.detach()) == 0 and torch.isfinite(hidden.grad).all()


def test_a_seed_says_what_each_process_draws(monkeypatch: pytest.MonkeyPatch):
    """Two processes draw for their states what one draws for all of them."""
    made = head(negatives=6)
    hidden, targets = torch.randn(9, WIDTH), torch.randint(ITEMS, (9,))
    made.seed_draws(11)
    whole = made.loss(hidden, targets)
    assert torch.equal(made.loss(hidden, targets), whole)
    parts = []
    for rows in (slice(0, 4), slice(4, 9)):
        monkeypatch.setattr(
            "genrec.models.heads.dense.gathered", lambda _, rows=rows: (targets, rows.start)
        )
        parts.append(made.loss(hidden[rows], targets[rows]) * made.mass(targets[rows], None))
    torch.testing.assert_close(sum(parts) / made.mass(targets, None), whole)


def test_half_precision_meets_float_products():
    made = head(negatives=8, similarity="cosine", temperature=0.05)
    hidden, targets = torch.randn(5, WIDTH), torch.arange(5)
    made.seed_draws(2)
    want = made.loss(hidden, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(made.loss(hidden, targets), want)
        made.similarity = "dot"
        assert made._drawn_scores(hidden.bfloat16(), made._draw(targets)[0]).dtype == torch.float32


@pytest.mark.parametrize("loss", ["full", "infonce", "bce"])
def test_other_losses_have_no_negatives_of_a_state(loss: str):
    with pytest.raises(ConfigError, match=f"shared=False with loss='{loss}'; only loss: sampled"):
        head(loss=loss)
