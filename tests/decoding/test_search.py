"""Searches against slow, obvious references, on random tries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec.decoding import (
    Filter,
    PrefixTrie,
    SearchResult,
    beam_search,
    dense_search,
    exact_parallel_search,
)

FULL = 1000  # wider than any trie here


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
            total = np.float32(total + np.float32(table[user, prefix, code]))
            prefix = prefix * table.shape[2] + code
        return float(total)


def tables(rng, batch, sizes, *, grain=None, missing=0.0):
    """Random log-probability tables; with ``grain`` multiples of it, so that ties are exact."""
    out, prefixes = [], 1
    for size in sizes:
        logits = torch.from_numpy(rng.normal(size=(batch, prefixes, size)) * 2).float()
        table = torch.log_softmax(logits, dim=-1)
        if grain is not None:
            table = (table / grain).round() * grain
        if missing:
            gone = torch.from_numpy(rng.random(table.shape) < missing)
            table = table.masked_fill(gone, -torch.inf)
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


@st.composite
def cases(draw, max_levels=4, max_size=5, max_items=30) -> Case:
    """Tries with collisions, single children, full levels, one item; often too few allowed items.

    Scores are multiples of 1/4 half of the time: sums are then exact and ties are frequent.
    """
    levels = draw(st.integers(1, max_levels))
    sizes = tuple(draw(st.integers(1, max_size)) for _ in range(levels))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.integers(0, 5)) == 0:  # every tuple exists
        codes = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=1)
        codes = rng.permutation(codes)
    else:
        n = draw(st.integers(1, max_items))
        codes = np.stack([rng.integers(0, size, n) for size in sizes], axis=1)
    n = len(codes)
    batch = draw(st.integers(1, 3))
    exclude = None
    if draw(st.booleans()):
        width = draw(st.integers(0, n + 2))
        exclude = torch.from_numpy(rng.integers(-1, n, (batch, width)))
        if draw(st.integers(0, 3)) == 0:  # nothing or nearly nothing is left
            everything = torch.from_numpy(rng.permutation(n))[None].expand(batch, n)
            exclude = torch.cat([exclude, everything[:, : max(0, n - draw(st.integers(0, 2)))]], 1)
    grain = draw(st.sampled_from([None, 0.25]))
    missing = draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))
    k = draw(st.integers(1, n + 3))
    decoder = TableDecoder(tables(rng, batch, sizes, grain=grain, missing=missing))
    allowed = None
    if draw(st.booleans()):  # from nothing to everything allowed, for all or per user
        share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
        allowed = rng.random((n,) if draw(st.booleans()) else (batch, n)) < share
    return Case(codes, sizes, rng.permutation(n), exclude, k, batch, decoder, allowed)


def brute_force(case: Case, scores=None) -> list[list[tuple[int, float]]]:
    """Every user's allowed items in the order that a search promises, with their scores."""
    first_rank: dict[tuple[int, ...], int] = {}
    for codes, rank in zip(case.codes.tolist(), case.tie_order.tolist(), strict=True):
        first_rank[tuple(codes)] = min(rank, first_rank.get(tuple(codes), rank))
    ranked = []
    for user in range(case.batch):
        rows = []
        for item, codes in enumerate(case.codes.tolist()):
            if item in case.excluded(user):
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


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(1, 4))
def test_full_width_beam_and_exact_search_equal_brute_force(case, width):
    trie, ranked = case.trie(), brute_force(case)
    options = {"k": case.k, **case.left_out(trie)}
    full = beam_search(case.decoder, trie, beam_width=FULL, **options)
    expect(full, ranked, case.k)
    check_consistent(case, trie, full)
    assert full.certified.all()
    assert (full.best_dropped == -math.inf).all()
    exact = beam_search(case.decoder, trie, beam_width=width, exact=True, **options)
    expect(exact, ranked, case.k)
    check_consistent(case, trie, exact)
    assert exact.certified.all()


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(1, 8))
def test_a_certificate_never_lies_and_no_item_is_missing(case, width):
    trie, ranked = case.trie(), brute_force(case)
    result = beam_search(case.decoder, trie, k=case.k, beam_width=width, **case.left_out(trie))
    check_consistent(case, trie, result)
    for user in range(case.batch):
        true = dict(ranked[user])
        found = [item for item in result.items[user].tolist() if item >= 0]
        scores = result.scores[user].tolist()[: len(found)]
        np.testing.assert_allclose(scores, [true[item] for item in found], atol=1e-5)
        if result.certified[user]:
            assert found == [item for item, _ in ranked[user][: case.k]]
        else:
            assert result.best_dropped[user] >= scores[-1]


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 8))
def test_beams_equal_a_textbook_beam_search(case, width):
    case.exclude = case.allowed = None
    case.k = 1
    trie = case.trie()
    result = beam_search(case.decoder, trie, k=1, beam_width=width)
    for user in range(case.batch):
        best = dict_trie_beam(case, user, width)[0]
        scores = [case.decoder.score(user, codes) for codes in np.unique(case.codes, axis=0)]
        if len(set(scores)) == len(scores):
            # inner ties are broken by node, so compare only where prefixes differ in score
            expected = case.decoder.score(user, best)
            if result.certified[user]:
                assert result.scores[user, 0] >= expected - 1e-5
            if not _inner_ties(case, user):
                assert trie.leaf_codes(result.leaves[user, :1])[0].tolist() == list(best)


