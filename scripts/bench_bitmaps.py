"""A dense level of a trie as codes or as bits: bytes of the index, and time of a whole step.

    OMP_NUM_THREADS=1 python scripts/bench_bitmaps.py --items 40000 --levels 2
    OMP_NUM_THREADS=1 python scripts/bench_bitmaps.py --items 10000000 --levels 3

The last level is extended from random beams, log-softmax included, over the same trie in both
forms (`genrec.decoding.levels`), in turn. Steps are compared before times are shown. Processor
time, medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np
import torch

from genrec.decoding import Filter, PrefixTrie
from genrec.decoding.exclusions import Exclusions
from genrec.decoding.levels import as_bits
from genrec.decoding.step import extended

BACKENDS = ["torch", "torch-only", "compiled"]
CODES = 256
SHARE = 0.5  # of the items that the filter lets through


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[40_000])
    parser.add_argument("--levels", type=int, default=2)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--beams", type=int, nargs="+", default=[50])
    parser.add_argument(
        "--backend", default="compiled", choices=["torch", "torch-only", "compiled"]
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average {os.getloadavg()[0]:.1f}, seed {given.seed}, backend {given.backend}")
    print("| items | level | share of codes | bytes an item, codes | bits | users | beams ", end="")
    print("| ms, codes | bits | ratio | filtered, ms, codes | bits | ratio |")
    print("| ---: " * 13 + "|")
    for count in given.items:
        rng = np.random.default_rng(given.seed)
        codes = rng.integers(0, CODES, (count, given.levels))
        pair = both(PrefixTrie.from_codes(codes, [CODES] * given.levels))
        level = given.levels - 1
        share = pair[0].num_leaves / pair[0].num_nodes[level] / CODES
        bytes_ = [f"{trie.index_nbytes / count:.3g}" for trie in pair]
        for users in given.users:
            for beams in given.beams:
                spent = times(pair, users, beams, rng, given.repeats, given.backend)
                cells = [f"{count:,}", level + 1, f"{share:.3g}", *bytes_, users, beams]
                for a, b in spent:
                    cells += [f"{1e3 * a:.3g}", f"{1e3 * b:.3g}", f"{b / a:.2f}"]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def both(trie: PrefixTrie) -> tuple[PrefixTrie, PrefixTrie]:
    """The trie with its last level as codes, and as bits."""
    last = trie.num_levels - 1
    listed = trie.level(last).listed()
    bits = as_bits(listed.numpy(), trie.pointers[last].numpy(), CODES)
    first, second = (
        PrefixTrie(**{**trie._parts(), "tokens": [*trie.tokens[:-1], form]})
        for form in (listed, bits)
    )
    return first, second


def times(
    pair: tuple[PrefixTrie, PrefixTrie],
    users: int,
    beams: int,
    rng: np.random.Generator,
    repeats: int,
    backend: str,
) -> list[tuple[float, float]]:
    """Seconds of a step over codes and over bits, without a filter and with one."""
    level = pair[0].num_levels - 1
    above = pair[0].num_nodes[level]
    allowed = torch.from_numpy(rng.random((1, pair[0].num_items)) < SHARE)
    found = []
    for filter in (None, Filter.from_mask(pair[0], allowed)):
        spent: tuple[list[float], list[float]] = ([], [])
        excluded = [Exclusions.from_items(trie, None, users, filter) for trie in pair]
        for turn in range(repeats + 1):
            logits = torch.from_numpy(rng.normal(size=(users, beams, CODES)).astype(np.float32))
            nodes = torch.from_numpy(distinct(rng, users, beams, above))
            scores = -torch.from_numpy(rng.random((users, beams)).astype(np.float32)) * 3
            steps: list = [None, None]
            for form in (0, 1) if turn % 2 else (1, 0):
                start = time.process_time()
                steps[form] = extended(
                    pair[form],
                    level,
                    logits,
                    nodes,
                    scores,
                    keep=beams,
                    excluded=excluded[form],
                    logits=True,
                    backend=backend,
                )
                if turn:  # the first compiles
                    spent[form].append(time.process_time() - start)
            for name in ("nodes", "scores", "code", "dropped"):
                assert torch.equal(*(getattr(step, name) for step in steps)), name
        found.append((statistics.median(spent[0]), statistics.median(spent[1])))
    return found


def distinct(rng: np.random.Generator, users: int, beams: int, above: int) -> np.ndarray:
    """Different nodes for each user, int64 ``[users, beams]``."""
    start = rng.integers(0, above, (users, 1))
    step = above // beams
    places = np.arange(beams) * step + rng.integers(0, step, (users, beams))
    return rng.permuted((start + places) % above, axis=1)


if __name__ == "__main__":
    main()
