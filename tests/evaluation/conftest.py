from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from genrec.data import Catalog, Dataset, Histories, Split, leave_one_out
from genrec.decoding import PrefixTrie
from genrec.models import Recommender, RecommenderConfig

ITEMS, USERS, SIZES = 60, 90, (4, 5, 3)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """Skewed items, repeats within histories, lengths 3 to 14."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 15, size=USERS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = np.minimum(generator.geometric(0.06, size=offsets[-1]) - 1, ITEMS - 1)
    times = np.concatenate([np.sort(generator.integers(0, 10**6, n)) for n in lengths])
    titles = [None if item == 7 else f"Item &amp; title {item}" for item in range(ITEMS)]
    table = pa.table({"item_id": [f"i{item}" for item in range(ITEMS)], "title": titles})
    users = [f"u{user}" for user in range(USERS)]
    return Dataset(
        Catalog(table), Histories(offsets, items, times, user_ids=users), {"name": "toy"}
    )


@pytest.fixture(scope="session")
def split(dataset: Dataset) -> Split:
    return leave_one_out(dataset.histories)


@pytest.fixture(scope="session")
def train_counts(dataset: Dataset, split: Split) -> np.ndarray:
    return split.train_counts(dataset.histories, len(dataset.catalog))


@pytest.fixture(scope="session")
def codes() -> np.ndarray:
    """Codes with collisions: fewer tuples exist than items."""
    generator = np.random.default_rng(1)
    drawn = [generator.integers(size, size=ITEMS) for size in SIZES]
    return np.stack(drawn, axis=1).astype(np.int32)


@pytest.fixture(scope="session")
def tie_order() -> np.ndarray:
    return np.random.default_rng(2).permutation(ITEMS)


@pytest.fixture(scope="session")
def trie(codes: np.ndarray, tie_order: np.ndarray) -> PrefixTrie:
    return PrefixTrie.from_codes(codes, SIZES, tie_order)


def build(head: dict, item_encoder: dict, codes: np.ndarray, tie_order: np.ndarray) -> Recommender:
    torch.manual_seed(0)
    config = RecommenderConfig(
        num_items=ITEMS,
        codebook_sizes=SIZES,
        d_model=16,
        max_length=8,
        item_encoder=item_encoder,
        backbone={"type": "transformer", "layers": 1, "heads": 2},
        head=head,
    )
    model = Recommender(config, tables={"codes": codes, "tie_order": tie_order})
    with torch.no_grad():  # far from uniform, so that scores differ clearly
        for parameter in model.head.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session")
def sid_model(codes: np.ndarray, tie_order: np.ndarray) -> Recommender:
    return build({"type": "autoregressive"}, {"type": "sid"}, codes, tie_order)


@pytest.fixture(scope="session")
def item_model(codes: np.ndarray, tie_order: np.ndarray) -> Recommender:
    return build({"type": "dense"}, {"type": "id"}, codes, tie_order)
