from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import PrefixTrie, build, default_tie_order
from genrec.decoding import codes as codes_module
from genrec.decoding.trie import ARRAYS, LISTS
from genrec.errors import ConfigError, DataError


@st.composite
def random_codes(draw):
    levels = draw(st.integers(1, 5))
    sizes = [draw(st.sampled_from([1, 2, 3, 7, 256, 257, 65_536])) for _ in range(levels)]
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([2, 4, 10**6]))  # few distinct codes: collisions, full levels
    top = [min(size, spread) for size in sizes]
    codes = np.stack([size - 1 - rng.integers(0, t, n) for size, t in zip(sizes, top, strict=True)])
    return codes.T, sizes, rng.permutation(n)


@settings(max_examples=60, deadline=None)
@given(random_codes())
def test_trie_holds_exactly_the_prefixes_and_items(sample):
    codes, sizes, tie = sample
    trie = PrefixTrie.from_codes(codes, sizes, tie)
    rows = [tuple(row) for row in codes.tolist()]
    for depth in range(len(sizes) + 1):
        assert trie.num_nodes[depth] == len({row[:depth] for row in rows})
    leaves = sorted(set(rows))
    assert trie.leaf_codes(torch.arange(trie.num_leaves)).tolist() == [list(row) for row in leaves]
    for leaf, row in enumerate(leaves):
        bucket = [item for item in np.argsort(tie).tolist() if rows[item] == row]
        assert trie.bucket(leaf).tolist() == bucket
    assert trie.lookup(codes).tolist() == [leaves.index(row) for row in rows]
    assert trie.item_leaf.tolist() == trie.lookup(codes).tolist()
    assert trie.leaf_items[trie.item_position.long()].tolist() == list(range(len(rows)))
    first = [int(tie[trie.bucket(leaf)[0]]) for leaf in range(trie.num_leaves)]
    assert np.argsort(first).tolist() == torch.argsort(trie.leaf_tie).tolist()
    for level in range(len(sizes)):
        counts = trie.pointers[level].diff()
        assert counts.min() >= 1
        assert counts.max() == trie.max_branch[level]
        parents = trie.level(level).parents(torch.arange(trie.num_nodes[level + 1]))
        assert parents.tolist() == np.repeat(np.arange(trie.num_nodes[level]), counts).tolist()


@settings(max_examples=40, deadline=None)
@given(random_codes(), st.randoms(use_true_random=False))
def test_lookup_of_tuples_that_do_not_exist_is_minus_one(sample, random):
    codes, sizes, tie = sample
    trie = PrefixTrie.from_codes(codes, sizes, tie)
    exists = {tuple(row) for row in codes.tolist()}
    probes = [[random.randrange(-1, size + 1) for size in sizes] for _ in range(20)]
    near = codes[:5] + np.array([random.choice([0, 0, 1, -1]) for _ in sizes])
    probes = np.array(probes + near.tolist())
    found = trie.lookup(probes)
    assert (found >= 0).tolist() == [tuple(row) in exists for row in probes.tolist()]
    shaped = trie.lookup(torch.from_numpy(probes)[None, :, None])
    assert shaped.shape == (1, len(probes), 1)
    assert shaped.flatten().tolist() == found.tolist()


@settings(max_examples=40, deadline=None)
@given(random_codes(), st.integers(0, 2**32 - 1))
def test_trie_does_not_depend_on_the_order_of_the_items(sample, seed):
    codes, sizes, tie = sample
    order = np.random.default_rng(seed).permutation(len(codes))
    trie = PrefixTrie.from_codes(codes, sizes, tie)
    other = PrefixTrie.from_codes(codes[order], sizes, tie[order])
    pairs = [*zip(trie.tokens, other.tokens, strict=True)]
    pairs += zip(trie.pointers, other.pointers, strict=True)
    pairs += zip(trie.item_starts, other.item_starts, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(trie.leaf_tie, other.leaf_tie)
    assert order[other.leaf_items.numpy()].tolist() == trie.leaf_items.tolist()


def test_sixty_four_levels_of_the_largest_codebooks():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 65_536, (50, 64)).astype(np.uint16)
    codes[25:, :60] = codes[:25, :60]
    trie = PrefixTrie.from_codes(codes, [65_536] * 64)
    expected = sorted(tuple(row) for row in codes.tolist())
    assert [tuple(r) for r in trie.leaf_codes(torch.arange(50)).tolist()] == expected
    assert (trie.lookup(codes.astype(np.int64)) == trie.item_leaf).all()


