"""The reference hold-out for TencentGR on the Hugging Face hub, which has no ground truth.

A tenth of the users, drawn with seed 2025, is asked for the item of their last click. Their input
is what they saw strictly before it, and the target must be among the candidates. Training sees
nothing of a held-out user from the target's time on. A further fiftieth of the users chooses the
model, in the same way. Scores are not comparable with the contest's leaderboard, whose answers are
not public.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from genrec.data.dataset import Dataset
from genrec.data.histories import ranges
from genrec.data.splits import EvalSet, Split
from genrec.data.tencentgr.schema import CLICK
from genrec.errors import ConfigError, DataError

NAME = "last-click"
SEED, SHARE, VALIDATION_SHARE = 2025, 0.1, 0.02
LONG = 81  # events of an input that the published counts call long


def last_click_split(
    dataset: Dataset,
    *,
    seed: int = SEED,
    share: float = SHARE,
    validation_share: float = VALIDATION_SHARE,
    actions: tuple[int, ...] = (CLICK,),
) -> Split:
    """Hold out the last click of some users.

    Args:
        dataset: with times, actions and a column `retrieval_id` of the items, -1 outside the pool.
        seed: of the draw of users.
        share: of users that test, rounded down.
        validation_share: of users that validate, others than those.
        actions: types that make a target; with `(1, 2)` a conversion counts too.

    Returns:
        The split; `info` counts the users that are not asked, and why.

    Raises:
        ConfigError: if a share makes no sense.
        DataError: without times, actions or pool, or if nobody is left to ask.
    """
    if not (0 < share < 1 and 0 < validation_share < 1 and share + validation_share <= 1):
        raise ConfigError(
            f"split: share={share}, validation_share={validation_share}: expected shares above 0 "
            "that add up to at most 1"
        )
    pool = candidate_mask(dataset)
    of = dataset.histories
    if of.timestamps is None or of.actions is None:
        raise DataError(f"{dataset.name}: a hold-out of clicks needs timestamps and actions")
    codes = [1 + of.action_names.index(action) for action in actions if action in of.action_names]
    if not codes:
        raise DataError(
            f"{dataset.name}: no event has an action of {list(actions)}; it has {of.action_names}"
        )
    users = len(of)
    order = np.random.default_rng(seed).permutation(users)
    # In the order of the users' own numbers, so that the order of the files draws nobody.
    numbers = _numbers(dataset)
    by_number = np.argsort(numbers, kind="stable")
    tested = np.sort(by_number[order[: int(share * users)]])
    rest = order[int(share * users) :][: max(1, int(validation_share * users))]
    validated = np.sort(by_number[rest])
    train_end = of.offsets[1:].copy()
    info: dict[str, Any] = {
        "protocol": NAME,
        "seed": seed,
        "share": share,
        "actions": list(actions),
        "users": users,
    }
    sets = []
    for name, who in (("held_out", tested), ("validation", validated)):
        questions, ends, counts = _questions(dataset, who, codes, pool)
        train_end[who] = ends
        info[name] = len(who)
        info |= {f"{name}_{key}": count for key, count in counts.items()}
        if len(questions) == 0:
            raise DataError(
                f"{dataset.name}: none of the {len(who)} users drawn has a last click among the "
                "candidates and events before it; use more users or a larger share"
            )
        sets.append(questions)
    first = of.offsets[:-1].copy()
    return Split(NAME, first, train_end, sets[1], sets[0], info, np.flatnonzero(pool))


def _numbers(dataset: Dataset) -> np.ndarray:
    users = dataset.users
    if users is None or "reid" not in users.column_names:
        return np.arange(len(dataset.histories))
    return np.asarray(users.column("reid"))


def _questions(
    dataset: Dataset, who: np.ndarray, codes: list[int], pool: np.ndarray
) -> tuple[EvalSet, np.ndarray, dict[str, int]]:
    """The questions of some users, where each one's training ends, why others are not asked."""
    of = dataset.histories
    assert of.timestamps is not None and of.actions is not None
    first, last = of.offsets[who], of.offsets[who + 1]
    lengths = last - first
    events = ranges(first, last)
    starts = np.cumsum(lengths) - lengths
    clicked = np.where(np.isin(of.actions[events], codes), events, -1)
    target = np.maximum.reduceat(clicked, starts) if len(who) else clicked
    has = target >= 0
    at = np.where(has, target, first)
    earlier = of.timestamps[events] < np.repeat(of.timestamps[at], lengths)
    end = first + (np.add.reduceat(earlier.astype(np.int64), starts) if len(who) else 0)
    # A user without a click has no answer to keep from training.
    ends = np.where(has, end, last)
    inside = pool[of.items[at]]
    asked = has & inside & (end > first)
    rows = np.flatnonzero(asked)
    questions = EvalSet(
        users=who[rows].astype(np.int64),
        start=first[rows],
        end=end[rows],
        targets=of.items[at[rows]].astype(np.int64),
        times=of.timestamps[at[rows]],
        actions=of.actions[at[rows]].astype(np.int64),
    )
    return (
        questions,
        ends,
        {
            "without_click": int((~has).sum()),
            "target_outside_pool": int((has & ~inside).sum()),
            "without_history": int((has & inside & (end == first)).sum()),
            "evaluated": len(rows),
            f"of_{LONG}_events": int((questions.end - questions.start >= LONG).sum()),
        },
    )


def candidate_mask(dataset: Dataset) -> np.ndarray:
    """Which items are candidates, bool `[N]`.

    Raises:
        DataError: if the items have no column `retrieval_id`.
    """
    return places(dataset) >= 0


def candidates(dataset: Dataset) -> np.ndarray:
    """Item numbers of the candidates in the order of the pool, int64 `[P]`.

    Raises:
        DataError: if the items have no column `retrieval_id`.
    """
    place = places(dataset)
    items = np.flatnonzero(place >= 0)
    return items[np.argsort(place[items], kind="stable")]


def places(dataset: Dataset) -> np.ndarray:
    """The place of each item in the pool, int64 `[N]`, -1 outside."""
    if "retrieval_id" not in dataset.catalog.columns:
        raise DataError(
            f"{dataset.name}: the items have no column 'retrieval_id', which says what the "
            "candidates are; prepare the dataset with `genrec prepare tencentgr`"
        )
    column = dataset.catalog.table.column("retrieval_id").cast(pa.int64())
    return np.asarray(column.fill_null(-1))