def _inner_ties(case: Case, user: int) -> bool:
    for depth in range(1, len(case.sizes)):
        some = TableDecoder(case.decoder.tables[:depth])
        scores = [some.score(user, row) for row in np.unique(case.codes[:, :depth], axis=0)]
        if len(set(scores)) < len(scores):
            return True
    return False


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 8), st.booleans(), st.integers(0, 2**32 - 1))
def test_batch_mates_and_item_order_change_nothing(case, width, renormalize, seed):
    trie = case.trie()
    options = {"k": case.k, "beam_width": width, "renormalize": renormalize}
    left_out = case.left_out(trie)
    together = beam_search(case.decoder, trie, **left_out, **options)
    for user in range(case.batch):
        row = torch.tensor([user])
        own = None if case.exclude is None else case.exclude[row]
        mine = left_out["filter"] and left_out["filter"].select(row)
        alone = beam_search(case.decoder.select(row), trie, exclude=own, filter=mine, **options)
        for name, value in vars(alone).items():
            assert torch.equal(value, getattr(together, name)[row]), name

    order = np.random.default_rng(seed).permutation(len(case.codes))
    place = torch.from_numpy(np.append(np.argsort(order), -1))
    other = PrefixTrie.from_codes(case.codes[order], case.sizes, case.tie_order[order])
    exclude = None if case.exclude is None else place[case.exclude]
    allowed = None if case.allowed is None else Filter.from_mask(other, case.allowed[..., order])
    moved = beam_search(case.decoder, other, exclude=exclude, filter=allowed, **options)
    assert torch.equal(place[together.items], moved.items)
    for name, value in vars(moved).items():
        if name != "items":
            assert torch.equal(value, getattr(together, name)), name


