"""The score of the Tencent challenge beside the metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genrec.data import Dataset, Split
from genrec.data.tencentgr.protocol import NAME
from genrec.evaluation import Evaluation
from genrec.evaluation.tencentgr import WEIGHTS, action_weights, evaluation_scores

K = 10  # the length of the contest's lists

Scores = dict[str, dict[str, dict[str, Any]]]


def contest_scores(
    evaluation: Evaluation, data: Dataset, split: Split, *, part: str = "test"
) -> Scores:
    """Mask -> reading -> score, hit rate, NDCG and users, JSON-able.

    Args:
        evaluation: of all questions.
        data: that the split is of.
        split: the contest's protocol.
        part: `test` or `validation`.

    Returns:
        Nothing for another protocol, for lists of less than ten, or where no target counts.
    """
    actions = getattr(split, part).actions
    names = data.histories.action_names
    if split.name != NAME or actions is None or max(evaluation.ks) < K or set(names) - set(WEIGHTS):
        return {}
    kinds = np.array([0, *names])[actions]
    if action_weights(kinds).sum() <= 0:
        return {}
    return {
        mask: {reading: asdict(score) for reading, score in readings.items()}
        for mask, readings in evaluation_scores(evaluation, kinds).items()
    }


def print_scores(found: Mapping[str, Scores], *, console: Console) -> None:
    """Print the scores of several rankers, the best first; nothing where there are none."""
    rows = [
        (mask, reading, name, score)
        for name, masks in found.items()
        for mask, readings in masks.items()
        for reading, score in readings.items()
    ]
    if not rows:
        return
    literal = {(mask, name): score["score"] for mask, reading, name, score in rows}
    both = any(
        score != masks[mask]["literal"]
        for masks in found.values()
        for mask, readings in masks.items()
        for score in readings.values()
    )
    table = Table(title="score of the challenge: .31 HR@10 + .69 NDCG@10", title_justify="left")
    for column in ("ranker", "mask", "reading", "score", "HR@10", "NDCG@10", "users"):
        named = column in ("ranker", "mask", "reading")
        table.add_column(column, justify="left" if named else "right")
    rows.sort(key=lambda row: (row[0] == "masked", -literal[row[0], row[2]], row[2]))
    for mask, reading, name, score in rows:
        if reading == "literal" or both:
            figures = [f"{score[key]:.4f}" for key in ("score", "hit_rate", "ndcg")]
            table.add_row(Text(name), mask, reading, *figures, f"{score['users']:,}")
    console.print(table)
    if not both:
        console.print("both readings of the second round are the same without conversions")
