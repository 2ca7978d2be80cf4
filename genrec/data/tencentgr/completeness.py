"""What a download seems to lack, told by its files and by what they say of each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

_PART = re.compile("part-([0-9]+)")
_LACKING = {
    "users_without_features": "users have no row of features",
    "items_without_features": "items of histories have no row of features",
}
#: Counts that are told where they are not 0.
_TOLD = {
    "candidates_repeated": "candidates that come twice, of which the first counts",
    "events_of_unknown_items_dropped": "events of unknown items left out",
    "users_without_events_dropped": "users without an event left out",
    "events_without_action": "events without action",
    "item_features_not_published": "features of items that the paper does not list",
    "user_features_not_published": "features of users that the paper does not list",
}


def gaps(files: Mapping[str, Sequence[Path]], counts: Mapping[str, int]) -> list[str]:
    """What is missing: parts by their numbers, and rows that other tables speak of.

    Args:
        files: of each table.
        counts: of `dataset.json`.
    """
    found = []
    for paths in files.values():
        numbers = {int(m[1]): path for path in paths if (m := _PART.match(path.name))}
        missing = sorted(set(range(max(numbers, default=-1))) - set(numbers))
        if missing:
            shown = ", ".join(f"part-{number:05d}" for number in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            found.append(f"{numbers[max(numbers)].parent} has no {shown}{more}")
    return found + [f"{counts[key]:,} {what}" for key, what in _LACKING.items() if counts.get(key)]


def told_counts(counts: Mapping[str, int]) -> str:
    """What was counted in the files, in words."""
    told = [f"{counts[key]:,} {what}" for key, what in _TOLD.items() if counts.get(key)]
    for key, count in counts.items():
        name, _, what = key.removeprefix("vectors_").partition("_")
        if key.startswith("vectors_") and count:
            told.append(f"vectors of set {name} {what.replace('_', ' ')}: {count:,}")
    return "; ".join(told)