def test_index_costs_about_one_byte_per_token_and_four_per_inner_node():
    codes = np.random.default_rng(0).integers(0, 256, (20_000, 3))
    trie = PrefixTrie.from_codes(codes, [256] * 3)
    inner = sum(n + 1 for n in trie.num_nodes[:-1])
    assert trie.index_nbytes == sum(trie.num_nodes[1:]) + 4 * inner
    assert trie.nbytes > trie.index_nbytes


def test_moving_to_the_same_device_keeps_the_trie():
    trie = PrefixTrie.from_codes([[0, 1], [1, 0]], [2, 2])
    assert trie.to("cpu") is trie
    meta = trie.to("meta")
    assert meta.device.type == "meta"
    assert meta.num_nodes == trie.num_nodes


def test_default_tie_order_is_a_fixed_permutation_unlike_the_item_numbers():
    tie = default_tie_order(10_000)
    assert sorted(tie.tolist()) == list(range(10_000))
    assert abs(np.corrcoef(tie, np.arange(10_000))[0, 1]) < 0.05
    assert default_tie_order(5).tolist() == [3, 2, 0, 4, 1]
    trie = PrefixTrie.from_codes(np.zeros((5, 1), dtype=int), [1])
    assert trie.bucket(0).tolist() == np.argsort(default_tie_order(5)).tolist()


@pytest.mark.parametrize(
    ("codes", "sizes", "tie", "message"),
    [
        ([[0, 1], [0, 3]], [2, 3], None, r"row 1, level 1: code 3 is outside 0\.\.2"),
        ([[0, 1], [-1, 0]], [2, 3], None, r"row 1, level 0: code -1 is outside 0\.\.1"),
        ([[0, 1]], [2], None, "2 levels but 1 codebook sizes"),
        ([0, 1], [2, 2], None, "expected one row of codes per item"),
        (np.zeros((0, 2), dtype=int), [2, 2], None, "expected one row of codes per item"),
        ([[0, 1], [0]], [2, 2], None, "rows of different lengths"),
        ([[0.0, 1.0]], [2, 2], None, "float64: expected integers"),
        ([[0]], [65_537], None, "codebook size 65537 of level 0"),
        ([[0]], [0], None, "codebook size 0 of level 0"),
        ([[0]], [], None, "0 codebook sizes: expected 1 to 64 levels"),
        ([[0] * 65], [1] * 65, None, "65 codebook sizes: expected 1 to 64 levels"),
        ([[0], [1]], [2], [0], "one rank per item, 2"),
        ([[0], [1]], [2], [0, 2], r"tie_order, row 1: rank 2 is outside 0\.\.1"),
        ([[0], [1]], [2], [0, 0], "rank 0 in rows 0 and 1"),
        ([[0], [1]], [2], [0.0, 1.0], "tie_order of type float64"),
    ],
)
def test_malformed_input_is_named(codes, sizes, tie, message):
    with pytest.raises(DataError, match=message):
        PrefixTrie.from_codes(codes, sizes, tie)


# What is no table of codes below [3, 3], and none may be rounded, parsed or taken for numbers.
NO_CODES = [
    [[0.5, 1.0]],
    [["0", "1"]],
    [[True, False]],
    [[True, 1]],
    [(0, 1), (np.True_, 1)],
    [[None, 1]],
    [[2**70, 1]],
    [[float("nan"), 1.0]],
    "01",
    5,
    {0: 1},
    np.array([[0, 1]], dtype=object),
    np.array([[0, 1]], dtype=np.float32),
    np.array([["0", "1"]]),
    np.zeros((1, 2), dtype=bool),
    np.zeros((1, 2), dtype="datetime64[s]"),
    np.zeros((2, 1, 3), dtype=int),
    torch.zeros(1, 2),
    torch.zeros(1, 2, dtype=torch.bfloat16),
    torch.zeros(1, 2, dtype=torch.bool),
    torch.zeros(1, 2, dtype=torch.complex64),
    torch.eye(2, dtype=torch.int64).to_sparse(),
    torch.zeros(1, 2, dtype=torch.int64, device="meta"),
]


