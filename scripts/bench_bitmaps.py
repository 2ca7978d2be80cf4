"""A level of a trie as codes, as now, or as a bitmap of each node's codes: bytes and time.

    OMP_NUM_THREADS=1 python scripts/bench_bitmaps.py --items 1000000 10000000

Codes: one or two bytes a child and a pointer of four for each node above. Bitmap: a bit for each
code of each node above, and the same pointer, to which the bits below a code are added to find its
child. The time is that of reading a level in the compiled step: log-sum-exp of each beam's logits,
which both need, then the children's logits, their probability, their maximum, and the nodes of
those above a threshold. Both are compared before they are timed. Processor time, in turn, medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np
import torch
from numba import njit

from genrec.decoding import PrefixTrie
from genrec.decoding.kernel_parts import exp_sum, row_max

CODES = 256
USERS, BEAMS = 32, 50
SHARE = 0.004  # of the codes that are above the threshold: what a full buffer lets through
_f32, _i64, _u32 = np.float32, np.int64, np.uint32


@njit(nogil=True)
def by_codes(logits, nodes, tokens, pointer, least, out, mass):
    """The nodes of children of at least ``least``, and each beam's probability on children."""
    size = logits.shape[1]
    gathered, exps = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
    found = 0
    for beam in range(len(nodes)):
        x = logits[beam]
        total = exp_sum(x, size, row_max(x, size), exps)
        first = _i64(pointer[nodes[beam]])
        count = _i64(pointer[nodes[beam] + 1]) - first
        existing = _f32(0.0)
        for j in range(count):
            code = tokens[first + j]
            gathered[j] = x[code]
            existing += exps[code]
        mass[beam] = existing / total
        if row_max(gathered, count) < least:
            continue
        for j in range(count):
            if gathered[j] >= least:
                out[found] = first + j
                found += 1
    return found


@njit(nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
def masked(x, exps, bits, out):
    """``x`` where a bit is set, else -inf; the sum of ``exps`` there."""
    existing = _f32(0.0)
    for word in range(len(bits)):
        held = bits[word]
        for bit in range(32):
            here = (held >> _u32(bit)) & _u32(1)
            code = word * 32 + bit
            out[code] = x[code] if here else _f32(-np.inf)
            existing += exps[code] if here else _f32(0.0)
    return existing


@njit(nogil=True)
def below(bits, code):
    """The bits set below ``code``."""
    number = 0
    for word in range(code // 32 + 1):
        held = bits[word]
        if word == code // 32:
            held = held & ((_u32(1) << _u32(code % 32)) - _u32(1))
        while held:
            held = held & (held - _u32(1))
            number += 1
    return number


@njit(nogil=True)
def by_bits(logits, nodes, bits, pointer, least, out, mass):
    """As `by_codes`."""
    size = logits.shape[1]
    gathered, exps = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
    found = 0
    for beam in range(len(nodes)):
        x = logits[beam]
        total = exp_sum(x, size, row_max(x, size), exps)
        row = bits[nodes[beam]]
        mass[beam] = masked(x, exps, row, gathered) / total
        if row_max(gathered, size) < least:
            continue
        first = _i64(pointer[nodes[beam]])
        for code in range(size):
            if gathered[code] >= least:
                out[found] = first + below(row, code)
                found += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--levels", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average {os.getloadavg()[0]:.1f}, seed {given.seed}")
    print("| items | levels | level | share of codes | bytes, codes | bytes, bits | ", end="")
    print("us, codes | us, bits | index, codes | index, best |")
    print("| ---: " * 10 + "|")
    for count in given.items:
        for levels in given.levels:
            rng = np.random.default_rng(given.seed)
            codes = rng.integers(0, CODES, (count, levels))
            trie = PrefixTrie.from_codes(codes, [CODES] * levels)
            report(trie, count, rng, given.repeats)


def report(trie: PrefixTrie, count: int, rng: np.random.Generator, repeats: int) -> None:
    """One line for each level but the first; bytes are per item."""
    sizes = [level_bytes(trie, level) for level in range(trie.num_levels)]
    whole, best = (sum(of) / count for of in (next(zip(*sizes, strict=True)), map(min, sizes)))
    for level in range(1, trie.num_levels):
        share = trie.num_nodes[level + 1] / trie.num_nodes[level] / CODES
        spent = ["-", "-"]
        if trie.num_nodes[level] * CODES // 8 < 2**28:
            spent = [f"{1e6 * of:.0f}" for of in times(trie, level, rng, repeats)]
        held = [f"{of / count:.3g}" for of in sizes[level]]
        cells = [f"{count:,}", trie.num_levels, level + 1, f"{share:.3g}", *held, *spent]
        print("| " + " | ".join(map(str, [*cells, f"{whole:.3g}", f"{best:.3g}"])) + " |")


def level_bytes(trie: PrefixTrie, level: int) -> tuple[int, int]:
    """As codes and as bits."""
    pointers = trie.pointers[level].nbytes
    return trie.tokens[level].nbytes + pointers, trie.num_nodes[level] * CODES // 8 + pointers


def times(trie: PrefixTrie, level: int, rng: np.random.Generator, repeats: int) -> list[float]:
    """Seconds of both, over the beams of a batch."""
    above, children = trie.num_nodes[level], trie.num_nodes[level + 1]
    tokens, pointer = trie.tokens[level].numpy(), trie.pointers[level].numpy()
    mask = np.zeros((above, CODES), dtype=bool)
    mask[np.repeat(np.arange(above), np.diff(pointer)), tokens] = True
    bits = np.packbits(mask, axis=1, bitorder="little").view("<u4")
    spent: list[list[float]] = [[], []]
    for turn in range(repeats + 1):
        logits = rng.normal(size=(USERS * BEAMS, CODES)).astype(np.float32)
        nodes = rng.integers(0, above, USERS * BEAMS)
        least = np.quantile(logits, 1 - SHARE).astype(np.float32)
        results = []
        for number, (read, held) in enumerate(((by_codes, tokens), (by_bits, bits))):
            out, mass = (
                np.empty(logits.size, dtype=np.int64),
                np.empty(len(nodes), dtype=np.float32),
            )
            start = time.process_time()
            found = read(logits, nodes, held, pointer, least, out, mass)
            if turn:  # the first compiles
                spent[number].append(time.process_time() - start)
            results.append((out[:found], mass))
        assert (results[0][0] == results[1][0]).all() and (results[0][0] < children).all()
        np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-5)
    return [statistics.median(of) for of in spent]


if __name__ == "__main__":
    main()
