from __future__ import annotations

import numpy as np

from genrec.data.ranges import draw_in_ranges


def test_entries_come_from_their_range_as_often_as_they_weigh():
    weights = np.array([1.0, 3.0, 0.0, 6.0, 2.0])
    cumulative = np.concatenate([[0.0], np.cumsum(weights)])
    for low, high in ((0, 2), (1, 5), (3, 4)):
        ends = np.full(20_000, low), np.full(20_000, high)
        drawn = draw_in_ranges(np.random.default_rng(0), cumulative, *ends)
        found = np.bincount(drawn, minlength=5) / len(drawn)
        expected = np.where((np.arange(5) >= low) & (np.arange(5) < high), weights, 0)
        np.testing.assert_allclose(found, expected / expected.sum(), atol=0.015)
