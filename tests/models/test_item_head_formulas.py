"""The heads that score items against their formulas, written out in plain Python.

The slow versions read weights and tables; of what a loss draws they are told the items, no more.
"""

from __future__ import annotations

import math

import pytest
import torch

from genrec.decoding import Filter, PrefixTrie
from genrec.models import (
    DenseHead,
    IdEmbedding,
    ItemTables,
    LigerHead,
    RegressionHead,
    SidTokens,
)
from tests.models.by_hand import (
    Vector,
    cosine,
    cross_entropy,
    dot,
    layer_norm,
    level_rows,
    linear,
    log_softmax,
    mean,
    numbers,
    randomise,
)

WIDTH, ITEMS, DIM, STATES = 6, 17, 5, 7
TEMPERATURE, POWER = 0.4, 0.75
TARGETS = [3, 3, 9, 1, 0, 16, 11]
COUNTS = [float(5 + (7 * item) % 13) for item in range(ITEMS)]
SIZES = (3, 4)


def tables_of_items() -> ItemTables:
    torch.manual_seed(0)
    codes = torch.stack([torch.randint(0, k, (ITEMS,)) for k in SIZES], 1).int()
    return ItemTables(num_items=ITEMS, codebook_sizes=SIZES, vector_dim=DIM).fill(
        codes=codes,
        vectors=torch.randn(ITEMS, DIM),
        counts=torch.tensor(COUNTS),
        tie_order=torch.randperm(ITEMS),
    )


def dense(similarity: str = "dot", **options: object) -> DenseHead:
    tables = tables_of_items()
    encoder = IdEmbedding(tables=tables, d_model=WIDTH)
    options = {"similarity": similarity, "temperature": TEMPERATURE, **options}
    head = DenseHead(tables=tables, encoder=encoder, d_model=WIDTH, **options).eval()
    randomise(encoder, head)
    return head


def score(state: Vector, item: Vector, similarity: str) -> float:
    """`h . e / temperature`, or the cosine in its place."""
    return (dot if similarity == "dot" else cosine)(state, item) / TEMPERATURE


