"""Items and user histories: folders, splits, batches and the datasets they come from."""

from genrec.data.batching import (
    TrainingSequences,
    batch,
    evaluation_batches,
    training_batch,
    training_windows,
)
from genrec.data.catalog import Catalog
from genrec.data.dataset import Dataset, write_dataset
from genrec.data.histories import Histories
from genrec.data.splits import EvalSet, Split, leave_one_out, shuffle_within_day, temporal_split

__all__ = [
    "Catalog",
    "Dataset",
    "EvalSet",
    "Histories",
    "Split",
    "TrainingSequences",
    "batch",
    "evaluation_batches",
    "leave_one_out",
    "shuffle_within_day",
    "temporal_split",
    "training_batch",
    "training_windows",
    "write_dataset",
]
