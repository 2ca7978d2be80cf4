"""A few users' histories with titles, beside what was recommended to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genrec.data import Dataset, EvalSet, batch
from genrec.evaluation.metrics import IntArray
from genrec.evaluation.protocol import candidate_filter, history_matrix
from genrec.evaluation.rankers import Ranker


@dataclass(frozen=True)
class Recommended:
    """One place of a list: the item's title, and whether it is what the user took next."""

    title: str
    hit: bool


@dataclass(frozen=True)
class Example:
    """One user.

    Attributes:
        user: the user's id.
        history: titles, oldest first.
        target: title of the item taken next.
        lists: name of the ranker to its list, best first.
    """

    user: str
    history: list[str]
    target: str
    lists: dict[str, list[Recommended]]


def collect_examples(
    rankers: Sequence[Ranker],
    dataset: Dataset,
    eval_set: EvalSet,
    *,
    count: int = 5,
    k: int = 10,
    max_lengths: Mapping[str, int],
    title_column: str = "title",
    seed: int = 0,
    candidates: IntArray | None = None,
) -> list[Example]:
    """Recommend to a seeded sample of users with a history, whose items are left out.

    Args:
        rankers: each gives one list per user.
        dataset: histories and titles.
        eval_set: users to draw from.
        count: how many.
        k: list length.
        max_lengths: name of a ranker to the events of the input that it reads; 1 for others.
        title_column: column of the items shown; item ids where it is missing or null.
        seed: seed of the sample.
        candidates: item indices `int64 [n]`: recommend only these; by default any item.
    """
    eval_set = eval_set.take(eval_set.end > eval_set.start)
    if count == 0 or len(eval_set) == 0:
        return []
    sample = eval_set.sample(min(count, len(eval_set)), seed)
    history = history_matrix(dataset.histories.items, sample.start, sample.end)
    exclude = torch.from_numpy(history)
    found = {}
    for ranker in rankers:
        inputs = batch(
            dataset.histories,
            sample.start,
            sample.end,
            max_length=max_lengths.get(ranker.name, 1),
            query_time=sample.times,
        )
        pool = candidate_filter(ranker, candidates)
        result = ranker.search(ranker.prepare(inputs), k=k, exclude=exclude, filter=pool)
        found[ranker.name] = result.items.cpu().numpy()
    lists = [items.ravel() for items in found.values()]
    shown = np.unique(np.concatenate([history.ravel(), sample.targets, *lists]))
    shown = shown[shown >= 0]
    names = dataset.catalog.titles(shown, title_column)
    title = dict(zip(shown.tolist(), names, strict=True))
    ids = dataset.histories.user_ids.take(sample.users).to_pylist()
    return [
        Example(
            user=str(ids[row]),
            history=[title[item] for item in history[row].tolist() if item >= 0],
            target=title[target],
            lists={
                name: [
                    Recommended(title[item], item == target)
                    for item in items[row].tolist()
                    if item >= 0
                ]
                for name, items in found.items()
            },
        )
        for row, target in enumerate(sample.targets.tolist())
    ]
