"""Which features files have: every one that is named by digits, published or not.

The paper lists 13 features of items and 8 of users. Files may have others: a column of parquet, a
key of a json object. Both layouts follow one rule: what is named by digits is a feature, anything
else is not read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from genrec.data.tencentgr.schema import ITEM_FEATURES, USER_FEATURES
from genrec.errors import DataError

ITEM_NAMES = [feature.name for feature in ITEM_FEATURES]
USER_NAMES = [feature.name for feature in USER_FEATURES]
SINGLE = frozenset(feature.name for feature in USER_FEATURES if not feature.is_list)
_MOST = 256


def is_feature(name: str) -> bool:
    """Whether a column or key is a feature."""
    return name.isascii() and name.isdigit()


def in_order(names: Iterable[str]) -> list[str]:
    """The features among `names`, each once, by number."""
    return sorted({name for name in names if is_feature(name)}, key=lambda name: (int(name), name))


def check_number(path: Path, names: Iterable[str]) -> None:
    """Raise DataError where a file has more features than any download could mean.

    Each is a column of every item or user, so that a file whose keys are ids would take all memory.
    """
    found = in_order(names)
    if len(found) > _MOST:
        raise DataError(
            f"{path}: has {len(found)} features ({', '.join(found[:3])} ... {found[-1]}), and at "
            f"most {_MOST} are expected; is this the right file?"
        )
