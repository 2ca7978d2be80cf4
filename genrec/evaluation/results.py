"""What an evaluation found: one rank interval per user and mask, and the metrics they imply.

Everything reported (metrics, intervals, slices, paired tests) is computed from these arrays, so a
saved evaluation can be compared with another one, or cut into other slices, without the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artefacts import replacing
from genrec.errors import ArtefactError, ConfigError
from genrec.evaluation.intervals import Difference, Interval, bootstrap_intervals, paired_difference
from genrec.evaluation.metrics import FloatArray, IntArray, mrr_at, ndcg_at, recall_at
from genrec.evaluation.ranks import Ranks

_METRICS = {"recall": recall_at, "ndcg": ndcg_at, "mrr": mrr_at}


@dataclass(frozen=True)
class SearchRecord:
    """One mask's search over all users.

    Attributes:
        ranks: rank intervals of the targets.
        certified: bool [n], the search proved its list to be the exact top k.
        leaked: float32 [n], probability mass met on codes that do not exist.
        evaluations: int64 [n], prefixes expanded.
        target_excluded: bool [n], the target was among the excluded items, hence a miss.
        seconds: wall time of batching, model and search.
    """

    ranks: Ranks
    certified: np.ndarray
    leaked: np.ndarray
    evaluations: np.ndarray
    target_excluded: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """A ranker on one split.

    Attributes:
        ranker: its name.
        split: `validation` or `test`.
        users: int64 [n], user indices.
        targets: int64 [n], item indices.
        history_lengths: int64 [n], events before the target (not truncated).
        searches: `unmasked` and `masked` to their records.
        ks: list lengths reported, ascending.
        has_tuples: whether tuple-level metrics are reported.
        facts: what stands beside the metrics (seconds, settings of the ranker, ...).
        bootstrap: replicates of the intervals.
        seed: seed of the intervals.
    """

    ranker: str
    split: str
    users: IntArray
    targets: IntArray
    history_lengths: IntArray
    searches: dict[str, SearchRecord]
    ks: tuple[int, ...]
    has_tuples: bool
    facts: dict[str, Any] = field(default_factory=dict)
    bootstrap: int = 1000
    seed: int = 0

    def __len__(self) -> int:
        return len(self.users)

    @property
    def names(self) -> list[str]:
        """Per-user quantities that `per_user` knows, without mask."""
        top = self.ks[-1]
        names = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in self.ks]
        names.append(f"mrr@{top}")
        if self.has_tuples:
            names += [f"tuple_{metric}@{k}" for metric in ("recall", "ndcg") for k in self.ks]
        return [*names, "certificate_rate", "leaked_mass"]

    def per_user(self, mask: str, name: str) -> FloatArray:
        """One value per user, float64 [n].

        Args:
            mask: `unmasked` or `masked`.
            name: `recall@10`, `ndcg@10`, `mrr@20`, `tuple_recall@10`, `tuple_ndcg@10`,
                `certificate_rate` or `leaked_mass`.

        Raises:
            ConfigError: if this evaluation does not hold it.
        """
        if mask not in self.searches:
            raise ConfigError(
                f"mask {mask!r} was not evaluated; expected one of {', '.join(self.searches)}"
            )
        record = self.searches[mask]
        if name == "certificate_rate":
            return record.certified.astype(np.float64)
        if name == "leaked_mass":
            return record.leaked.astype(np.float64)
        ranks = record.ranks
        metric, _, length = name.partition("@")
        tuples = metric.startswith("tuple_")
        function = _METRICS.get(metric.removeprefix("tuple_"))
        if function is None or not length.isdigit() or not 1 <= int(length) <= self.ks[-1]:
            raise ConfigError(
                f"metric {name!r} is unknown or longer than the lists searched; "
                f"expected one of {', '.join(self.names)}"
            )
        if tuples:
            return function(ranks.tuple_rank, np.ones_like(ranks.ties), int(length))
        return function(ranks.before, ranks.ties, int(length))

    @cached_property
    def metrics(self) -> dict[str, Interval]:
        """Flat keys `split/mask/name` to mean and 95% interval, one resampling for all."""
        columns = {
            f"{self.split}/{mask}/{name}": self.per_user(mask, name)
            for mask in self.searches
            for name in self.names
        }
        return bootstrap_intervals(columns, replicates=self.bootstrap, seed=self.seed)

    @property
    def told(self) -> str:
        """What the ranker knew of the event to be predicted: `time`, `action`, both, or nothing."""
        return told_of(self.facts)

    def value(self, mask: str, name: str) -> float:
        """Mean of one metric over users."""
        return float(self.per_user(mask, name).mean())

    def same_users(self, other: Evaluation) -> bool:
        """Whether both were asked for the same targets of the same users, in the same order."""
        return np.array_equal(self.users, other.users) and np.array_equal(
            self.targets, other.targets
        )

    def minus(self, other: Evaluation, mask: str, name: str) -> Difference:
        """Paired difference of this ranker and another on the same users.

        Raises:
            ConfigError: if the two were evaluated on other users or targets.
        """
        return difference_of_means([self], [other], mask, name)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the per-user arrays as parquet, everything else in its schema metadata."""
        columns: dict[str, np.ndarray] = {
            "user": self.users,
            "target": self.targets,
            "history_length": self.history_lengths,
        }
        for mask, record in self.searches.items():
            columns[f"{mask}/before"] = record.ranks.before
            columns[f"{mask}/ties"] = record.ranks.ties
            columns[f"{mask}/tuple_rank"] = record.ranks.tuple_rank
            for name in _RECORD_ARRAYS:
                columns[f"{mask}/{name}"] = getattr(record, name)
        about = {
            "ranker": self.ranker,
            "split": self.split,
            "ks": list(self.ks),
            "has_tuples": self.has_tuples,
            "facts": self.facts,
            "bootstrap": self.bootstrap,
            "seed": self.seed,
            "seconds": {mask: record.seconds for mask, record in self.searches.items()},
        }
        table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(about).encode()})
        with replacing(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            ArtefactError: if the file is missing, truncated or something else.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtefactError(
                f"{path}: is not a readable evaluation ({error}); evaluate again"
            ) from error
        metadata = table.schema.metadata or {}
        if _METADATA not in metadata:
            raise ArtefactError(f"{path}: is not an evaluation that genrec saved")
        about = json.loads(metadata[_METADATA])
        arrays = {name: table.column(name).to_numpy() for name in table.column_names}
        searches = {
            mask: SearchRecord(
                ranks=Ranks(*(arrays[f"{mask}/{n}"] for n in ("before", "ties", "tuple_rank"))),
                **{name: arrays[f"{mask}/{name}"] for name in _RECORD_ARRAYS},
                seconds=seconds,
            )
            for mask, seconds in about["seconds"].items()
        }
        return cls(
            ranker=about["ranker"],
            split=about["split"],
            users=arrays["user"],
            targets=arrays["target"],
            history_lengths=arrays["history_length"],
            searches=searches,
            ks=tuple(about["ks"]),
            has_tuples=about["has_tuples"],
            facts=about["facts"],
            bootstrap=about["bootstrap"],
            seed=about["seed"],
        )


_RECORD_ARRAYS = ("certified", "leaked", "evaluations", "target_excluded")
_METADATA = b"genrec.evaluation"


def told_of(facts: Mapping[str, Any]) -> str:
    """What a ranker of these facts (or this `metrics.json`) knew of the target, for a table."""
    return ", ".join(name for name in ("time", "action") if facts.get(f"knows_request_{name}"))


def difference_of_means(
    first: Sequence[Evaluation], second: Sequence[Evaluation], mask: str, name: str
) -> Difference:
    """Paired difference of two rankers, each the mean over its seeds, on the same users.

    A user's value is the mean over the seeds; users are resampled, seeds are not.

    Args:
        first: evaluations of a ranker, one per seed.
        second: of the other one.
        mask: `unmasked` or `masked`.
        name: metric, as in `Evaluation.per_user`.

    Raises:
        ConfigError: if they were evaluated on other users or targets.
    """
    one = first[0]
    for other in (*first[1:], *second):
        if not one.same_users(other):
            raise ConfigError(
                f"{one.ranker!r} and {other.ranker!r} were evaluated on different users or "
                "targets; a paired difference needs the same split of the same dataset"
            )
    means = [
        np.mean([each.per_user(mask, name) for each in seeds], axis=0) for seeds in (first, second)
    ]
    return paired_difference(*means, replicates=max(one.bootstrap, 1), seed=one.seed)


def best_first(evaluations: Sequence[Evaluation], mask: str, name: str) -> list[Evaluation]:
    """Evaluations ordered by a metric, highest first; equal ones keep their order."""
    return sorted(evaluations, key=lambda evaluation: -evaluation.value(mask, name))