def close(found: torch.Tensor, expected: object) -> None:
    want = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.detach().double(), want, atol=2e-5, rtol=2e-5)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def chances(power: float) -> list[float]:
    return [count**power / sum(other**power for other in COUNTS) for count in COUNTS]


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("items", ["encoder", "table", "content"])
def test_dense_over_the_catalog(similarity: str, smoothing: float, items: str) -> None:
    head = dense(similarity, items=items, label_smoothing=smoothing)
    vectors = {
        "encoder": lambda: head.encoder.table.weight,
        "table": lambda: head.own.table.weight,
        "content": lambda: head.own(torch.arange(ITEMS)),
    }[items]()
    hidden = torch.randn(STATES, WIDTH)
    logits = [[score(h, v, similarity) for v in numbers(vectors)] for h in numbers(hidden)]
    for loss in (head.loss, head.unsampled_loss):
        pairs = zip(logits, TARGETS, strict=True)
        want = mean([cross_entropy(row, target, smoothing) for row, target in pairs])
        close(loss(hidden, torch.tensor(TARGETS)), want)
    with torch.no_grad():
        close(head.scores(hidden, head.candidates()), logits)
        some = torch.tensor([4, 0, 9])
        close(head.pair_scores(hidden, some), [[row[i] for i in (4, 0, 9)] for row in logits])
        # The whole catalogue, and a small part of it, which is scored by itself.
        for filter, left in (
            (None, range(ITEMS)),
            (Filter.allow(ITEMS, torch.tensor([2, 5, 8, 9])), [2, 5, 8, 9]),
        ):
            found = head.search(hidden, k=len(left), filter=filter)
            for row, own in enumerate(logits):
                ranked = sorted(left, key=lambda item: -own[item])
                assert found.items[row].tolist() == ranked
                close(found.scores[row], [own[item] for item in ranked])


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("log_q", [True, False])
@pytest.mark.parametrize("power", [0.0, POWER])
@pytest.mark.parametrize("kind", ["shared", "own", "infonce"])
@pytest.mark.parametrize("weighted", [False, True])
def test_dense_over_drawn_items(
    similarity: str, log_q: bool, power: float, kind: str, weighted: bool
) -> None:
    """The target, uncorrected, against the items drawn, less the log of their expected draws."""
    options = {
        "shared": {"loss": "sampled", "negatives": 9},
        "own": {"loss": "sampled", "negatives": 9, "shared": False},
        "infonce": {"loss": "infonce", "negatives": 9, "in_batch": 5},
    }[kind]
    weights = [0.5, 2.5, 0.0] if weighted else None
    head = dense(similarity, log_q=log_q, negative_power=power, action_weights=weights, **options)
    hidden, targets = torch.randn(STATES, WIDTH), torch.tensor(TARGETS)
    head.seed_draws(8)
    drawn = head._draw(targets)[0].tolist()
    if kind != "own":
        drawn = [drawn] * STATES
    assert {len(row) for row in drawn} == {14 if kind == "infonce" else 9}
    if kind == "infonce":  # five places of the batch, each at most once
        assert all(drawn[0][9:].count(i) <= TARGETS.count(i) for i in drawn[0][9:])
    assert any(target in row for target, row in zip(TARGETS, drawn, strict=True))
    by_power, popular = chances(power), chances(1.0)
    expected = [
        9 * by_power[i] + (5 * popular[i] if kind == "infonce" else 0) for i in range(ITEMS)
    ]
    vectors, losses = numbers(head.encoder.table.weight), []
    for h, target, row in zip(numbers(hidden), TARGETS, drawn, strict=True):
        logits = [score(h, vectors[target], similarity)]
        for item in row:
            if item != target:
                correction = math.log(expected[item]) if log_q else 0.0
                logits.append(score(h, vectors[item], similarity) - correction)
        losses.append(cross_entropy(logits, 0))
    close(*weighed(head, hidden, losses))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("weighted", [False, True])
def test_dense_of_pairs(similarity: str, weighted: bool) -> None:
    """`-log sigmoid(s of the target) - log(1 - sigmoid(s of another item))`."""
    head = dense(similarity, loss="bce", action_weights=[0.5, 2.5, 0.0] if weighted else None)
    hidden = torch.randn(STATES, WIDTH)
    head.seed_draws(8)
    others = head._others(torch.tensor(TARGETS)).tolist()
    vectors = numbers(head.encoder.table.weight)
    losses = [
        softplus(-score(h, vectors[target], similarity))
        + softplus(score(h, vectors[other], similarity))
        for h, target, other in zip(numbers(hidden), TARGETS, others, strict=True)
    ]
    close(*weighed(head, hidden, losses))


def weighed(
    head: DenseHead, hidden: torch.Tensor, losses: list[float]
) -> tuple[torch.Tensor, float]:
    """The head's loss, and the mean of the states' losses, weighed by their actions."""
    actions = [0, 1, 2, 1, 1, 0, 2]
    found = head.event_loss(hidden, torch.tensor(TARGETS), torch.tensor(actions))
    if head.action_weights is None:
        return found, mean(losses)
    counts = [(0.5, 2.5, 0.0)[action] for action in actions]
    return found, dot(counts, losses) / sum(counts)


# Continuous output: the content vector of the next item itself.


