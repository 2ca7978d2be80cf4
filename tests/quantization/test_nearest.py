from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.quantization import nearest
from genrec.quantization.nearest import ResidualSearch, residual_distances, score_bias

GRID = st.tuples(st.integers(-2, 2), st.integers(-2, 2))


def greedy(x: torch.Tensor, codebooks: list[torch.Tensor]) -> np.ndarray:
    """One row, one level, one code at a time, in float64; the first of equals."""
    codes = np.zeros((len(x), len(codebooks)), dtype=np.int64)
    for row, vector in enumerate(x):
        rest = vector.double().clone()
        for level, book in enumerate(codebooks):
            distances = [float((rest - code.double()).square().sum()) for code in book]
            codes[row, level] = int(np.argmin(distances))
            rest -= book[codes[row, level]].double()
    return codes


def random_case(seed, n=60, d=7, sizes=(9, 5, 12), scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator) * scale + shift
    books = [torch.randn(k, d, generator=generator) * scale / (i + 1) for i, k in enumerate(sizes)]
    books[0] += shift
    return x, books


@pytest.fixture(params=["tables", "residuals"])
def path(request, monkeypatch):
    if request.param == "residuals":
        monkeypatch.setattr(nearest, "_TABLE", 0)
    return request.param


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1e-12, 0), (1e12, 0), (1, 1e4), (1e-3, 10)])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_codes_equal_the_slow_reference(path, scale, shift, center, half):
    x, books = random_case(1, scale=scale, shift=shift)
    search = ResidualSearch(books, center=center, half=half)
    assert (search.stacked is None) == (path == "residuals")
    assert np.array_equal(search.codes(x).numpy(), greedy(x, books))


@settings(max_examples=40, deadline=None)
@given(
    x=st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=1, max_size=20),
    book=st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=1, max_size=8),
    next_book=st.lists(
        st.lists(st.integers(-1, 1), min_size=2, max_size=2), min_size=1, max_size=8
    ),
)
def test_ties_go_to_the_smallest_code(x, book, next_book):
    vectors = torch.tensor(x).float()
    books = [torch.tensor(book).float(), torch.tensor(next_book).float()]
    expected = greedy(vectors, books)
    for half in (True, False):
        codes = ResidualSearch(books, half=half).codes(vectors).numpy()
        assert np.array_equal(codes, expected)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 300),
    d=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    shape=st.sampled_from(["normal", "constant", "repeated", "near"]),
    shift=st.sampled_from([0.0, 3.0, 1e3]),
)
def test_bfloat16_products_change_no_code(seed, n, d, sizes, shape, shift):
    x, books = random_case(seed, n=n, d=d, sizes=sizes, shift=shift)
    if shape == "constant":  # rounding errors of all columns add up
        x, books = x[:, :1].repeat(1, d), [book[:, :1].repeat(1, d) for book in books]
    elif shape == "repeated":
        x = books[0][torch.arange(n) % sizes[0]]
    elif shape == "near":  # codes closer to each other than bfloat16 tells apart
        books = [book[:1] + 1e-4 * book for book in books]
    plain = ResidualSearch(books, half=False).codes(x)
    assert torch.equal(ResidualSearch(books, half=True).codes(x), plain)


def test_codes_of_float64_vectors_ignore_last_bits():
    books = [torch.tensor([[1.0, 0.0], [-1.0, 0.0]])]
    x = torch.tensor([[1e-14, 2.0], [-1e-14, 2.0], [0.0, 2.0]], dtype=torch.float64)
    assert ResidualSearch(books).codes(x)[:, 0].tolist() == [0, 0, 0]
    far = torch.tensor([[-1e-4, 2.0]], dtype=torch.float64)
    assert ResidualSearch(books).codes(far)[:, 0].tolist() == [1]


def test_near_ties_below_float32_are_decided():
    # Two codes whose distances differ by less than a float32 score can hold.
    books = [torch.tensor([[1.0, 0.0], [1.0 + 2**-23, 0.0]])]
    x = torch.tensor([[1000.0, 0.0], [-1000.0, 0.0]])
    for half in (True, False):
        assert ResidualSearch(books, half=half).codes(x)[:, 0].tolist() == [1, 0]


def test_refined_scores_leave_clear_rows_alone():
    scores = torch.tensor([[1.0, 0.9, 0.0], [1.0, 0.2, 0.1], [0.5, 0.5, 0.5]])
    seen = []

    def better(rows, codes, values):
        seen.extend(zip(rows.tolist(), codes.tolist(), values.tolist(), strict=True))
        return values + codes

    nearest.refine(scores, torch.full((3,), 0.2), better, room=torch.empty(3, 3))
    assert [pair[:2] for pair in seen] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    none = -float("inf")
    expected = [[1.0, 1.9, none], [1.0, 0.2, 0.1], [0.5, 1.5, 2.5]]
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_blocks_do_not_change_codes(monkeypatch, path):
    x, books = random_case(3, n=300)
    whole = ResidualSearch(books).codes(x)
    monkeypatch.setattr(nearest, "_PAIRS", 8)
    small = ResidualSearch(books)
    small.rows = 17
    assert torch.equal(small.codes(x), whole)


def test_a_code_that_repeats_an_earlier_one_is_never_chosen():
    book = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
    assert score_bias(book).tolist() == [-2.5, 0.0, float("-inf"), float("-inf")]
    assert ResidualSearch([book]).codes(torch.tensor([[1.0, 2.0]])).tolist() == [[0]]


def test_distances_equal_the_slow_reference():
    x, books = random_case(4, shift=100.0)
    codes = ResidualSearch(books).codes(x)
    for level, book in enumerate(books):
        rest = x.double() - sum(
            (books[p][codes[:, p]].double() for p in range(level)), torch.zeros(1)
        )
        slow = (rest[:, None] - book[None].double()).square().sum(dim=2)
        fast = residual_distances(x, codes[:, :level], books)
        torch.testing.assert_close(fast.double(), slow, rtol=1e-5, atol=1e-6)
