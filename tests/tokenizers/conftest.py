from __future__ import annotations

import numpy as np
import pytest

from genrec.quantization import make_quantizer
from genrec.tokenizers import build_vocabulary


def clustered(num_items=120, dim=6, seed=0):
    """Vectors in tight clusters, so that a small code space has many collisions."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, dim))
    noise = 0.05 * rng.normal(size=(num_items, dim))
    return (centres[rng.integers(0, 12, num_items)] + noise).astype(np.float32)


class GivenCodebooks:
    """A residual quantizer with given codebooks: no fitting, so property tests can afford many."""

    def __init__(self, codebooks):
        self._codebooks = [np.asarray(book, dtype=np.float32) for book in codebooks]
        self.codebook_sizes = tuple(len(book) for book in self._codebooks)
        self.num_levels = len(self._codebooks)
        self.config = {"type": "given"}

    @classmethod
    def random(cls, sizes, dim, seed):
        rng = np.random.default_rng(seed)
        return cls([rng.normal(size=(size, dim)) / 2**level for level, size in enumerate(sizes)])

    def fit(self, vectors, *, progress=False):
        return self

    def level_distances(self, vectors, prefix_codes):
        rest = np.asarray(vectors, dtype=np.float32).copy()
        for level in range(prefix_codes.shape[1]):
            rest -= self._codebooks[level][prefix_codes[:, level]]
        book = self._codebooks[prefix_codes.shape[1]]
        return ((rest[:, None, :] - book[None]) ** 2).sum(axis=2)

    def encode(self, vectors, *, batch_size=65536):
        codes = np.zeros((len(vectors), 0), dtype=np.int32)
        for _ in range(self.num_levels):
            nearest = self.level_distances(vectors, codes).argmin(axis=1)
            codes = np.column_stack([codes, nearest]).astype(np.int32)
        return codes

    def decode(self, codes):
        return sum(book[codes[:, level]] for level, book in enumerate(self._codebooks))


@pytest.fixture(scope="session")
def given_codebooks():
    return GivenCodebooks


@pytest.fixture(scope="session")
def vectors():
    return clustered()


@pytest.fixture(scope="session")
def item_ids(vectors):
    return [f"item-{number:03d}" for number in range(len(vectors))]


@pytest.fixture(scope="session")
def vocabularies(vectors, item_ids):
    """One vocabulary per collision policy, from a real quantizer."""
    return {
        policy: build_vocabulary(
            vectors,
            item_ids,
            make_quantizer("rq-kmeans", codebook_sizes=[8, 8, 8]),
            collisions=policy,
            fit_items=np.arange(100),
        )
        for policy in ("allow", "append", "reassign")
    }
