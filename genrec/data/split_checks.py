"""What must hold of every split, counted again from the events."""

from __future__ import annotations

import numpy as np

from genrec.data.dataset import Dataset
from genrec.data.histories import ranges
from genrec.data.splits import EvalSet, Split
from genrec.errors import DataError


def check_split(dataset: Dataset, split: Split) -> list[str]:
    """Check that nothing of an answer is known before it is asked for.

    Args:
        dataset: whose events were split.
        split: of it.

    Returns:
        The rules that hold, in words.

    Raises:
        DataError: naming the rule that does not, the questions and the first user.
    """
    held: list[str] = []
    for name in ("validation", "test"):
        questions: EvalSet = getattr(split, name)
        for rule, holds in _rules(dataset, split, questions).items():
            if not holds.all():
                row = int(np.argmin(holds))
                user = dataset.histories.user_ids[int(questions.users[row])].as_py()
                raise DataError(
                    f"{dataset.name}: split {split.name}: {int((~holds).sum()):,} of "
                    f"{len(holds):,} {name} questions break the rule that {rule} (the first is of "
                    f"user {user!r})"
                )
            held.append(f"{name}: {rule}")
    return held


def _rules(dataset: Dataset, split: Split, asked: EvalSet) -> dict[str, np.ndarray]:
    """Rule to whether it holds for each question, bool `[n]`."""
    of = dataset.histories
    first, last = of.offsets[asked.users], of.offsets[asked.users + 1]
    # A user may be asked before anything is known of them, where the protocol says so.
    some = asked.end > asked.start
    whole = asked.end >= asked.start if "cut" in split.info else some
    inside = (first <= asked.start) & whole & (asked.end < last)
    end = np.where(inside, asked.end, first)
    rules = {
        "an input is a part of its user's history, and events follow it": inside,
        "the user's training ends before the answer": split.train_end[asked.users] <= asked.end,
        "the answer is an event after the input": _follows(asked, of.items, end, last),
    }
    once = np.bincount(asked.users, minlength=len(of))[asked.users]
    rules["a user is asked once"] = once == 1
    if asked.times is not None and of.timestamps is not None:
        latest = of.timestamps[np.maximum(end - 1, 0)]
        strict = split.info.get("cut") == "time"
        rules["the input is older than the answer" if strict else "no input is younger than it"] = (
            ~some | (latest < asked.times if strict else latest <= asked.times)
        )
    if split.info.get("train_on") == "others":
        trains = split.train_end[asked.users] > split.train_start[asked.users]
        rules["nothing of the user trains"] = ~trains
    if split.candidates is not None:
        rules["the answer is a candidate"] = np.isin(asked.targets, split.candidates)
    return rules


def _follows(asked: EvalSet, items: np.ndarray, end: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Whether the target of each question is among the user's events from `end` on."""
    lengths = last - end
    hits = items[ranges(end, last)] == np.repeat(asked.targets, lengths)
    question = np.repeat(np.arange(len(asked)), lengths)
    return np.bincount(question, hits, minlength=len(asked)) > 0
