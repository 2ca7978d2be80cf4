"""The heads of codes against the formulas of their papers, written out in plain Python.

The slow versions read weights and codes only; none of the heads' own functions.
"""

from __future__ import annotations

import pytest
import torch

from genrec.decoding import PrefixTrie
from genrec.models import (
    AutoregressiveHead,
    Head,
    ItemTables,
    ParallelHead,
    Recommender,
    RecommenderConfig,
    SequenceMeta,
    SidEmbedding,
    SidTokens,
    TokenHead,
)
from tests.models.by_hand import (
    Vector,
    added,
    cosine,
    cross_entropy,
    dot,
    gelu,
    layer_norm,
    level_rows,
    linear,
    log_softmax,
    mean,
    numbers,
    randomise,
    silu,
)

WIDTH, ITEMS, STATES = 6, 21, 5
SIZES = [(3, 3), (4, 2, 3)]  # 21 items on 9 and on 24 tuples: some collide
TARGETS = torch.tensor([4, 0, 20, 4, 11])
PARALLEL_TEMPERATURE = 0.2
Levels = list[list[float]]


def items_with(sizes: tuple[int, ...]) -> tuple[ItemTables, list[list[int]]]:
    torch.manual_seed(0)
    codes = torch.stack([torch.randint(0, k, (ITEMS,)) for k in sizes], 1).int()
    assert ITEMS > len(codes.unique(dim=0)) > 5
    tables = ItemTables(num_items=ITEMS, codebook_sizes=sizes)
    return tables.fill(codes=codes, tie_order=torch.randperm(ITEMS)), codes.tolist()


def close(found: torch.Tensor, expected: object) -> None:
    want = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.detach().double(), want, atol=2e-5, rtol=2e-5)


def chosen(levels: Levels, codes: list[int]) -> list[float]:
    """The number of each level that stands at an item's code."""
    return [level[code] for level, code in zip(levels, codes, strict=True)]


def codes_loss(logits: Levels, codes: list[int], smoothing: float = 0.0) -> float:
    """Mean over the levels of the cross-entropies of an item's codes."""
    pairs = zip(logits, codes, strict=True)
    return mean([cross_entropy(level, code, smoothing) for level, code in pairs])


def codes_score(logits: Levels, codes: list[int]) -> float:
    """Sum over the levels of the log-probabilities of an item's codes."""
    return sum(chosen([log_softmax(level) for level in logits], codes))


def check_search(
    head: Head, hidden: torch.Tensor, expected: list[list[float]], **options: object
) -> None:
    """Every item comes back with its score, best first."""
    codes = head.tables.codes
    trie = PrefixTrie.from_codes(codes, head.tables.codebook_sizes, tie_order=head.tables.tie_order)
    found = head.search(hidden, k=ITEMS, trie=trie, **options)
    for row, scores in enumerate(expected):
        items = found.items[row].tolist()
        assert sorted(items) == list(range(ITEMS))
        close(found.scores[row], [scores[item] for item in items])
        close(found.scores[row], sorted(scores, reverse=True))


# RPG (Hou et al., KDD 2025): a residual head per code, cosine logits, code embeddings shared.


def slow_parallel(
    head: ParallelHead, table: torch.Tensor, state: Vector, kept: Vector = (1.0,) * WIDTH
) -> Levels:
    """`cos(h + SiLU(W_l h + b_l), e_c) / temperature` of every code c of every level l.

    Dropout multiplies the first of the two vectors by `kept`.
    """
    logits = []
    rows = level_rows(head.tables.codebook_sizes, numbers(table))
    for level, keys in enumerate(rows):
        weight = numbers(head.weight[level].T)  # kept from input to output
        inner = linear(weight, numbers(head.bias[level, 0]), state)
        query = [x * k for x, k in zip(added(state, map(silu, inner)), kept, strict=True)]
        logits.append([cosine(query, key) / PARALLEL_TEMPERATURE for key in keys])
    return logits


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("normalize", ["codes", "items"])
@torch.no_grad()
def test_parallel(sizes: tuple[int, ...], tied: bool, smoothing: float, normalize: str) -> None:
    tables, codes = items_with(sizes)
    encoder = SidEmbedding(tables=tables, d_model=WIDTH)
    head = ParallelHead(
        tables=tables,
        encoder=encoder,
        d_model=WIDTH,
        temperature=PARALLEL_TEMPERATURE,
        tied=tied,
        label_smoothing=smoothing,
        normalize=normalize,
    ).eval()
    randomise(head, encoder)
    hidden = torch.randn(STATES, WIDTH)
    table = encoder.table.weight if tied else head.table.weight
    states = [slow_parallel(head, table, state) for state in numbers(hidden)]
    for level, found in enumerate(head.logits(hidden)):
        close(found.T, [state[level] for state in states])
    if normalize == "codes":
        losses = [
            codes_loss(state, codes[target], smoothing)
            for state, target in zip(states, TARGETS.tolist(), strict=True)
        ]
        scores = [[codes_score(state, of_item) for of_item in codes] for state in states]
    else:
        # Items, colliding ones one by one, with a learned multiple of the mean of their logits.
        scale = float(head.log_scale.double().exp())
        logits = [[scale * mean(chosen(state, of_item)) for of_item in codes] for state in states]
        losses = [
            cross_entropy(state, target, smoothing)
            for state, target in zip(logits, TARGETS.tolist(), strict=True)
        ]
        scores = [log_softmax(state) for state in logits]
    close(head.loss(hidden, TARGETS), mean(losses))
    check_search(head, hidden, scores)


