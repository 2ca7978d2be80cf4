"""The ways to take one constrained step that `genrec bench decode` compares.

Every method gets the same logits ``[B, W, K]`` and the same prefixes, takes the log-softmax itself,
and returns its best continuations as its search goes on with them, the scores ``[B, keep]`` first,
best first. What a method keeps between steps (tokens, states) is made before it is timed; where its
continuations are, parent times K plus code, is asked when they are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec.decoding import Backend, Filter, PrefixTrie, transition_tables
from genrec.decoding.exclusions import Exclusions
from genrec.decoding.step import extended

_ROWS = 2**17  # tuples that go into the dict trie at once
_MATCHES = 2**27  # prefix comparisons that brute force makes at once


Found = tuple[Tensor, ...]  # scores, and what says which continuations they are of


@dataclass
class Situation:
    """The beams before one step.

    Attributes:
        level: the level of the next code.
        logits: float32 ``[B, W, K]``.
        nodes: int64 ``[B, W]``, their prefixes as nodes of the trie.
        prefixes: int64 ``[B, W, level]``, and as codes.
        scores: float32 ``[B, W]``, best first.
        keep: continuations wanted.
    """

    level: int
    logits: Tensor
    nodes: Tensor
    prefixes: Tensor
    scores: Tensor
    keep: int

    def log_probs(self) -> Tensor:
        """Scores ``[B, W, K]`` of all continuations, existing or not."""
        return self.logits.log_softmax(-1) + self.scores[:, :, None]

    def best(self, candidates: Tensor) -> Found:
        """The best of ``candidates`` ``[B, n]``, and where they are."""
        values, indices = candidates.topk(min(self.keep, candidates.shape[1]), dim=1)
        return values, indices


class _OverAllCodes:
    """A method that takes the best of all continuations, in order."""

    def cells(self, situation: Situation, state: Any, found: Found) -> Tensor:
        """Which continuations were found, parent times K plus code, int64 ``[B, keep]``."""
        return found[1]


class Unconstrained(_OverAllCodes):
    """log_softmax and topk over all codes: the yardstick, no constraint at all."""

    def prepare(self, situation: Situation) -> None:
        """Nothing to keep."""

    def step(self, situation: Situation, _: None) -> Found:
        """Scores ``[B, keep]`` and places."""
        return situation.best(situation.log_probs().flatten(1))


class Ours:
    """One step of our searches, as `genrec.decoding.expand_beams`, with one back end.

    Args:
        trie: the valid tuples.
        backend: ``"torch"`` or ``"compiled"``.
        filter: the items that may come out.
    """

    def __init__(self, trie: PrefixTrie, backend: Backend, filter: Filter | None = None) -> None:
        self.trie, self.backend, self.filter = trie, backend, filter

    def prepare(self, situation: Situation) -> Exclusions:
        """The filter as the search sees it."""
        return Exclusions.from_items(self.trie, None, len(situation.nodes), self.filter)

    def step(self, situation: Situation, excluded: Exclusions) -> Found:
        """Scores ``[B, keep]``, parents and codes."""
        found = extended(
            self.trie,
            situation.level,
            situation.logits,
            situation.nodes,
            situation.scores,
            keep=situation.keep,
            excluded=excluded,
            logits=True,
            backend=self.backend,
        )
        return found.scores, found.parent, found.code

    def cells(self, situation: Situation, state: Exclusions, found: Found) -> Tensor:
        """See `_OverAllCodes`."""
        return found[1] * situation.logits.shape[2] + found[2]


class Static:
    """STATIC's algorithm as its paper describes it (arXiv 2602.22647), in torch.

    The first two levels are dense tables; below, the edges of a state are one burst of (code, next
    state), padded to the largest branch of the level.

    Args:
        trie: the valid tuples.
    """

    def __init__(self, trie: PrefixTrie) -> None:
        self.trie = trie
        self.tables = transition_tables(trie, dense_levels=min(2, trie.num_levels))
        self.dense = self.tables.dense.ndim
        self.starts = [sum(trie.num_nodes[:depth]) + 1 for depth in range(trie.num_levels + 1)]

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        tables = self.tables
        parts = [tables.dense, tables.rows, tables.edges, *tables.dense_masks]
        return sum(part.nbytes for part in parts)

    def prepare(self, situation: Situation) -> Tensor:
        """The state of each beam: its number in the dense tables, or in the sparse rows."""
        if situation.level >= self.dense:
            return situation.nodes + self.starts[situation.level]
        number = torch.zeros_like(situation.nodes)
        for level in range(situation.level):
            number = number * self.trie.codebook_sizes[level] + situation.prefixes[:, :, level]
        return number

    def step(self, situation: Situation, states: Tensor) -> Found:
        """Scores ``[B, keep]``, places among the candidates, and the next states."""
        scores, level = situation.log_probs(), situation.level
        size = scores.shape[2]
        if level < self.dense:
            allowed = self.tables.dense_masks[level].view(-1, size)[states]
            masked = scores.masked_fill(~allowed, -torch.inf).flatten(1)
            found = masked.topk(min(situation.keep, masked.shape[1]))
            chosen = states.gather(1, found.indices // size) * size + found.indices % size
            if level == self.dense - 1:
                chosen = self.tables.dense.view(-1)[chosen]
            return found.values, found.indices, chosen
        burst, real = self._burst(level, states)
        values = scores.gather(2, burst[..., 0].to(torch.int64)).masked_fill(~real, -torch.inf)
        keep = min(situation.keep, values[0].numel())
        found = values.flatten(1).topk(keep)
        chosen = burst[..., 1].flatten(1).gather(1, found.indices)
        return found.values, found.indices, chosen

    def cells(self, situation: Situation, states: Tensor, found: Found) -> Tensor:
        """See `_OverAllCodes`."""
        if situation.level < self.dense:
            return found[1]
        burst, _ = self._burst(situation.level, states)
        codes = burst[..., 0].flatten(1).gather(1, found[1]).to(torch.int64)
        return found[1] // burst.shape[2] * situation.logits.shape[2] + codes

    def _burst(self, level: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """The edges of the states ``[B, W, branch, 2]``, and which of them there are."""
        start = self.tables.rows[states]
        slots = torch.arange(self.tables.max_branch[level - self.dense])
        edges = (start[:, :, None] + slots).clamp_max_(len(self.tables.edges) - 1)
        return self.tables.edges[edges], slots < (self.tables.rows[states + 1] - start)[:, :, None]


class HuggingFace(_OverAllCodes):
    """`prefix_allowed_tokens_fn` over a dict trie, as `generate()` calls it between two steps.

    Args:
        trie: the valid tuples.
    """

    def __init__(self, trie: PrefixTrie) -> None:
        self.trie = trie
        self.root: dict[int, Any] = {}
        for leaves in torch.arange(trie.num_leaves).split(_ROWS):
            for row in trie.leaf_codes(leaves).tolist():
                node = self.root
                for code in row:
                    node = node.setdefault(code, {})

    def prepare(self, situation: Situation) -> tuple[Any, Tensor]:
        """The processor of transformers and the tokens so far, ``[B * W, level]``."""
        from transformers import PrefixConstrainedLogitsProcessor

        def allowed(_: int, prefix: Tensor) -> list[int]:
            node = self.root
            for code in prefix.tolist():
                node = node[code]
            return list(node)

        processor = PrefixConstrainedLogitsProcessor(allowed, situation.nodes.shape[1])
        return processor, situation.prefixes.flatten(0, 1)

    def step(self, situation: Situation, state: tuple[Any, Tensor]) -> Found:
        """Scores ``[B, keep]`` and places."""
        processor, tokens = state
        log_probs = situation.logits.log_softmax(-1)
        masked = processor(tokens, log_probs.flatten(0, 1)).view(log_probs.shape)
        return situation.best((masked + situation.scores[:, :, None]).flatten(1))


class BruteForce(_OverAllCodes):
    """Compares every prefix with every tuple; no index at all.

    Args:
        trie: the valid tuples.
        filter: the items that may come out.
    """

    def __init__(self, trie: PrefixTrie, filter: Filter | None = None) -> None:
        leaves = torch.arange(trie.num_leaves)
        self.codes = trie.leaf_codes(leaves)
        self.allowed: Tensor | None = None
        if filter is not None:
            self.allowed = filter.alive(trie.num_levels, leaves.expand(len(filter), -1))

    def prepare(self, situation: Situation) -> None:
        """Nothing to keep."""

    def step(self, situation: Situation, _: None) -> Found:
        """Scores ``[B, keep]`` and places."""
        level, scores = situation.level, situation.log_probs()
        users, width, size = scores.shape
        prefixes = situation.prefixes.flatten(0, 1)
        real = torch.zeros(len(prefixes), size, dtype=torch.bool)
        rows = max(1, _MATCHES // len(self.codes))
        for start in range(0, len(prefixes), rows):
            some = prefixes[start : start + rows]
            match = (some[:, None] == self.codes[:, :level]).all(dim=2)
            if self.allowed is not None:
                user = torch.arange(start, start + len(some)) // width
                match &= self.allowed.expand(users, -1)[user]
            beam, item = match.nonzero(as_tuple=True)
            real[start + beam, self.codes[item, level]] = True
        real &= (situation.nodes >= 0).view(-1, 1)
        masked = scores.masked_fill(~real.view(scores.shape), -torch.inf)
        return situation.best(masked.flatten(1))
