"""The evaluation protocol: every ranker sees the same users, inputs and exclusions.

Full ranking over the whole catalogue. Each user's input is the whole history before the target (the
model reads its last `max_length` events). `unmasked` leaves every item in the list; `masked` leaves
out the items of the whole input history inside the search, so that the list still has k items. A
target that is itself in the history (a repeat) cannot be hit when masked: it counts as a miss, and
its share is reported. So does a target outside the pool, where only a pool of candidates is ranked.
Users without a history, whom no model reads, are answered by a fallback such as popularity.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genrec.data import Dataset, EvalSet, evaluation_batches
from genrec.decoding import Filter, SearchResult
from genrec.errors import ConfigError, DataError
from genrec.evaluation.effective_rank import EffectiveRank
from genrec.evaluation.memory import PeakMemory
from genrec.evaluation.metrics import NOT_FOUND, IntArray
from genrec.evaluation.rankers import PopularityRanker, Ranker
from genrec.evaluation.ranks import Ranks, is_excluded, ranks_from_search
from genrec.evaluation.results import Evaluation, SearchRecord
from genrec.processes import processes, summed

MASKS = ("unmasked", "masked")


def evaluate(
    ranker: Ranker,
    dataset: Dataset,
    eval_set: EvalSet,
    *,
    split: str,
    ks: Sequence[int] = (5, 10, 20),
    batch_size: int = 512,
    max_length: int = 50,
    masks: Sequence[str] = MASKS,
    bootstrap: int = 1000,
    seed: int = 0,
    request_time: bool = True,
    request_action: bool = False,
    candidates: IntArray | None = None,
    fallback: Ranker | None = None,
    shared: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Rank the whole catalogue for every user of `eval_set` and see where the target stands.

    Users are batched by history length, which keeps padding small; the result is in the order of
    `eval_set`.

    Args:
        ranker: what is evaluated.
        dataset: where the histories are.
        eval_set: users, inputs and targets.
        split: name of the split, the first part of each metric's key.
        ks: list lengths.
        batch_size: users per search.
        max_length: events of the input that the model reads, the last ones.
        masks: which of `unmasked` and `masked` to report.
        bootstrap: resamples for the intervals.
        seed: seed of the intervals.
        request_time: models that read times see when the target was consumed, as a service knows
            the time of a request; otherwise they see the time of the last event.
        request_action: models that read the next action are told the target's, as where a service
            asks "which item will they click"; otherwise they are told nothing. Report both.
        candidates: item indices `int64 [n]`: rank only this pool, for all users. By default the
            whole catalogue. Numbers of one pool are not comparable with those of another.
        fallback: answers users whose history is empty; without one their targets are misses.
        shared: share the batches out to the processes of `accelerate launch`. All of them must
            call this, and all get the whole result, which is that of one process to the bit.
        progress: show a progress bar, on a terminal.

    Returns:
        What was found; among its facts, whether this ranker knew the time and the action of the
        target: `knows_request_time` and `knows_request_action`. One that reads neither knows
        neither, whatever it was told. Where histories are empty, `users_without_history` counts
        them and `without_history` says who answered.

    Raises:
        ConfigError: if a list length, mask, batch size or seed makes no sense.
        DataError: if there is no user to evaluate.
    """
    ks = tuple(sorted(set(ks)))
    if not ks or ks[0] < 1:
        raise ConfigError(f"ks={list(ks)}: expected one or more list lengths of at least 1")
    unknown = [mask for mask in masks if mask not in MASKS]
    if unknown or not masks:
        raise ConfigError(f"masks={list(masks)}: expected one or both of {', '.join(MASKS)}")
    if batch_size < 1 or max_length < 1:
        raise ConfigError(f"batch_size={batch_size} and max_length={max_length} must be at least 1")
    if bootstrap < 0 or seed < 0:
        raise ConfigError(f"bootstrap={bootstrap} and seed={seed} must be 0 or more")
    if len(eval_set) == 0:
        raise DataError(f"split {split!r} has no user to evaluate; check how the data was split")

    started = time.perf_counter()
    memory = PeakMemory()
    order: list[IntArray] = []
    records: dict[str, list[_Batch]] = {mask: [] for mask in masks}
    seconds = dict.fromkeys(masks, 0.0)
    pool = candidate_filter(ranker, candidates)
    repeated = outside = 0
    spread = EffectiveRank()
    told = dataclasses.replace(
        eval_set,
        times=eval_set.times if request_time else None,
        actions=eval_set.actions if request_action else None,
    )
    team = processes()
    empty = eval_set.end == eval_set.start
    asked = np.flatnonzero(~empty)
    batches = evaluation_batches(
        dataset.histories,
        told.take(asked),
        max_length=max_length,
        batch_size=batch_size,
        part=(team.process_index, team.num_processes) if shared else (0, 1),
    )
    bar = tqdm(
        total=len(eval_set),
        desc=f"evaluate {ranker.name}",
        unit="user",
        disable=None if progress else True,
    )
    clock = time.perf_counter()
    with bar:
        for places, inputs in batches:
            rows = asked[places]
            order.append(rows)
            part = eval_set.take(rows)
            targets = inputs["targets"]
            history = torch.from_numpy(
                history_matrix(dataset.histories.items, part.start, part.end)
            )
            repeated += int(is_excluded(targets, history).sum())
            lost = outside_pool(pool, targets)
            outside += int(lost.sum())
            encoded = ranker.prepare(inputs)
            if "hidden" in encoded and encoded["hidden"].ndim == 2:
                spread.add(encoded["hidden"])
            common = (time.perf_counter() - clock) / len(masks)
            for mask in masks:
                clock = time.perf_counter()
                exclude = history if mask == "masked" else None
                result = ranker.search(encoded, k=ks[-1], exclude=exclude, filter=pool)
                excluded = is_excluded(targets, exclude) | lost
                records[mask].append(_read(ranker, result, targets, excluded))
                seconds[mask] += time.perf_counter() - clock + common
            bar.update(len(rows))
            clock = time.perf_counter()

    if empty.any() and (not shared or team.is_main_process):
        rows = np.flatnonzero(empty)
        order.append(rows)
        targets = torch.from_numpy(eval_set.targets[rows].astype(np.int64))
        answers = _without_history(fallback, targets, candidates, k=ks[-1])
        outside += int(answers[-1].sum())
        for mask in masks:
            records[mask].append(answers)
    counted = np.array([repeated, outside])
    if shared:
        spread.share()
        counted = summed(counted)
    repeated, outside = counted.tolist()
    effective = spread.value()
    evaluation = Evaluation(
        ranker=ranker.name,
        split=split,
        users=eval_set.users.astype(np.int64),
        targets=eval_set.targets.astype(np.int64),
        history_lengths=(eval_set.end - eval_set.start).astype(np.int64),
        searches={
            mask: _join(records[mask], order, len(eval_set), seconds[mask], shared=shared)
            for mask in masks
        },
        ks=ks,
        has_tuples=ranker.has_tuples,
        facts=dict(ranker.settings()),
        bootstrap=bootstrap,
        seed=seed,
    )
    _ = evaluation.metrics  # computed now, so that `seconds` holds the whole of it
    evaluation.facts.update(
        seconds=time.perf_counter() - started,
        targets_in_history=repeated / len(eval_set),
        max_length=max_length,
        batch_size=batch_size,
        knows_request_time="time" in ranker.asks and told.times is not None,
        knows_request_action="action" in ranker.asks and told.actions is not None,
        items=len(dataset.catalog),
        **({"processes": team.num_processes} if shared and team.num_processes > 1 else {}),
        **({} if effective is None else {"effective_rank": round(effective, 3)}),
        **({} if pool is None else _about_pool(pool, outside / len(eval_set))),
        **(_about_empty(int(empty.sum()), fallback) if empty.any() else {}),
        # Of popularity it would be that of whatever ran before: itself it needs next to none.
        **({} if isinstance(ranker, PopularityRanker) else memory.read()),
    )
    return evaluation


