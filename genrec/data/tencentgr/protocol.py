"""The reference hold-out for TencentGR on the Hugging Face hub, which has no ground truth.

A tenth of the users, drawn with seed 2025, is asked for the item of their last click. Their input
is the events that stand before it, perhaps none, and the target must be among the candidates. None
of their events train. The draw is that of `torch.utils.data.random_split` over the users by number,
as in a public reproduction (offline_eval.py of yiyidaishui7/tencentgr-1m-2025-reproduction), so the
same users are asked and published counts come out exactly. The reference chooses no model; here a
fiftieth of its training users does, asked in the same way. Scores are not comparable with the
contest's leaderboard, whose answers are not public.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch

from genrec.data.dataset import Dataset
from genrec.data.histories import ranges
from genrec.data.splits import EvalSet, Split
from genrec.data.tencentgr.schema import CLICK
from genrec.errors import ConfigError, DataError

NAME = "last-click"
SEED, SHARE, VALIDATION_SHARE = 2025, 0.1, 0.02
#: A handful of users chooses nothing: so many validate at least, or a quarter of the others.
VALIDATION_LEAST = 50
Cut = Literal["position", "time"]
TrainOn = Literal["others", "prefixes"]
CUTS, TRAIN_ON = get_args(Cut), get_args(TrainOn)
#: Lengths of an input that published results are cut by, the first and the last of each slice.
LENGTHS = {
    "of_0_to_20_events": (0, 20),
    "of_21_to_50_events": (21, 50),
    "of_51_to_80_events": (51, 80),
    "of_81_events": (81, None),
}


def last_click_split(
    dataset: Dataset,
    *,
    seed: int = SEED,
    share: float = SHARE,
    validation_share: float = VALIDATION_SHARE,
    cut: Cut = "position",
    train_on: TrainOn = "others",
    actions: tuple[int, ...] = (CLICK,),
) -> Split:
    """Hold out the last click of some users.

    Args:
        dataset: with times, actions and a column `retrieval_id` of the items, -1 outside the pool.
        seed: of the draw of users.
        share: of users that test, rounded down.
        validation_share: of users that validate, others than those, and at least 50 users where a
            quarter of the others is as many.
        cut: what an input is: `position`, the events that stand before the target in the order of
            time, as the reference; `time`, of these only the ones of an earlier second.
        train_on: `others`, users that neither test nor validate, as the reference; `prefixes`, the
            inputs of those users too, and all events of those without a target.
        actions: types that make a target; with `(1, 2)` a conversion counts too.

    Returns:
        The split; `info` counts the users that are not asked, and why. An input may be empty.

    Raises:
        ConfigError: if a share makes no sense, or the cut or what trains is unknown.
        DataError: without times, actions or pool, or if nobody is left to ask.
    """
    if not (0 < share < 1 and 0 < validation_share < 1 and share + validation_share <= 1):
        raise ConfigError(
            f"split: share={share}, validation_share={validation_share}: expected shares above 0 "
            "that add up to at most 1"
        )
    for what, value, known in (("cut", cut, CUTS), ("train_on", train_on, TRAIN_ON)):
        if value not in known:
            raise ConfigError(f"split: {what}={value!r}; expected one of {', '.join(known)}")
    pool = candidate_mask(dataset)
    of = dataset.histories
    if of.timestamps is None or of.actions is None:
        raise DataError(f"{dataset.name}: a hold-out of clicks needs timestamps and actions")
    codes = [1 + of.action_names.index(action) for action in actions if action in of.action_names]
    if not codes:
        raise DataError(
            f"{dataset.name}: no event has an action of {list(actions)}; it has {of.action_names}"
        )
    rows = _rows_by_number(dataset)
    rows = np.where(of.lengths[rows] > 0, rows, -1)
    others, tested = draw(len(rows), seed=seed, share=share)
    least = max(1, min(VALIDATION_LEAST, len(others) // 4))
    validated = others[: max(least, int(validation_share * len(rows)))]
    train_end = of.offsets[1:].copy()
    info: dict[str, Any] = {
        "protocol": NAME,
        "seed": seed,
        "share": share,
        "validation_share": validation_share,
        "cut": cut,
        "train_on": train_on,
        "actions": list(actions),
        "users": len(rows),
    }
    sets = []
    for name, places in (("held_out", tested), ("validation", validated)):
        who = np.sort(rows[places])
        absent = int((who < 0).sum())
        who = who[absent:]
        asked = _questions(dataset, who, codes, pool, cut)
        train_end[who] = of.offsets[who] if train_on == "others" else asked.ends
        info[name] = len(places)
        # Users without an event are left out of a dataset, and are drawn all the same.
        asked.counts["without_click"] += absent
        info |= {f"{name}_{key}": count for key, count in asked.counts.items()}
        if len(asked.questions) == 0:
            option = "share" if name == "held_out" else "validation_share"
            raise DataError(
                f"{dataset.name}: none of the {len(places)} users drawn has a last click among the "
                f"candidates; use more users or a larger {option}"
            )
        sets.append(asked.questions)
    first = of.offsets[:-1].copy()
    info["training_users"] = int((train_end > first).sum())
    return Split(NAME, first, train_end, sets[1], sets[0], info, np.flatnonzero(pool))


def draw(users: int, *, seed: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Places of the users that are left and of those drawn, as `random_split` draws them.

    Args:
        users: how many there are; the user of number n stands at place n - 1.
        seed: of the draw.
        share: that is drawn.

    Returns:
        Both int64 `[n]`, in the order of the draw; what
        `torch.utils.data.random_split(range(users), [1 - share, share])` gives with that seed.
    """
    sizes = [floor(users * part) for part in (1.0 - share, share)]
    left = users - sum(sizes)  # is dealt out in turn, the first part first
    order = torch.randperm(users, generator=torch.Generator().manual_seed(seed)).numpy()
    at = sizes[0] + (left + 1) // 2
    return order[:at], order[at:]


