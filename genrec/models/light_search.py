"""The exact lists of a light autoregressive head, by branch and bound in compiled passes.

What `genrec.decoding.beam_search` does with ``exact=True``: a narrow search gives k items, and one
more looks at every prefix that scores at least as high as the k-th of them. Here each level of both
is one call of a kernel that runs the head's MLP on the beams as well. So no batch is padded to the
user with the most beams, no logits are written, and with renormalised scores only the codes that
exist are scored. At the last level prefixes are taken best first, until one scores below the k-th
item found.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genrec.decoding import Filter, PrefixTrie, SearchResult
from genrec.decoding.beam import SLACK, finished
from genrec.decoding.compiled_step import as_array, in_threads, level_arrays, tests_of_nodes
from genrec.decoding.exclusions import Exclusions
from genrec.decoding.ranking import DEAD
from genrec.errors import GenrecError
from genrec.models.light_kernel import expand_light

if TYPE_CHECKING:
    from genrec.models.heads.autoregressive import AutoregressiveHead

_NARROW = 16  # beams of the first search, or k if that is more
_ALL = -1
_START = np.zeros(1, dtype=np.int64)
_SHORTEST = np.float32(1e-12)  # as torch's `normalize`
_WORK = 2**18  # of a user, as `in_threads` counts it: worth a thread


def light_search(
    head: AutoregressiveHead,
    states: torch.Tensor,
    trie: PrefixTrie,
    *,
    k: int,
    exclude: torch.Tensor | None = None,
    filter: Filter | None = None,
    renormalize: bool = False,
) -> SearchResult:
    """The exact ``k`` best items of every user; see `genrec.decoding.beam_search`.

    Args:
        head: a head in evaluation, with float32 weights on the CPU.
        states: float32 ``[B, L, D]``, what each user adds to a level's input.
        trie: the valid tuples.
        k: items wanted.
        exclude: int64 ``[B, E]`` items never returned, padded with -1.
        filter: the items that may be returned.
        renormalize: score by log-softmax over the existing children.

    Raises:
        ConfigError: for malformed exclusions, or a filter of another trie or batch.
        GenrecError: if the head gives NaN.
    """
    batch, size = len(states), states.shape[2]
    excluded = Exclusions.from_items(trie, exclude, batch, filter)
    levels = [_level(head, trie, level, excluded) for level in range(trie.num_levels)]
    start = np.zeros((1, size), dtype=np.float32)  # the empty prefix
    tables = [start, *(as_array(head.prefix_level(i).detach()) for i in range(len(levels) - 1))]
    inputs = (as_array(states.detach()), levels, tables, k, renormalize)
    everyone, low = np.ones(batch, dtype=bool), np.full(batch, -np.inf, dtype=np.float32)
    found = _pass(*inputs, everyone, low, max(k, _NARROW))
    again = ~found.proven()
    if again.any():
        floor = found.scores[:, -1] - np.float32(SLACK)
        proven = _pass(*inputs, again, floor, _ALL)
        found.leaves[again], found.scores[again] = proven.leaves[again], proven.scores[again]
        found.pruned[again] = proven.pruned[again]
        if not renormalize:  # else it did not score the codes that do not exist
            found.leaked[again] = proven.leaked[again]
        found.evaluations += proven.evaluations
    tensors = (torch.from_numpy(getattr(found, field.name)) for field in fields(found))
    return finished(trie, excluded, k, *tensors)


@dataclass
class _Found:
    """Of ``B`` users, in the order of `genrec.decoding.beam.finished`.

    Attributes:
        leaves: int64 ``[B, k]``, best first; -1 where there are fewer.
        scores: float32 ``[B, k]``; -inf at -1.
        pruned: int64 ``[B]``, rank key of the best prefix that was not expanded.
        leaked: float32 ``[B]``.
        evaluations: int64 ``[B]``.
    """

    leaves: np.ndarray
    scores: np.ndarray
    pruned: np.ndarray
    leaked: np.ndarray
    evaluations: np.ndarray

    def proven(self) -> np.ndarray:
        """Whether each user's last leaf scores above what was pruned, bool ``[B]``.

        A search at least as wide as ``k`` that found fewer leaves has pruned nothing.
        """
        bits = self.scores[:, -1].copy().view(np.int32)
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # as in `genrec.decoding.ranking.rank_keys`
        result: np.ndarray = (ordered > self.pruned >> 32) | (self.pruned == DEAD)
        return result


def _level(
    head: AutoregressiveHead, trie: PrefixTrie, level: int, excluded: Exclusions
) -> tuple[tuple[Any, ...], ...]:
    """What `expand_light` reads of a level: its weights, and the next depth of the trie."""
    return (
        _layer(head, level),
        level_arrays(trie, level),
        tests_of_nodes(trie, level + 1, excluded),
    )


def _layer(head: AutoregressiveHead, level: int) -> tuple[Any, ...]:
    """The weights of a level as `expand_light` reads them."""
    parts: list[Any] = list(head.steps[level].children())
    norm, first, _, _, second = parts
    vectors = as_array(head.output.level(level).detach())
    if head.temperature is not None:
        lengths = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
        vectors = vectors / (np.maximum(lengths, _SHORTEST) * np.float32(head.temperature))
    scale, shift, w_in, b_in, w_out, b_out = (
        as_array(parameter.detach())
        for layer in (norm, first, second)
        for parameter in (layer.weight, layer.bias)
    )
    weights = ((w_in * scale).T, b_in + w_in @ shift, w_out.T, b_out, vectors, vectors.T)
    arrays = (np.ascontiguousarray(weight) for weight in weights)
    return (*arrays, np.float32(norm.eps), head.temperature is not None)


def _pass(
    states: np.ndarray,
    levels: list[tuple[tuple[Any, ...], ...]],
    tables: list[np.ndarray],
    k: int,
    renormalize: bool,
    users: np.ndarray,
    floor: np.ndarray,
    width: int,
) -> _Found:
    """One pass over the levels that keeps ``width`` prefixes, or all that reach the floor.

    Args:
        states: float32 ``[B, L, D]``.
        levels: what `_level` gives.
        tables: float32 ``[K, D]`` for each level, what the code before adds to the prefix.
        k: leaves wanted.
        renormalize: score over the existing children.
        users: bool ``[B]``, who is searched for; the others find nothing.
        floor: float32 ``[B]``, lowest score kept.
        width: prefixes kept, or `_ALL`.
    """
    batch, depth = len(states), len(levels)
    counts = users.astype(np.int64)
    nodes = parents = codes = np.zeros(counts.sum(), dtype=np.int64)
    scores, prefixes = np.zeros(len(nodes), dtype=np.float32), tables[0]
    dropped, lost = np.empty((depth, batch), np.int64), np.empty((depth, batch), np.float32)
    sound, evaluations = np.empty((depth, batch), bool), np.zeros(batch, np.int64)
    for level, (layer, below, tests) in enumerate(levels):
        last, above = level == depth - 1, prefixes
        offsets = np.concatenate((_START, counts.cumsum()))
        prefixes = np.empty((0 if last else len(nodes), states.shape[2]), dtype=np.float32)
        arguments = (
            level,
            (offsets, nodes, scores, parents, codes, above, tables[level]),
            states,
            layer,
            below,
            tests,
            floor,
            k if last else width,
            width != _ALL,
            renormalize,
            prefixes,
            dropped[level],
            lost[level],
            sound[level],
            evaluations,
        )
        counts, found = _in_parts(arguments, batch)
        nodes, scores, parents, codes = found
    if not sound.all():
        row = int((~sound).any(axis=0).argmax())
        raise GenrecError(
            f"the head returned NaN for row {row} of the batch: the model's weights or the user's "
            "state are not finite"
        )
    place = np.arange(k) < counts[:, None]
    leaves, leaf_scores = np.full((batch, k), -1), np.full((batch, k), -np.inf, dtype=np.float32)
    leaves[place], leaf_scores[place] = nodes, scores
    return _Found(leaves, leaf_scores, dropped.max(axis=0), lost.sum(axis=0), evaluations)


def _in_parts(arguments: tuple[Any, ...], batch: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """`expand_light` for all users, side by side if there are threads."""
    parts: dict[int, tuple[np.ndarray, tuple[np.ndarray, ...]]] = {}

    def run(start: int, stop: int) -> None:
        parts[start] = expand_light(start, stop, *arguments)

    in_threads(run, batch, batch * _WORK)
    if len(parts) == 1:
        return parts[0]
    counts, found = zip(*(parts[start] for start in sorted(parts)), strict=True)
    return np.concatenate(counts), tuple(map(np.concatenate, zip(*found, strict=True)))
