from __future__ import annotations

import numpy as np

from genrec.quantization import RandomCodes


def vectors(n=4000, d=6, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_codes_equal_the_hash_in_exact_integers():
    x = vectors(n=30)
    quantizer = RandomCodes((16, 100)).fit(vectors())
    keys = quantizer._arrays["keys"]
    slow = []
    for row in x:
        bits = row.view(np.uint32).tolist()
        columns = []
        for level, size in enumerate((16, 100)):
            terms = [int(k) * b for k, b in zip(keys[1:, level], bits, strict=True)]
            total = (int(keys[0, level]) + sum(terms)) % 2**64
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
                total = (total ^ (total >> shift)) * factor % 2**64
            total ^= total >> 31
            columns.append((total >> 32) * size >> 32)
        slow.append(columns)
    assert quantizer.encode(x).tolist() == slow


def test_a_vector_has_its_codes_whatever_it_was_fitted_beside():
    x = vectors()
    one, other = RandomCodes((64, 64)).fit(x), RandomCodes((64, 64)).fit(x[:100] * 3)
    assert np.array_equal(one.encode(x), other.encode(x))
    again = RandomCodes((64, 64), seed=1).fit(x)
    assert (again.encode(x) == one.encode(x)).mean() < 0.05


def test_codes_are_even_and_levels_independent():
    codes = RandomCodes((16, 16)).fit(vectors()).encode(vectors())
    counts = np.zeros((16, 16))
    np.add.at(counts, (codes[:, 0], codes[:, 1]), 1)
    expected = len(codes) / 256
    # Chi-squared with 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * 22.6


def test_the_nearest_neighbour_is_like_any_other():
    x = vectors()
    near = np.nextafter(x, np.float32(np.inf))
    quantizer = RandomCodes((16, 16)).fit(x)
    same = (quantizer.encode(x) == quantizer.encode(near)).mean()
    assert abs(same - 1 / 16) < 0.02


def test_minus_zero_is_zero():
    x = np.zeros((20, 3), dtype=np.float32)
    quantizer = RandomCodes((8,)).fit(x)
    assert np.array_equal(quantizer.encode(x), quantizer.encode(-x))


def test_a_code_stands_for_the_mean_of_its_vectors():
    x = vectors(n=400)
    quantizer = RandomCodes((4, 4)).fit(x)
    codes, (first, second) = quantizer.encode(x), quantizer.codebooks()
    for code in range(4):
        assert np.allclose(first[code], x[codes[:, 0] == code].mean(axis=0), atol=1e-5)
        rest = (x - first[codes[:, 0]])[codes[:, 1] == code]
        assert np.allclose(second[code], rest.mean(axis=0), atol=1e-5)
    assert np.allclose(quantizer.decode(codes), first[codes[:, 0]] + second[codes[:, 1]], atol=1e-6)


def test_a_code_without_vectors_is_the_mean_or_nothing():
    x = np.repeat(vectors(n=2), 20, axis=0)
    quantizer = RandomCodes((32, 32)).fit(x)
    first, second = quantizer.codebooks()
    unused = np.setdiff1d(np.arange(32), quantizer.encode(x)[:, 0])
    assert np.allclose(first[unused], x.mean(axis=0), atol=1e-5)
    assert np.abs(second).max() < 1e-5


def test_distances_count_upwards_around_the_end():
    x = vectors(n=50)
    quantizer = RandomCodes((10,)).fit(x)
    own = quantizer.encode(x)[0, 0]
    distances = quantizer.level_distances(x[:1], np.zeros((1, 0), dtype=int))[0]
    order = np.argsort(distances)
    assert order.tolist() == [(own + step) % 10 for step in range(10)]
