"""What the files of TencentGR hold: features, vector sets, action types.

Figures are those of the TencentGR-1M paper (arXiv 2604.04976): how many values each feature has and
on what share of items or users it is known. Meanings are anonymised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One sparse feature.

    Attributes:
        name: its number, as the files write it.
        values: different values in TencentGR-1M.
        coverage: share of items or users that have it.
        is_list: several values each.
    """

    name: str
    values: int
    coverage: float
    is_list: bool = False


ITEM_FEATURES = (
    Feature("100", 6, 0.9993),
    Feature("101", 51, 0.9993),
    Feature("102", 90_709, 0.9903),
    Feature("112", 30, 0.9794),
    Feature("114", 20, 0.9991),
    Feature("115", 691, 0.3202),
    Feature("116", 18, 0.9990),
    Feature("117", 497, 0.9794),
    Feature("118", 1_426, 0.9792),
    Feature("119", 4_191, 0.9790),
    Feature("120", 3_392, 0.9780),
    Feature("121", 2_135_891, 1.0),
    Feature("122", 90_919, 0.9993),
)
USER_FEATURES = (
    Feature("103", 86, 0.9991),
    Feature("104", 2, 0.9962),
    Feature("105", 7, 0.8580),
    Feature("106", 14, 0.8791, True),
    Feature("107", 19, 0.3870, True),
    Feature("108", 4, 0.1704, True),
    Feature("109", 3, 0.9996),
    Feature("110", 2, 0.4298, True),
)
#: Number of the creative itself; the index has it, the tables do not.
CREATIVE = "111"
#: Widths of the vector sets of TencentGR-1M; in -10M set 84 has 32.
VECTOR_SETS = {"81": 32, "82": 1024, "83": 3584, "84": 4096, "85": 3584, "86": 3584}
EXPOSURE, CLICK, CONVERSION = 0, 1, 2
ITEMS_1M, USERS_1M, POOL_1M = 4_783_154, 1_001_845, 660_000

_SET = re.compile(r"emb_([0-9]+)_([0-9]+)(?:_parquet)?(?:\.pkl)?")


def vector_set(name: str) -> tuple[str, int] | None:
    """Number and width of the vector set that a file or folder is named after, if it is one."""
    found = _SET.fullmatch(name)
    return (found[1], int(found[2])) if found else None
