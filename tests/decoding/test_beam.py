"""Beam search: what it promises at the edges, and the errors it raises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from genrec.decoding import Filter, PrefixTrie, beam, beam_search, cpu_step, exact_parallel_search
from genrec.errors import ConfigError, GenrecError

FULL = 10_000  # wider than any trie here
BACKENDS = ["torch", "compiled"]


class RandomDecoder:
    """The same random log-probabilities for a code whatever came before it."""

    def __init__(self, levels, users=None):
        self.levels = levels
        self.users = torch.arange(len(levels[0])) if users is None else users
        self.widths = []
        self.selected = []

    def first(self):
        return self.levels[0][self.users], None

    def next(self, state, parent, code, level):
        self.widths.append(parent.shape)
        rows = self.levels[level][self.users]
        return rows[:, None].expand(-1, parent.shape[1], -1), None

    def select(self, rows):
        other = RandomDecoder(self.levels, self.users[rows])
        self.selected.append(rows.tolist())
        return other


def setting(batch=6, items=400, sizes=(16, 16, 16), seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, items) for size in sizes], axis=1)
    logits = [torch.from_numpy(rng.normal(size=(batch, size)) * scale).float() for size in sizes]
    decoder = RandomDecoder([torch.log_softmax(level, dim=-1) for level in logits])
    return decoder, PrefixTrie.from_codes(codes, sizes)


def same(a, b, *, but=()):
    for name, value in vars(a).items():
        assert name in but or torch.equal(value, getattr(b, name)), name


def test_beams_never_exceed_the_nodes_of_a_level():
    decoder, trie = setting(sizes=(4, 16, 16))
    beam_search(decoder, trie, k=5, beam_width=10_000)
    assert [shape[1] for shape in decoder.widths] == list(trie.num_nodes[1:-1])


def test_only_rows_without_certificate_are_searched_again():
    decoder, trie = setting(items=4000, scale=3.0)
    plain = beam_search(decoder, trie, k=10, beam_width=8)
    missing = (~plain.certified).nonzero().flatten().tolist()
    assert 0 < len(missing) < len(plain)
    decoder.selected.clear()
    exact = beam_search(decoder, trie, k=10, beam_width=8, exact=True)
    assert sorted(row for rows in decoder.selected for row in rows) == missing
    assert exact.certified.all()
    kept = plain.certified
    same(plain.select(kept), exact.select(kept))
    assert (exact.evaluations[~kept] > plain.evaluations[~kept]).all()


def test_exact_search_proves_lists_where_one_level_alone_is_narrow():
    decoder, trie = setting(items=4000, scale=3.0)
    widths = [trie.num_nodes[level] for level in range(1, trie.num_levels)]
    widths[-1] = 5
    assert not beam_search(decoder, trie, k=10, beam_width=widths).certified.all()
    result = beam_search(decoder, trie, k=10, beam_width=widths, exact=True)
    assert result.certified.all()
    truth = exact_parallel_search(decoder.levels, trie, k=10)
    assert torch.equal(result.items, truth.items)


def test_max_width_stops_the_widening():
    decoder, trie = setting(scale=0.1)
    result = beam_search(decoder, trie, k=10, beam_width=2, exact=True, max_width=8)
    assert not result.certified.any()
    assert max(shape[1] for shape in decoder.widths) <= 8
    plain = beam_search(decoder, trie, k=10, beam_width=8)
    same(plain, result, but=("evaluations",))


def test_exact_search_expands_little_more_than_it_must():
    decoder, trie = setting(items=4000, scale=3.0)
    exact = beam_search(decoder, trie, k=10, beam_width=10, exact=True)
    truth = exact_parallel_search(decoder.levels, trie, k=10)
    assert torch.equal(exact.items, truth.items)
    # what no exact search can leave out: every prefix that scores above the 10-th item
    tuples = trie.leaf_codes(torch.arange(trie.num_leaves))
    for user, last in enumerate(exact.scores[:, -1].tolist()):
        must = 1
        for depth in (1, 2):
            prefixes = tuples[:, :depth].unique(dim=0)
            scores = sum(decoder.levels[i][user, prefixes[:, i]] for i in range(depth))
            must += int((scores > last).sum())
        first = 1 + 10 + 10  # the first search is spent as well
        assert exact.evaluations[user] in (first, first + must)


def test_every_level_may_have_its_own_width():
    decoder, trie = setting(sizes=(16, 16, 16, 16))
    some = beam_search(decoder, trie, k=10, beam_width=[5, 7, 9])
    assert [shape[1] for shape in decoder.widths] == [5, 7, 9]
    same(some, beam_search(decoder, trie, k=10, beam_width=(5, 7, 9)))
    full = beam_search(decoder, trie, k=10, beam_width=[FULL] * 3)
    same(full, beam_search(decoder, trie, k=10, beam_width=FULL))
    with pytest.raises(ConfigError, match="each of the 3 levels before the last"):
        beam_search(decoder, trie, k=10, beam_width=[5, 7])
    with pytest.raises(ConfigError, match="expected at least 1"):
        beam_search(decoder, trie, k=10, beam_width=[5, 0, 7])


def test_a_decoder_that_rounds_otherwise_for_other_users_is_still_certified():
    decoder, trie = setting(items=4000, scale=1.0)

    class Rounding(RandomDecoder):
        def select(self, rows):
            noise = [level - 0.01 * len(rows) for level in self.levels]
            return RandomDecoder(noise, self.users[rows])

    result = beam_search(Rounding(decoder.levels), trie, k=10, beam_width=2, exact=True)
    assert result.certified.all()


def test_exclusions_widen_the_search_until_k_items_come_back():
    codes = [[0, i] for i in range(8)] + [[1, i] for i in range(8)]
    trie = PrefixTrie.from_codes(codes, [2, 8])
    levels = [torch.tensor([[-0.1, -3.0]]), torch.full((1, 8), -2.0)]
    exclude = torch.arange(7)[None]
    result = beam_search(RandomDecoder(levels), trie, k=4, beam_width=1, exclude=exclude)
    assert result.items[0, 0] == 7
    assert (result.items[0, 1:] >= 8).all()


def test_a_wholly_excluded_prefix_takes_no_place_in_the_beam():
    trie = PrefixTrie.from_codes([[0, 0], [0, 1], [1, 0], [2, 0]], [3, 2])
    levels = [torch.tensor([[-0.1, -2.0, -3.0]]), torch.tensor([[-0.7, -0.7]])]
    exclude = torch.tensor([[1, 0, 0, -1]])
    result = beam_search(RandomDecoder(levels), trie, k=1, beam_width=1, exclude=exclude)
    assert result.items.tolist() == [[2]]
    assert result.evaluations.tolist() == [2]
    assert result.best_dropped.tolist() == [-3.0]


def test_the_best_dropped_prefix_of_all_levels_counts():
    trie = PrefixTrie.from_codes([[0, 0, 0], [1, 0, 0], [1, 1, 0]], [2, 2, 1])
    levels = [torch.tensor([[-0.1, -0.5]]), torch.tensor([[-2.0, 0.0]]), torch.zeros(1, 1)]
    result = beam_search(RandomDecoder(levels), trie, k=1, beam_width=1)
    assert result.items.tolist() == [[0]]
    assert result.best_dropped.tolist() == [-0.5]
    assert not result.certified.any()


@pytest.mark.parametrize("left", [1, 5, 20])
def test_many_exclusions_on_deep_tries_equal_exhaustive_search(left):
    decoder, trie = setting(batch=200, items=60, sizes=(3,) * 5)
    rng = np.random.default_rng(1)
    rows = [rng.permutation(60)[: 60 - left] for _ in range(200)]
    exclude = torch.from_numpy(np.stack(rows))
    found = beam_search(decoder, trie, k=10, beam_width=1000, exclude=exclude)
    truth = exact_parallel_search(decoder.levels, trie, k=10, exclude=exclude)
    assert torch.equal(found.leaf_sizes, truth.leaf_sizes)
    assert torch.equal(found.items, truth.items)
    assert torch.allclose(found.scores, truth.scores)


def test_an_empty_batch_gives_an_empty_result():
    decoder, trie = setting()
    nobody = decoder.select(torch.arange(0))
    exclude = torch.empty(0, 3, dtype=torch.int64)
    result = beam_search(nobody, trie, k=3, beam_width=4, exclude=exclude, exact=True)
    assert result.items.shape == (0, 3)
    levels = [level[:0] for level in decoder.levels]
    assert exact_parallel_search(levels, trie, k=3, exclude=exclude).items.shape == (0, 3)


def test_equal_scores_with_a_dropped_prefix_are_not_certified():
    trie = PrefixTrie.from_codes([[0, 0], [1, 0]], [2, 1])
    levels = [torch.full((1, 2), -0.5), torch.zeros(1, 1)]
    plain = beam_search(RandomDecoder(levels), trie, k=1, beam_width=1)
    assert not plain.certified.any()
    assert plain.best_dropped.tolist() == [-0.5]
    exact = beam_search(RandomDecoder(levels), trie, k=1, beam_width=1, exact=True)
    assert exact.certified.all()
    assert exact.items[0, 0] == int(trie.tie_order.argmin())


def test_prefixes_with_equal_scores_are_not_kept_by_number():
    trie = PrefixTrie.from_codes([[i, 0] for i in range(256)], [256, 1])
    levels = [torch.full((1, 256), -math.log(256)), torch.zeros(1, 1)]
    result = beam_search(RandomDecoder(levels), trie, k=16, beam_width=16)
    kept = result.leaves[0]
    assert kept.min() < 64
    assert kept.max() >= 192


def test_impossible_items_come_last_instead_of_vanishing():
    trie = PrefixTrie.from_codes([[0, 0], [0, 1], [1, 0]], [2, 2], [0, 1, 2])
    levels = [torch.tensor([[0.0, -torch.inf]]), torch.tensor([[-torch.inf, -0.2]])]
    result = beam_search(RandomDecoder(levels), trie, k=4, beam_width=1)
    assert result.items.tolist() == [[1, 0, 2, -1]]
    assert result.scores[0, 1:].tolist() == [-math.inf] * 3
    assert result.certified.all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_floating_types_are_scored_in_float32(dtype):
    decoder, trie = setting()
    other = RandomDecoder([level.to(dtype) for level in decoder.levels])
    same_values = RandomDecoder([level.to(dtype).float() for level in decoder.levels])
    result = beam_search(other, trie, k=10, beam_width=20)
    assert result.scores.dtype == torch.float32
    expected = beam_search(same_values, trie, k=10, beam_width=20)
    same(result, expected, but=("leaked",))  # a sum, rounded as its memory is aligned
    assert torch.allclose(result.leaked, expected.leaked, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "name"), [(beam, "_BUDGET"), (cpu_step, "_CACHED"), (cpu_step, "_MOST")]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_cutting_the_batch_to_fit_memory_changes_nothing(monkeypatch, module, name, backend):
    decoder, trie = setting()
    exclude = torch.randint(-1, 400, (6, 30), generator=torch.Generator().manual_seed(0))
    options = {"k": 10, "beam_width": 20, "exclude": exclude, "exact": True}
    options["backend"] = backend
    options["filter"] = Filter.allow(trie, range(0, 400, 40))  # so few that all candidates get keys
    whole = beam_search(decoder, trie, **options)
    monkeypatch.setattr(module, name, 700)
    cut = beam_search(decoder, trie, **options)
    same(whole, cut, but=("leaked",))  # a sum over beams, of which there are more beside others
    assert torch.allclose(whole.leaked, cut.leaked, atol=1e-6)


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, 0.5])
@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_decoder_that_returns_no_log_probabilities_is_an_error(value, level, backend):
    decoder, trie = setting(sizes=(4, 4, 4))
    decoder.levels[level][3] = value
    with pytest.raises(GenrecError, match="row 3 of the batch"):
        beam_search(decoder, trie, k=3, beam_width=8, backend=backend)


def test_another_vocabulary_is_an_error():
    decoder, _ = setting()
    _, other = setting(sizes=(16, 32, 16))
    with pytest.raises(ConfigError, match=r"at level 1: expected .* another SID vocabulary"):
        beam_search(decoder, other, k=3, beam_width=8)
    _, other = setting(sizes=(32, 16, 16))
    with pytest.raises(ConfigError, match="at level 0"):
        beam_search(decoder, other, k=3, beam_width=8)


@pytest.mark.parametrize("of", [np.int64, np.uint8, torch.tensor])
def test_numbers_may_be_of_numpy_and_torch(of):
    decoder, trie = setting(sizes=(16, 16, 16))
    plain = beam_search(decoder, trie, k=10, beam_width=4, max_width=9, exact=True)
    options = {"k": of(10), "max_width": of(9), "exact": True}
    for width in (of(4), [of(4), 4], np.array([4, 4]), torch.tensor([4, 4])):
        same(plain, beam_search(decoder, trie, beam_width=width, **options))


@pytest.mark.parametrize(
    "bad",
    [
        {"k": 3.0},
        {"k": None},
        {"beam_width": 4.0},
        {"beam_width": "4"},
        {"beam_width": [4, 4.5]},
        {"beam_width": None},
        {"beam_width": torch.tensor(4.0)},
        {"max_width": 2.0},
    ],
)
def test_widths_that_are_no_integers_are_an_error(bad):
    decoder, trie = setting(sizes=(16, 16, 16))
    (name,) = bad
    with pytest.raises(ConfigError, match=f"{name}=.*: expected an integer"):
        beam_search(decoder, trie, **{"k": 3, "beam_width": 8} | bad)
    if name == "k":
        with pytest.raises(ConfigError, match=r"k=.*: expected an integer"):
            exact_parallel_search([torch.zeros(1, 16)] * 3, trie, **bad)


@pytest.mark.parametrize("bad", [{"k": 0}, {"beam_width": 0}, {"max_width": 0}])
def test_widths_below_one_are_an_error(bad):
    decoder, trie = setting()
    with pytest.raises(ConfigError, match="expected at least 1"):
        beam_search(decoder, trie, **{"k": 3, "beam_width": 8, **bad})


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (torch.zeros(5, 2, dtype=torch.int64), r"expected \[6, E\]"),
        (torch.zeros(6, dtype=torch.int64), r"expected \[6, E\]"),
        (torch.zeros(6, 2), "float32: expected integers; item numbers"),
        (torch.zeros(6, 2, dtype=torch.bool), "bool: expected integers; item numbers"),
        (torch.tensor([[0]] * 4 + [[400]] * 2), r"row 4: item 400 is outside 0\.\.399"),
        (torch.tensor([[0]] * 5 + [[-2]]), r"row 5: item -2 is outside"),
    ],
)
def test_malformed_exclusions_are_named(exclude, message):
    decoder, trie = setting()
    with pytest.raises(ConfigError, match=message):
        beam_search(decoder, trie, k=3, beam_width=8, exclude=exclude)
