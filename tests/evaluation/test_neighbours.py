from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.decoding import Filter
from genrec.evaluation import NeighbourRanker, Ranker


def brute(vectors, tie_order, row, k, allowed):
    """Every cosine by itself."""
    last = vectors[row[-1]]
    length = np.linalg.norm(vectors, axis=1)
    cosine = [
        float(vectors[item] @ last / max(length[item] * length[row[-1]], 1e-12))
        for item in range(len(vectors))
    ]
    ranked = sorted(allowed, key=lambda item: (-round(cosine[item], 5), tie_order[item]))
    return ranked[:k]


@pytest.mark.parametrize("seed", range(5))
def test_equals_brute_force_from_either_end_of_padded_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few directions, so that many items are equally near; one vector is zero.
    vectors = rng.integers(-1, 2, size=(30, 3)).astype(np.float32) * rng.integers(1, 9)
    vectors[4] = 0
    tie_order = rng.permutation(30)
    rows = [rng.integers(0, 30, size=size).tolist() for size in (1, 4, 6)]
    ranker = NeighbourRanker(vectors, tie_order)
    assert isinstance(ranker, Ranker) and ranker.settings()["parameters"] == 0
    passed = rng.random(30) < 0.7
    for left in (False, True):
        items = torch.zeros(3, 6, dtype=torch.int64)
        mask = torch.zeros(3, 6, dtype=torch.bool)
        for number, row in enumerate(rows):
            place = slice(6 - len(row), 6) if left else slice(0, len(row))
            items[number, place], mask[number, place] = torch.tensor(row), True
        batch = ranker.prepare({"items": items, "mask": mask})
        exclude = torch.where(mask, items, -1)
        plain = ranker.search(batch, k=7)
        masked = ranker.search(
            batch, k=7, exclude=exclude, filter=Filter.from_mask(ranker.filters_for, passed[None])
        )
        for number, row in enumerate(rows):
            assert plain.items[number].tolist() == brute(vectors, tie_order, row, 7, range(30))
            allowed = [item for item in range(30) if passed[item] and item not in row]
            found = [item for item in masked.items[number].tolist() if item >= 0]
            assert found == brute(vectors, tie_order, row, 7, allowed)
    assert ranker.leaf_of(torch.tensor([3, 1])).tolist() == [3, 1]


def test_one_row_an_item() -> None:
    with pytest.raises(ValueError, match=r"vectors \(3, 2\).*a row an item"):
        NeighbourRanker(np.zeros((3, 2)), np.arange(4))
