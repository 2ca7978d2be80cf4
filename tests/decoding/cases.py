"""Random tries and decoders, and the slow, obvious references that searches are compared with."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec.decoding import Filter, PrefixTrie, SearchResult

FULL = 1000  # wider than any trie here
CHUNK = 32  # children that the compiled kernel looks at together
BYTE = 256  # codes that one byte can tell apart
LIMIT = 2**16  # most codes of a level
# what heads write for codes they rule out: the last three are finite, and sums of them may be -inf
RULED_OUT = (
    -math.inf,
    torch.finfo(torch.float16).min,
    torch.finfo(torch.bfloat16).min,
    torch.finfo(torch.float32).min,
)

_HAS_TRITON = importlib.util.find_spec("triton") is not None
BACKENDS = ["torch", "torch-only", "compiled"] + ["triton"] * _HAS_TRITON


class TableDecoder:
    """A StepDecoder that looks log-probabilities up in a table of all prefixes of every user.

    ``tables[l]`` is ``[B, K_0 * .. * K_{l-1}, K_l]``; the state is each beam's prefix number, so a
    search that mixes up parents or codes gets other numbers than the brute force.
    """

    def __init__(self, tables: list[Tensor]) -> None:
        self.tables = tables

    def first(self):
        batch = self.tables[0].shape[0]
        return self.tables[0][:, 0], torch.zeros(batch, 1, dtype=torch.int64)

    def next(self, state, parent, code, level):
        prefix = state.gather(1, parent) * self.tables[level - 1].shape[2] + code
        size = self.tables[level].shape[2]
        return self.tables[level].gather(1, prefix[:, :, None].expand(-1, -1, size)), prefix

    def select(self, rows):
        return TableDecoder([table[rows] for table in self.tables])

    def score(self, user: int, codes) -> float:
        """The score of a tuple, added in float32 in the order of the levels."""
        prefix, total = 0, np.float32(0)
        for table, code in zip(self.tables, codes, strict=True):
            with np.errstate(over="ignore"):
                total = np.float32(total + np.float32(table[user, prefix, code]))
            prefix = prefix * table.shape[2] + code
        return float(total)


class LogitDecoder(TableDecoder):
    """Logits whose log-softmax are the tables of another decoder."""

    returns_logits = True

    def select(self, rows):
        return LogitDecoder([table[rows] for table in self.tables])


def tables(rng, batch, sizes, *, grain=None, missing=0.0, ruled_out=-math.inf):
    """Random log-probability tables; with ``grain`` multiples of it, so that ties are exact.

    A share ``missing`` of the codes score ``ruled_out``.
    """
    out, prefixes = [], 1
    for size in sizes:
        logits = torch.from_numpy(rng.normal(size=(batch, prefixes, size)) * 2).float()
        table = torch.log_softmax(logits, dim=-1)
        if grain is not None:
            table = (table / grain).round() * grain
        if missing:
            gone = torch.from_numpy(rng.random(table.shape) < missing)
            table = table.masked_fill(gone, ruled_out)
        out.append(table)
        prefixes *= size
    return out


@dataclass
class Case:
    codes: np.ndarray
    sizes: tuple[int, ...]
    tie_order: np.ndarray
    exclude: Tensor | None
    k: int
    batch: int
    decoder: TableDecoder
    allowed: np.ndarray | None = None  # bool [N] or [B, N]

    def trie(self) -> PrefixTrie:
        return PrefixTrie.from_codes(self.codes, self.sizes, self.tie_order)

    def excluded(self, user: int) -> set[int]:
        banned = set() if self.exclude is None else set(self.exclude[user].tolist()) - {-1}
        if self.allowed is not None:
            row = self.allowed if self.allowed.ndim == 1 else self.allowed[user]
            banned |= set(np.flatnonzero(~row).tolist())
        return banned

    def left_out(self, of) -> dict:
        """The arguments of a search; the filter is made in one of three ways."""
        if self.allowed is None:
            return {"exclude": self.exclude, "filter": None}
        rows = np.atleast_2d(self.allowed)
        lists = [np.where(some, np.arange(rows.shape[1]), -1) for some in (rows, ~rows)]
        filters = (
            Filter.from_mask(of, self.allowed),
            Filter.allow(of, lists[0]),
            Filter.deny(of, torch.from_numpy(lists[1])),
        )
        for other in filters[1:]:
            assert torch.equal(other.members.words, filters[0].members.words)
        assert filters[0].num_allowed.tolist() == rows.sum(axis=1).tolist()
        return {"exclude": self.exclude, "filter": filters[self.k % 3]}


TRAITS = (
    "small",
    "more than 32 children",
    "a full level of more than 32",
    "a code above 255",
    "a code above 65,000",
    "a single child",
    "one item",
    "collisions",
    "fewer than k are allowed",
    "nothing is allowed",
)


def traits(case: Case) -> set[str]:
    """Which of `TRAITS` a case has, from its codes alone."""
    found = set()
    rows = [tuple(row) for row in case.codes.tolist()]
    above = {()}
    for depth, size in enumerate(case.sizes):
        children: dict[tuple[int, ...], set[int]] = {}
        for row in rows:
            children.setdefault(row[:depth], set()).add(row[depth])
        counts = [len(some) for some in children.values()]
        if max(counts) > CHUNK:
            found.add("more than 32 children")
        if size > CHUNK and sum(counts) == len(above) * size:
            found.add("a full level of more than 32")
        if min(counts) == 1 < size:
            found.add("a single child")
        above = {row[: depth + 1] for row in rows}
    if case.codes.max() >= BYTE:
        found.add("a code above 255")
    if case.codes.max() > 65_000:
        found.add("a code above 65,000")
    if max(case.sizes) <= 6:
        found.add("small")
    if len(rows) == 1:
        found.add("one item")
    if len(set(rows)) < len(rows):
        found.add("collisions")
    left = min(len(rows) - len(case.excluded(user)) for user in range(case.batch))
    if left < min(case.k, len(rows)):
        found.add("fewer than k are allowed")
    if left == 0:
        found.add("nothing is allowed")
    return found


def _small(draw, rng, max_levels, max_size, max_items):
    """Up to ``max_items`` tuples of up to ``max_size`` codes a level, or every tuple."""
    levels = draw(st.integers(1, max_levels))
    sizes = tuple(draw(st.integers(1, max_size)) for _ in range(levels))
    if draw(st.integers(0, 5)) == 0:  # every tuple exists
        codes = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=1)
        return sizes, rng.permutation(codes)
    n = draw(st.integers(1, max_items))
    return sizes, np.stack([rng.integers(0, size, n) for size in sizes], axis=1)


def _wide(draw, rng, max_levels):
    """One level of many codes, among at most two of few: as many children as a chunk, and more.

    A family of it is a part of the codes, with the last one, or all of them under every prefix.
    """
    low, high, full = draw(
        st.sampled_from(
            [
                (CHUNK, 2 * CHUNK + 1, True),
                (CHUNK, 3 * CHUNK + 1, False),
                (BYTE, 600, False),
                (LIMIT - 30, LIMIT, False),
                (LIMIT - 30, LIMIT, False),
            ]
        )
    )
    levels = draw(st.integers(1, min(2 if high > BYTE else 3, max_levels)))
    sizes = [draw(st.integers(1, 2)) for _ in range(levels)]
    place = draw(st.integers(0, levels - 1))
    size = sizes[place] = draw(st.integers(low, high))
    if full:
        codes = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=1)
        return tuple(sizes), rng.permutation(codes)
    n = draw(st.sampled_from([1, 2, CHUNK, CHUNK + 1, 2 * CHUNK + 1, 3 * CHUNK]))
    codes = np.stack([rng.integers(0, size, n) for size in sizes], axis=1)
    one = rng.permutation(size - 1)[: min(n, size) - 1]
    codes[: len(one) + 1, place] = np.append(one, size - 1)
    codes[: len(one) + 1, :place] = 0  # siblings
    return tuple(sizes), rng.permutation(codes)


@st.composite
def cases(draw, max_levels=4, max_size=5, max_items=30, wide=True) -> Case:
    """Tries with collisions, single children, full levels, one item; often too few allowed items.

    With ``wide`` one in three has a level of 32 to 65,536 codes. Scores are multiples of 1/4 half
    of the time: sums are then exact and ties are frequent.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if wide and draw(st.integers(0, 2)) == 0:
        sizes, codes = _wide(draw, rng, max_levels)
        if len(codes) > 1 and draw(st.booleans()):
            codes = np.concatenate([codes, codes[: draw(st.integers(1, 3))]])
    else:
        sizes, codes = _small(draw, rng, max_levels, max_size, max_items)
    n = len(codes)
    batch = draw(st.integers(1, 3 if max(sizes) <= BYTE else 2))
    exclude = None
    if draw(st.booleans()):
        width = draw(st.integers(0, n + 2))
        exclude = torch.from_numpy(rng.integers(-1, n, (batch, width)))
        if draw(st.integers(0, 3)) == 0:  # nothing or nearly nothing is left
            everything = torch.from_numpy(rng.permutation(n))[None].expand(batch, n)
            exclude = torch.cat([exclude, everything[:, : max(0, n - draw(st.integers(0, 2)))]], 1)
    grain = draw(st.sampled_from([None, 0.25]))
    missing = draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))
    low = draw(st.sampled_from(RULED_OUT))
    k = draw(st.integers(1, n + 3))
    log_probs = tables(rng, batch, sizes, grain=grain, missing=missing, ruled_out=low)
    decoder = TableDecoder(log_probs)
    allowed = None
    if draw(st.booleans()):  # from nothing to everything allowed, for all or per user
        share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
        allowed = rng.random((n,) if draw(st.booleans()) else (batch, n)) < share
    case = Case(codes, sizes, rng.permutation(n), exclude, k, batch, decoder, allowed)
    for trait in sorted(traits(case)):
        event(trait)
    return case


