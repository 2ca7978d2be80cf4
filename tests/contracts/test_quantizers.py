"""What every registered quantizer must do; a new one is picked up by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.errors import ConfigError
from genrec.tokenizers.refit import relabel_quantizer
from tests.contracts.quantizers import CASES, UNFITTED, build, clustered, type_of


def test_codes_are_int32_below_the_codebook_sizes(fitted, x):
    codes = fitted.encode(x)
    assert codes.dtype == np.int32
    assert codes.shape == (len(x), fitted.num_levels)
    assert (codes >= 0).all()
    assert (codes < np.array(fitted.codebook_sizes)).all()
    assert fitted.num_levels == len(fitted.codebook_sizes) == 3


def test_one_codebook_per_level_and_not_a_view(fitted, x):
    books = fitted.codebooks()
    assert [len(book) for book in books] == list(fitted.codebook_sizes)
    assert all(book.dtype == np.float32 and np.isfinite(book).all() for book in books)
    before = fitted.encode(x)
    for book in books:
        book[:] = 0
    assert np.array_equal(fitted.encode(x), before)


def test_fit_returns_itself_and_leaves_vectors_and_global_state_alone(case, x):
    quantizer, copy = build(case), x.copy()
    torch.manual_seed(3)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()[1].copy()
    assert quantizer.fit(x) is quantizer
    assert np.array_equal(x, copy)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.get_num_threads() == threads


def test_rows_left_out_are_not_learned_from(case, fitted, x):
    places = np.sort(np.random.default_rng(1).choice(300, size=len(x), replace=False))
    longer = 3 + clustered(n=300, seed=7)
    longer[places] = x
    some = build(case).fit(longer, rows=places)
    codes = fitted.encode(longer)
    assert np.array_equal(some.encode(longer), codes)
    assert np.array_equal(some.decode(codes), fitted.decode(codes))
    for ours, theirs in zip(some.codebooks(), fitted.codebooks(), strict=True):
        assert np.array_equal(ours, theirs)


def test_same_seed_same_codes_whatever_the_global_seed(case, fitted, x):
    torch.manual_seed(99)
    again = build(case).fit(x)
    assert np.array_equal(again.encode(x), fitted.encode(x))
    assert np.array_equal(again.decode(again.encode(x)), fitted.decode(fitted.encode(x)))


def test_threads_do_not_change_codes(case):
    x = clustered(n=1500, d=50, seed=1)
    threads, codes = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            codes.append(build(case, size=32).fit(x).encode(x))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*codes)


@pytest.mark.parametrize("batch_size", [1, 7, 199])
def test_a_row_does_not_depend_on_its_batch(fitted, x, batch_size):
    assert np.array_equal(fitted.encode(x, batch_size=batch_size), fitted.encode(x))


def test_a_row_does_not_depend_on_its_place(fitted, x):
    order = np.random.default_rng(5).permutation(len(x))
    assert np.array_equal(fitted.encode(x[order]), fitted.encode(x)[order])


def test_numpy_torch_memory_maps_and_strides_give_the_same_codes(fitted, x, tmp_path):
    codes = fitted.encode(x)
    np.save(tmp_path / "x.npy", x)
    wide = np.zeros((len(x), 2 * x.shape[1]), dtype=np.float32)
    wide[:, ::2] = x
    for same in (
        torch.from_numpy(x),
        torch.from_numpy(x).requires_grad_(),
        x.astype(np.float64),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        np.asfortranarray(x),
        wide[:, ::2],
    ):
        assert np.array_equal(fitted.encode(same), codes)
    assert fitted.encode(x.astype(np.float16)).shape == codes.shape
    assert fitted.encode(torch.from_numpy(x).bfloat16()).shape == codes.shape


def test_no_rows_give_no_codes(fitted, x):
    assert fitted.encode(x[:0]).shape == (0, 3)
    assert fitted.decode(np.zeros((0, 3), dtype=int)).shape == (0, x.shape[1])
    assert fitted.level_distances(x[:0], np.zeros((0, 1), dtype=int)).shape == (0, 8)


def test_decode_comes_near_the_vectors(name, fitted, x):
    decoded = fitted.decode(fitted.encode(x))
    assert decoded.dtype == np.float32
    assert decoded.shape == x.shape
    share = 1 if name in UNFITTED else 0.5
    assert ((decoded - x) ** 2).sum() < share * ((x - x.mean(0)) ** 2).sum()


def test_decoded_vectors_encode_to_nearly_themselves(name, fitted, x):
    if name in UNFITTED:
        pytest.skip("a control: where a vector lies does not decide its codes, or only roughly")
    decoded = fitted.decode(fitted.encode(x))
    again = fitted.decode(fitted.encode(decoded))
    assert ((again - decoded) ** 2).sum() < 0.25 * ((x - x.mean(0)) ** 2).sum()


def test_encode_takes_a_nearest_code_of_each_level(fitted, x):
    codes = fitted.encode(x)
    for level in range(fitted.num_levels):
        distances = fitted.level_distances(x, codes[:, :level])
        assert distances.dtype == np.float32
        assert distances.shape == (len(x), fitted.codebook_sizes[level])
        assert (distances >= 0).all()
        chosen = distances[np.arange(len(x)), codes[:, level]]
        assert np.allclose(chosen, distances.min(axis=1), rtol=1e-4, atol=1e-4)


def test_level_distances_are_squared_ones_to_the_codebook(case, x):
    """Each row and level has a point whose squared distances to the codes they are.

    Up to what the row has for all codes, as a point may lie off the plane that the codes span.
    """
    if type_of(case) in UNFITTED:
        pytest.skip("a control: its codebooks are learned after its codes")
    quantizer = build(case, size=32).fit(x)
    codes = quantizer.encode(x)
    for level, book in enumerate(map(np.float64, quantizer.codebooks())):
        assert len(book) > book.shape[1] + 1, "too few codes to say where a point is"
        found = np.float64(quantizer.level_distances(x, codes[:, :level]))
        # |p - c|^2 = |p|^2 - 2 p c + |c|^2
        factors = np.c_[np.ones(len(book)), -2 * book]
        points = np.linalg.lstsq(factors, (found - (book**2).sum(1)).T, rcond=1e-6)[0][1:].T
        apart = ((points[:, None] - book) ** 2).sum(2)
        offset = found - apart
        close = 1e-4 * np.abs(found).max()
        assert (np.ptp(offset, axis=1) < close).all()
        assert (offset > -close).all()


@pytest.mark.parametrize("case", CASES)
def test_renamed_codes_are_what_is_encoded_or_are_refused(case):
    x = clustered()
    quantizer = build(case).fit(x)
    codes = quantizer.encode(x)
    rng = np.random.default_rng(0)
    labels = [rng.permutation(size) for size in quantizer.codebook_sizes]
    if type_of(case) in UNFITTED:
        with pytest.raises(ConfigError, match=f"{type_of(case)!r}: its codes cannot be renamed"):
            relabel_quantizer(quantizer, labels)
        return
    renamed = relabel_quantizer(quantizer, labels)
    expected = np.stack([label[column] for label, column in zip(labels, codes.T, strict=True)], 1)
    assert np.array_equal(renamed.encode(x), expected)
    assert np.array_equal(renamed.decode(expected), quantizer.decode(codes))
    assert not np.array_equal(expected, codes)
