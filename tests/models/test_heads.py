from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import PrefixTrie
from genrec.errors import ConfigError
from genrec.models import (
    AutoregressiveHead,
    DenseHead,
    IdEmbedding,
    ItemTables,
    ParallelHead,
    RegressionHead,
    SidEmbedding,
)
from genrec.models.heads import blockwise, dense_softmax
from genrec.models.heads.dense_softmax import dense_cross_entropy
from genrec.models.heads.item_softmax import CodeRows, item_cross_entropy, log_partition

WIDTH = 8


def make(sizes: tuple[int, ...], items: int, seed: int = 0) -> tuple[ItemTables, SidEmbedding]:
    torch.manual_seed(seed)
    codes = torch.stack([torch.randint(0, k, (items,)) for k in sizes], 1).int()
    tables = ItemTables(num_items=items, codebook_sizes=sizes).fill(
        codes=codes, tie_order=torch.randperm(items)
    )
    return tables, SidEmbedding(tables=tables, d_model=WIDTH)


def test_autoregressive_scores_are_a_distribution_over_all_tuples() -> None:
    sizes = (3, 2, 4)
    tables, encoder = make(sizes, 10)
    head = AutoregressiveHead(tables=tables, encoder=encoder, d_model=WIDTH).eval()
    everything = torch.tensor(list(itertools.product(*map(range, sizes))))
    trie = PrefixTrie.from_codes(everything, sizes)
    found = head.search(torch.randn(2, WIDTH), k=len(everything), trie=trie, beam_width=24)
    torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(2))
    torch.testing.assert_close(found.leaked, torch.zeros(2), atol=1e-5, rtol=0)


def test_autoregressive_search_scores_are_what_the_loss_trains() -> None:
    sizes = (4, 3, 5)
    tables, encoder = make(sizes, 30)
    head = AutoregressiveHead(tables=tables, encoder=encoder, d_model=WIDTH).eval()
    trie = PrefixTrie.from_codes(tables.codes, sizes, tie_order=tables.tie_order)
    hidden = torch.randn(1, WIDTH)
    found = head.search(hidden, k=30, trie=trie, exact=True)
    for item, score in zip(found.items[0], found.scores[0], strict=True):
        loss = head.loss(hidden, item.view(1)) * len(sizes)
        torch.testing.assert_close(score, -loss, atol=1e-5, rtol=1e-5)


def test_autoregressive_with_one_level_has_nothing_that_is_never_trained() -> None:
    tables, encoder = make((6,), 20)
    head = AutoregressiveHead(tables=tables, encoder=encoder, d_model=WIDTH).eval()
    hidden, targets = torch.randn(5, WIDTH), torch.arange(5)
    head.loss(hidden, targets).backward()
    assert [name for name, one in head.named_parameters() if not one.grad.any()] == []
    trie = PrefixTrie.from_codes(tables.codes, (6,), tie_order=tables.tie_order)
    with torch.no_grad():
        scores = head.level_logits(0, head.project_levels(hidden)[:, 0]).log_softmax(1)
        expected = scores[:, tables.codes[:, 0].long()].sort(descending=True).values
        for exact in (False, True):
            found = head.search(hidden, k=20, trie=trie, exact=exact)
            torch.testing.assert_close(found.scores, expected, atol=1e-5, rtol=1e-5)


def test_parallel_loss_follows_codes_that_change() -> None:
    tables, encoder = make((4, 5), 30)
    head = ParallelHead(tables=tables, encoder=encoder, d_model=WIDTH, normalize="items")
    torch.nn.init.normal_(head.weight)
    hidden, targets = torch.randn(6, WIDTH), torch.arange(6)
    first = head.loss(hidden, targets)
    tables.fill(codes=tables.codes.flip(0))
    fresh = ParallelHead(tables=tables, encoder=encoder, d_model=WIDTH, normalize="items")
    fresh.load_state_dict(head.state_dict())
    after = head.loss(hidden, targets)
    assert after != first
    assert torch.equal(after, fresh.loss(hidden, targets))


