"""A trie as transition tables for decoders outside this package.

The layout is that of STATIC (arXiv 2602.22647): the first levels as dense tables, the others as
compressed sparse rows of (token, next state), which a kernel reads as one burst per beam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.decoding.trie import PrefixTrie
from genrec.errors import ConfigError

_MOST_DENSE = 2**28  # entries of the dense table: one GiB


@dataclass
class TransitionTables:
    """States 1, 2, ... are the nodes depth by depth from the root; state 0 is "does not exist".

    Attributes:
        dense: int32 ``[K_0, .., K_{d-1}]``, the state after the first ``d`` codes, or 0.
        dense_masks: bool, one per dense level, ``[K_0]``, ``[K_0, K_1]``, ..: which prefixes exist.
        rows: int32 ``[S + 1]``: the edges of state ``s`` are ``rows[s] .. rows[s + 1] - 1``; states
            above depth ``d``, whose children are in the dense table, have none.
        edges: int32 ``[E, 2]``, code and next state, sorted by code within a state.
        max_branch: for each level from ``d`` on, the most edges of one state: the length of a
            burst.
        first_leaf: the state of leaf 0; leaf ``v`` is state ``first_leaf + v``.
    """

    dense: Tensor
    dense_masks: list[Tensor]
    rows: Tensor
    edges: Tensor
    max_branch: tuple[int, ...]
    first_leaf: int


def transition_tables(trie: PrefixTrie, *, dense_levels: int = 2) -> TransitionTables:
    """Export a trie, which is compacted first, on its device.

    Args:
        trie: the trie.
        dense_levels: levels in the dense table, 1 to the number of levels. Its size is the product
            of their codebooks.

    Raises:
        ConfigError: for other numbers of levels, a dense table above 2**28 entries, or a trie
            whose items were all removed.
    """
    whole = isinstance(dense_levels, int) and not isinstance(dense_levels, bool)
    if not (whole and 1 <= dense_levels <= trie.num_levels):
        raise ConfigError(f"dense_levels={dense_levels!r}: expected 1 to {trie.num_levels}")
    shape = trie.codebook_sizes[:dense_levels]
    if math.prod(shape) > _MOST_DENSE:
        raise ConfigError(
            f"dense_levels={dense_levels}: a table of {math.prod(shape)} entries; choose fewer "
            "levels"
        )
    trie = trie.compact()
    if trie.num_live == 0:
        raise ConfigError("all items of the trie were removed: there is nothing to export")
    device = trie.device
    offsets = [1]  # the state of node 0 of each depth
    for size in trie.num_nodes:
        offsets.append(offsets[-1] + size)

    masks = []
    number = torch.zeros(1, dtype=torch.int64, device=device)  # each node's cell in the table
    for level in range(dense_levels):
        nodes = torch.arange(trie.num_nodes[level + 1], device=device)
        parents = trie.level(level).parents(nodes)
        number = number[parents] * shape[level] + trie.level(level).codes(nodes)
        mask = torch.zeros(math.prod(shape[: level + 1]), dtype=torch.bool, device=device)
        masks.append(mask.index_fill_(0, number, True).view(shape[: level + 1]))
    dense = torch.zeros(math.prod(shape), dtype=torch.int32, device=device)
    states = torch.arange(len(number), dtype=torch.int32, device=device) + offsets[dense_levels]
    dense[number] = states

    none = torch.zeros(offsets[dense_levels], dtype=torch.int32, device=device)
    rows, edges, count = [none], [torch.empty(0, 2, dtype=torch.int32, device=device)], 0
    for level in range(dense_levels, trie.num_levels):
        nodes = torch.arange(trie.num_nodes[level + 1], device=device)
        pair = (trie.level(level).codes(nodes), nodes + offsets[level + 1])
        edges.append(torch.stack(pair, dim=1).to(torch.int32))
        rows.append(trie.pointers[level][:-1] + count)
        count += len(nodes)
    rows.append(torch.full((trie.num_leaves + 1,), count, dtype=torch.int32, device=device))
    return TransitionTables(
        dense=dense.view(shape),
        dense_masks=masks,
        rows=torch.cat(rows),
        edges=torch.cat(edges),
        max_branch=trie.max_branch[dense_levels:],
        first_leaf=offsets[trie.num_levels],
    )
