"""What a back end gets to extend beams by one code, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from genrec.decoding.exclusions import Exclusions
from genrec.decoding.ranking import key_scores
from genrec.decoding.trie import PrefixTrie


@dataclass(frozen=True)
class Expansion:
    """The beams of ``B`` users before one level, checked; see `genrec.decoding.expand_beams`.

    Attributes:
        trie: the valid tuples.
        level: level of the code.
        log_probs: ``[B, W, K]``.
        nodes: int64 ``[B, W]``, -1 where dead.
        scores: float32 ``[B, W]``.
        excluded: items and filters of the users.
        keep: most beams kept per user, no more than the next depth has nodes or the beams children.
        floor: float32 ``[B]`` or None; children below it are dropped.
        renormalize: score by log-softmax over the existing children.
        logits: whether the log-sum-exp of ``log_probs`` is to be taken off.
    """

    trie: PrefixTrie
    level: int
    log_probs: Tensor
    nodes: Tensor
    scores: Tensor
    excluded: Exclusions
    keep: int
    floor: Tensor | None
    renormalize: bool
    logits: bool

    @property
    def last(self) -> bool:
        """Whether the children are leaves."""
        return self.level == self.trie.num_levels - 1


@dataclass
class Step:
    """The beams of ``B`` users after one level, best first.

    Attributes:
        nodes: int64 ``[B, W]``, nodes of the next depth; -1 where there are fewer, which stays so.
        scores: float32 ``[B, W]``; -inf at -1.
        parent: int64 ``[B, W]``, the column of the beam that each extends; any at -1.
        code: int64 ``[B, W]``, the code that extends it; any at -1.
        dropped: int64 ``[B]``, rank key of the best child that was not kept, see
            `genrec.decoding.ranking`.
        leaked: float32 ``[B]``, probability that went to codes without a child.
        sound: bool ``[B]``; false if a log-probability was NaN or above 0.
    """

    nodes: Tensor
    scores: Tensor
    parent: Tensor
    code: Tensor
    dropped: Tensor
    leaked: Tensor
    sound: Tensor

    @property
    def best_dropped(self) -> Tensor:
        """Score, float32 ``[B]``, of the best child that was not kept; -inf if all were."""
        return key_scores(self.dropped)