@torch.no_grad()
def test_parallel_drops_out_of_the_queries() -> None:
    tables, _ = items_with((3, 3))
    encoder = SidEmbedding(tables=tables, d_model=WIDTH)
    head = ParallelHead(
        tables=tables,
        encoder=encoder,
        d_model=WIDTH,
        temperature=PARALLEL_TEMPERATURE,
        dropout=0.5,
    ).eval()
    randomise(head, encoder)
    hidden = torch.randn(1, WIDTH)
    for mode in (True, False):
        torch.manual_seed(4)
        found = torch.cat(head.train(mode).logits(hidden))[:, 0]
        torch.manual_seed(4)
        kept = torch.nn.functional.dropout(torch.ones(2, 1, WIDTH), 0.5, mode)[:, 0]
        by_level = [
            slow_parallel(head, encoder.table.weight, numbers(hidden[0]), numbers(kept[level]))
            for level in range(2)
        ]
        close(found, by_level[0][0] + by_level[1][1])


@torch.no_grad()
def test_the_scale_over_items_starts_at_one_and_the_residual_at_zero() -> None:
    """A fresh head compares with `h + SiLU(0) = h`, as in RPG's code."""
    tables, _ = items_with((3, 3))
    encoder = SidEmbedding(tables=tables, d_model=WIDTH)
    head = ParallelHead(tables=tables, encoder=encoder, d_model=WIDTH, normalize="items")
    assert float(head.log_scale.exp()) == 1
    hidden = torch.randn(1, WIDTH)
    state, keys = numbers(hidden[0]), numbers(encoder.table.weight)
    close(torch.cat(head.logits(hidden))[:, 0], [cosine(state, key) / 0.05 for key in keys])


# TIGER and language models: a softmax over the codes of a level on the state before the code.


def slow_tokens(
    sizes: tuple[int, ...], table: torch.Tensor, states: list[Vector], temperature: float | None
) -> Levels:
    """`h_l . e_c`, or `cos(h_l, e_c) / temperature`, of every code c of every level l."""
    levels = zip(states, level_rows(sizes, numbers(table)), strict=True)
    return [[similarity(state, key, temperature) for key in keys] for state, keys in levels]


def similarity(a: Vector, b: Vector, temperature: float | None) -> float:
    return dot(a, b) if temperature is None else cosine(a, b) / temperature


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("temperature", "smoothing"), [(None, 0.0), (0.15, 0.0), (0.15, 0.3)])
@torch.no_grad()
def test_tokens(
    sizes: tuple[int, ...], tied: bool, temperature: float | None, smoothing: float
) -> None:
    tables, codes = items_with(sizes)
    encoder = SidTokens(tables=tables, d_model=WIDTH)
    head = TokenHead(
        tables=tables,
        encoder=encoder,
        d_model=WIDTH,
        tied=tied,
        temperature=temperature,
        label_smoothing=smoothing,
    ).eval()
    randomise(head, encoder)
    hidden = torch.randn(STATES, len(sizes), WIDTH)
    table = encoder.table.weight if tied else head.output.weight
    states = [slow_tokens(sizes, table, state, temperature) for state in numbers(hidden)]
    for level in range(len(sizes)):
        close(head.level_logits(level, hidden[:, level]), [state[level] for state in states])
    losses = [
        codes_loss(state, codes[target], smoothing)
        for state, target in zip(states, TARGETS.tolist(), strict=True)
    ]
    close(head.loss(hidden, TARGETS), mean(losses))