@pytest.mark.parametrize("bad", NO_CODES, ids=lambda bad: repr(bad)[:30])
def test_what_is_no_integer_is_an_error_everywhere(bad):
    trie = PrefixTrie.from_codes([[0, 1], [1, 0]], [3, 3])
    row = bad[-1] if isinstance(bad, (list, np.ndarray)) and np.ndim(bad) == 2 else bad
    for call in (
        lambda: PrefixTrie.from_codes(bad, [3, 3]),
        lambda: PrefixTrie.from_codes([[0, 1]], row),
        lambda: PrefixTrie.from_codes([[0, 1], [1, 0]], [3, 3], row),
        lambda: trie.add(bad),
        lambda: trie.add([[0, 1], [1, 0]], row),
        lambda: trie.remove(row),
        lambda: trie.renumber(row),
        lambda: trie.lookup(bad),
    ):
        with pytest.raises(DataError, match=r"expected|cannot be read|lengths|outside"):
            call()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (5, r"codebook_sizes of shape \(\): expected a list"),
        ([[3, 3]], r"codebook_sizes of shape \(1, 2\)"),
        ([3.7, 3], "codebook_sizes of type float64: expected integers"),
        (["3", "3"], "codebook_sizes of type <U1"),
        ("33", "codebook_sizes of type <U2"),
        ([True, 3], "codebook_sizes of type bool"),
        ([3, -3], "codebook size -3 of level 1"),
        ([3, None], "codebook_sizes of type object"),
        (iter([3, 3]), "codebook_sizes of type object"),
    ],
)
def test_codebook_sizes_are_read_as_they_are(sizes, message):
    with pytest.raises(DataError, match=message):
        PrefixTrie.from_codes([[0, 1]], sizes)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">i4", "u4", "i8", "<u8", ">u8"])
def test_long_tuples_of_any_type_are_sorted_as_integers(dtype):
    """Seven bytes of codes to a sort key, more than a float holds."""
    codes = np.random.default_rng(0).integers(0, 3, (500, 7))
    codes[:, 0] += 200
    trie = PrefixTrie.from_codes(codes.astype(dtype), [256] * 7)
    expected = np.unique(codes, axis=0).tolist()
    assert trie.leaf_codes(torch.arange(trie.num_leaves)).tolist() == expected


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">i2", "u4", "i4", ">i8", "u8"])
def test_integers_of_any_type_and_order_make_the_same_trie(dtype):
    codes = np.random.default_rng(0).integers(0, 100, (30, 3))
    trie = PrefixTrie.from_codes(codes, [100, 120, 110])
    other = np.asfortranarray(codes.astype(dtype))
    for table in (other, other[::-1][::-1], codes.astype(dtype).tolist()):
        same = PrefixTrie.from_codes(table, np.array([100, 120, 110], dtype=np.uint8))
        assert torch.equal(same.leaf_items, trie.leaf_items)
        assert (same.lookup(table) == trie.item_leaf).all()
        more = trie.add(table)
        assert more.num_leaves == trie.num_leaves
    tensor = torch.from_numpy(codes).to(torch.int16)
    assert torch.equal(PrefixTrie.from_codes(tensor, [100, 120, 110]).leaf_items, trie.leaf_items)
    assert (trie.lookup(tensor) == trie.item_leaf).all()


def test_lookup_of_another_number_of_levels_is_an_error():
    trie = PrefixTrie.from_codes([[0, 1]], [2, 2])
    for codes in ([[0, 1, 0]], [0], [], 0):
        with pytest.raises(DataError, match="expected 2 codes"):
            trie.lookup(codes)
    assert trie.lookup(np.zeros((0, 2), dtype=int)).shape == (0,)


def test_nodes_and_levels_that_do_not_exist_are_errors():
    trie = PrefixTrie.from_codes([[0, 1], [1, 0]], [2, 2])
    for leaf in (-1, 2):
        with pytest.raises(DataError, match=rf"leaf {leaf} is outside 0\.\.1"):
            trie.bucket(leaf)
        with pytest.raises(DataError, match=rf"leaf {leaf} is outside 0\.\.1"):
            trie.leaf_codes([0, leaf])
    for leaf in (0.0, "0", True):
        with pytest.raises(DataError, match="leaf of type"):
            trie.bucket(leaf)
    for level in (-1, 2):
        with pytest.raises(DataError, match=rf"level {level}: expected 0 to 1"):
            trie.descend(level, torch.tensor([0]), torch.tensor([0]))
    for depth in (-1, 3):
        with pytest.raises(DataError, match=rf"depth {depth}: expected 0 to 2"):
            trie.live_nodes(depth)
    with pytest.raises(ConfigError, match="device 'moon' cannot be used"):
        trie.to("moon")


def test_a_trie_of_two_to_sixty_four_levels_of_any_sizes_equals_a_set_of_tuples():
    """Ragged sizes up to 65,536, unsorted, with duplicates, at each number of levels."""
    rng = np.random.default_rng(0)
    for levels in range(2, 65):
        sizes = rng.choice([1, 2, 5, 255, 256, 257, 65_535, 65_536], levels)
        codes = (rng.random((12, levels)) * sizes).astype(np.int64)
        codes[rng.integers(0, 12, 4)] = sizes - 1  # the last code of each, several times
        codes[rng.integers(0, 12)] = 0
        trie = PrefixTrie.from_codes(codes, sizes)
        rows = sorted({tuple(row) for row in codes.tolist()})
        assert trie.leaf_codes(range(len(rows))).tolist() == [list(row) for row in rows]
        assert [rows[leaf] for leaf in trie.item_leaf] == [tuple(row) for row in codes.tolist()]
        assert trie.codebook_sizes == tuple(sizes.tolist())
        kept = trie.remove([0, 5]).add(codes[[5, 0]]).renumber([*range(1, 5), *range(6, 14)])
        assert kept.leaf_codes(torch.arange(kept.num_leaves)).tolist() == [list(r) for r in rows]


