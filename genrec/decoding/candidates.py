"""The scores of all children that the beams of a level may be extended to, on the CPU.

Where all children exist, a child is a code. Where many do, bits or a table say which, and all codes
are scored. Elsewhere only the children are, padded to the largest family.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.expansion import Expansion
from genrec.decoding.levels import unpacked
from genrec.decoding.trie import PrefixTrie

_NEGLIGIBLE = -80.0  # exp of less is denormal, which is slow, and adds nothing to a sum near 1
_FAR = 1e38  # taken off the scores of what does not exist
ABSENT = -1e37  # what exists scores more, but for what a model makes (nearly) impossible
_TABLE = 2**24  # most entries of a table of children or their codes, a byte or two each
_FILL = 0.25  # share of codes that exist above which all are scored


class Candidates(ABC):
    """What may extend the beams of ``B`` users, ``branch`` columns for each beam.

    Args:
        given: the beams.
        branch: candidates of a beam.

    Attributes:
        count: candidates of a user.
    """

    def __init__(self, given: Expansion, branch: int) -> None:
        self.given = given
        self.branch = branch
        self.count = given.nodes.shape[1] * branch
        nodes, scores = given.nodes.numpy(), given.scores.numpy()
        self.alive = nodes >= 0
        self.nodes = np.maximum(nodes, 0)
        self.weight = np.exp(scores) * self.alive
        base = np.where(self.alive, scores, np.float32(-_FAR))
        self.base = torch.from_numpy(base)[:, :, None]

    @abstractmethod
    def scored(self, part: slice) -> tuple[Tensor, np.ndarray]:
        """Scores float32 ``[b, count]`` of some users, and the probability ``[b]`` that they lose.

        Scores of what does not exist are below `ABSENT`, where real ones can be: see `impossible`.
        """

    @abstractmethod
    def find(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Beams and children of candidates.

        Args:
            cells: int64, any shape, places among the candidates of all users.

        Returns:
            Places among the beams of all users, and nodes of the next depth, some node where there
            is no child; both int64.
        """

    @abstractmethod
    def codes(self, cells: np.ndarray, child: np.ndarray) -> np.ndarray:
        """The codes, int64, of candidates that are children; what `find` got and gave."""

    @abstractmethod
    def exists(self, cells: np.ndarray, beam: np.ndarray, child: np.ndarray) -> np.ndarray:
        """Whether candidates are children, bool; what `find` got and gave."""

    def impossible(self) -> bool:
        """Whether any child may score `ABSENT` or less, as what does not exist."""
        if self.count == 0 or len(self.nodes) == 0:
            return False
        log_probs = self.given.log_probs
        lowest = float(log_probs.amin())
        if self.given.logits:
            lowest -= float(log_probs.amax()) + math.log(log_probs.shape[2])
        lowest += float(np.where(self.alive, self.given.scores.numpy(), 0.0).min())
        return not lowest > ABSENT  # NaN may

    def total(self, gains: Tensor, gone: Tensor | None, part: slice) -> tuple[Tensor, Tensor]:
        """What renormalising some users takes off: the log-sum-exp of each beam's children.

        Args:
            gains: float32 ``[b, W, branch]``, `_FAR` lower where there is no child.
            gone: not 0 there, of the same shape; None if all children exist.
            part: the users.

        Returns:
            The gains, -inf where there is no child if that matters, and float32 ``[b, W]``.
        """
        found = gains.logsumexp(dim=2)
        if gone is not None and bool(((found.numpy() < ABSENT) & self.alive[part]).any()):
            gains = gains.masked_fill(gone != 0, -math.inf)  # or they would be among the children
            found = gains.logsumexp(dim=2)
        return gains, found

    def lost(self, mass: Tensor, part: slice) -> np.ndarray:
        """The probability ``[b]`` that is missing to 1 in each beam, weighted by the beams'."""
        missing = np.maximum(np.float32(1.0) - mass.numpy(), 0.0)  # NaN passes
        found: np.ndarray = (missing * self.weight[part]).sum(axis=1)
        return found


def candidates_of(given: Expansion) -> Candidates:
    """The cheapest way to score a level."""
    trie, level = given.trie, given.level
    size = trie.codebook_sizes[level]
    if trie.live is None:
        if trie.num_nodes[level + 1] == trie.num_nodes[level] * size:
            return _AllCodes(given, None)
        if trie.level(level).dense:
            return _AllBits(given)
    table = _child_table(trie, level)
    return _Children(given) if table is None else _AllCodes(given, table)