@pytest.mark.parametrize("temperature", [None, 0.3])
@torch.no_grad()
def test_tokens_in_a_recommender(temperature: float | None) -> None:
    """An item's score is the sum over levels, each read from the state after the codes before."""
    sizes = (4, 2, 3)
    tables, codes = items_with(sizes)
    config = RecommenderConfig(
        num_items=ITEMS,
        codebook_sizes=sizes,
        d_model=WIDTH,
        max_history=4,
        item_encoder={"type": "sid-tokens"},
        head={"type": "tokens", "temperature": temperature},
    )
    model = Recommender(config, tables={"codes": tables.codes}).eval()
    randomise(model)
    history = [7, 3, 20]
    scores, renormalised = [], []
    for item in range(ITEMS):
        # The tokens that a state may read: the history's, then the item's codes before its level.
        tokens = model.item_encoder(torch.tensor([[*history, item]])).flatten(1, 2)
        meta = SequenceMeta.from_mask(torch.ones(1, 4, dtype=torch.bool)).per_code(len(sizes))
        states = model.backbone(tokens, meta)[0, 3 * len(sizes) - 1 : 4 * len(sizes) - 1]
        logits = slow_tokens(sizes, model.head.output.weight, numbers(states), temperature)
        scores.append(codes_score(logits, codes[item]))
        renormalised.append(over_existing(logits, codes[item], codes))
    batch = torch.tensor([history]), torch.ones(1, 3, dtype=torch.bool)
    decoder = model.encode(*batch)
    check_search(model.head, decoder, [scores], beam_width=ITEMS)
    check_search(model.head, decoder, [renormalised], beam_width=ITEMS, renormalize=True)
    labels = torch.tensor([[-100, -100, 11]])
    close(model(*batch, labels=labels).loss, -scores[11] / len(sizes))


def over_existing(logits: Levels, of_item: list[int], codes: list[list[int]]) -> float:
    """The score where each level's softmax runs over the codes that exist after the prefix."""
    score = 0.0
    for level, row in enumerate(logits):
        exist = sorted({c[level] for c in codes if c[:level] == of_item[:level]})
        score += log_softmax([row[code] for code in exist])[exist.index(of_item[level])]
    return score


# The light decoder: a residual MLP per level on the state's projection and the codes so far.


def slow_autoregressive(
    head: AutoregressiveHead, state: Vector, of_item: list[int], temperature: float | None
) -> Levels:
    """`e_c . (x + MLP_l(norm(x)))`, `x = P_l h + sum of E_j[c_j] over j < l`, or its cosine."""
    sizes = head.tables.codebook_sizes
    projected = linear(numbers(head.project.weight), numbers(head.project.bias), state)
    outputs = level_rows(sizes, numbers(head.output.weight))
    prefixes = level_rows(sizes[:-1], numbers(head.prefix.weight))
    logits = []
    for level, keys in enumerate(outputs):
        x = projected[level * WIDTH : (level + 1) * WIDTH]
        for before in range(level):
            x = added(x, prefixes[before][of_item[before]])
        norm, first, _, _, second = head.steps[level]
        inner = layer_norm(x, numbers(norm.weight), numbers(norm.bias))
        inner = [gelu(v) for v in linear(numbers(first.weight), numbers(first.bias), inner)]
        query = added(x, linear(numbers(second.weight), numbers(second.bias), inner))
        logits.append([similarity(query, key, temperature) for key in keys])
    return logits


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("temperature", "smoothing"), [(None, 0.0), (0.15, 0.0), (0.15, 0.3)])
@torch.no_grad()
def test_autoregressive(
    sizes: tuple[int, ...], temperature: float | None, smoothing: float
) -> None:
    tables, codes = items_with(sizes)
    encoder = SidEmbedding(tables=tables, d_model=WIDTH)
    head = AutoregressiveHead(
        tables=tables,
        encoder=encoder,
        d_model=WIDTH,
        hidden=5,
        temperature=temperature,
        label_smoothing=smoothing,
    ).eval()
    randomise(head, std=0.4)
    hidden = torch.randn(STATES, WIDTH)
    states = [
        [slow_autoregressive(head, state, of_item, temperature) for of_item in codes]
        for state in numbers(hidden)
    ]
    losses = [
        codes_loss(state[target], codes[target], smoothing)
        for state, target in zip(states, TARGETS.tolist(), strict=True)
    ]
    close(head.loss(hidden, TARGETS), mean(losses))
    scores = [[codes_score(state[i], codes[i]) for i in range(ITEMS)] for state in states]
    renormalised = [
        [over_existing(state[i], codes[i], codes) for i in range(ITEMS)] for state in states
    ]
    for options in ({"beam_width": ITEMS}, {"exact": True}):
        check_search(head, hidden, scores, **options)
        check_search(head, hidden, renormalised, renormalize=True, **options)
