"""Decode random requests while the catalog and the filters change, against brute force.

    python scripts/soak_decode.py --requests 1000000

Every round takes one of several catalogs, from a few items to levels of 65,536 codes, and changes
it: items come and go, in place or in a copy, and now and then the trie is compacted, saved and
mapped, or renumbered. Dense levels are lists of codes or, in a third of the catalogs, bits, which
otherwise only levels of millions of codes are. It makes or keeps a filter, and decodes a batch by a
search and a back end drawn at random: beams, exact beams, sums of look-ups, or dense scores. In a
quarter of the rounds of beams the model rules codes out, by -inf or the lowest number of a type.
Each list is compared, items and scores, with a ranking of all items computed without the trie.
Memory and living tensors must not grow. The last line counts what was done; the exit code is 1 if
anything was wrong.

Not drawn: the Triton step, the logits processor for `generate()`, and the light head's own search.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genrec.decoding import (
    Filter,
    MutableTrie,
    PrefixTrie,
    SearchResult,
    beam_search,
    dense_search,
    exact_parallel_search,
    levels,
    load_trie,
    save_trie,
)
from genrec.decoding.levels import LARGE
from genrec.decoding.step import Backend, chosen_backend

SEARCHES = ("beams", "exact", "parallel", "dense")
CPU = torch.device("cpu")
BACKENDS: tuple[Backend, ...] = ("torch", "torch-only")
if chosen_backend("auto", CPU) == "compiled":
    BACKENDS = (*BACKENDS, "compiled", "compiled")  # as often as both others

# A trie of lists, one that changes in place (of lists too), one whose dense levels are bits.
FORMS: tuple[dict[str, bool], ...] = ({}, {"in_place": True}, {"bits": True})

# What models write for codes they rule out. Added to multiples of 1/4 the last two stay as they
# are, and two of them are -inf, in any order, so sums remain exact.
RULED_OUT = (-torch.inf, *(torch.finfo(t).min for t in (torch.half, torch.bfloat16, torch.float)))

# Codes per level, items and requests per round. Many collisions; more children than a chunk of the
# compiled kernel (32) and all codes in use; codes of two bytes, few and up to the last; deep and
# thin; hardly any item.
CATALOGS: tuple[tuple[tuple[int, ...], int, int], ...] = (
    ((16, 12, 12), 1500, 32),
    ((40, 35), 1500, 32),
    ((3, 600, 4), 1500, 32),
    ((65_536, 3), 1200, 4),
    ((4,) * 8, 60, 32),
    ((70, 2), 2, 32),
)


class Chain:
    """A decoder whose code depends on the user and on the code before it."""

    def __init__(self, users: list[Tensor], chain: list[Tensor]) -> None:
        self.users, self.chain = users, chain

    def first(self) -> tuple[Tensor, None]:
        """Log-probabilities of the first code."""
        return self.users[0], None

    def next(self, state: None, parent: Tensor, code: Tensor, level: int) -> tuple[Tensor, None]:
        """Log-probabilities of the next."""
        return self.users[level][:, None] + self.chain[level - 1][code], None

    def select(self, rows: Tensor) -> Chain:
        """The decoder of some of the users."""
        return Chain([level[rows] for level in self.users], self.chain)


class Soak:
    """A catalog under change and the reference that is kept beside it.

    Args:
        seed: of everything random.
        items: number of items around which the catalog varies.
        sizes: codes per level.
        batch: requests per round.
        in_place: change a `MutableTrie`; otherwise every change makes a trie.
        bits: levels may be bits however few codes they have.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        items: int = 1500,
        sizes: tuple[int, ...] = (16, 12, 12),
        batch: int = 32,
        in_place: bool = False,
        bits: bool = False,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.items, self.sizes, self.batch = items, sizes, batch
        self.codes = self._draw(items)
        self.order = self.rng.permutation(items)  # rank of each item, gone ones included
        self.there = np.ones(items, dtype=bool)
        self.in_place = in_place
        self.large = 0 if bits else LARGE
        levels.LARGE = self.large
        self._take(PrefixTrie.from_codes(self.codes, sizes, self.order))
        self.filter, self.allowed = self._filter()
        self.chain = [self._quarters((above, size)) for above, size in itertools.pairwise(sizes)]
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def _take(self, trie: PrefixTrie) -> None:
        """Go on with this trie."""
        self.catalog = MutableTrie(trie) if self.in_place else None
        self.trie: PrefixTrie = trie if self.catalog is None else self.catalog.trie

    def _draw(self, count: int) -> np.ndarray:
        return np.stack([self.rng.integers(0, size, count) for size in self.sizes], axis=1)

    def _quarters(self, shape: tuple[int, ...]) -> Tensor:
        """Multiples of 1/4: sums are exact, so scores can be compared bit by bit; ties abound."""
        return torch.from_numpy(-self.rng.integers(0, 24, shape) / 4).to(torch.float32)

    def _ruled_out(self, log_probs: Tensor) -> Tensor:
        """Some of the codes ruled out."""
        gone = torch.from_numpy(self.rng.random(log_probs.shape) < self.rng.choice([0.1, 0.5, 0.9]))
        return log_probs.masked_fill(gone, RULED_OUT[self.rng.integers(len(RULED_OUT))])

    def round(self) -> None:
        """Change something, then decode a batch and compare it."""
        levels.LARGE = self.large
        self._change()
        kept = self.filter is not None and self.filter.trie is self.trie
        if not kept or self.rng.random() < 0.3:
            self.filter, self.allowed = self._filter()
            self.counts["filters"] += 1
        k = int(self.rng.choice([1, 5, 20, 3 * self.items], p=[0.3, 0.4, 0.28, 0.02]))
        width = int(self.rng.choice([1, 8, 64]))
        seen = self.rng.integers(-1, len(self.codes), (self.batch, self.rng.integers(0, 40)))
        exclude = torch.from_numpy(seen) if seen.shape[1] else None
        kind = SEARCHES[self.rng.integers(len(SEARCHES))]
        backend = BACKENDS[self.rng.integers(len(BACKENDS))]
        users = [self._quarters((self.batch, size)) for size in self.sizes]
        options: dict[str, Any] = {"k": k, "exclude": exclude, "filter": self.filter}
        scores = torch.stack([u[:, c] for u, c in zip(users, self.codes.T, strict=True)]).sum(0)
        if kind == "dense":
            scores = self._quarters((self.batch, len(self.codes)))
            # the trie's filter knows which items are gone; a search over scores does not
            everything = Filter.from_mask(self.trie, np.ones(len(self.codes), dtype=bool))
            options["filter"] = self.filter or everything
            result = dense_search(scores, tie_order=self.order, block=512, **options)
        elif kind == "parallel":
            result = exact_parallel_search(users, self.trie, block=512, **options)
        else:
            if self.rng.random() < 0.25:
                users = [self._ruled_out(level) for level in users]
                pairs = zip(users, self.codes.T, strict=True)
                scores = torch.stack([user[:, code] for user, code in pairs]).sum(0)
                self.counts["ruled out"] += self.batch
            for level, above in enumerate(self.chain):
                scores = scores + above[self.codes[:, level], self.codes[:, level + 1]]
            result = beam_search(
                Chain(users, self.chain),
                self.trie,
                beam_width=width,
                exact=kind == "exact",
                backend=backend,
                **options,
            )
            self.counts[backend] += self.batch
            self._note_shape()
        self.counts[kind] += self.batch
        self.counts["requests"] += self.batch
        self._compare(kind, result, scores, seen, k)

    def _note_shape(self) -> None:
        """Count the beam searches by what their trie is like."""
        trie = self.trie
        self.counts["in place"] += self.batch * self.in_place
        steps = list(zip(itertools.pairwise(trie.num_nodes), self.sizes, strict=True))
        for name, found in (
            ("families above 32", max(trie.max_branch) > 32),
            ("full levels above 32", any(n == m * k and k > 32 for (m, n), k in steps)),
            ("codes above 255", int(self.codes.max()) > 255),
            ("codes above 65,000", int(self.codes.max()) > 65_000),
            ("single children", any(m < n < 2 * m for (m, n), _ in steps)),
            ("one item", trie.num_live == 1),
            ("bits", any(trie.level(i).dense for i in range(trie.num_levels))),
        ):
            self.counts[name] += self.batch * found

    def _change(self) -> None:
        draw = self.rng.random()
        live = np.flatnonzero(self.there)
        if draw < 0.25 and len(live) > self.items // 4:
            gone = self.rng.permutation(live)[: self.rng.integers(1, 2 + len(live) // 50)]
            if self.catalog is None:
                self._take(self.trie.remove(gone))
            else:
                self.catalog.remove(gone)
                self.trie = self.catalog.trie
            self.there[gone] = False
            self.counts["removed"] += len(gone)
        elif draw < 0.5 and len(live) < 2 * self.items:
            count = int(self.rng.integers(1, 2 + len(live) // 50))
            codes, total = self._draw(count), len(self.codes) + count
            ranks = np.sort(self.rng.permutation(total)[:count])
            left = np.delete(np.arange(total), ranks)
            ranks = self.rng.permutation(ranks)
            if self.catalog is None:
                self._take(self.trie.add(codes, ranks))
            else:
                self.catalog.add(codes, ranks)
                self.trie = self.catalog.trie
            self.codes = np.concatenate([self.codes, codes])
            self.order = np.concatenate([left[self.order], ranks])
            self.there = np.append(self.there, np.ones(count, dtype=bool))
            self.counts["added"] += count
        elif draw < 0.52 and len(live):
            self._take(self.trie.compact())
            self.counts["compactions"] += 1
        elif draw < 0.53 and (len(live) or not self.in_place):  # room alone is not written
            with tempfile.TemporaryDirectory() as folder:
                save_trie(self.trie, Path(folder) / "trie")
                self._take(load_trie(Path(folder) / "trie"))
            self.counts["files"] += 1
        elif draw < 0.55 and len(live):
            order = self.rng.permutation(live)
            self._take(self.trie.renumber(order))
            self.codes, self.order = self.codes[order], self.order[order].argsort().argsort()
            self.there = np.ones(len(order), dtype=bool)
            self.counts["renumberings"] += 1

    def _filter(self) -> tuple[Filter | None, np.ndarray]:
        """A filter, and what it lets through as bool ``[1 or B, N]``."""
        kind, total = self.rng.integers(4), len(self.codes)
        rows = 1 if self.rng.random() < 0.5 else self.batch
        if kind == 0:
            return None, self.there[None]
        if kind == 1:
            mask = self.rng.random((rows, total)) < self.rng.choice([0.001, 0.1, 0.9])
            return Filter.from_mask(self.trie, mask), mask & self.there
        listed = self.rng.integers(-1, total, (rows, self.rng.integers(0, 200)))
        mask = np.zeros((rows, total + 1), dtype=bool)
        np.put_along_axis(mask, listed, True, axis=1)  # -1 is the column behind the last
        mask = mask[:, :-1]
        if kind == 2:
            return Filter.allow(self.trie, listed), mask & self.there
        return Filter.deny(self.trie, listed), ~mask & self.there

    def _compare(
        self, kind: str, result: SearchResult, scores: Tensor, seen: np.ndarray, k: int
    ) -> None:
        """Against a sort of all items by score, then the tuple's first rank, then their own."""
        total = len(self.codes)
        allowed = np.zeros((self.batch, total + 1), dtype=bool)
        allowed[:, :-1] = self.allowed
        np.put_along_axis(allowed, seen, False, axis=1)
        allowed = allowed[:, :-1]
        first = self.order
        if kind != "dense":
            number = np.ravel_multi_index(tuple(self.codes.T), self.sizes)
            ranks = np.full(int(np.prod(self.sizes)), total)
            np.minimum.at(ranks, number[self.there], self.order[self.there])
            first = ranks[number]
        by_tie = np.lexsort((self.order, first))
        values = scores.numpy()[:, by_tie]
        # NaN comes after the -inf of an item that is allowed
        column = np.argsort(np.where(allowed[:, by_tie], -values, np.nan), axis=1, kind="stable")
        column = column[:, :k]
        items = by_tie[column]
        kept = np.take_along_axis(allowed, items, axis=1)
        expected = np.full((self.batch, k), -1)
        expected[:, : items.shape[1]] = np.where(kept, items, -1)
        best = np.full((self.batch, k), -np.inf, dtype=np.float32)
        best[:, : items.shape[1]] = np.where(
            kept, np.take_along_axis(values, column, axis=1), -np.inf
        )
        self.counts["fewer than k"] += int((expected[:, : self.items] < 0).any(axis=1).sum())
        found, got = result.items.numpy(), result.scores.numpy()
        real = found >= 0
        self.counts["items"] += int(real.sum())
        self.counts["certified"] += int(result.certified.sum())
        at = np.maximum(found, 0)
        invalid = real & ~np.take_along_axis(allowed, at, axis=1)
        twice = np.array([len(set(row[row >= 0])) for row in found]) < real.sum(axis=1)
        drifted = real & (got != np.take_along_axis(scores.numpy(), at, axis=1))
        short = real.sum(axis=1) != (expected >= 0).sum(axis=1)
        proven = np.ones(self.batch, bool) if kind != "beams" else result.certified.numpy()
        other = proven & ((found != expected) | (got != best)).any(axis=1)
        for problem, rows in (
            ("an item that is gone, seen or not allowed", invalid.any(axis=1)),
            ("an item twice", twice),
            ("a score that is not the item's", drifted.any(axis=1)),
            ("fewer items than there are", short),
            ("another list than brute force, though certified", other),
            ("no certificate after exact search", ~result.certified.numpy() & (kind != "beams")),
        ):
            if rows.any():
                self.counts["wrong"] += int(rows.sum())
                where = f"request {self.counts['requests']}, {kind}, row {int(rows.argmax())}"
                self.wrong.append(f"{where}: {problem}")


def resident_mb() -> float:
    """Memory of the process now, MiB; 0 where the system does not tell."""
    status = Path("/proc/self/statm")
    pages = int(status.read_text().split()[1]) if status.is_file() else 0
    return pages * 4096 / 2**20


def living_tensors() -> int:
    """Tensors that Python still holds."""
    gc.collect()
    return sum(issubclass(type(one), Tensor) for one in gc.get_objects())


def main() -> None:
    """Run until the requests are done, time is up, or something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=None, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--growth", type=float, default=64.0, help="MiB allowed after a warm-up")
    given = parser.parse_args()

    torch.set_num_threads(1)
    draw = np.random.default_rng(given.seed)
    soaks = [
        Soak(seed=given.seed + i, sizes=sizes, items=items, batch=batch, **form)
        for i, ((sizes, items, batch), form) in enumerate(itertools.product(CATALOGS, FORMS))
    ]
    counts: Counter[str] = Counter()
    for soak in soaks:
        soak.counts = counts
    started, warm = time.perf_counter(), max(1, min(20_000, given.requests // 5))
    base: tuple[float, int] | None = None
    with tqdm(total=given.requests, unit="request", unit_scale=True, mininterval=5) as bar:
        while counts["requests"] < given.requests:
            soak = soaks[draw.integers(len(soaks))]
            soak.round()
            bar.update(soak.batch)
            if base is None and counts["requests"] >= warm:
                base = resident_mb(), living_tensors()
            minutes = (time.perf_counter() - started) / 60
            if soak.wrong or (given.minutes and minutes > given.minutes):
                break
    wrong = [f"{soak.sizes}: {problem}" for soak in soaks for problem in soak.wrong]
    memory, tensors = base or (resident_mb(), living_tensors())
    growth, more = resident_mb() - memory, living_tensors() - tensors
    leaks = growth > given.growth or more > 100
    seconds = time.perf_counter() - started
    done = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    print("\n".join(wrong[:10]), end="\n" if wrong else "")
    print(
        f"{'FAILED' if wrong or leaks else 'ok'} in {seconds:.0f} s, seed {given.seed}: "
        f"{done}, wrong {len(wrong)}; memory {memory:.0f} MiB {growth:+.1f}, tensors "
        f"{tensors:,} {more:+,} since request {warm:,}"
    )
    sys.exit(1 if wrong or leaks else 0)


if __name__ == "__main__":
    main()
