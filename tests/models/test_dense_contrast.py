"""Sampled losses are what they say: unbiased with logQ, blind to a state's own target; pools."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from genrec.decoding import Filter
from genrec.errors import ConfigError
from genrec.models import DenseHead, IdEmbedding, ItemTables
from genrec.models.heads.dense_contrast import ItemSampler, Seen
from genrec.models.heads.dense_options import READ_BY


def head(items: int = 40, **options):
    torch.manual_seed(1)
    tables = ItemTables(num_items=items).fill(
        counts=torch.rand(items) ** 2 * 100 + 2, tie_order=torch.randperm(items)
    )
    encoder = IdEmbedding(tables=tables, d_model=6)
    with torch.no_grad():
        encoder.table.weight.mul_(30)
    return DenseHead(tables=tables, encoder=encoder, d_model=6, **options).eval()


DRAWN = {
    "infonce": {"loss": "infonce", "negatives": 6, "in_batch": 4},
    "sampled": {"loss": "sampled", "negatives": 6},
    "bce": {"loss": "bce"},
}


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_draws_follow_the_counts(power: float):
    counts = torch.tensor([0.0, 1.0, 4.0, 16.0, 0.0, 3.0])
    sampler = ItemSampler(counts, power)
    torch.manual_seed(0)
    drawn = torch.bincount(sampler.draw(200_000), minlength=6) / 200_000
    want = counts.clamp_min(1e-9) ** power
    torch.testing.assert_close(sampler.chance, want / want.sum(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(drawn, want / want.sum(), rtol=0.05, atol=0.005)
    assert sampler.fits(counts, power) and not sampler.fits(counts, power + 1)
    counts += 1
    assert not sampler.fits(counts, power)


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_the_partition_of_both_sources_together_is_unbiased(power: float):
    made = head(loss="infonce", negatives=30_000, in_batch=30_000, negative_power=power)
    hidden = torch.randn(1, 6)
    scores = (hidden @ made.encoder.all_items().T)[0]
    # Targets of a batch come by popularity.
    pool = torch.multinomial(made.tables.counts, 30_000, replacement=True)
    drawn, expected = made._draw(pool)
    assert len(drawn) == 60_000
    estimate = (scores[drawn] - expected.log()).logsumexp(0)
    torch.testing.assert_close(estimate, scores.logsumexp(0), atol=0.05, rtol=0)


@torch.no_grad()
def test_infonce_equals_a_loop(monkeypatch: pytest.MonkeyPatch):
    made = head(loss="infonce", negatives=5, in_batch=3, temperature=0.5, similarity="cosine")
    hidden, targets = torch.randn(7, 6), torch.tensor([3, 3, 9, 1, 0, 25, 39])
    drawn = torch.tensor([3, 8, 8, 9, 30, 1, 2, 3])
    expected = torch.rand(8) + 0.1
    monkeypatch.setattr(made, "_draw", lambda _: (drawn, expected))
    items = F.normalize(made.encoder.all_items(), dim=1)
    for log_q in (True, False):
        made.log_q = log_q
        losses = []
        for state, target in zip(F.normalize(hidden, dim=1), targets.tolist(), strict=True):
            own = float(state @ items[target]) / 0.5
            terms = [math.exp(own)]
            for item, count in zip(drawn.tolist(), expected.tolist(), strict=True):
                if item != target:
                    terms.append(
                        math.exp(float(state @ items[item]) / 0.5) / (count if log_q else 1)
                    )
            losses.append(math.log(sum(terms)) - own)
        assert float(made.loss(hidden, targets)) == pytest.approx(sum(losses) / 7, rel=1e-4)


@pytest.mark.parametrize("loss", ["infonce", "sampled", "bce"])
def test_targets_count_by_their_action(loss: str):
    torch.manual_seed(0)
    weights = [0.5, 1.0, 0.0, 2.5]
    plain = head(**DRAWN[loss])
    made = head(**DRAWN[loss], action_weights=weights)
    hidden, targets = torch.randn(9, 6), torch.arange(9)
    actions = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 1])
    made.seed_draws(5)
    plain.seed_draws(5)
    found = made.event_loss(hidden, targets, actions)
    # What is drawn is the same, so each one's own loss is the difference that it makes.
    each = []
    for row in range(9):
        ones = [0.0] * 9
        ones[row] = 1.0
        made.action_weights = (*ones, 0.0)
        each.append(float(made.event_loss(hidden, targets, torch.arange(9))))
    total = sum(weights[a] * one for a, one in zip(actions.tolist(), each, strict=True))
    assert float(found) == pytest.approx(
        total / sum(weights[a] for a in actions.tolist()), rel=1e-5
    )
    made.action_weights = (1.0,) * 4
    want = plain.loss(hidden, targets)
    assert float(want) == pytest.approx(sum(each) / 9, rel=1e-5)
    torch.testing.assert_close(made.event_loss(hidden, targets, actions), want)
    torch.testing.assert_close(plain.event_loss(hidden, targets, None), want)
    made.action_weights = (0.0,) * 4
    assert float(made.event_loss(hidden, targets, actions)) == 0


def test_action_weights_that_make_no_sense():
    for options in ({"loss": "full"}, {"action_weights": []}, {"action_weights": [1, -1]}):
        with pytest.raises(ConfigError, match=r"action_weights=.* with loss="):
            head(**{"loss": "infonce", "action_weights": [1.0], **options})
    made = head(loss="bce", action_weights=[1.0, 2.0])
    hidden, targets = torch.randn(2, 6), torch.tensor([1, 2])
    with pytest.raises(ConfigError, match="has 2 numbers, but the data have action 2"):
        made.event_loss(hidden, targets, torch.tensor([0, 2]))
    with pytest.raises(ConfigError, match="but the data have no actions"):
        made.loss(hidden, targets)


def test_without_log_q_popular_items_are_pushed_down():
    hidden, gradients = torch.randn(200, 6), {}
    for log_q in (True, False):
        made = head(loss="infonce", negatives=0, in_batch=200, log_q=log_q)
        torch.manual_seed(2)
        targets = torch.multinomial(made.tables.counts, 200, replacement=True)
        scores = torch.zeros(40, requires_grad=True)
        made.candidates = lambda items, scores=scores: scores[items][:, None]
        made.similarity = "dot"
        made.loss(hidden[:, :1] * 0 + 1, targets).backward()
        gradients[log_q] = scores.grad
    popular = made.tables.counts.topk(3).indices
    # With the correction, a score of 0 for all items is already their popularity times too little.
    assert gradients[True][popular].mean() < gradients[False][popular].mean()


def test_bce_equals_a_loop(monkeypatch: pytest.MonkeyPatch):
    made = head(loss="bce")
    hidden, targets = torch.randn(4, 6), torch.tensor([3, 7, 7, 0])
    others = torch.tensor([5, 8, 1, 2])
    monkeypatch.setattr(made, "_others", lambda *_: others)
    items = made.encoder.all_items()
    right = [math.log1p(math.exp(-float(hidden[r] @ items[t]))) for r, t in enumerate(targets)]
    wrong = [math.log1p(math.exp(float(hidden[r] @ items[o]))) for r, o in enumerate(others)]
    want = sum(right) / 4 + sum(wrong) / 4
    assert float(made.loss(hidden, targets)) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("banned", [False, True])
def test_a_pool_is_searched_as_the_catalog_filtered(similarity: str, banned: bool):
    made = head(items=200, similarity=similarity, temperature=0.3)
    hidden = torch.randn(9, 6)
    allowed = torch.randperm(200)[:60]
    exclude = torch.randint(-1, 200, (9, 30)) if banned else None
    pool = Filter.allow(200, allowed)
    with torch.inference_mode():
        found = made.search(hidden, k=12, exclude=exclude, filter=pool)
        # A row for each user takes the other way, over the whole catalog.
        each = Filter.allow(200, allowed.expand(9, -1))
        want = made.search(hidden, k=12, exclude=exclude, filter=each)
    assert torch.equal(found.items, want.items)
    torch.testing.assert_close(found.scores, want.scores)
    assert torch.equal(found.leaf_sizes, want.leaf_sizes) and found.certified.all()
    assert set(found.evaluations.tolist()) == {60}


def test_a_pool_is_encoded_once_until_a_value_changes(monkeypatch: pytest.MonkeyPatch):
    made = head(items=100)
    pool = Filter.allow(100, torch.arange(20))
    calls = []
    real = made.candidates
    monkeypatch.setattr(
        made, "candidates", lambda items: (calls.append(len(items)), real(items))[1]
    )
    with torch.no_grad():
        first = made.search(torch.ones(2, 6), k=3, filter=pool)
        made.search(torch.ones(2, 6), k=3, filter=pool)
        assert calls == [20]
        made.encoder.table.weight.neg_()
        second = made.search(torch.ones(2, 6), k=3, filter=pool)
    assert calls == [20, 20] and not torch.equal(first.items, second.items)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "sampled", "negatives": 0},
        {"loss": "infonce", "negatives": 0, "in_batch": 0},
        {"loss": "infonce", "in_batch": -1},
        {"loss": "hinge"},
        {"loss": "sampled", "negative_power": -3.0},
    ],
)
def test_options_that_make_no_sense(options: dict):
    with pytest.raises(ConfigError, match="head 'dense'"):
        head(**options)


CHANGED = {
    "negatives": 7,
    "in_batch": 2,
    "shared": False,
    "log_q": False,
    "negative_power": 0.5,
    "label_smoothing": 0.2,
    "action_weights": [1.0, 3.0],
    "unseen": True,
}
LOSSES = ("full", "sampled", "infonce", "bce")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("option", CHANGED)
def test_an_option_changes_the_loss_or_is_refused(option: str, loss: str):
    """What `READ_BY` says is true of every option, and it knows all that losses differ in."""
    losses = READ_BY[option][1]
    changed = {option: CHANGED[option]}
    if loss not in losses:
        want = f"{option}=.* with loss='{loss}'; only loss: {' or '.join(losses)} reads {option}"
        with pytest.raises(ConfigError, match=want):
            head(loss=loss, **changed)
        return
    hidden, targets = torch.randn(5, 6), torch.tensor([3, 3, 9, 1, 0])
    actions = torch.tensor([0, 1, 1, 0, 0])
    seen = Seen(torch.arange(40).expand(5, -1).clone(), torch.ones(5, 1, dtype=torch.bool))
    seen.items[:, 20] = -1  # all that is left
    found = []
    for options in ({}, changed):
        made = head(loss=loss, **options)
        made.seed_draws(4)
        asked = seen if made.avoids_seen else None
        found.append(float(made.event_loss(hidden, targets, actions, seen=asked).detach()))
    assert found[0] != pytest.approx(found[1], rel=1e-4)


def test_every_option_that_only_some_losses_read_is_tried():
    assert set(CHANGED) == set(READ_BY)
    with pytest.raises(ConfigError, match=r"negative_power=0\.5 with negatives=0"):
        head(loss="infonce", negatives=0, negative_power=0.5)


def test_the_other_item_is_any_but_the_target():
    made = head(items=5, loss="bce")
    targets = torch.arange(5).repeat(4_000)
    found = torch.bincount(targets * 5 + made._others(targets), minlength=25).view(5, 5)
    assert (found.diagonal() == 0).all()
    assert (found[~torch.eye(5, dtype=torch.bool)] / 4_000 - 0.25).abs().max() < 0.05
    with pytest.raises(ConfigError, match="needs another item than the target"):
        head(items=1, loss="bce")


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize("kind", ["sampled", "infonce", "bce"])
def test_a_seed_says_what_each_process_draws(
    kind: str, weights: list[float] | None, monkeypatch: pytest.MonkeyPatch
):
    """Two processes draw for their parts of a batch what one draws for all of it."""
    made = head(**DRAWN[kind], action_weights=weights)
    actions = torch.arange(9) % 3
    hidden, targets = torch.randn(9, 6), torch.randint(40, (9,))
    made.seed_draws(12)
    other = made.event_loss(hidden, targets, actions)
    made.seed_draws(11)
    whole = made.event_loss(hidden, targets, actions)
    assert torch.equal(made.event_loss(hidden, targets, actions), whole) and not torch.equal(
        whole, other
    )
    parts = []
    for rows in (slice(0, 4), slice(4, 9)):
        monkeypatch.setattr(
            "genrec.models.heads.dense.gathered", lambda _, rows=rows: (targets, rows.start)
        )
        own = targets[rows], actions[rows]
        parts.append(made.event_loss(hidden[rows], *own) * made.mass(*own))
    torch.testing.assert_close(sum(parts) / made.mass(targets, actions), whole)
