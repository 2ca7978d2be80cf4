"""Time the `reassign` collision policy on synthetic clustered vectors.

    python scripts/bench_reassign.py --items 100000

Prints the seconds that the policy takes (on the clock and of processor time), how many items
collided and how many still do, how many moved, how many of them to another prefix, what that cost
in distortion, and the peak memory of the process. The clusters have Zipfian sizes, so that some
prefixes hold far more items than they have tuples. `--policy sinkhorn` times that policy instead.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from genrec.quantization import make_quantizer
from genrec.tokenizers import make_tie_order, resolve_collisions


def clustered(items: int, dim: int, clusters: int, seed: int) -> np.ndarray:
    """Vectors `float32 [items, dim]` around centres that are themselves clustered."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, clusters + 1)
    members = rng.choice(clusters, size=items, p=weights / weights.sum())
    families = rng.normal(size=(max(clusters // 50, 1), dim)).astype(np.float32)
    centres = families[rng.integers(0, len(families), clusters)]
    centres += 0.5 * rng.normal(size=(clusters, dim)).astype(np.float32)
    vectors = rng.normal(scale=0.2, size=(items, dim)).astype(np.float32)
    vectors += centres[members]
    return vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--clusters", type=int, default=5_000)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--policy", default="reassign", choices=["reassign", "sinkhorn"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    vectors = clustered(given.items, given.dim, given.clusters, given.seed)
    sizes = (given.codes,) * given.levels
    quantizer = make_quantizer("rq-kmeans", codebook_sizes=sizes, samples_per_code=64, iterations=8)
    started = time.perf_counter()
    codes = quantizer.fit(vectors).encode(vectors)
    print(f"fitted and encoded in {time.perf_counter() - started:.1f} s")
    tie_order = make_tie_order(np.arange(given.items), given.seed)
    started, worked = time.perf_counter(), time.process_time()
    resolved = resolve_collisions(
        given.policy, codes, sizes, tie_order, quantizer=quantizer, vectors=vectors
    )
    seconds = time.perf_counter() - started
    cpu = time.process_time() - worked
    print(f"{given.policy}: {given.items:,} items in {seconds:.1f} s ({cpu:.1f} s of processor)")
    for name, value in resolved.report.items():
        print(f"  {name}: {value:,}" if isinstance(value, int) else f"  {name}: {value}")
    print(f"  peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