def on_every_backend(*strategies, examples=60, **options):
    """A property of a case, and what ``strategies`` draw, tested on each back end.

    Triton's interpreter takes half a second a search: it gets a few small cases.
    """

    def decorated(holds):
        @pytest.mark.parametrize("backend", BACKENDS)
        def test(backend):
            some = cases(**options)
            if backend == "triton":
                some = cases(**{**options, "max_levels": 2, "max_items": 9, "wide": False})

            @settings(max_examples=4 if backend == "triton" else examples, deadline=None)
            @given(st.tuples(some, *strategies))
            def on_one(drawn):
                holds(*drawn, backend=backend)

            on_one()

        test.__name__, test.__doc__ = holds.__name__, holds.__doc__
        return test

    return decorated


def brute_force(case: Case, scores=None) -> list[list[tuple[int, float]]]:
    """Every user's allowed items in the order that a search promises, with their scores."""
    first_rank: dict[tuple[int, ...], int] = {}
    for codes, rank in zip(case.codes.tolist(), case.tie_order.tolist(), strict=True):
        first_rank[tuple(codes)] = min(rank, first_rank.get(tuple(codes), rank))
    ranked = []
    for user in range(case.batch):
        rows, banned = [], case.excluded(user)
        for item, codes in enumerate(case.codes.tolist()):
            if item in banned:
                continue
            score = case.decoder.score(user, codes) if scores is None else scores(user, codes)
            order = (-score, first_rank[tuple(codes)], int(case.tie_order[item]))
            rows.append((order, item, score))
        ranked.append([(item, score) for _, item, score in sorted(rows)])
    return ranked


