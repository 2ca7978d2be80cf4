"""Top-k over a pool equals sorting all scores, whatever the blocks; faiss is held against it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding.approximate import FaissPool, list_recall
from genrec.decoding.pool import pool_search
from genrec.errors import ConfigError, GenrecError


def brute(scores, ties, k, exclude=None):
    """All rows sorted by falling score, then rising tie rank."""
    lists = []
    for row, one in enumerate(scores.tolist()):
        banned = set() if exclude is None else set(exclude[row].tolist())
        order = sorted(
            (r for r in range(len(one)) if r not in banned), key=lambda r: (-one[r], int(ties[r]))
        )
        lists.append((order + [-1] * k)[:k])
    return torch.tensor(lists)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 150),
    k=st.integers(1, 12),
    blocks=st.tuples(st.integers(1, 7), st.integers(1, 60)),
    banned=st.booleans(),
)
def test_equals_sorting(seed, size, k, blocks, banned):
    rng = torch.Generator().manual_seed(seed)
    # Small whole numbers make ties, and products exact.
    queries = torch.randint(-2, 3, (6, 3), generator=rng).float()
    vectors = torch.randint(-2, 3, (size, 3), generator=rng).float()
    ties = torch.randperm(size, generator=rng)
    exclude = torch.randint(-1, size, (6, 8), generator=rng) if banned else None
    items, scores = pool_search(
        queries,
        vectors,
        k=k,
        tie_order=ties,
        exclude=exclude,
        block_users=blocks[0],
        block_items=blocks[1],
    )
    every = queries @ vectors.T
    want = brute(every, ties, k, exclude)
    assert torch.equal(items, want)
    real = items >= 0
    assert torch.equal(scores[real], every.gather(1, items.clamp_min(0))[real])
    assert (scores[~real] == -torch.inf).all()


def test_real_numbers_and_memory_mapped_vectors(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "v.npy", rng.standard_normal((5_000, 16), dtype=np.float32))
    vectors = np.load(tmp_path / "v.npy", mmap_mode="r")
    queries = torch.from_numpy(rng.standard_normal((40, 16), dtype=np.float32))
    items, scores = pool_search(queries, vectors, k=10, block_items=700)
    want = torch.topk(queries @ torch.from_numpy(np.array(vectors)).T, 10)
    assert torch.equal(items, want.indices)
    torch.testing.assert_close(scores, want.values)


def test_the_same_lists_for_every_block_size():
    queries = torch.randint(-1, 2, (9, 4)).float()
    vectors = torch.randint(-1, 2, (300, 4)).float()
    found = [
        pool_search(queries, vectors, k=20, block_users=u, block_items=i)[0]
        for u, i in ((1, 7), (4, 64), (100, 10_000))
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_inputs_that_make_no_sense():
    queries, vectors = torch.zeros(2, 3), torch.zeros(5, 3)
    for wrong in (
        {"queries": torch.zeros(2, 4)},
        {"k": 0},
        {"tie_order": torch.arange(4)},
        {"k": 1.5},
        {"block_items": 0},
        {"block_users": 2.0},
    ):
        given = {"queries": queries, "vectors": vectors, "k": 1, **wrong}
        with pytest.raises(ConfigError, match="pool search"):
            pool_search(given.pop("queries"), given.pop("vectors"), **given)
    assert pool_search(queries, vectors, k=np.int64(2))[0].shape == (2, 2)
    queries[1, 0] = torch.nan
    with pytest.raises(GenrecError, match="NaN for row 1"):
        pool_search(queries, vectors, k=1)


@pytest.fixture(scope="module")
def clustered():
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((40, 12))
    vectors = centres[rng.integers(0, 40, 3_000)] + 0.5 * rng.standard_normal((3_000, 12))
    queries = torch.from_numpy(rng.standard_normal((60, 12), dtype=np.float32))
    return queries, vectors.astype(np.float32)


def test_faiss_beside_exact(clustered):
    queries, vectors = clustered
    exact, scores = pool_search(queries, vectors, k=10)
    items, values = FaissPool(vectors).search(queries, k=10)
    assert list_recall(items, exact) == 1
    torch.testing.assert_close(values, scores, rtol=1e-4, atol=1e-4)
    graph = FaissPool(vectors, kind="hnsw", links=16, construction=100, breadth=100)
    assert list_recall(graph.search(queries, k=10)[0], exact) > 0.9
    few = FaissPool(vectors, kind="ivf", lists=50, breadth=2).search(queries, k=10)[0]
    many = FaissPool(vectors, kind="ivf", lists=50, breadth=50).search(queries, k=10)[0]
    assert list_recall(few, exact) < list_recall(many, exact) == 1


def test_faiss_leaves_out_what_is_excluded(clustered):
    queries, vectors = clustered
    exclude = pool_search(queries, vectors, k=5)[0]
    exclude[::2, 2:] = -1
    want, _ = pool_search(queries, vectors, k=10, exclude=exclude)
    found, _ = FaissPool(vectors).search(queries, k=10, exclude=exclude)
    assert torch.equal(found, want)
    short, scores = FaissPool(vectors[:4]).search(queries[:3], k=6, exclude=torch.tensor([[1]] * 3))
    assert (short >= 0).sum(1).tolist() == [3, 3, 3] and (short != 1).all()
    assert (scores[short < 0] == -torch.inf).all()


def test_faiss_options(clustered):
    _, vectors = clustered
    for options in (
        {"kind": "annoy"},
        {"links": 0},
        {"breadth": 0},
        {"kind": "ivf", "lists": 9_999},
    ):
        with pytest.raises(ConfigError, match="faiss"):
            FaissPool(vectors, **options)


def test_recall_of_lists():
    exact = torch.tensor([[1, 2, 3], [4, -1, -1]])
    assert list_recall(torch.tensor([[3, 9, 1, 8], [5, 4, -1, 2]]), exact) == pytest.approx(3 / 4)


def test_an_empty_pool_has_nothing():
    items, scores = pool_search(torch.ones(3, 2), torch.zeros(0, 2), k=4)
    assert items.shape == scores.shape == (3, 4)
    assert (items == -1).all() and (scores == -torch.inf).all()
