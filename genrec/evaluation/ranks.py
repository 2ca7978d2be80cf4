"""Where the target stands: rank intervals from a search's ranked tuples or from dense scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from genrec.decoding import SearchResult
from genrec.evaluation.metrics import NOT_FOUND, IntArray


@dataclass(frozen=True)
class Ranks:
    """Rank intervals of n users; see `genrec.evaluation.metrics` for what they mean.

    Attributes:
        before: int64 [n], allowed items ranked before the target's tie group; -1 where not found.
        ties: int64 [n], size of the tie group with the target; 0 where not found.
        tuple_rank: int64 [n], distinct tuples ranked before the target's; -1 where not found.
    """

    before: IntArray
    ties: IntArray
    tuple_rank: IntArray

    def __post_init__(self) -> None:
        """Check that the three agree."""
        if not (self.before.shape == self.ties.shape == self.tuple_rank.shape):
            raise ValueError("before, ties and tuple_rank must have one value per user each")

    def __len__(self) -> int:
        return len(self.before)

    @property
    def found(self) -> np.ndarray:
        """Bool [n], whether the target was reached by the search."""
        return np.asarray(self.before >= 0)

    def take(self, rows: IntArray) -> Ranks:
        """The same for some of the users, in the order given."""
        return Ranks(self.before[rows], self.ties[rows], self.tuple_rank[rows])

    @staticmethod
    def concatenate(parts: Sequence[Ranks]) -> Ranks:
        """The users of several batches, one after another."""
        names = [field.name for field in fields(Ranks)]
        return Ranks(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def is_excluded(targets: Tensor, exclude: Tensor | None) -> Tensor:
    """Bool [B], whether a user's own exclusions (int64 [B, E], -1 padded) hold the target."""
    if exclude is None or exclude.shape[1] == 0:
        return torch.zeros_like(targets, dtype=torch.bool)
    return (exclude == targets[:, None]).any(dim=1)


def ranks_from_search(
    result: SearchResult, target_leaves: Tensor, *, excluded: Tensor | None = None
) -> Ranks:
    """Rank intervals from the ranked tuples of a search.

    The tie group of a target is its bucket: the allowed items of its tuple. Tuples of equal score
    stand in the fixed order the search gave them.

    Args:
        result: `leaves` int64 [B, m] best first and -1 padded, `leaf_sizes` int64 [B, m] their
            allowed items.
        target_leaves: int64 [B], the leaf of each user's target.
        excluded: bool [B], users whose target may not be recommended. Its tuple may still stand in
            the list for the sake of other items; such a user counts as a miss.
    """
    leaves = result.leaves
    sizes = result.leaf_sizes.to(torch.int64)
    hit = (leaves == target_leaves.to(leaves.device)[:, None]) & (leaves >= 0) & (sizes > 0)
    if excluded is not None:
        hit &= ~excluded.to(leaves.device)[:, None]
    # Tuples without an allowed item take no place in the list, hence the count of the others.
    items_before = sizes.cumsum(dim=1) - sizes
    listed = (sizes > 0).to(torch.int64)
    tuples_before = listed.cumsum(dim=1) - listed
    found = hit.any(dim=1)
    column = hit.to(torch.uint8).argmax(dim=1, keepdim=True)

    def pick(values: Tensor, missing: int) -> IntArray:
        chosen = values.gather(1, column).squeeze(1)
        return torch.where(found, chosen, missing).cpu().numpy().astype(np.int64)

    return Ranks(pick(items_before, NOT_FOUND), pick(sizes, 0), pick(tuples_before, NOT_FOUND))


def ranks_from_scores(scores: Tensor, targets: Tensor, *, exclude: Tensor | None = None) -> Ranks:
    """Rank intervals from the scores of all items; items of exactly equal score are ties.

    There are no tuples here: the tuple rank is the rank of the item.

    Args:
        scores: float [B, N], higher is better; items at -inf cannot be recommended.
        targets: int64 [B], item indices.
        exclude: int64 [B, E], items left out, -1 padded.

    Raises:
        ValueError: if a score is NaN, since NaN has no rank.
    """
    if torch.isnan(scores).any():
        raise ValueError("scores hold NaN, which has no rank")
    if exclude is not None:
        rows = torch.arange(len(scores), device=scores.device)[:, None].expand_as(exclude)
        keep = exclude >= 0
        scores = scores.index_put((rows[keep], exclude[keep]), scores.new_tensor(float("-inf")))
    own = scores.gather(1, targets[:, None])
    found = own.squeeze(1) > float("-inf")
    before = torch.where(found, (scores > own).sum(dim=1), NOT_FOUND).cpu().numpy()
    ties = torch.where(found, (scores == own).sum(dim=1), 0).cpu().numpy()
    before = before.astype(np.int64)
    return Ranks(before, ties.astype(np.int64), before)
