"""The run folder: what was trained, on what, and everything needed to use it again.

run.json          the full resolved configuration with fingerprints
unfinished.json   the same, while training
model/            the best model (safetensors, configuration, item tables)
log.json          losses and validation metrics
learning_curve.png
metrics.json      after `evaluate`, beside ranks/
checkpoints/      while training
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from genrec.artefacts import (
    MANIFEST,
    check_folder,
    file_sha256,
    fingerprint,
    no_folder,
    read_json,
)
from genrec.data import Dataset, Split
from genrec.errors import ArtefactError, ConfigError, GenrecError
from genrec.models import Recommender
from genrec.pipeline.settings import REFERENCE, SplitConfig
from genrec.processes import processes
from genrec.tokenizers import SidVocabulary
from genrec.training.arguments import quiet_transformers
from genrec.training.best import MODEL_KIND
from genrec.training.sharding import split_model

RUN_FILE = "run.json"
UNFINISHED_FILE = "unfinished.json"
# What speaks of one model, and goes when another takes its place.
OF_THE_MODEL = ("model", "metrics.json", "ranks")
NEEDED = ("name", "dataset", "dataset_fingerprint", "split", "training", "validation")


@dataclass
class Run:
    """A trained run, opened lazily.

    Attributes:
        folder: the run folder.
        config: contents of `run.json`.
        dataset_folder: where the dataset is, if not where `run.json` says.
        vocabulary_folder: likewise for the SID vocabulary.
        split: leave the model's tables split over the processes, if they were in training.
    """

    folder: Path
    config: dict[str, Any]
    dataset_folder: str | None = None
    vocabulary_folder: str | None = None
    split: bool = False
    _data: tuple[Dataset, Split] | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        dataset: str | None = None,
        vocabulary: str | None = None,
        split: bool = False,
    ) -> Run:
        """Open a run folder.

        Args:
            folder: the run folder.
            dataset: where the dataset is, if not where `run.json` says.
            vocabulary: likewise for the SID vocabulary.
            split: where several processes were launched, leave the model's tables split over them
                if they were in training. All processes must use the model together.

        Raises:
            ArtefactError: if it is no run folder or its model was never finished.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ArtefactError(no_folder(folder, "a run folder written by `genrec train`"))
        if not (folder / RUN_FILE).is_file():
            if (folder / UNFINISHED_FILE).is_file():
                raise ArtefactError(
                    f"{folder}: holds no trained model yet; finish it with the same `genrec train` "
                    "(it goes on where it stopped)"
                )
            raise ArtefactError(
                f"{folder}: has no {RUN_FILE}; expected a run folder written by `genrec train`"
            )
        config = read_json(folder / RUN_FILE)
        for key in NEEDED:
            if not isinstance(config, dict) or key not in config:
                raise ArtefactError(
                    f"{folder / RUN_FILE}: says nothing of {key!r}; it was edited, or is of "
                    "another version of genrec: train again"
                )
        if config.get("fingerprint", "") not in ("", record_fingerprint(config)):
            raise ArtefactError(
                f"{folder / RUN_FILE}: was edited after the training, so that nobody can tell what "
                "was trained; undo that, or train again"
            )
        try:
            split_config = SplitConfig(**config["split"])
        except (TypeError, GenrecError) as error:
            raise ArtefactError(
                f"{folder / RUN_FILE}: 'split' is {config['split']!r} ({error}); it was edited, or "
                "is of another version of genrec: train again"
            ) from error
        left_out = [key for key in REFERENCE if key not in config["split"]]
        if split_config.type == "last-click" and left_out:
            raise ArtefactError(
                f"{folder / RUN_FILE}: 'split' does not say {', '.join(left_out)}; it is of a "
                "version of genrec whose hold-out was another: train again"
            )
        if not (folder / "model").is_dir():
            raise ArtefactError(f"{folder / 'model'}: is missing; train again")
        identity = model_fingerprint(folder / "model")
        if config.get("model_fingerprint", identity) != identity:
            raise ArtefactError(
                f"{folder / 'model'}: is not the model that {RUN_FILE} describes; run the same "
                "`genrec train` again to finish it"
            )
        return cls(folder, config, dataset, vocabulary, split)

    @property
    def name(self) -> str:
        """The run's name in tables."""
        return str(self.config["name"])

    def _path(self, key: str) -> str | None:
        stored = self.config.get(key)
        return os.path.normpath(self.folder / stored) if stored else None

    @property
    def split_config(self) -> SplitConfig:
        """How the data were split."""
        return SplitConfig(**self.config["split"])

    @cached_property
    def data(self) -> tuple[Dataset, Split]:
        """The dataset in the run's order, and its split; raises as `load_dataset` does."""
        return self.split_config.apply(self.load_dataset())

    def load_dataset(self) -> Dataset:
        """The dataset as it is stored.

        Raises:
            ArtefactError: if the dataset is not the one the model was trained on.
        """
        folder = self.dataset_folder or self._path("dataset")
        if folder is None or not Path(folder).is_dir():
            raise ArtefactError(
                f"{folder}: no such folder, though {self.folder} was trained on this dataset; "
                "say where it is now with --dataset"
            )
        loaded = Dataset.load(folder)
        if loaded.fingerprint != self.config["dataset_fingerprint"]:
            raise ArtefactError(
                f"{folder}: is dataset {loaded.fingerprint}, but {self.folder} was trained on "
                f"{self.config['dataset_fingerprint']}; prepare the same dataset or train again"
            )
        return loaded

    @cached_property
    def vocabulary(self) -> SidVocabulary | None:
        """The SID vocabulary, checked against the model's; None for models without SIDs."""
        stored = self._path("vocabulary")
        if stored is None:
            return None
        folder = self.vocabulary_folder or stored
        if not Path(folder).is_dir():
            raise ArtefactError(
                f"{folder}: no such folder, though {self.folder} was trained with this SID "
                "vocabulary; say where it is now with --vocabulary"
            )
        loaded = SidVocabulary.from_pretrained(folder)
        self.model.check_vocabulary(loaded.fingerprint)
        return loaded

    @cached_property
    def model(self) -> Recommender:
        """The best model, in evaluation mode."""
        folder = check_folder(self.folder / "model", kind=MODEL_KIND)
        quiet_transformers()
        if self.is_split:
            rows = int(self.config["training"]["shard_tables"])
            return split_model(folder, rows=rows, device=processes().device)
        return Recommender.from_pretrained(folder).eval()

    @property
    def is_split(self) -> bool:
        """Whether the model's tables are split, so that all processes must use it together."""
        rows = self.config["training"].get("shard_tables", 0)
        return bool(self.split and rows and processes().num_processes > 1)

    def model_on(self, device: torch.device) -> Recommender:
        """The best model, moved to a device.

        Raises:
            ConfigError: if its tables are split over processes on other devices.
        """
        if self.is_split and device.type != processes().device.type:
            raise ConfigError(
                f"{self.folder}: its tables are split over processes on {processes().device.type}, "
                f"not on {device.type}; leave out --device"
            )
        torch.nn.Module.to(self.model, device)  # its own `to` has no types
        return self.model

    @property
    def searches_by_beams(self) -> bool:
        """Whether a wider beam can change the model's lists."""
        return self.model.head.searches_by_beams


def model_fingerprint(folder: Path) -> str:
    """What tells a model folder from another: the SHA-256 of its manifest, shortened."""
    manifest = folder / MANIFEST
    return file_sha256(manifest)[:16] if manifest.is_file() else ""


def record_fingerprint(record: dict[str, Any]) -> str:
    """What tells the contents of one `run.json` from another's."""
    return fingerprint([{key: value for key, value in record.items() if key != "fingerprint"}])