@pytest.fixture(params=["numpy", "compiled"])
def sort(request, monkeypatch):
    """Blocks and sorts of large catalogs, for small ones."""
    monkeypatch.setattr(codes_module, "_BLOCK", 37)
    if request.param == "compiled":
        pytest.importorskip("numba")
        monkeypatch.setattr(codes_module, "_MANY", 0)


def test_the_default_tie_order_sorts_the_whole_hash(monkeypatch, sort):
    for count in (1, 2, 100, 4096):
        hashes = codes_module.item_hashes(np.arange(count))
        assert default_tie_order(count)[np.argsort(hashes)].tolist() == list(range(count))
    # hashes that differ only where the item number is packed
    hashes = np.random.default_rng(0).permutation(1000).astype(np.uint64) + np.uint64(7 << 40)
    monkeypatch.setattr(codes_module, "item_hashes", lambda items: hashes[items])
    assert default_tie_order(1000)[np.argsort(hashes)].tolist() == list(range(1000))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 300, 5000]))
def test_the_compiled_sort_is_numpys(bits, seed, count):
    radix = pytest.importorskip("genrec.decoding.radix")
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**64, count, dtype=np.uint64) >> np.uint64(64 - bits)
    expected = np.sort(values)
    width = int(rng.integers(1, 12))
    found = radix.sorted_by_digits(values.copy(), np.empty_like(values), 0, bits, width)
    assert found.tolist() == expected.tolist()
    low, high = sorted(int(end) for end in rng.integers(0, bits + 1, 2))  # others count nothing
    digits = (values >> np.uint64(min(low, 63))) & np.uint64(2 ** (high - low) - 1)
    order = np.argsort(digits, kind="stable")
    found = radix.sorted_by_digits(values.copy(), np.empty_like(values), low, high, width)
    assert found.tolist() == values[order].tolist()


@pytest.mark.parametrize("sizes", [(3, 4), (3, 1, 4, 1), (65_536,) * 3, (256,) * 9])
def test_large_catalogs_are_built_as_small_ones(sizes, sort):
    rng = np.random.default_rng(1)
    codes = np.stack([rng.choice([0, min(1, size - 1), size - 1], 300) for size in sizes], axis=1)
    for tie in (None, rng.permutation(300)):
        trie = PrefixTrie.from_codes(codes, sizes, tie)
        with pytest.MonkeyPatch.context() as plain:
            plain.setattr(codes_module, "_BLOCK", 1000)
            plain.setattr(codes_module, "_MANY", 1000)
            expected = PrefixTrie.from_codes(codes, sizes, tie)
        for name in (*ARRAYS, *LISTS):
            found, wanted = (getattr(of, name) for of in (trie, expected))
            for a, b in zip(found, wanted, strict=True) if name in LISTS else [(found, wanted)]:
                assert a.dtype == b.dtype and torch.equal(a, b), name


@pytest.mark.parametrize(
    "sizes", [(3, 4), (3, 1, 4, 1), (65_536,) * 3, (256,) * 9]
)  # one number, or not
def test_items_are_sorted_by_codes_then_ties(sizes):
    rng = np.random.default_rng(0)
    codes = np.stack([rng.choice([0, min(1, size - 1), size - 1], 200) for size in sizes], axis=1)
    tie = rng.permutation(200)
    order, ranks, read = build._sorted(codes, sizes, tie, np.argsort(tie).astype(np.int32))
    expected = sorted(range(200), key=lambda i: (*codes[i].tolist(), tie[i]))
    assert order.tolist() == expected
    assert ranks.tolist() == tie[expected].tolist()
    for part in (slice(0, 200), slice(0, 1), slice(60, 113), slice(199, 200)):
        new, code_at = read(part)
        for level in range(len(sizes)):
            here = codes[expected, level][part]
            assert code_at(level, np.arange(len(here))).tolist() == here.tolist()
            prefixes = [tuple(row) for row in codes[expected, : level + 1].tolist()]
            begins = [i == 0 or prefixes[i] != prefixes[i - 1] for i in range(200)]
            assert new[level].tolist() == begins[part]
