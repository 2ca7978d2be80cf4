"""Settings shared by the stages: how to split, and lists of names on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from genrec.data import Dataset, Split, leave_one_out, temporal_split
from genrec.errors import ConfigError

ORDERS = ("file", "shuffled-day")
TYPES = ("leave-one-out", "temporal")


@dataclass(frozen=True)
class SplitConfig:
    """Which events train, validate and test.

    Attributes:
        type: `leave-one-out` or `temporal`.
        order: `file` keeps the dataset's order among events of one day; `shuffled-day` shuffles
            them with `seed`. File order decides many test items and may leak: results say which.
        seed: of the shuffle.
        validation_from: temporal only, ISO date or Unix seconds where validation starts.
        test_from: temporal only, where the test starts.
    """

    type: str = "leave-one-out"
    order: str = "file"
    seed: int = 0
    validation_from: str | int | None = None
    test_from: str | int | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for an unknown type or order, or moments that are missing or idle."""
        if self.order not in ORDERS:
            raise ConfigError(f"split: order={self.order!r}; expected one of {', '.join(ORDERS)}")
        if self.type not in TYPES:
            raise ConfigError(f"split: type={self.type!r}; expected one of {', '.join(TYPES)}")
        for name in ("validation_from", "test_from"):
            given = getattr(self, name) is not None
            if given != (self.type == "temporal"):
                raise ConfigError(
                    f"split: type={self.type!r} "
                    + (f"does not take {name}" if given else f"needs {name}, an ISO date")
                )

    def apply(self, dataset: Dataset) -> tuple[Dataset, Split]:
        """The dataset in this order, and its split.

        Raises:
            ConfigError: if the moments of a temporal split do not parse or are not in order.
            DataError: if no user is left to train, validate or test on.
        """
        if self.order == "shuffled-day":
            dataset = dataset.shuffled_within_day(self.seed)
        if self.validation_from is None or self.test_from is None:
            return dataset, leave_one_out(dataset.histories)
        return dataset, temporal_split(dataset.histories, self.validation_from, self.test_from)

    def describe(self) -> dict[str, Any]:
        """The settings that matter, JSON-able."""
        return {key: value for key, value in asdict(self).items() if value is not None}


SPLIT_DEFAULT = SplitConfig()


def names(value: str | Iterable[Any]) -> list[str]:
    """A list of names given as such, or as text: `a`, `a, b` or `[a, b]`.

    The text is not read as YAML, so that the ids 007 and 1e5 stay what they are.
    """
    if not isinstance(value, str):
        return [str(name) for name in value]
    inside = value.strip()
    if inside.startswith("[") and inside.endswith("]"):
        inside = inside[1:-1]
    found = [name.strip().strip("\"'") for name in inside.split(",")]
    return [name for name in found if name]
