"""One step of a search by the kernel that numba compiled; the CPU only."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.exclusions import Exclusions
from genrec.decoding.expansion import Expansion, Step
from genrec.decoding.kernel import expand_rows
from genrec.decoding.trie import PrefixTrie

_SHARE = 2**18  # log-probabilities that are worth a thread

# What the kernel gets for an option that is not used.
_NO_BOOL, _NO_FLOAT = np.empty(0, dtype=bool), np.empty(0, dtype=np.float32)
_NO_NODES = _NO_MARKS = np.empty((0, 0), dtype=np.int64)
_NO_TIES = np.empty(0, dtype=np.int32)


def compiled_step(given: Expansion) -> Step:
    """The best children of every user's beams."""
    trie, level, excluded = given.trie, given.level, given.excluded
    log_probs, nodes, floor = given.log_probs, given.nodes, given.floor
    batch = nodes.shape[0]
    if log_probs.dtype != torch.float32 or log_probs.requires_grad:
        log_probs = log_probs.detach().to(torch.float32)
    inputs: tuple[Any, ...] = (
        as_array(log_probs),
        as_array(nodes),
        as_array(given.scores),
        *level_arrays(trie, level),
        *tests_of_nodes(trie, level + 1, excluded),
        _NO_FLOAT if floor is None else as_array(floor),
        given.renormalize,
        given.logits,
    )

    def run(keep: int, counting: bool) -> Step:
        beams = np.empty((3, batch, keep), dtype=np.int64)
        outputs: tuple[np.ndarray, ...] = (
            beams[0],
            np.empty((batch, keep), dtype=np.float32),
            beams[1],
            beams[2],
            np.empty(batch, dtype=np.int64),
            np.empty(batch, dtype=np.float32),
            np.empty(batch, dtype=bool),
        )
        arguments: tuple[Any, ...] = (*inputs, counting, *outputs)
        in_threads(
            lambda start, stop: expand_rows(start, stop, *arguments), batch, log_probs.numel()
        )
        return Step(*map(torch.from_numpy, outputs))

    keep = given.keep
    if floor is not None and batch:
        keep = min(keep, max(1, int(run(1, True).dropped.max())))
    return run(keep, False)


def as_array(values: Tensor) -> np.ndarray:
    """Memory that a kernel reads."""
    return values.contiguous().numpy()


def tests_of_nodes(trie: PrefixTrie, depth: int, excluded: Exclusions) -> tuple[np.ndarray, ...]:
    """Which nodes of ``depth`` may be shown: what the kernels read, of all users."""
    live, filter = trie.live_nodes(depth), excluded.filter
    marks = None if filter is None else filter.marks
    return (
        _NO_BOOL if live is None else as_array(live),
        _NO_MARKS if marks is None else marks[depth - 1],
        _NO_NODES if excluded.empty else as_array(excluded.dead_nodes(depth)),
    )


def level_arrays(trie: PrefixTrie, level: int) -> tuple[np.ndarray, ...]:
    """Codes, their bits, pointers and tie ranks of a level, for the kernels; made once.

    Codes or bits: the other has no rows, but the codes the type they would have, so that both are
    read by one compiled function and sums do not differ in their last digit. Nodes that removed
    items left are told apart by number, so there are no bits then.
    """
    name = f"arrays {level}"
    if name not in trie.derived:
        found = trie.level(level)
        bits = found.dense and trie.live is None
        trie.derived[name] = (
            np.empty(0, dtype=np.uint8 if found.size <= 256 else np.uint16)
            if bits
            else found.array(),
            found.rows.numpy() if bits else _NO_NODES,
            trie.pointers[level].numpy(),
            trie.leaf_tie.numpy() if level == trie.num_levels - 1 else _NO_TIES,
        )
    arrays: tuple[np.ndarray, ...] = trie.derived[name]
    return arrays


def in_threads(work: Callable[[int, int], None], rows: int, size: int) -> None:
    """Call ``work(start, stop)`` for parts of the rows, side by side if they are large.

    Plain threads: the kernel holds no lock, every row is computed by one thread alone, and nothing
    is left behind that a fork could break.
    """
    parts = min(torch.get_num_threads(), rows, size // _SHARE)
    if parts < 2:
        work(0, rows)
        return
    bounds = [rows * i // parts for i in range(parts + 1)]
    failures: list[BaseException] = []

    def guarded(start: int, stop: int) -> None:
        try:
            work(start, stop)
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=guarded, args=pair) for pair in itertools.pairwise(bounds[1:])
    ]
    for thread in threads:
        thread.start()
    guarded(0, bounds[1])
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