@settings(max_examples=60, deadline=None)
@given(cases())
def test_renormalized_scores_are_softmax_over_the_valid_children(case):
    trie = case.trie()
    prefixes = {tuple(row[:d]) for row in case.codes.tolist() for d in range(len(case.sizes) + 1)}

    def score(user, codes):
        total = 0.0
        for level, code in enumerate(codes):
            number = 0
            for size, c in zip(case.sizes, codes[:level], strict=False):
                number = number * size + c
            row = case.decoder.tables[level][user, number].double()
            valid = [c for c in range(case.sizes[level]) if (*codes[:level], c) in prefixes]
            mass = float(row[valid].exp().sum())
            total += -math.inf if row[code] == -math.inf else float(row[code]) - math.log(mass)
        return total

    result = beam_search(
        case.decoder, trie, k=case.k, beam_width=FULL, renormalize=True, **case.left_out(trie)
    )
    check_consistent(case, trie, result)
    for user, rows in enumerate(brute_force(case, score)):
        expected = [s for _, s in rows[: case.k]]
        found = result.scores[user].tolist()[: len(expected)]
        np.testing.assert_allclose(found, expected, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_leaked_mass_and_evaluations_of_a_full_beam(case):
    result = beam_search(case.decoder, case.trie(), k=1, beam_width=FULL)
    rows = np.unique(case.codes, axis=0)
    for user in range(case.batch):
        leaked, expanded = 0.0, 0
        for depth, size in enumerate(case.sizes):
            table = case.decoder.tables[depth][user].double().exp()
            for prefix in {tuple(row[:depth]) for row in rows.tolist()}:
                children = {row[depth] for row in rows.tolist() if tuple(row[:depth]) == prefix}
                number = 0
                for s, code in zip(case.sizes, prefix, strict=False):
                    number = number * s + code
                some = TableDecoder(case.decoder.tables[:depth])
                probability = math.exp(some.score(user, prefix))
                mass = float(table[number, sorted(children)].sum())
                leaked += probability * max(0.0, 1.0 - mass)
                expanded += 1
            assert size == table.shape[1]
        assert abs(result.leaked[user] - leaked) < 1e-4
        assert result.evaluations[user] == expanded


@settings(max_examples=120, deadline=None)
@given(cases(max_levels=6), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_parallel_search_equals_brute_force(case, block, seed):
    rng = np.random.default_rng(seed)
    levels = [torch.from_numpy(rng.normal(size=(case.batch, size))) for size in case.sizes]
    # multiples of 1/4: sums are exact, ties are frequent; sometimes a code is impossible
    levels = [(level * 4).round().float() / 4 for level in levels]
    levels = [level.masked_fill(level > 1.5, -torch.inf) for level in levels]

    def score(user, codes):
        return float(sum(level[user, code] for level, code in zip(levels, codes, strict=True)))

    trie = case.trie()
    result = exact_parallel_search(levels, trie, k=case.k, block=block, **case.left_out(trie))
    expect(result, brute_force(case, score), case.k)
    check_consistent(case, trie, result)
    assert result.certified.all()


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(1, 40))
def test_parallel_beam_and_dense_search_agree_on_independent_codes(case, block):
    """Independent codes are a decoder whose tables repeat; without collisions items are leaves."""
    _, rows = np.unique(case.codes, axis=0, return_index=True)
    case.codes = case.codes[rows]
    case.tie_order = np.argsort(np.argsort(case.tie_order[rows]))
    if case.exclude is not None:
        case.exclude = case.exclude.masked_fill(case.exclude >= len(rows), -1)
    if case.allowed is not None:
        case.allowed = case.allowed[..., rows]
    levels = [table[:, 0] for table in case.decoder.tables]
    repeated = [
        level[:, None].expand(table.shape).contiguous()
        for level, table in zip(levels, case.decoder.tables, strict=True)
    ]
    case.decoder = TableDecoder(repeated)
    ranked, trie = brute_force(case), case.trie()
    options = {"k": case.k, **case.left_out(trie)}
    parallel = exact_parallel_search(levels, trie, block=block, **options)
    beam = beam_search(case.decoder, trie, beam_width=FULL, **options)
    scores = torch.tensor(
        [
            [
                dict(zip(*zip(*row, strict=True), strict=True)).get(item, 0.0)
                for item in range(len(rows))
            ]
            if row
            else [0.0] * len(rows)
            for row in ranked
        ]
    )
    tie = torch.from_numpy(case.tie_order)
    dense = dense_search(scores, tie_order=tie, block=block, **options)
    options |= case.left_out(len(rows))  # a filter of items instead of positions
    blocks = dense_search(lambda a, b: scores[:, a:b], tie_order=tie, block=block, **options)
    for result in (beam, dense, blocks):
        expect(result, ranked, case.k)
    assert torch.equal(dense.items, blocks.items)
    if all((row == row.mul(4).round() / 4).all() for row in levels):
        assert torch.equal(parallel.items, beam.items)


BITWISE = ("items", "leaves", "leaf_sizes", "certified", "evaluations")
CLOSE = ("scores", "leaf_scores", "best_dropped", "leaked")


class LogitDecoder(TableDecoder):
    """Logits whose log-softmax are the tables of another decoder."""

    returns_logits = True

    def select(self, rows):
        return LogitDecoder([table[rows] for table in self.tables])


def both(*arguments, **options):
    """The results of both back ends."""
    return (
        beam_search(*arguments, backend="torch", **options),
        beam_search(*arguments, backend="compiled", **options),
    )


def equal(slow, fast, *, tolerance=0.0):
    for name in BITWISE:
        assert torch.equal(getattr(slow, name), getattr(fast, name)), name
    for name in CLOSE:
        atol = max(tolerance, 1e-5 if name == "leaked" else 0.0)
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name), atol=atol, rtol=0)


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(1, 8), st.booleans(), st.integers(0, 3))
def test_log_probabilities_give_the_same_bits(case, width, exact, gone):
    trie = case.trie()
    if gone:  # some items removed without compaction
        some = np.random.default_rng(gone).permutation(len(case.codes))[: len(case.codes) // 4]
        trie = trie.remove(some)
    filter = None if case.allowed is None else Filter.from_mask(trie, case.allowed)
    options = {"k": case.k, "exclude": case.exclude, "filter": filter}
    options |= {"beam_width": width, "exact": exact}
    equal(*both(case.decoder, trie, **options))


@settings(max_examples=100, deadline=None)
@given(cases())
def test_both_equal_brute_force(case):
    trie, ranked = case.trie(), brute_force(case)
    for result in both(case.decoder, trie, k=case.k, beam_width=FULL, **case.left_out(trie)):
        expect(result, ranked, case.k)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.integers(1, 30))
def test_logits_and_renormalised_scores_agree_up_to_rounding(seed, logits, renormalize, width):
    """Scores without ties: near ties may be ranked either way after another rounding."""
    rng = np.random.default_rng(seed)
    sizes = tuple(rng.integers(1, 7, rng.integers(1, 5)).tolist())
    codes = np.stack([rng.integers(0, size, 40) for size in sizes], axis=1)
    trie = PrefixTrie.from_codes(codes, sizes)
    tables = [
        torch.from_numpy(rng.normal(size=(3, math.prod(sizes[:level]), size))).float() * 3
        for level, size in enumerate(sizes)
    ]
    if logits:
        decoder = LogitDecoder([table + 7 for table in tables])
    else:
        decoder = TableDecoder([table.log_softmax(-1) for table in tables])
    options = {"k": 8, "beam_width": width, "renormalize": renormalize}
    filter = Filter.from_mask(trie, torch.from_numpy(rng.random((3, 40)) < 0.7))
    equal(*both(decoder, trie, filter=filter, **options), tolerance=2e-5)