@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 3, 6)])
@pytest.mark.parametrize("normalize", ["codes", "items"])
def test_parallel_search_equals_brute_force(sizes: tuple[int, ...], normalize: str) -> None:
    tables, encoder = make(sizes, 40)
    head = ParallelHead(tables=tables, encoder=encoder, d_model=WIDTH, normalize=normalize).eval()
    torch.nn.init.normal_(head.weight)
    trie = PrefixTrie.from_codes(tables.codes, sizes, tie_order=tables.tie_order)
    hidden = torch.randn(3, WIDTH)
    found = head.search(hidden, k=40, trie=trie)
    levels = head.log_probs(hidden)
    for row in range(3):
        scores = torch.stack(
            [sum(levels[i][row, c] for i, c in enumerate(code)) for code in tables.codes.tolist()]
        )
        torch.testing.assert_close(found.scores[row], scores[found.items[row]])
        torch.testing.assert_close(found.scores[row], scores.sort(descending=True).values)
        if normalize == "items":
            torch.testing.assert_close(scores.exp().sum(), torch.tensor(1.0))
            for item in (0, 7):
                loss = head.loss(hidden[row : row + 1], torch.tensor([item]))
                torch.testing.assert_close(-loss, scores[item], atol=1e-4, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    items=st.integers(1, 90),
    states=st.integers(1, 150),
    levels=st.integers(1, 4),
    smoothing=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 99),
)
def test_item_cross_entropy_and_its_gradient(
    items: int, states: int, levels: int, smoothing: float, seed: int
) -> None:
    torch.manual_seed(seed)
    size = 5
    codes = torch.randint(0, size, (items, levels), dtype=torch.int32)
    offsets = torch.arange(levels, dtype=torch.int32) * size
    rows = CodeRows(codes, offsets, levels * size)
    table = torch.randn(levels * size, states, requires_grad=True)
    targets = torch.randint(0, items, (states,))
    fast = item_cross_entropy(table, rows, targets, label_smoothing=smoothing)
    scores = table[(codes + offsets).long()].sum(1).T
    slow = F.cross_entropy(scores, targets, label_smoothing=smoothing)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(3 * fast, table)[0],
        torch.autograd.grad(3 * slow, table)[0],
        atol=1e-6,
        rtol=1e-4,
    )
    torch.testing.assert_close(log_partition(table, rows), scores.logsumexp(1))


