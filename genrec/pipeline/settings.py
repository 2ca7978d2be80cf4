"""Settings shared by the stages: how to split, and lists of names on the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from genrec.data import Dataset, Split, leave_one_out, temporal_split
from genrec.data.splits import parse_moment
from genrec.data.tencentgr.protocol import (
    CUTS,
    SEED,
    SHARE,
    TRAIN_ON,
    VALIDATION_SHARE,
    Cut,
    TrainOn,
    last_click_split,
)
from genrec.data.tencentgr.schema import CLICK
from genrec.data.tencentgr.sequences import ACTIONS
from genrec.errors import ArtefactError, ConfigError, DataError, expected_one_of
from genrec.quantization.base import check_device

ORDERS = ("file", "shuffled-day")
TYPES = ("leave-one-out", "temporal", "last-click")
# Of last-click where nothing else is said. They are written out in full wherever a split is stored,
# so that a run of an earlier version, whose hold-out was another, is not taken for one of this.
REFERENCE: dict[str, Any] = {
    "draw": SEED,
    "share": SHARE,
    "validation_share": VALIDATION_SHARE,
    "cut": CUTS[0],
    "train_on": TRAIN_ON[0],
    "targets": [CLICK],
}


@dataclass(frozen=True)
class SplitConfig:
    """Which events train, validate and test.

    Attributes:
        type: `leave-one-out`, `temporal`, or `last-click` (the reference hold-out for TencentGR).
        order: `file` keeps the dataset's order among events of one day; `shuffled-day` shuffles
            them with `seed`. File order decides many test items and may leak: results say which.
        seed: of the shuffle.
        validation_from: temporal only, ISO date or Unix seconds where validation starts.
        test_from: temporal only, where the test starts.
        draw: last-click only, seed of the draw of users; 2025 by default.
        share: last-click only, share of users that test, .1 by default. Small sets need more users
            for narrow intervals; figures of another share are not those of the reference.
        validation_share: last-click only, share of users that validate, .02 by default; of small
            sets at least 50 users.
        cut: last-click only, what an input is: `position`, by default, the events that stand before
            the target, as the reference; `time`, of these only the ones of an earlier second.
        train_on: last-click only: `others`, by default, users that neither test nor validate, as
            the reference; `prefixes`, the inputs of those users too.
        targets: last-click only, action types of which the last one is the target, `[1]` (clicks)
            by default; `[1, 2]` where there are conversions, as in the contest's second round.
    """

    type: str = "leave-one-out"
    order: str = "file"
    seed: int = 0
    validation_from: str | int | None = None
    test_from: str | int | None = None
    draw: int | None = None
    share: float | None = None
    validation_share: float | None = None
    cut: Cut | None = None
    train_on: TrainOn | None = None
    targets: list[int] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for the first value that is unknown, out of range, missing or idle."""
        for name, value, known in (("order", self.order, ORDERS), ("type", self.type, TYPES)):
            if value not in known:
                raise ConfigError(f"split: {name}={value!r}; {expected_one_of(value, known)}")
        for name in ("validation_from", "test_from"):
            given = getattr(self, name) is not None
            if given != (self.type == "temporal"):
                raise ConfigError(
                    f"split: type={self.type!r} "
                    + (f"does not take {name}" if given else f"needs {name}, an ISO date")
                )
        for name, expected, right in (
            ("draw", "0 or more", self.draw is None or self.draw >= 0),
            ("share", "above 0 and below 1", self.share is None or 0 < self.share < 1),
            (
                "validation_share",
                "above 0 and below 1",
                self.validation_share is None or 0 < self.validation_share < 1,
            ),
            ("cut", " or ".join(CUTS), self.cut is None or self.cut in CUTS),
            ("train_on", " or ".join(TRAIN_ON), self.train_on in (None, *TRAIN_ON)),
            ("targets", "one or more of 0, 1 and 2", self.targets is None or self._are_types()),
        ):
            given = getattr(self, name)
            if given is not None and (self.type != "last-click" or not right):
                raise ConfigError(
                    f"split: {name}={given} with type={self.type!r}; expected {expected}, and only "
                    "with last-click"
                )
        if self.seed < 0:
            raise ConfigError(f"split: seed={self.seed}; expected 0 or more")
        if self.validation_from is None or self.test_from is None:
            return
        moments = []
        for name in ("validation_from", "test_from"):
            try:
                moments.append(parse_moment(getattr(self, name)))
            except ConfigError as error:
                raise ConfigError(f"split: {name}: {error}") from error
        if moments[0] >= moments[1]:
            raise ConfigError(
                f"split: validation_from ({self.validation_from}) must be before test_from "
                f"({self.test_from})"
            )

    def _are_types(self) -> bool:
        chosen = self.targets or []
        return bool(chosen) and set(chosen) <= set(ACTIONS) and len(set(chosen)) == len(chosen)

    def apply(self, dataset: Dataset) -> tuple[Dataset, Split]:
        """The dataset in this order, and its split.

        Raises:
            DataError: naming the dataset, if no user is left to train, validate or test on.
        """
        with naming(dataset.folder or dataset.name):
            if self.order == "shuffled-day":
                dataset = dataset.shuffled_within_day(self.seed)
            if self.type == "last-click":
                settings = self.describe()
                return dataset, last_click_split(
                    dataset,
                    seed=settings["draw"],
                    share=settings["share"],
                    validation_share=settings["validation_share"],
                    cut=settings["cut"],
                    train_on=settings["train_on"],
                    actions=tuple(settings["targets"]),
                )
            if self.validation_from is None or self.test_from is None:
                return dataset, leave_one_out(dataset.histories)
            parts = temporal_split(dataset.histories, self.validation_from, self.test_from)
            return dataset, parts

    def describe(self) -> dict[str, Any]:
        """The settings that matter, JSON-able."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return given if self.type != "last-click" else REFERENCE | given


SPLIT_DEFAULT = SplitConfig()
# Under this key of their config, vectors and vocabularies say what training events they know.
TRAINING = "training_events"


def training_events(dataset: Dataset, split: SplitConfig) -> dict[str, Any]:
    """What tells the training events of one dataset and split from those of another.

    Args:
        dataset: as loaded, not yet in the split's order.
        split: which of its events train.
    """
    settings = split.describe()
    if split.order == "file":
        del settings["seed"]  # shuffles nothing
    for name in ("validation_from", "test_from"):
        if name in settings:
            settings[name] = parse_moment(settings[name])
    return {"dataset_fingerprint": dataset.fingerprint, "split": settings}


def check_training_events(
    what: str, config: Mapping[str, Any], dataset: Dataset, split: SplitConfig
) -> None:
    """Check that an artefact has seen no training events but those of this dataset and split.

    Args:
        what: what messages call the artefact.
        config: of vectors or of a vocabulary; without a note of training events it has seen none.
        dataset: as loaded.
        split: which of its events train.

    Raises:
        ArtefactError: if test events here may be training events there.
    """
    seen = config.get(TRAINING)
    expected = training_events(dataset, split)
    if seen is None or seen == expected:
        return
    key = "split" if seen.get("split") != expected["split"] else "dataset_fingerprint"
    raise ArtefactError(
        f"{what}: was made from the training events of another {key.partition('_')[0]} "
        f"({plain_settings(seen.get(key))}; here it is {plain_settings(expected[key])}), so it may "
        "know events that are tested here; make it again from this dataset with the same --split"
    )


def plain_settings(value: Any) -> str:
    """Settings in a message: `type=temporal, order=file`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={part}" for key, part in sorted(value.items()))
    return str(value)


@contextlib.contextmanager
def naming(place: Any) -> Iterator[None]:
    """Put a place (a folder, a dataset) before the message of a DataError."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


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


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` is the current accelerator, or the CPU without one.

    Raises:
        ConfigError: if this machine has no such device.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if found is None else found
    return torch.device(check_device(name))
