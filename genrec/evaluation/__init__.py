"""Honest evaluation: item-level metrics by expectation over ties, intervals, slices, reports."""

from genrec.evaluation.beams import BeamRow, BeamStudy, beam_study
from genrec.evaluation.examples import Example, Recommended, collect_examples
from genrec.evaluation.html import write_report
from genrec.evaluation.intervals import Difference, Interval, bootstrap_intervals, paired_difference
from genrec.evaluation.memory import PeakMemory, machine
from genrec.evaluation.metrics import mrr_at, ndcg_at, recall_at
from genrec.evaluation.neighbours import NeighbourRanker
from genrec.evaluation.protocol import MASKS, evaluate, history_matrix
from genrec.evaluation.rankers import BASELINES, ModelRanker, PopularityRanker, Ranker
from genrec.evaluation.ranks import Ranks, ranks_from_scores, ranks_from_search
from genrec.evaluation.report import (
    comparison_table,
    headline_metric,
    metrics_record,
    print_comparison,
    print_examples,
    read_metrics,
    write_metrics,
)
from genrec.evaluation.results import Evaluation, SearchRecord, best_first
from genrec.evaluation.scaling import (
    PowerLaw,
    ScalingFit,
    bootstrap_power_law,
    fit_power_law,
)
from genrec.evaluation.slices import (
    Slice,
    by_history_length,
    by_popularity,
    slice_users,
)

__all__ = [
    "BASELINES",
    "MASKS",
    "BeamRow",
    "BeamStudy",
    "Difference",
    "Evaluation",
    "Example",
    "Interval",
    "ModelRanker",
    "NeighbourRanker",
    "PeakMemory",
    "PopularityRanker",
    "PowerLaw",
    "Ranker",
    "Ranks",
    "Recommended",
    "ScalingFit",
    "SearchRecord",
    "Slice",
    "beam_study",
    "best_first",
    "bootstrap_intervals",
    "bootstrap_power_law",
    "by_history_length",
    "by_popularity",
    "collect_examples",
    "comparison_table",
    "evaluate",
    "fit_power_law",
    "headline_metric",
    "history_matrix",
    "machine",
    "metrics_record",
    "mrr_at",
    "ndcg_at",
    "paired_difference",
    "print_comparison",
    "print_examples",
    "ranks_from_scores",
    "ranks_from_search",
    "read_metrics",
    "recall_at",
    "slice_users",
    "write_metrics",
    "write_report",
]
