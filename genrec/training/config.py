"""How a recommender is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import torch
from transformers.integrations import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from genrec.data import Augmentation
from genrec.errors import ConfigError, expected_one_of

SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("fp32", "bf16", "fp16")
OPTIMIZERS = ("adamw", "muon")
FSDP_KEYS = ("reshard_after_forward", "activation_checkpointing")
TABLE_OPTIMIZERS = ("adamw", "sparse-adam", "adagrad", "rowwise-adagrad")


@dataclass(frozen=True)
class TrainingConfig:
    """Schedule, optimiser and validation of one training run.

    Attributes:
        epochs: passes over the training sequences.
        batch_size: sequences per step, over all processes together.
        learning_rate: peak of the schedule, of whatever has no learning rate of its own.
        optimizer: of dense parameters: `adamw`, or `muon` for the matrices of the backbone (and
            AdamW for the others), from torch 2.9 on.
        muon_learning_rate: of those matrices, `learning_rate` by default; updates are scaled to
            the size of AdamW's.
        table_optimizer: of embedding tables: `adamw`; `sparse-adam`, which leaves rows without a
            gradient alone; `adagrad`; `rowwise-adagrad`, whose state is one number per row.
        table_learning_rate: of embedding tables, `learning_rate` by default.
        weight_decay: AdamW's and Muon's; the other optimisers of tables have none.
        adam_beta2: AdamW's second moment.
        schedule: `constant`, `linear` or `cosine`, after the warm-up.
        warmup: share of all steps, 0 to 1.
        gradient_accumulation: batches per optimiser step, whose gradient is that of the mean loss
            of all their labels, as of one larger batch. Dropout, and negatives that are drawn or
            taken from the batch, are those of the smaller batches.
        max_grad_norm: gradient clipping; 0 switches it off.
        precision: `fp32`, `bf16` or `fp16` (autocast).
        average: decay per step of the running average of the weights that is validated and
            saved; 0 uses the weights themselves.
        eval_epochs: epochs between validations.
        eval_users: validate on a seeded sample of so many users; 0 means all.
        eval_masked: leave the history out of the ranking when validating.
        beam_width: of the validation's decoding.
        patience: stop after so many validations without a better NDCG@10; 0 never stops.
        seed: of weights, order and dropout.
        workers: processes that build batches; 0 builds them in the main process.
        report_to: tracking integrations of `transformers.Trainer`, with commas between them
            (`none`, `tensorboard`, ...).
        last_only: train on each user's newest window only (of `max_history` items, labelled at
            every position) and leave their older events out.
        by_length: put sequences of similar length into a batch, which saves padding: so many
            batches at a time are sorted by length; 0 leaves lengths alone.
        crop: chance that a sequence is cut to a random contiguous part, anew in every epoch.
        crop_share: a crop keeps at least this share of the events.
        shuffle: chance that a random contiguous part of a sequence is reordered.
        shuffle_share: at most this share of the events is reordered.
        fsdp: share weights, gradients and optimiser out to the processes (FSDP2), as
            `transformers.TrainingArguments` and `accelerate launch --use_fsdp` name it; without
            effect on one process.
        fsdp_config: likewise; `reshard_after_forward` (true: layers are gathered again for the
            backward pass) and `activation_checkpointing` (false).
        shard_tables: with `fsdp`, embedding tables of at least so many rows are looked up where
            their rows are, and never gathered in training; 0 gathers all of them.
    """

    epochs: int = 30
    batch_size: int = 256
    learning_rate: float = 1e-3
    optimizer: str = "adamw"
    muon_learning_rate: float | None = None
    table_optimizer: str = "adamw"
    table_learning_rate: float | None = None
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    schedule: str = "cosine"
    warmup: float = 0.05
    gradient_accumulation: int = 1
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    average: float = 0.0
    eval_epochs: int = 1
    eval_users: int = 0
    eval_masked: bool = False
    beam_width: int = 20
    patience: int = 0
    seed: int = 0
    workers: int = 0
    report_to: str = "none"
    last_only: bool = False
    by_length: int = 0
    crop: float = 0.0
    crop_share: float = 0.5
    shuffle: float = 0.0
    shuffle_share: float = 0.5
    fsdp: bool = False
    fsdp_config: dict[str, bool] = field(default_factory=dict)
    shard_tables: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError naming the first value that makes no sense."""
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"training: {one.name}={value}; expected a finite number")
        for name in ("epochs", "batch_size", "gradient_accumulation", "eval_epochs", "beam_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training: {name}={getattr(self, name)}; expected at least 1")
        at_least_0 = (
            "weight_decay",
            "max_grad_norm",
            "eval_users",
            "patience",
            "workers",
            "by_length",
            "shard_tables",
        )
        for name in at_least_0:
            if getattr(self, name) < 0:
                raise ConfigError(f"training: {name}={getattr(self, name)}; expected 0 or more")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"training: seed={self.seed}; expected from 0 to {2**32 - 1}")
        for name in ("learning_rate", "muon_learning_rate", "table_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not rate > 0:
                raise ConfigError(f"training: {name}={rate}; expected above 0")
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("table_optimizer", TABLE_OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"training: {name}={value!r}; {expected_one_of(value, choices)}")
        if self.muon_learning_rate is not None and self.optimizer != "muon":
            raise ConfigError(
                f"training: muon_learning_rate={self.muon_learning_rate} with optimizer="
                f"{self.optimizer!r}; set optimizer: muon or leave it out"
            )
        if not 0 < self.adam_beta2 < 1:
            raise ConfigError(
                f"training: adam_beta2={self.adam_beta2}; expected above 0 and below 1"
            )
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"training: warmup={self.warmup}; expected a share from 0 to 1")
        if not 0 <= self.average < 1:
            raise ConfigError(f"training: average={self.average}; expected from 0 to below 1")
        try:
            _ = self.augmentation
        except ConfigError as error:
            raise ConfigError(f"training: {error}") from error
        self._check_sharding()
        for name in self.report_to.split(","):
            if name not in INTEGRATION_TO_CALLBACK and self.report_to not in ("none", "all"):
                known = ["none", "all", *INTEGRATION_TO_CALLBACK]
                raise ConfigError(
                    f"training: report_to={self.report_to!r}: {name!r} is unknown; "
                    f"{expected_one_of(name, known)}"
                )

    def _check_sharding(self) -> None:
        """Raise ConfigError naming the first setting that does not go with FSDP, or without it."""
        for key, value in self.fsdp_config.items():
            if key not in FSDP_KEYS or not isinstance(value, bool):
                expected = f"expected true or false for one of {', '.join(FSDP_KEYS)}"
                raise ConfigError(f"training: fsdp_config has {key}: {value!r}; {expected}")
        for name in ("fsdp_config", "shard_tables"):
            if getattr(self, name) and not self.fsdp:
                raise ConfigError(f"training: {name} is set without fsdp; add fsdp: true")
        if self.fsdp and self.average:
            raise ConfigError(
                f"training: average={self.average} with fsdp, under which no average of the "
                "weights is kept; leave one of them out"
            )
        if self.fsdp and self.precision == "fp16":
            raise ConfigError("training: precision='fp16' with fsdp; use 'bf16' or 'fp32'")

    @property
    def augmentation(self) -> Augmentation:
        """How training sequences change from epoch to epoch."""
        return Augmentation(
            crop=self.crop,
            crop_share=self.crop_share,
            shuffle=self.shuffle,
            shuffle_share=self.shuffle_share,
            seed=self.seed,
        )

    @property
    def splits_tables(self) -> bool:
        """Whether embedding tables are trained in another way than the rest."""
        return self.table_optimizer != "adamw" or self.table_learning_rate is not None

    def check_machine(self) -> None:
        """Raise ConfigError naming the first value that this machine has no device or package for.

        A configuration may be read, and checked otherwise, on another machine than it is for.
        """
        if self.precision == "fp16" and not torch.accelerator.is_available():
            raise ConfigError(
                "training: precision='fp16' needs an accelerator; use 'bf16' or 'fp32'"
            )
        if self.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
            raise ConfigError(
                "training: optimizer='muon' needs torch 2.9 or newer, and this is "
                f"{torch.__version__}; upgrade torch or use 'adamw'"
            )
        if self.report_to in ("none", "all"):
            return
        # transformers has no test for flyte's package.
        usable = [*get_available_reporting_integrations(), "flyte"]
        for name in self.report_to.split(","):
            if name not in usable:
                raise ConfigError(
                    f"training: report_to={self.report_to!r}: the package of {name!r} is not "
                    "installed; install it or use 'none'"
                )
