from __future__ import annotations

import pytest
import torch

from genrec.errors import ConfigError, DataError
from genrec.models import (
    ITEM_ENCODERS,
    EventFeature,
    IdEmbedding,
    ItemTables,
    PrefixEmbedding,
    SemanticProjection,
    SidEmbedding,
    SidTokens,
    SumEncoder,
)

ITEMS, WIDTH, SIZES = 20, 6, (4, 3)
OPTIONS = {
    "sum": {"parts": {"codes": {"type": "sid"}, "content": {"type": "semantic"}}},
    "features": {"columns": ["a", "b"], "vectors": ["v"], "max_rows": 5},
    "user": {"columns": ["c"]},
}


@pytest.fixture
def tables() -> ItemTables:
    torch.manual_seed(0)
    codes = torch.stack([torch.randint(0, k, (ITEMS,)) for k in SIZES], 1).int()
    return ItemTables(
        num_items=ITEMS,
        codebook_sizes=SIZES,
        vector_dim=5,
        feature_columns=[("a", 9, 1), ("b", 4, 3)],
        feature_vectors=[("v", 2)],
        user_columns=[("c", 3, 1)],
        num_users=4,
    ).fill(
        codes=codes,
        vectors=torch.randn(ITEMS, 5),
        features=torch.randint(0, 4, (ITEMS, 4)).int(),
        more_vectors=torch.randn(ITEMS, 2),
        known=torch.arange(ITEMS)[:, None] % 2 == 0,
    )


@pytest.mark.parametrize("name", ITEM_ENCODERS)
def test_contract(name: str, tables: ItemTables) -> None:
    encoder = ITEM_ENCODERS[name](tables=tables, d_model=WIDTH, **OPTIONS.get(name, {})).eval()
    items = torch.randint(0, ITEMS, (3, 7))
    vectors = encoder(items)
    if isinstance(encoder, EventFeature):
        assert torch.equal(vectors, torch.zeros(3, 7, WIDTH))
        return
    each = () if encoder.tokens_per_item == 1 else (encoder.tokens_per_item,)
    assert vectors.shape == (3, 7, *each, WIDTH)
    torch.testing.assert_close(encoder.all_items()[items], vectors)
    (vectors * torch.randn_like(vectors)).sum().backward()
    assert not [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not list(encoder.buffers(recurse=False))


def test_tokens_are_the_codes_one_by_one(tables: ItemTables) -> None:
    encoder = SidTokens(tables=tables, d_model=WIDTH)
    assert encoder.tokens_per_item == len(SIZES)
    items = torch.randint(0, ITEMS, (2, 3))
    tokens = encoder(items)
    for level in range(len(SIZES)):
        codes = tables.codes[items, level]
        torch.testing.assert_close(tokens[..., level, :], encoder.table.level(level)[codes.long()])
        assert torch.equal(tokens[..., level, :], encoder.token(codes, level))


def test_encoders_of_whole_items_have_no_tokens(tables: ItemTables) -> None:
    with pytest.raises(ConfigError, match="IdEmbedding: has one vector per item"):
        IdEmbedding(tables=tables, d_model=WIDTH).token(torch.tensor([0]), 0)


@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_sid_embedding_pools_code_embeddings(pool: str, tables: ItemTables) -> None:
    encoder = SidEmbedding(tables=tables, d_model=WIDTH, pool=pool)
    for item in range(ITEMS):
        first, second = tables.codes[item].tolist()
        rows = torch.stack([encoder.table.level(0)[first], encoder.table.level(1)[second]])
        torch.testing.assert_close(encoder(torch.tensor(item)), getattr(rows, pool)(0))


def test_items_of_one_tuple_share_a_vector(tables: ItemTables) -> None:
    tables.codes[3] = tables.codes[9]
    encoder = SidEmbedding(tables=tables, d_model=WIDTH)
    assert torch.equal(encoder(torch.tensor(3)), encoder(torch.tensor(9)))


def test_semantic_projection_is_the_gated_sum_of_its_experts(tables: ItemTables) -> None:
    encoder = SemanticProjection(tables=tables, d_model=WIDTH, experts=3, hidden=4).eval()
    x = encoder.norm(tables.vectors[11])
    gate = encoder.gate(x).softmax(0)
    hidden = torch.nn.functional.gelu(encoder.inner(x)).view(3, 4)
    total = sum(gate[e] * hidden[e] @ encoder.outer[e] for e in range(3))
    torch.testing.assert_close(encoder(torch.tensor(11)), total)


def test_one_linear_expert(tables: ItemTables) -> None:
    encoder = SemanticProjection(tables=tables, d_model=WIDTH, hidden=0)
    expected = encoder.norm(tables.vectors) @ encoder.outer[0]
    torch.testing.assert_close(encoder.all_items(), expected)


def test_sum_is_the_sum(tables: ItemTables) -> None:
    encoder = SumEncoder(
        parts={"a": {"type": "id"}, "b": {"type": "sid"}}, tables=tables, d_model=WIDTH
    )
    items = torch.arange(ITEMS)
    torch.testing.assert_close(
        encoder(items), encoder.parts["a"](items) + encoder.parts["b"](items)
    )
    assert encoder.code_table is encoder.parts["b"].table


def test_a_sum_of_tokens_has_tokens(tables: ItemTables) -> None:
    tokens = {"type": "sid-tokens"}
    encoder = SumEncoder(parts={"a": tokens, "b": tokens}, tables=tables, d_model=WIDTH)
    assert encoder.tokens_per_item == 2
    item = torch.tensor([7])
    for level in range(2):
        code = tables.codes[item, level]
        torch.testing.assert_close(encoder(item)[:, level], encoder.token(code, level))


@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_prefixes_have_rows_of_their_own(pool: str, tables: ItemTables) -> None:
    encoder = PrefixEmbedding(tables=tables, d_model=WIDTH, pool=pool)
    assert len(encoder.weight) == 4 + 4 * 3
    for item in range(ITEMS):
        first, second = tables.codes[item].tolist()
        rows = torch.stack([encoder.weight[first], encoder.weight[4 + 3 * first + second]])
        torch.testing.assert_close(encoder(torch.tensor(item)), getattr(rows, pool)(0))


def test_deep_prefixes_share_rows_by_a_hash() -> None:
    sizes, buckets = (256,) * 9, 1000
    tables = ItemTables(num_items=5000, codebook_sizes=sizes)
    codes = torch.randint(0, 256, (5000, 9), generator=torch.Generator().manual_seed(0))
    codes[1] = codes[0]
    codes[2] = codes[0]
    codes[2, 3] += 1 if codes[0, 3] < 255 else -1
    tables.fill(codes=codes.int())
    encoder = PrefixEmbedding(tables=tables, d_model=2, buckets=buckets)
    rows = encoder.prefix_rows(codes)
    assert encoder.rows == [256] + [buckets] * 8
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0, :3], rows[2, :3])
    assert (rows[0, 3:] != rows[2, 3:]).sum() >= 5  # but for chance, all that follow differ
    starts = torch.tensor([0, *encoder.rows]).cumsum(0)
    assert ((rows >= starts[:-1]) & (rows < starts[1:])).all()
    for depth in range(1, 9):
        used = torch.bincount(rows[:, depth] - starts[depth], minlength=buckets)
        # As often as by chance: 5000 draws from 1000 rows hit 993 of them, 5 times each.
        assert (used > 0).sum() > 960 and used.max() < 25
    shallow = PrefixEmbedding(tables=tables, d_model=2, depth=2)
    assert shallow.rows == [256, 16_384]
    with pytest.raises(ConfigError, match="depth=10; expected from 1 to the 9"):
        PrefixEmbedding(tables=tables, d_model=2, depth=10)


