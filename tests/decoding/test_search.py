"""Searches against slow, obvious references, on random tries."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import beam_search, dense_search, exact_parallel_search
from tests.decoding.cases import (
    FULL,
    TRAITS,
    Case,
    TableDecoder,
    brute_force,
    cases,
    check_consistent,
    dict_trie_beam,
    expect,
    on_every_backend,
    traits,
)


def test_the_random_cases_have_what_the_properties_are_about():
    """Every trait occurs often enough for each property, and together with filters and ties."""
    seen: Counter[str] = Counter()

    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(cases())
    def look(case):
        seen["all"] += 1
        seen.update(traits(case))

    look()
    assert seen["all"] >= 400
    assert {name: seen[name] for name in TRAITS if seen[name] < seen["all"] // 40} == {}


@on_every_backend(st.integers(1, 4), examples=80)
def test_full_width_beam_and_exact_search_equal_brute_force(case, width, backend):
    trie, ranked = case.trie(), brute_force(case)
    options = {"k": case.k, "backend": backend, **case.left_out(trie)}
    full = beam_search(case.decoder, trie, beam_width=FULL, **options)
    expect(full, ranked, case.k)
    check_consistent(case, trie, full)
    assert full.certified.all()
    assert (full.best_dropped == -math.inf).all()
    exact = beam_search(case.decoder, trie, beam_width=width, exact=True, **options)
    expect(exact, ranked, case.k)
    check_consistent(case, trie, exact)
    assert exact.certified.all()


@on_every_backend(st.integers(1, 8), examples=70)
def test_a_certificate_never_lies_and_no_item_is_missing(case, width, backend):
    trie, ranked = case.trie(), brute_force(case)
    options = {"k": case.k, "beam_width": width, "backend": backend}
    result = beam_search(case.decoder, trie, **options, **case.left_out(trie))
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


@on_every_backend(st.integers(1, 8), examples=40)
def test_beams_equal_a_textbook_beam_search(case, width, backend):
    case.exclude = case.allowed = None
    case.k = 1
    trie = case.trie()
    result = beam_search(case.decoder, trie, k=1, beam_width=width, backend=backend)
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


@on_every_backend(examples=40)
def test_renormalized_scores_are_softmax_over_the_valid_children(case, backend):
    trie = case.trie()
    children: dict[tuple[int, ...], set[int]] = {}
    for row in case.codes.tolist():
        for depth, code in enumerate(row):
            children.setdefault(tuple(row[:depth]), set()).add(code)

    def score(user, codes):
        total = 0.0
        for level, code in enumerate(codes):
            number = 0
            for size, c in zip(case.sizes, codes[:level], strict=False):
                number = number * size + c
            row = case.decoder.tables[level][user, number]
            mass = row[sorted(children[tuple(codes[:level])])].logsumexp(dim=0)
            total += -math.inf if row[code] == -math.inf else float(row[code] - mass)
        with np.errstate(over="ignore"):
            return float(np.float32(total))

    options = {"k": case.k, "beam_width": FULL, "renormalize": True, "backend": backend}
    result = beam_search(case.decoder, trie, **options, **case.left_out(trie))
    check_consistent(case, trie, result)
    for user, rows in enumerate(brute_force(case, score)):
        expected = [s for _, s in rows[: case.k]]
        found = result.scores[user].tolist()[: len(expected)]
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-6)


@on_every_backend(examples=40)
def test_leaked_mass_and_evaluations_of_a_full_beam(case, backend):
    result = beam_search(case.decoder, case.trie(), k=1, beam_width=FULL, backend=backend)
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
