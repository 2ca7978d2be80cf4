"""Items and user histories: folders, splits, batches and the datasets they come from."""

from genrec.data.augmentation import Augmentation
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
from genrec.data.sampling import TrainingBatches
from genrec.data.splits import EvalSet, Split, leave_one_out, shuffle_within_day, temporal_split

__all__ = [
    "Augmentation",
    "Catalog",
    "Dataset",
    "EvalSet",
    "Histories",
    "Split",
    "TrainingBatches",
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
