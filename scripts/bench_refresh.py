"""How many SIDs change when a share of the items is new: refresh, refit, or a build from nothing.

    python scripts/bench_refresh.py runs/vectors --new 0.1

Builds an RQ-k-means vocabulary of some of the items, adds the others in three ways, and prints for
each the seconds, the share of changed SIDs, that of changed codes per level, and the mean squared
distance between the vectors and what their SIDs decode to.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from genrec.embedding import ItemVectors
from genrec.quantization import make_quantizer
from genrec.tokenizers import SidVocabulary, build_vocabulary, churn, refresh_vocabulary
from genrec.tokenizers.collisions import mean_squared_distance


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("vectors", help="folder of item vectors")
    parser.add_argument("--new", type=float, default=0.1, help="share of the items that is new")
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    items = ItemVectors.from_pretrained(given.vectors)
    ids = np.asarray(items.item_ids.to_pylist(), dtype=object)
    vectors = items.vectors
    count = round(len(ids) * (1 - given.new))
    known = np.sort(np.random.default_rng(given.seed).permutation(len(ids))[:count])
    options = {"type": "rq-kmeans", "codebook_sizes": [given.codes] * given.levels}
    old = build_vocabulary(vectors[known], ids[known], make_quantizer(**options))
    print(f"{count:,} items known, {len(ids) - count:,} new")

    def build() -> SidVocabulary:
        return build_vocabulary(vectors, ids, make_quantizer(**options))

    ways = {
        "refresh": lambda: refresh_vocabulary(old, vectors, ids),
        "refit": lambda: refresh_vocabulary(old, vectors, ids, refit=True),
        "from nothing": build,
    }
    for name, way in ways.items():
        started = time.perf_counter()
        made = way()
        seconds = time.perf_counter() - started
        found = churn(old, made)
        levels = ", ".join(f"{share:.1%}" for share in found["changed_levels"])
        assert made.quantizer is not None
        distortion = mean_squared_distance(made.quantizer, made.codes, vectors)
        print(
            f"{name}: {seconds:.1f} s, {found['changed_tuples']:.1%} of SIDs changed (levels "
            f"{levels}), distortion {distortion:.4f}"
        )


if __name__ == "__main__":
    main()
