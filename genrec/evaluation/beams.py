"""What a beam width costs and loses: each width against exact search on the same users."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genrec.data import Dataset, EvalSet, evaluation_batches
from genrec.decoding import SearchResult
from genrec.errors import ConfigError
from genrec.evaluation.metrics import IntArray, ndcg_at, recall_at
from genrec.evaluation.protocol import candidate_filter, history_matrix, outside_pool
from genrec.evaluation.rankers import ModelRanker
from genrec.evaluation.ranks import Ranks, is_excluded, ranks_from_search
from genrec.processes import processes, summed


@dataclass(frozen=True)
class BeamRow:
    """One search setting.

    Attributes:
        beam_width: tuples kept per step; None is exact search.
        list_recall: share of the exact top k that the search returned.
        certificate_rate: share of users whose list the search proved exact.
        false_certificates: users with a certificate whose list was not exact; must be 0.
        recall: expected recall@k of the targets.
        ndcg: expected NDCG@k of the targets.
        leaked_mass: mean probability mass met on codes that do not exist.
        evaluations: mean number of prefixes expanded per user.
        seconds: time of the searches, histories already encoded.
    """

    beam_width: int | None
    list_recall: float
    certificate_rate: float
    false_certificates: int
    recall: float
    ndcg: float
    leaked_mass: float
    evaluations: float
    seconds: float

    @property
    def name(self) -> str:
        """`beam 50` or `exact`."""
        return "exact" if self.beam_width is None else f"beam {self.beam_width}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class BeamStudy:
    """Rows of one study, the exact search last.

    Attributes:
        rows: one per beam width, ascending, then exact search.
        users: users searched.
        k: list length.
        masked: whether the items of the history were left out.
    """

    rows: list[BeamRow]
    users: int
    k: int
    masked: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "users": self.users,
            "k": self.k,
            "masked": self.masked,
            "rows": [row.as_dict() for row in self.rows],
        }


def beam_study(
    ranker: ModelRanker,
    dataset: Dataset,
    eval_set: EvalSet,
    *,
    widths: Sequence[int] = (10, 20, 50, 100),
    k: int = 10,
    batch_size: int = 512,
    max_length: int = 50,
    masked: bool = False,
    sample: int | None = None,
    seed: int = 0,
    candidates: IntArray | None = None,
    shared: bool = False,
    progress: bool = False,
) -> BeamStudy:
    """Search the same users at every width and exactly; those with a history, which a model reads.

    Args:
        ranker: a model with a trie; its own width is not used.
        dataset: where the histories are.
        eval_set: users, inputs and targets.
        widths: beam widths.
        k: list length compared.
        batch_size: users per search.
        max_length: events of the input that the model reads.
        masked: leave out the items of the history.
        sample: use so many users, drawn with `seed`; None uses all.
        seed: seed of the sample.
        candidates: item indices `int64 [n]`: rank only this pool; by default the catalogue.
        shared: share the batches out to the processes of `accelerate launch`, as `evaluate` does.
        progress: show a progress bar.

    Raises:
        ConfigError: if a width is not at least 1 or there is no user.
    """
    eval_set = eval_set.take(eval_set.end > eval_set.start)
    ordered = sorted(set(widths))
    if not ordered or ordered[0] < 1 or k < 1:
        raise ConfigError(f"beam widths {list(widths)} and k={k} must be at least 1")
    if sample is not None and sample < len(eval_set):
        eval_set = eval_set.sample(sample, seed)
    if len(eval_set) == 0:
        raise ConfigError("a beam study needs at least one user")
    exact = ranker.replace(exact=True)
    searchers = [ranker.replace(beam_width=width, exact=False) for width in ordered]
    pool = candidate_filter(exact, candidates)
    team = processes()
    part_of_all = (team.process_index, team.num_processes) if shared else (0, 1)
    sums = np.zeros((math.ceil(len(eval_set) / batch_size), len(ordered) + 1, len(_SUMS)))
    batches = evaluation_batches(
        dataset.histories,
        eval_set,
        max_length=max_length,
        batch_size=batch_size,
        part=part_of_all,
    )
    with tqdm(
        total=len(eval_set), desc="beam widths", unit="user", disable=None if progress else True
    ) as bar:
        for number, (rows, inputs) in enumerate(batches):
            targets = inputs["targets"]
            part = eval_set.take(rows)
            exclude = None
            if masked:
                exclude = torch.from_numpy(
                    history_matrix(dataset.histories.items, part.start, part.end)
                )
            encoded = exact.prepare(inputs)
            reference: SearchResult | None = None
            own = sums[part_of_all[0] + number * part_of_all[1]]
            for place, searcher in enumerate([exact, *searchers]):
                clock = time.perf_counter()
                result = searcher.search(encoded, k=k, exclude=exclude, filter=pool)
                _wait(result)
                seconds = time.perf_counter() - clock
                reference = result if reference is None else reference
                excluded = is_excluded(targets, exclude) | outside_pool(pool, targets)
                ranks = ranks_from_search(result, searcher.leaf_of(targets), excluded=excluded)
                own[place - 1] = _sums(result, reference, ranks, seconds, k)  # exact comes last
            bar.update(len(rows))
    if shared:
        sums = summed(sums)
    study = [_row(width, total) for width, total in zip([*ordered, None], sums.sum(0), strict=True)]
    return BeamStudy(study, len(eval_set), k, masked)


def exact_items_found(result: SearchResult, exact: SearchResult) -> tuple[Tensor, Tensor]:
    """How much of each exact list a search returned.

    An item counts as found if it is in the exact list, or if its score reaches the exact k-th score
    (to rounding): items that tie for the last place are interchangeable.

    Returns:
        int64 [B] items found and int64 [B] items in the exact list.
    """
    real = result.items >= 0
    member = (result.items[:, :, None] == exact.items[:, None, :]).any(dim=2)
    listed = (exact.items >= 0).sum(dim=1)
    last = exact.scores.gather(1, (listed - 1).clamp(min=0)[:, None])
    slack = 1e-5 * last.abs().clamp(min=1.0)
    found = (real & (member | (result.scores >= last - slack))).sum(dim=1)
    return torch.minimum(found, listed), listed


# What is added up over the users of a batch, and then over the batches in their order.
_SUMS = (
    "users",
    "found",
    "listed",
    "false_certificates",
    "certified",
    "leaked",
    "evaluations",
    "recall",
    "ndcg",
    "seconds",
)


def _sums(
    result: SearchResult, exact: SearchResult, ranks: Ranks, seconds: float, k: int
) -> tuple[float, ...]:
    found, listed = exact_items_found(result, exact)
    certified = result.certified.bool()
    return (
        len(ranks),
        int(found.sum()),
        int(listed.sum()),
        int((certified & (found < listed)).sum()),
        int(certified.sum()),
        float(result.leaked.double().sum()),
        float(result.evaluations.sum()),
        float(recall_at(ranks.before, ranks.ties, k).sum()),
        float(ndcg_at(ranks.before, ranks.ties, k).sum()),
        seconds,
    )


def _row(width: int | None, sums: np.ndarray) -> BeamRow:
    total = dict(zip(_SUMS, sums.tolist(), strict=True))
    users = total["users"]
    return BeamRow(
        beam_width=width,
        list_recall=total["found"] / max(total["listed"], 1),
        certificate_rate=total["certified"] / users,
        false_certificates=int(total["false_certificates"]),
        recall=total["recall"] / users,
        ndcg=total["ndcg"] / users,
        leaked_mass=total["leaked"] / users,
        evaluations=total["evaluations"] / users,
        seconds=total["seconds"],
    )


def _wait(result: SearchResult) -> None:
    """Let an accelerator finish, so that the clock measures the search."""
    if result.items.is_cuda:
        torch.cuda.synchronize()