@pytest.mark.parametrize("loss", ["cosine", "mse"])
def test_regression(loss: str) -> None:
    """`v = W norm(h) + b`; one minus its cosine with the target's vector, or squared errors."""
    tables = tables_of_items()
    encoder = IdEmbedding(tables=tables, d_model=WIDTH)
    head = RegressionHead(tables=tables, encoder=encoder, d_model=WIDTH, loss=loss).eval()
    randomise(head)
    hidden = torch.randn(STATES, WIDTH)
    vectors, norm = numbers(tables.vectors), head.norm
    losses, scores = [], []
    for h, target in zip(numbers(hidden), TARGETS, strict=True):
        inner = layer_norm(h, numbers(norm.weight), numbers(norm.bias))
        v = linear(numbers(head.project.weight), numbers(head.project.bias), inner)
        squares = [[(a - b) ** 2 for a, b in zip(v, x, strict=True)] for x in vectors]
        if loss == "cosine":
            losses.append(1 - cosine(v, vectors[target]))
            scores.append([cosine(v, x) for x in vectors])
        else:
            losses.append(mean(squares[target]))
            scores.append([-sum(row) for row in squares])
    close(head.loss(hidden, torch.tensor(TARGETS)), mean(losses))
    with torch.no_grad():
        close(head.scores(hidden), scores)
        found = head.search(hidden, k=ITEMS)
    for row, own in enumerate(scores):
        close(found.scores[row], sorted(own, reverse=True))


# LIGER: codes propose, the dense score decides.


@pytest.mark.parametrize("weight", [0.0, 0.25, 3.0])
def test_liger_sums_the_losses(weight: float) -> None:
    """The codes' loss plus `weight` times the dense one, of the state before the first code."""
    tables = tables_of_items()
    encoder = SidTokens(tables=tables, d_model=WIDTH)
    items = {"type": "dense", "items": "table", "similarity": "cosine", "temperature": TEMPERATURE}
    head = LigerHead(
        tables=tables,
        encoder=encoder,
        d_model=WIDTH,
        parts={"codes": {"type": "tokens"}, "items": items},
        weight=weight,
    ).eval()
    randomise(head)
    hidden = torch.randn(STATES, len(SIZES), WIDTH)
    keys = level_rows(SIZES, numbers(head.codes.output.weight))
    vectors, codes = numbers(head.items.own.table.weight), tables.codes.tolist()
    losses = []
    for states, target in zip(numbers(hidden), TARGETS, strict=True):
        levels = [
            cross_entropy([dot(state, key) for key in own], code)
            for state, own, code in zip(states, keys, codes[target], strict=True)
        ]
        logits = [score(states[0], vector, "cosine") for vector in vectors]
        losses.append(mean(levels) + weight * cross_entropy(logits, target))
    close(head.loss(hidden, torch.tensor(TARGETS)), mean(losses))


@torch.no_grad()
def test_liger_ranks_by_the_dense_score() -> None:
    """Whichever way an item came in, as one of the beam or as a cold one."""
    tables = tables_of_items()
    tables.counts[[2, 7]] = 0
    encoder = IdEmbedding(tables=tables, d_model=WIDTH)
    items = {"type": "dense", "similarity": "cosine", "temperature": TEMPERATURE}
    head = LigerHead(
        tables=tables,
        encoder=encoder,
        d_model=WIDTH,
        parts={"codes": {"type": "parallel", "tied": False}, "items": items},
    ).eval()
    randomise(head, encoder)
    hidden = torch.randn(STATES, WIDTH)
    vectors, codes = numbers(encoder.table.weight), tables.codes
    trie = PrefixTrie.from_codes(codes, SIZES, tie_order=tables.tie_order)
    levels = [numbers(one.T) for one in head.codes.logits(hidden)]
    for exact, width in ((True, 1), (False, 5), (False, ITEMS)):
        found = head.search(hidden, k=3, trie=trie, beam_width=width, exact=exact)
        for row, state in enumerate(numbers(hidden)):
            own = [score(state, vector, "cosine") for vector in vectors]
            by_codes = [log_softmax(level[row]) for level in levels]
            chance = [sum(by_codes[i][c] for i, c in enumerate(of)) for of in codes.tolist()]
            ties = tables.tie_order.tolist()
            beam = sorted(range(ITEMS), key=lambda i: (-round(chance[i], 5), ties[i]))
            union = set(range(ITEMS)) if exact else {*beam[:width], 2, 7}
            best = sorted(union, key=lambda item: -own[item])[:3]
            assert found.items[row].tolist() == best
            close(found.scores[row], [own[item] for item in best])