def test_parts_that_lack_their_tables_are_refused() -> None:
    bare = ItemTables(num_items=4)
    with pytest.raises(ConfigError, match="SID vocabulary"):
        SidEmbedding(tables=bare, d_model=WIDTH)
    with pytest.raises(ConfigError, match="item vectors"):
        SemanticProjection(tables=bare, d_model=WIDTH)
    with pytest.raises(ConfigError, match="parts is empty"):
        SumEncoder(parts={}, tables=bare, d_model=WIDTH)
    with pytest.raises(ConfigError, match="cannot be named 'items'"):
        SumEncoder(parts={"items": {"type": "id"}}, tables=bare, d_model=WIDTH)
    with pytest.raises(ConfigError, match="no part reads items"):
        SumEncoder(parts={"gap": {"type": "time-gap"}}, tables=bare, d_model=WIDTH)
    with pytest.raises(ConfigError, match="SID vocabulary"):
        PrefixEmbedding(tables=bare, d_model=WIDTH)
    assert IdEmbedding(tables=bare, d_model=WIDTH).all_items().shape == (4, WIDTH)


def test_tables_refuse_wrong_values() -> None:
    tables = ItemTables(num_items=3, codebook_sizes=(2, 2), vector_dim=2)
    with pytest.raises(DataError, match=r"codes have shape \(4, 2\)"):
        tables.fill(codes=torch.zeros(4, 2, dtype=torch.int32))
    with pytest.raises(DataError, match="item 1 has codes"):
        tables.fill(codes=torch.tensor([[0, 1], [2, 0], [0, 0]], dtype=torch.int32))
    vectors = torch.zeros(3, 2)
    vectors[2, 1] = torch.nan
    with pytest.raises(DataError, match="vectors of item 2"):
        tables.fill(vectors=vectors)