def _rows_by_number(dataset: Dataset) -> np.ndarray:
    """Row of each user in the order of their numbers, int64 `[U]`, -1 for one without an event.

    Numbers that leave gaps, as in a part of the files, are closed up.
    """
    users = len(dataset.histories)
    if dataset.users is None or "reid" not in dataset.users.column_names:
        return np.arange(users)
    numbers = np.asarray(dataset.users.column("reid")).astype(np.int64)
    if not numbers.any():
        return np.arange(users)
    numbered = np.flatnonzero(numbers > 0)  # 0 is a user that training did not have
    counts = dataset.info.get("counts", {})
    total = len(numbered) + int(counts.get("users_without_events_dropped", 0))
    if numbers.max() <= total:
        rows = np.full(total, -1, dtype=np.int64)
        rows[numbers[numbered] - 1] = numbered
        return rows
    return numbered[np.argsort(numbers[numbered], kind="stable")]


@dataclass(frozen=True)
class _Asked:
    """The questions of some users, where each one's input ends, and why others are not asked."""

    questions: EvalSet
    ends: np.ndarray
    counts: dict[str, int]


def _questions(
    dataset: Dataset, who: np.ndarray, codes: list[int], pool: np.ndarray, cut: Cut
) -> _Asked:
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
    end = at
    if cut == "time" and len(who):
        earlier = of.timestamps[events] < np.repeat(of.timestamps[at], lengths)
        end = first + np.add.reduceat(earlier.astype(np.int64), starts)
    inside = pool[of.items[at]]
    rows = np.flatnonzero(has & inside)
    questions = EvalSet(
        users=who[rows].astype(np.int64),
        start=first[rows],
        end=end[rows],
        targets=of.items[at[rows]].astype(np.int64),
        times=of.timestamps[at[rows]],
        actions=of.actions[at[rows]].astype(np.int64),
    )
    events_read = questions.end - questions.start
    counts = {
        "without_click": int((~has).sum()),
        "target_outside_pool": int((has & ~inside).sum()),
        "evaluated": len(rows),
        "with_empty_history": int((events_read == 0).sum()),
    }
    for name, (least, most) in LENGTHS.items():
        within = (events_read >= least) & (most is None or events_read <= most)
        counts[name] = int(within.sum())
    # A user without a click has no answer to keep from training.
    return _Asked(questions, np.where(has, end, last), counts)


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
