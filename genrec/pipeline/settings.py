"""Settings shared by the stages: how to split, and the checks on user-written configuration."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from genrec.data import Dataset, Split, leave_one_out, temporal_split
from genrec.errors import ConfigError

ORDERS = ("file", "shuffled-day")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


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

    def apply(self, dataset: Dataset) -> tuple[Dataset, Split]:
        """The dataset in this order, and its split.

        Raises:
            ConfigError: for an unknown type or order, or a temporal split without its moments.
        """
        if self.order not in ORDERS:
            raise ConfigError(f"split: order={self.order!r}; expected one of {', '.join(ORDERS)}")
        if self.order == "shuffled-day":
            dataset = dataset.shuffled_within_day(self.seed)
        if self.type == "leave-one-out":
            return dataset, leave_one_out(dataset.histories)
        if self.type != "temporal":
            raise ConfigError(f"split: type={self.type!r}; expected 'leave-one-out' or 'temporal'")
        if self.validation_from is None or self.test_from is None:
            raise ConfigError("split: a temporal split needs validation_from and test_from")
        return dataset, temporal_split(dataset.histories, self.validation_from, self.test_from)

    def describe(self) -> dict[str, Any]:
        """The settings that matter, JSON-able."""
        return {key: value for key, value in asdict(self).items() if value is not None}


SPLIT_DEFAULT = SplitConfig()


def check_keys(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError naming the first unknown key and the nearest known one."""
    known = list(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{where}: unknown key {key!r}; {hint}expected one of {', '.join(known)}"
            )


def expand_variables(value: Any, *, where: str) -> Any:
    """Replace `${NAME}` in strings by environment variables, inside dicts and lists too.

    Raises:
        ConfigError: naming a variable that is not set.
    """
    if isinstance(value, str):

        def look_up(match: re.Match[str]) -> str:
            name = match.group(1)
            if name not in os.environ:
                raise ConfigError(
                    f"{where}: the environment variable {name} is not set; "
                    f"run `export {name}=...` first"
                )
            return os.environ[name]

        return _VARIABLE.sub(look_up, value)
    if isinstance(value, Mapping):
        return {key: expand_variables(item, where=where) for key, item in value.items()}
    if isinstance(value, list):
        return [expand_variables(item, where=where) for item in value]
    return value


def typed_part(where: str, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Split `{type: name, ...}` into the name and the rest."""
    options = dict(config)
    name = options.pop("type", None)
    if not isinstance(name, str):
        raise ConfigError(f"{where}: needs a `type`, for example {{type: ...}}")
    return name, options
