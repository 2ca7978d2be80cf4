"""Items and user histories: folders, splits, batches and the datasets they come from."""

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
    "leave_one_out",
    "shuffle_within_day",
    "temporal_split",
    "write_dataset",
]