def candidate_filter(ranker: Ranker, candidates: IntArray | None) -> Filter | None:
    """The filter of a pool of candidates (item indices `int64 [n]`) for a ranker; None for all."""
    return None if candidates is None else Filter.allow(ranker.filters_for, candidates)


def outside_pool(pool: Filter | None, targets: Tensor) -> Tensor:
    """Bool [B], whether a target is not among the candidates."""
    if pool is None:
        return torch.zeros_like(targets, dtype=torch.bool)
    return ~pool.contains(targets.to(pool.members.words.device))[0].to(targets.device)


def history_matrix(items: np.ndarray, start: IntArray, end: IntArray) -> IntArray:
    """The items of flat slices as one padded matrix.

    Args:
        items: integers [T], all events.
        start: int64 [B], first event of each user.
        end: int64 [B], one after the last.

    Returns:
        int64 [B, E], E the longest slice, -1 where a slice has ended.
    """
    width = int((end - start).max(initial=0))
    column = np.arange(width)
    index = start[:, None] + column
    real = index < end[:, None]
    matrix = np.full(index.shape, -1, dtype=np.int64)
    matrix[real] = items[index[real]]
    return matrix


_Batch = tuple[Ranks, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _about_pool(pool: Filter, outside: float) -> dict[str, float]:
    return {"candidates": int(pool.num_allowed[0]), "targets_outside_candidates": outside}


def _about_empty(users: int, fallback: Ranker | None) -> dict[str, int | str]:
    answered = "nobody" if fallback is None else fallback.name
    return {"users_without_history": users, "without_history": answered}


def _without_history(
    fallback: Ranker | None, targets: Tensor, candidates: IntArray | None, *, k: int
) -> _Batch:
    """What is found for users of whom no event is known, in one search."""
    if fallback is None:
        count = len(targets)
        missed = np.full(count, NOT_FOUND, dtype=np.int64)
        none = np.zeros(count, dtype=np.int64)
        known = np.zeros(count, dtype=bool)
        return Ranks(missed, none, missed), known, none.astype(np.float32), none, known
    pool = candidate_filter(fallback, candidates)
    nothing = {
        "items": torch.zeros(len(targets), 1, dtype=torch.int64),
        "mask": torch.zeros(len(targets), 1, dtype=torch.bool),
    }
    result = fallback.search(fallback.prepare(nothing), k=k, filter=pool)
    return _read(fallback, result, targets, outside_pool(pool, targets))


def _read(ranker: Ranker, result: SearchResult, targets: Tensor, excluded: Tensor) -> _Batch:
    return (
        ranks_from_search(result, ranker.leaf_of(targets), excluded=excluded),
        result.certified.cpu().numpy(),
        result.leaked.float().cpu().numpy(),
        result.evaluations.cpu().numpy(),
        excluded.numpy(),
    )


def _join(
    batches: list[_Batch], order: list[IntArray], users: int, seconds: float, *, shared: bool
) -> SearchRecord:
    """What was read of batches, in the order of the users; `order` holds the rows of each batch."""
    columns: list[np.ndarray] = [np.zeros(users, dtype) for dtype in _TYPES]
    for rows, (ranks, *others) in zip(order, batches, strict=True):
        found = (ranks.before, ranks.ties, ranks.tuple_rank, *others)
        for column, values in zip(columns, found, strict=True):
            column[rows] = values
    if shared:  # each user is one process's, and zero elsewhere
        columns = [summed(column) for column in columns]
    before, ties, tuple_rank, certified, leaked, evaluations, excluded = columns
    return SearchRecord(
        ranks=Ranks(before, ties, tuple_rank),
        certified=certified,
        leaked=leaked,
        evaluations=evaluations,
        target_excluded=excluded,
        seconds=seconds,
    )


# Of what `_read` returns: rank intervals, certified, leaked, evaluations, excluded.
_TYPES = (np.int64, np.int64, np.int64, np.bool_, np.float32, np.int64, np.bool_)