class _AllCodes(Candidates):
    """Every code of every beam.

    Args:
        given: the beams.
        table: see `_child_table`; None if all codes lead to a child.
    """

    def __init__(self, given: Expansion, table: Tensor | None) -> None:
        super().__init__(given, given.trie.codebook_sizes[given.level])
        self.table = table
        self.some = table is not None

    def absent(self, nodes: np.ndarray) -> np.ndarray:
        """Whether each code of nodes ``[n]`` leads nowhere, int8 ``[n, branch]``; if any may."""
        assert self.table is not None
        rows = self.table.index_select(0, torch.from_numpy(nodes))
        found: np.ndarray = rows.numpy() == _absent(rows)  # torch's takes twenty times as long
        return found.view(np.int8)

    def scored(self, part: slice) -> tuple[Tensor, np.ndarray]:
        """See `Candidates`."""
        given = self.given
        gains = given.log_probs[part].float()
        own, gone = given.logits, None
        if given.logits:
            gains = gains.log_softmax(dim=2)
        if self.some:
            nodes = self.nodes[part]
            gone = torch.from_numpy(self.absent(nodes.reshape(-1))).float().view(gains.shape)
            gains = gains.add_(gone, alpha=-_FAR) if own else gains.add(gone, alpha=-_FAR)
            own = True
        if given.renormalize:
            gains, total = self.total(gains, gone, part)
            mass = total.exp()
            gains = gains - total.masked_fill(total == -math.inf, 0.0)[:, :, None]
            own = True
        elif given.logits and not self.some:
            mass = 1.0 + 0.0 * gains[:, :, 0].clamp_min(_NEGLIGIBLE)  # NaN passes
        else:
            mass = _exp(gains).sum(dim=2)
        scores = gains.add_(self.base[part]) if own else gains + self.base[part]
        return scores.flatten(1), self.lost(mass, part)

    def find(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Candidates`."""
        beam = cells // self.branch
        node = self.nodes.reshape(-1).take(beam)
        cell = cells + (node - beam) * self.branch
        if self.table is None:
            return beam, cell
        low = self.given.trie.pointers[self.given.level].numpy().take(node).astype(np.int64)
        slot = self.table.numpy().reshape(-1).take(cell)
        return beam, low + np.where(slot == _absent(self.table), 0, slot)

    def exists(self, cells: np.ndarray, beam: np.ndarray, child: np.ndarray) -> np.ndarray:
        """See `Candidates`."""
        there: np.ndarray = self.alive.reshape(-1).take(beam)
        if self.table is not None:
            node = self.nodes.reshape(-1).take(beam)
            cell = cells + (node - beam) * self.branch
            there = there & (self.table.numpy().reshape(-1).take(cell) != _absent(self.table))
        return there

    def codes(self, cells: np.ndarray, child: np.ndarray) -> np.ndarray:
        """See `Candidates`."""
        return cells % self.branch


class _AllBits(_AllCodes):
    """Every code of every beam; bits say which lead to a child."""

    def __init__(self, given: Expansion) -> None:
        super().__init__(given, None)
        self.some = True
        self.level = given.trie.level(given.level)

    def absent(self, nodes: np.ndarray) -> np.ndarray:
        """See `_AllCodes`."""
        return unpacked(~self.level.rows.numpy().take(nodes, axis=0), self.branch).view(np.int8)

    def find(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Candidates`."""
        beam, place = self._places(cells)
        return beam, self.level.bits.rank(place).clamp_max_(self.level.num_children - 1).numpy()

    def exists(self, cells: np.ndarray, beam: np.ndarray, child: np.ndarray) -> np.ndarray:
        """See `Candidates`."""
        there: np.ndarray = self.alive.reshape(-1).take(beam)
        return there & self.level.bits.contains(self._places(cells)[1]).numpy()

    def _places(self, cells: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """The beams of candidates, and their places among the bits."""
        beam = cells // self.branch
        node = self.nodes.reshape(-1).take(beam)
        return beam, torch.from_numpy(node * self.level.stride + (cells - beam * self.branch))


class _Children(Candidates):
    """The children of every beam, padded to the largest family."""

    def __init__(self, given: Expansion) -> None:
        trie, level = given.trie, given.level
        pointer, nodes = trie.pointers[level].numpy(), np.maximum(given.nodes.numpy(), 0)
        self.low = pointer.take(nodes).astype(np.int64)
        self.sizes = (pointer.take(nodes + 1) - self.low) * (given.nodes.numpy() >= 0)
        branch = max(1, int(self.sizes.max(initial=1)))
        super().__init__(given, branch)
        self.live = trie.live_nodes(level + 1)
        self.level = trie.level(level)
        self.table = _code_table(trie, level)

    def all_codes(self, part: slice) -> Tensor:
        """The codes, int64 ``[b, W, branch]``, of all candidates of some users."""
        if self.table is None:
            return self.level.codes(self.children(part))
        nodes = self.nodes[part]
        rows = self.table[:, : self.branch].index_select(0, torch.from_numpy(nodes.reshape(-1)))
        codes = rows.view(*nodes.shape, self.branch).to(torch.int64)
        return codes if rows.dtype == torch.uint8 else codes & 0xFFFF

    def children(self, part: slice) -> Tensor:
        """Their nodes, int64 of the same shape."""
        low = torch.from_numpy(self.low[part])[:, :, None] + torch.arange(self.branch)
        return low.clamp_max_(self.given.trie.num_nodes[self.given.level + 1] - 1)

    def scored(self, part: slice) -> tuple[Tensor, np.ndarray]:
        """See `Candidates`."""
        given = self.given
        log_probs = given.log_probs[part]
        if given.logits:
            log_probs = log_probs.float().log_softmax(dim=2)
        # -1 where there is no child, else 0
        sizes = torch.from_numpy(self.sizes[part].astype(np.float32))[:, :, None]
        missing = (sizes - torch.arange(1.0, self.branch + 1)).clamp_(-1.0, 0.0)
        if self.live is not None:
            missing = torch.minimum(missing, self.live[self.children(part)].float() - 1.0)
        gains = log_probs.gather(2, self.all_codes(part)).to(torch.float32)
        gains.add_(missing, alpha=_FAR)
        if given.renormalize:
            gains, total = self.total(gains, missing, part)
            mass = total.exp()
            gains -= total.masked_fill(total == -math.inf, 0.0)[:, :, None]
        else:
            mass = _exp(gains).sum(dim=2)
        return gains.add_(self.base[part]).flatten(1), self.lost(mass, part)

    def find(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Candidates`."""
        beam = cells // self.branch
        child = self.low.reshape(-1).take(beam) + (cells - beam * self.branch)
        last = self.given.trie.num_nodes[self.given.level + 1] - 1
        return beam, np.minimum(child, last)

    def exists(self, cells: np.ndarray, beam: np.ndarray, child: np.ndarray) -> np.ndarray:
        """See `Candidates`."""
        slot = cells - beam * self.branch
        there: np.ndarray = slot < self.sizes.reshape(-1).take(beam)
        return there if self.live is None else there & self.live.numpy().take(child)

    def codes(self, cells: np.ndarray, child: np.ndarray) -> np.ndarray:
        """See `Candidates`."""
        return self.level.codes(torch.from_numpy(child)).numpy()


def _exp(log_probs: Tensor) -> Tensor:
    """The exponential, of float32; numpy's takes half the time of torch's."""
    values = log_probs.detach().float().clamp_min(_NEGLIGIBLE)
    array = values.numpy()
    np.exp(array, out=array)
    return values


def _code_table(trie: PrefixTrie, level: int) -> Tensor | None:
    """The codes of each node's children, ``[nodes, max_branch]``, padded with the last one's.

    Of the type of `Level.listed`. Made once, where it is small and the trie stays; else None.
    """
    name, size = f"codes {level}", trie.max_branch[level]
    above, below = trie.num_nodes[level], trie.num_nodes[level + 1]
    if above * size > _TABLE or not trie.lasting:
        return None
    if name not in trie.derived:
        tokens = trie.level(level).array()
        starts = trie.pointers[level].numpy().astype(np.int64)
        cells = np.arange(below) + np.repeat(np.arange(above) * size - starts[:-1], np.diff(starts))
        table = np.zeros(above * size, dtype=tokens.dtype)
        table[cells] = tokens
        rows = table.reshape(above, size)
        np.maximum.accumulate(rows, axis=1, out=rows)  # children stand in the order of their codes
        kept = rows if rows.dtype == np.uint8 else rows.view(np.int16)
        trie.derived[name] = torch.from_numpy(kept)
    found: Tensor = trie.derived[name]
    return found


def _absent(table: Tensor) -> int:
    """What a table of children holds where a code leads to none."""
    return 255 if table.dtype == torch.uint8 else -1


def _child_table(trie: PrefixTrie, level: int) -> Tensor | None:
    """Which child, counted from 0, each code leads to, ``[nodes, K]``; `_absent` if to none.

    Of one byte, or of two where a node has more than 255 children. Made once, where it is small,
    many codes lead somewhere and the trie stays; else None.
    """
    name, size = f"children {level}", trie.codebook_sizes[level]
    above, below = trie.num_nodes[level], trie.num_nodes[level + 1]
    if above * size > _TABLE or below < _FILL * above * size or size > 2**15:
        return None
    if not trie.lasting:
        return None
    if name not in trie.derived:
        kind = torch.uint8 if trie.max_branch[level] <= 255 else torch.int16
        table = torch.empty(above * size, dtype=kind)
        table.fill_(_absent(table))
        starts = trie.pointers[level].to(torch.int64)
        nodes = torch.arange(below)
        parents = torch.arange(above).repeat_interleave(starts.diff(), output_size=below)
        slots = (nodes - starts[parents]).to(kind)
        live = trie.live_nodes(level + 1)
        if live is not None:
            slots = slots.masked_fill(~live, _absent(table))
        codes = torch.from_numpy(trie.level(level).array().astype(np.int64))
        table[parents * size + codes] = slots
        trie.derived[name] = table.view(above, size)
    found: Tensor = trie.derived[name]
    return found
