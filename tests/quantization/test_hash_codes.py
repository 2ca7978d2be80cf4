from __future__ import annotations

import numpy as np
import pytest

from genrec.errors import ConfigError
from genrec.quantization import HashCodes


def vectors(n=500, d=12, seed=0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, d)) + 2).astype(np.float32)


def test_codes_and_distances_equal_a_loop_over_the_planes():
    x = vectors()
    quantizer = HashCodes((8, 4)).fit(x)
    places = (x.astype(np.float64) - quantizer._arrays["mean"]) @ quantizer._arrays["planes"]
    codes = quantizer.encode(x)
    for row in range(20):
        for level, planes in enumerate(([0, 1, 2], [3, 4])):
            code = sum(2**bit for bit, plane in enumerate(planes) if places[row, plane] > 0)
            assert codes[row, level] == code
            distances = quantizer.level_distances(x[row : row + 1], codes[row : row + 1, :level])
            for other in range(2 ** len(planes)):
                flips = [p for b, p in enumerate(planes) if (code ^ other) >> b & 1]
                assert distances[0, other] == pytest.approx(
                    sum(places[row, p] ** 2 for p in flips), abs=1e-5
                )


def test_the_share_of_equal_bits_tells_the_angle():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 8)).astype(np.float32)
    quantizer = HashCodes((1024,) * 20).fit(x)
    mean = quantizer._arrays["mean"]
    one, other = x[:50].astype(np.float64) - mean, x[50:100].astype(np.float64) - mean
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    angle = np.arccos((one * other).sum(axis=1) / norms)
    flips = quantizer.encode(x[:50]) ^ quantizer.encode(x[50:100])
    differ = (flips[:, :, None] >> np.arange(10) & 1).mean(axis=(1, 2))
    assert np.abs(differ - angle / np.pi).max() < 0.16


def test_neighbours_share_codes():
    x = vectors()
    near = x + 0.01 * vectors(seed=1)
    quantizer = HashCodes((16, 16)).fit(x)
    same = (quantizer.encode(x) == quantizer.encode(near)).mean()
    other = (quantizer.encode(x) == quantizer.encode(x[::-1])).mean()
    assert same > 0.9 > 0.3 > other


def test_a_level_of_one_code_has_nothing_to_say():
    codes = HashCodes((1, 4)).fit(vectors()).encode(vectors())
    assert (codes[:, 0] == 0).all()
    assert len(np.unique(codes[:, 1])) == 4


def test_another_seed_other_planes():
    one, other = (HashCodes((16, 16), seed=s).fit(vectors()).encode(vectors()) for s in (0, 1))
    assert not np.array_equal(one, other)


def test_sizes_that_are_no_power_of_two_are_named():
    with pytest.raises(ConfigError, match=r"level 1 is 100; expected a power of two, e.g. 64"):
        HashCodes((4, 100))
