"""What it costs to add items to a catalog, and to remove them, while it grows large.

    OMP_NUM_THREADS=1 python scripts/bench_updates.py --items 10000 1000000 10000000

Random tuples of 256 codes a level. For each size of the catalog and of the change: milliseconds of
`MutableTrie.add` and `remove` (median and worst) and bytes written, beside `PrefixTrie.add` and
`remove`, which copy. Then a step of a search, all levels but the first together, in a trie with
room between its nodes against one without, and the same after many changes. Processor time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from genrec.decoding import MutableTrie, PrefixTrie, expand_beams

CODES = 256
USERS, BEAMS = 32, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--levels", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--changes", type=int, nargs="+", default=[1, 100, 10_000])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average {os.getloadavg()[0]:.1f}, torch {torch.__version__}, seed {given.seed}")
    print("| items | levels | change | add ms | worst | remove ms | worst | KB written | copy ms |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    steps = []
    for count in given.items:
        for levels in given.levels:
            rng = np.random.default_rng(given.seed)
            base = PrefixTrie.from_codes(rng.integers(0, CODES, (count, levels)), [CODES] * levels)
            spent, trie = timed(lambda base=base: MutableTrie(base))
            room = trie.nbytes / count
            step = [count, levels, 1e3 * spent, base.nbytes / count, room, *step_times(base, trie)]
            for change in given.changes:
                print(line(count, levels, change, *change_times(base, trie, rng, change, given)))
            steps.append([*step, *step_times(base, trie)[2:]])
    print()
    print("| items | levels | laid out ms | bytes | bytes with room | torch | compiled", end="")
    print(" | torch, room | compiled, room | torch, changed | compiled, changed |")
    print("| ---: " * 11 + "|")
    for step in steps:
        print(line(*step))


def change_times(
    base: PrefixTrie, trie: MutableTrie, rng: np.random.Generator, change: int, given: Any
) -> Iterator[float]:
    """Milliseconds of additions and removals, kilobytes written, and what copying takes."""
    adds, removals, written = [], [], []
    levels = base.num_levels
    for _ in range(given.repeats):
        codes = rng.integers(0, CODES, (change, levels))
        spent, added = timed(lambda codes=codes: trie.add(codes))
        adds.append(1e3 * spent)
        written.append(trie.written / 1e3)
        gone = rng.permutation(added.stop)[: 4 * change]
        gone = gone[trie.trie.item_leaf.numpy()[gone] >= 0][:change]
        removals.append(1e3 * timed(lambda gone=gone: trie.remove(gone))[0])
    copying = (
        timed(lambda: base.add(codes))[0] + timed(lambda: base.remove(range(change // 4 + 1)))[0]
    )
    for some in (adds, removals):
        yield statistics.median(some)
        yield max(some)
    yield statistics.median(written)
    yield 1e3 * copying


def step_times(base: PrefixTrie, trie: MutableTrie) -> list[float]:
    """Milliseconds of all steps but the first, of both tries and back ends in turn."""
    tries, backends = (base, trie.trie), ("torch", "compiled")
    times: dict[tuple[int, str], list[float]] = {}
    for _ in range(6):
        for number, some in enumerate(tries):
            for backend in backends:
                times.setdefault((number, backend), []).append(1e3 * _steps(some, backend))
    return [statistics.median(some[1:]) for some in times.values()]


def _steps(trie: PrefixTrie, backend: Any) -> float:
    generator = torch.Generator().manual_seed(0)
    nodes, scores = torch.zeros(USERS, 1, dtype=torch.int64), torch.zeros(USERS, 1)
    total = 0.0
    for level in range(trie.num_levels):
        logits = 2 * torch.randn(*nodes.shape, CODES, generator=generator)
        options = {"keep": BEAMS, "logits": True, "backend": backend}
        args = (trie, level, logits, nodes, scores)
        spent, step = timed(lambda args=args, options=options: expand_beams(*args, **options))
        total += spent if level else 0.0
        nodes, scores = step.nodes, step.scores
    return total


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def line(*cells: float) -> str:
    return "| " + " | ".join(f"{x:,}" if isinstance(x, int) else f"{x:.3g}" for x in cells) + " |"


if __name__ == "__main__":
    main()
