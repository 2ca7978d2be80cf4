"""Walking exported tables reaches what the trie holds, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import PrefixTrie, transition_tables
from genrec.errors import ConfigError


def walk(tables, codes) -> int:
    """The leaf of a tuple, read edge by edge; -1 if there is none."""
    depth = tables.dense.ndim
    for i, mask in enumerate(tables.dense_masks):
        assert bool(mask[tuple(codes[: i + 1])]) or int(tables.dense[tuple(codes[:depth])]) == 0
    state = int(tables.dense[tuple(codes[:depth])])
    for i, code in enumerate(codes[depth:]):
        start, end = int(tables.rows[state]), int(tables.rows[state + 1])
        assert end - start <= tables.max_branch[i]
        edges = dict(tables.edges[start:end].tolist())
        assert list(edges) == sorted(edges)
        state = edges.get(code, 0)
    return state - tables.first_leaf if state else -1


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_walking_the_tables_finds_every_leaf(data):
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    count = data.draw(st.integers(1, 30))
    codes = np.stack([rng.integers(0, size, count) for size in sizes], axis=1)
    trie = PrefixTrie.from_codes(codes, sizes)
    gone = rng.permutation(count)[: data.draw(st.integers(0, count - 1))]
    trie = trie.remove(gone) if len(gone) else trie
    dense = data.draw(st.integers(1, len(sizes)))
    tables = transition_tables(trie, dense_levels=dense)
    trie = trie.compact()
    assert tables.rows[0] == tables.rows[1] == 0  # state 0 leads nowhere
    assert int(tables.rows[-1]) == len(tables.edges)
    assert len(tables.rows) == 2 + sum(trie.num_nodes)
    probes = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    assert [walk(tables, row) for row in probes.tolist()] == trie.lookup(probes).tolist()
    for i, mask in enumerate(tables.dense_masks):
        assert int(mask.sum()) == trie.num_nodes[i + 1]


def test_exports_that_cannot_be_are_errors():
    trie = PrefixTrie.from_codes([[0, 1, 2]], [65_536] * 3)
    for levels in (0, 4, 1.5, True, "1"):
        with pytest.raises(ConfigError, match="expected 1 to 3"):
            transition_tables(trie, dense_levels=levels)
    with pytest.raises(ConfigError, match="4294967296 entries; choose fewer levels"):
        transition_tables(trie, dense_levels=2)
    with pytest.raises(ConfigError, match="nothing to export"):
        transition_tables(trie.remove([0]), dense_levels=1)
    assert transition_tables(trie, dense_levels=1).dense.dtype == torch.int32
