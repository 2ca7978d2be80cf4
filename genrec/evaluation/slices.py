"""Metrics for parts of the users: by popularity of the target and by length of the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrec.errors import ConfigError
from genrec.evaluation.intervals import Interval, bootstrap_intervals
from genrec.evaluation.metrics import IntArray
from genrec.evaluation.results import Evaluation

POPULARITY_EDGES = (1, 5, 10, 20)
LENGTH_EDGES = (3, 5, 10, 20, 50)


@dataclass(frozen=True)
class Slice:
    """Some of the users of an evaluation.

    Attributes:
        name: as shown, for example `5-9`.
        users: how many.
        metrics: `mask/name` to mean and interval within the slice.
    """

    name: str
    users: int
    metrics: dict[str, Interval]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {key: interval.as_dict() for key, interval in self.metrics.items()}
        return {"name": self.name, "users": self.users, **found}


def slice_users(
    evaluation: Evaluation,
    labels: IntArray,
    names: Sequence[str],
    *,
    metrics: Sequence[str] = ("recall@10", "ndcg@10"),
) -> list[Slice]:
    """Metrics of each group of users; groups without users are left out.

    Args:
        evaluation: what is cut.
        labels: int64 [n], the group of each user, an index into `names`.
        names: names of the groups.
        metrics: per-user quantities reported, of each mask evaluated.

    Raises:
        ConfigError: if there is not one label per user.
    """
    if len(labels) != len(evaluation):
        raise ConfigError(f"{len(labels)} labels for {len(evaluation)} users; expected one each")
    columns = {
        f"{mask}/{name}": evaluation.per_user(mask, name)
        for mask in evaluation.searches
        for name in metrics
    }
    slices = []
    for label, name in enumerate(names):
        rows = np.flatnonzero(labels == label)
        if len(rows):
            part = {key: values[rows] for key, values in columns.items()}
            found = bootstrap_intervals(part, replicates=evaluation.bootstrap, seed=evaluation.seed)
            slices.append(Slice(name, len(rows), found))
    return slices


def by_popularity(
    evaluation: Evaluation,
    train_counts: IntArray,
    *,
    edges: Sequence[int] = POPULARITY_EDGES,
    metrics: Sequence[str] = ("recall@10", "ndcg@10"),
) -> list[Slice]:
    """Slices by how often the target occurs in training; never is `cold`.

    Args:
        evaluation: what is cut.
        train_counts: int64 [N], occurrences of each item in the training events.
        edges: first count of each bin after the cold one, ascending.
        metrics: per-user quantities reported.
    """
    edges = sorted({1, *edges})
    labels, names = bin_integers(train_counts[evaluation.targets], edges)
    names[0] = "cold (0)"
    return slice_users(evaluation, labels, names, metrics=metrics)


def by_history_length(
    evaluation: Evaluation,
    *,
    edges: Sequence[int] = LENGTH_EDGES,
    metrics: Sequence[str] = ("recall@10", "ndcg@10"),
) -> list[Slice]:
    """Slices by the events before the target; `edges` are the first length of each later bin."""
    lowest = int(evaluation.history_lengths.min(initial=1) > 0)
    labels, names = bin_integers(evaluation.history_lengths, edges, lowest=lowest)
    return slice_users(evaluation, labels, names, metrics=metrics)


def bin_integers(
    values: IntArray, edges: Sequence[int], *, lowest: int = 0
) -> tuple[IntArray, list[str]]:
    """Bin of each value and the bins' names: below `edges[0]`, `edges[0]` to `edges[1] - 1`, ...

    Args:
        values: int64 [n].
        edges: ascending first values of all bins but the lowest.
        lowest: smallest value possible, for the name of the lowest bin.
    """
    ordered = sorted(edges)
    labels = np.searchsorted(np.asarray(ordered), values, side="right")
    firsts = [lowest, *ordered]
    names = [
        str(first) if first == following - 1 else f"{first}-{following - 1}"
        for first, following in zip(firsts, ordered, strict=False)
    ]
    return labels.astype(np.int64), [*names, f"{firsts[-1]}+"]