@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 3, 6)])
@pytest.mark.parametrize("rows", [1, 4, 99])
def test_the_parallel_loss_in_blocks_is_the_softmax_over_items(
    sizes: tuple[int, ...], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(blockwise.BLOCK_STATES, "cpu", rows)
    tables, encoder = make(sizes, 30)
    head = ParallelHead(tables=tables, encoder=encoder, d_model=WIDTH, normalize="items")
    torch.nn.init.normal_(head.weight)
    hidden = torch.randn(9, WIDTH, requires_grad=True)
    targets = torch.randint(0, 30, (9,))
    learned = [hidden, encoder.table.weight, head.weight, head.bias, head.log_scale]
    fast = head.loss(hidden, targets)
    codes = tables.codes.long()
    scores = torch.stack([level[codes[:, i]] for i, level in enumerate(head.logits(hidden))])
    slow = F.cross_entropy((head.log_scale.exp() * scores.mean(0)).T, targets)
    torch.testing.assert_close(fast, slow)
    for one, other in zip(
        torch.autograd.grad(3 * fast, learned), torch.autograd.grad(3 * slow, learned), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        assert head.loss(hidden, targets).item() == pytest.approx(fast.item(), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    items=st.integers(1, 90),
    states=st.integers(1, 40),
    rows=st.integers(1, 50),
    scale=st.sampled_from([1.0, 20.0]),
    smoothing=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 99),
)
def test_dense_cross_entropy_and_its_gradients(
    items: int, states: int, rows: int, scale: float, smoothing: float, seed: int
) -> None:
    torch.manual_seed(seed)
    hidden = torch.randn(states, WIDTH, requires_grad=True)
    vectors = torch.randn(items, WIDTH, requires_grad=True)
    targets = torch.randint(0, items, (states,))
    options = {"scale": scale, "label_smoothing": smoothing}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dense_softmax.BLOCK_BYTES, "cpu", 4 * items * rows)
        fast = dense_cross_entropy(hidden, vectors, targets, **options)
        assert fast.item() == dense_cross_entropy(
            hidden.detach(), vectors.detach(), targets, **options
        )
    slow = F.cross_entropy(scale * hidden @ vectors.T, targets, label_smoothing=smoothing)
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-5)
    for one, other in zip(
        torch.autograd.grad(3 * fast, (hidden, vectors)),
        torch.autograd.grad(3 * slow, (hidden, vectors)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-4 * scale, rtol=1e-4)


def test_dense_cross_entropy_follows_autocast() -> None:
    torch.manual_seed(0)
    hidden, vectors = torch.randn(9, WIDTH), torch.randn(20, WIDTH, requires_grad=True)
    targets = torch.arange(9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = dense_cross_entropy(hidden, vectors, targets)
        slow = F.cross_entropy((hidden @ vectors.T).float(), targets)
    assert fast.item() == pytest.approx(slow.item(), abs=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(fast, vectors)[0],
        torch.autograd.grad(slow, vectors)[0],
        atol=5e-3,
        rtol=5e-2,
    )


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_sampled_softmax_with_log_q_approaches_the_full_softmax(power: float) -> None:
    torch.manual_seed(3)
    tables = ItemTables(num_items=50).fill(counts=torch.arange(1.0, 51.0))
    encoder = IdEmbedding(tables=tables, d_model=WIDTH)
    torch.nn.init.normal_(encoder.table.weight)
    common = {"tables": tables, "encoder": encoder, "d_model": WIDTH}
    full = DenseHead(**common)
    sampled = DenseHead(**common, loss="sampled", negatives=200_000, negative_power=power)
    hidden, targets = torch.randn(6, WIDTH), torch.tensor([0, 3, 11, 24, 37, 49])
    torch.testing.assert_close(
        sampled.loss(hidden, targets), full.loss(hidden, targets), atol=0.02, rtol=0.02
    )


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_positive_and_negatives_of_the_sampled_softmax_have_one_precision(similarity: str) -> None:
    """A target is scored alike as the positive and as somebody's negative."""
    torch.manual_seed(4)
    tables = ItemTables(num_items=9)
    encoder = IdEmbedding(tables=tables, d_model=64)
    torch.nn.init.normal_(encoder.table.weight)
    head = DenseHead(
        tables=tables, encoder=encoder, d_model=64, similarity=similarity, loss="sampled"
    )
    hidden, targets = torch.randn(40, 64).bfloat16(), torch.randint(0, 9, (40,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chosen = head.candidates(targets)
        own = head._own_scores(hidden, chosen)
        everyone = head.scores(hidden, chosen)
    torch.testing.assert_close(own.squeeze(1), everyone.diagonal(), rtol=1e-5, atol=1e-5)
    if similarity == "cosine":  # in fp32, as the full softmax
        exact = torch.cosine_similarity(hidden.float(), encoder(targets))
        torch.testing.assert_close(own.squeeze(1), exact, rtol=1e-5, atol=1e-5)


def test_dense_search_equals_brute_force_with_ties() -> None:
    tables = ItemTables(num_items=30).fill(tie_order=torch.randperm(30))
    encoder = IdEmbedding(tables=tables, d_model=WIDTH)
    with torch.no_grad():
        encoder.table.weight.copy_(torch.randint(-1, 2, (30, WIDTH)))
    head = DenseHead(tables=tables, encoder=encoder, d_model=WIDTH)
    hidden = torch.randint(-1, 2, (4, WIDTH)).float()
    found = head.search(hidden, k=30)
    scores = hidden @ encoder.table.weight.T
    for row in range(4):
        order = sorted(range(30), key=lambda i: (-scores[row, i].item(), tables.tie_order[i]))
        assert found.items[row].tolist() == order


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        (ParallelHead, {"temperature": 0}, "temperature=0"),
        (ParallelHead, {"normalize": "all"}, "normalize='all'"),
        (AutoregressiveHead, {"temperature": -1}, "temperature=-1"),
        (DenseHead, {"loss": "bpr"}, "loss='bpr'"),
        (DenseHead, {"negatives": 0}, "negatives=0"),
        (AutoregressiveHead, {"hidden": 0}, "hidden=0; expected at least 1"),
    ],
)
def test_bad_options(head: type, options: dict, message: str) -> None:
    tables, encoder = make((3, 3), 6)
    with pytest.raises(ConfigError, match=message):
        head(tables=tables, encoder=encoder, d_model=WIDTH, **options)


@pytest.mark.parametrize("head", [ParallelHead, AutoregressiveHead])
def test_code_heads_need_a_vocabulary_and_a_trie(head: type) -> None:
    bare = ItemTables(num_items=5)
    with pytest.raises(ConfigError, match="SID vocabulary"):
        head(tables=bare, encoder=IdEmbedding(tables=bare, d_model=WIDTH), d_model=WIDTH)
    tables, encoder = make((3, 3), 6)
    made = head(tables=tables, encoder=encoder, d_model=WIDTH)
    with pytest.raises(ConfigError, match="prefix trie"):
        made.search(torch.randn(1, WIDTH), k=3)


def test_tied_head_without_code_embeddings_is_refused() -> None:
    tables, _ = make((3, 3), 6)
    with pytest.raises(ConfigError, match="tied: false"):
        ParallelHead(
            tables=tables, encoder=IdEmbedding(tables=tables, d_model=WIDTH), d_model=WIDTH
        )


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_regression_ranks_items_by_the_distance_it_minimises(kind: str) -> None:
    torch.manual_seed(0)
    tables = ItemTables(num_items=40, vector_dim=5).fill(vectors=torch.randn(40, 5))
    encoder = IdEmbedding(tables=tables, d_model=WIDTH)
    head = RegressionHead(tables=tables, encoder=encoder, d_model=WIDTH, loss=kind).eval()
    hidden = torch.randn(3, WIDTH)
    found = head.search(hidden, k=40)
    for row in range(3):
        losses = torch.stack(
            [head.loss(hidden[row : row + 1], torch.tensor([item])) for item in range(40)]
        )
        assert found.items[row].tolist() == losses.argsort().tolist()
        # The score is the loss up to a factor and a sign.
        expected = 1 - losses if kind == "cosine" else -5 * losses
        torch.testing.assert_close(found.scores[row], expected[found.items[row]].detach())


def test_regression_needs_vectors_and_a_known_loss() -> None:
    tables, encoder = make((3, 3), 5)
    with pytest.raises(ConfigError, match="needs item vectors"):
        RegressionHead(tables=tables, encoder=encoder, d_model=WIDTH)
    tables = ItemTables(num_items=4, vector_dim=3)
    encoder = IdEmbedding(tables=tables, d_model=WIDTH)
    with pytest.raises(ConfigError, match="loss='huber'; expected one of cosine, mse"):
        RegressionHead(tables=tables, encoder=encoder, d_model=WIDTH, loss="huber")


def test_dense_search_encodes_the_catalog_once_until_a_value_changes(monkeypatch) -> None:
    tables, encoder = make((4, 4), 30)
    head = DenseHead(tables=tables, encoder=encoder, d_model=WIDTH).eval()
    made = []
    encode = head.candidates
    monkeypatch.setattr(head, "candidates", lambda: made.append(1) or encode())
    hidden = torch.randn(2, WIDTH, requires_grad=True)
    with torch.inference_mode():
        before = head.search(hidden, k=30)
    again = head.search(hidden, k=30)  # outside of inference mode, with a gradient
    assert len(made) == 1
    assert torch.equal(before.items, again.items)
    with torch.no_grad():
        encoder.table.weight.mul_(-1)
    changed = head.search(hidden, k=30)
    assert len(made) == 2
    torch.testing.assert_close(changed.scores, -before.scores.flip(1))
    head.tables.codes[0] = head.tables.codes[1]
    assert float(head.search(hidden, k=30).scores.std()) > 0
    assert len(made) == 3
    head.train()
    head.search(hidden, k=30)
    head.search(hidden, k=30)
    assert len(made) == 5
    head.eval()
    head.search(hidden, k=30)
    assert len(made) == 6
    head.train()
    encoder.table.weight.data.mul_(-1)  # leaves no trace, as fused optimisers do
    head.eval()
    assert torch.equal(head.search(hidden, k=30).scores, head.search(hidden, k=30).scores)
    assert len(made) == 7