def expect(result, ranked, k, tolerance=1e-5) -> None:
    """``result`` lists the first ``k`` of ``ranked`` and pads with -1 and -inf."""
    for user, rows in enumerate(ranked):
        rows = rows[:k]
        items, scores = result.items[user].tolist(), result.scores[user].tolist()
        assert items == [item for item, _ in rows] + [-1] * (k - len(rows))
        np.testing.assert_allclose(scores[: len(rows)], [s for _, s in rows], atol=tolerance)
        assert scores[len(rows) :] == [-math.inf] * (k - len(rows))


def dict_trie_beam(case: Case, user: int, width: int) -> list[tuple[int, ...]]:
    """Textbook beam search over a dict trie: the leaves found, best first. No exclusions.

    Only meaningful without equal scores.
    """
    root: dict = {}
    for codes in case.codes.tolist():
        node = root
        for code in codes:
            node = node.setdefault(code, {})
    beams = [((), root)]
    for _ in case.sizes:
        grown = [((*p, code), child) for p, node in beams for code, child in node.items()]
        padded = (0,) * len(case.sizes)
        tables = case.decoder.tables

        def score(prefix, tables=tables, padded=padded):
            some = TableDecoder(tables[: len(prefix)])
            return some.score(user, (prefix + padded)[: len(prefix)])

        beams = sorted(grown, key=lambda beam: -score(beam[0]))[:width]
    return [prefix for prefix, _ in beams]


def check_consistent(case: Case, trie: PrefixTrie, result: SearchResult) -> None:
    """What holds for every search: padding, leaves behind the items, no forbidden item."""
    tuples = trie.leaf_codes(torch.arange(trie.num_leaves)).tolist()
    for user in range(case.batch):
        banned = case.excluded(user)
        items = [item for item in result.items[user].tolist() if item >= 0]
        assert len(items) == len(set(items)) == min(case.k, len(case.codes) - len(banned))
        assert not banned & set(items)
        behind, scores = [], []
        leaves = zip(
            result.leaves[user].tolist(),
            result.leaf_scores[user].tolist(),
            result.leaf_sizes[user].tolist(),
            strict=True,
        )
        for leaf, score, size in leaves:
            allowed = []
            if leaf >= 0:
                allowed = [item for item in trie.bucket(leaf).tolist() if item not in banned]
                assert allowed
                assert case.codes[allowed[0]].tolist() == tuples[leaf]
            else:
                assert score == -math.inf
            assert size == len(allowed)
            behind += allowed
            scores += [score] * len(allowed)
        assert items == behind[: case.k]
        assert result.scores[user].tolist()[: len(items)] == scores[: len(items)]


def same_results(slow, fast, *, tolerance=0.0) -> None:
    """Two back ends agree: lists and ties bit by bit, scores up to rounding."""
    for name in ("items", "leaves", "leaf_sizes", "certified", "evaluations"):
        assert torch.equal(getattr(slow, name), getattr(fast, name)), name
    for name in ("scores", "leaf_scores", "best_dropped", "leaked"):
        atol = max(tolerance, 1e-5 if name == "leaked" else 0.0)
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name), atol=atol, rtol=0)
