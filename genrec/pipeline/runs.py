"""The run folder: what was trained, on what, and everything needed to use it again.

run.json          the full resolved configuration with fingerprints
model/            the best model (safetensors, configuration, item tables)
log.json          losses and validation metrics
learning_curve.png
metrics.json      after `evaluate`
checkpoints/      while training
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from genrec.artefacts import check_folder, read_json
from genrec.data import Dataset, Split
from genrec.errors import ArtefactError
from genrec.models import Recommender
from genrec.pipeline.settings import SplitConfig
from genrec.tokenizers import SidVocabulary
from genrec.training.trainer import MODEL_KIND, quiet_transformers

RUN_FILE = "run.json"


@dataclass
class Run:
    """A trained run, opened lazily.

    Attributes:
        folder: the run folder.
        config: contents of `run.json`.
        dataset_folder: where the dataset is, if not where `run.json` says.
        vocabulary_folder: likewise for the SID vocabulary.
    """

    folder: Path
    config: dict[str, Any]
    dataset_folder: str | None = None
    vocabulary_folder: str | None = None
    _data: tuple[Dataset, Split] | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls, folder: str | Path, *, dataset: str | None = None, vocabulary: str | None = None
    ) -> Run:
        """Open a run folder.

        Raises:
            ArtefactError: if it is no run folder or its model was never finished.
        """
        folder = Path(folder)
        if not (folder / RUN_FILE).is_file():
            raise ArtefactError(
                f"{folder}: has no {RUN_FILE}; expected a run folder written by `genrec train`"
            )
        if not (folder / "model").is_dir():
            raise ArtefactError(
                f"{folder}: holds no trained model yet; finish it with `genrec train` "
                "(it resumes where it stopped)"
            )
        return cls(folder, read_json(folder / RUN_FILE), dataset, vocabulary)

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
        """The dataset in the run's order, and its split.

        Raises:
            ArtefactError: if the dataset is not the one the model was trained on.
        """
        folder = self.dataset_folder or self._path("dataset")
        loaded = Dataset.load(folder)  # type: ignore[arg-type]
        if loaded.fingerprint != self.config["dataset_fingerprint"]:
            raise ArtefactError(
                f"{folder}: is dataset {loaded.fingerprint}, but {self.folder} was trained on "
                f"{self.config['dataset_fingerprint']}; prepare the same dataset or train again"
            )
        return self.split_config.apply(loaded)

    @cached_property
    def vocabulary(self) -> SidVocabulary | None:
        """The SID vocabulary, checked against the model's; None for models without SIDs."""
        folder = self.vocabulary_folder or self._path("vocabulary")
        if folder is None:
            return None
        loaded = SidVocabulary.from_pretrained(folder)
        self.model.check_vocabulary(loaded.fingerprint)
        return loaded

    @cached_property
    def model(self) -> Recommender:
        """The best model, in evaluation mode."""
        folder = check_folder(self.folder / "model", kind=MODEL_KIND)
        quiet_transformers()
        return Recommender.from_pretrained(folder).eval()

    @property
    def searches_by_beams(self) -> bool:
        """Whether a wider beam can change the model's lists."""
        return self.model.head.searches_by_beams
