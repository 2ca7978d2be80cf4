"""Training on `transformers.Trainer`, validated by real decoding."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import set_seed

from genrec.artefacts import check_folder, write_json
from genrec.data import TrainingBatches, TrainingSequences
from genrec.errors import ConfigError, GenrecError
from genrec.models import Head, Recommender
from genrec.processes import processes
from genrec.training.arguments import quiet_transformers, training_arguments
from genrec.training.average import WeightAverage
from genrec.training.best import MODEL_KIND, keep_if_best
from genrec.training.checkpoints import SCHEDULE_FILE, last_checkpoint, log_of, writing
from genrec.training.clock import Clock, Spent
from genrec.training.config import TrainingConfig
from genrec.training.optimizers import build_optimizer
from genrec.training.progress import METRIC, EpochLines, PlainLines
from genrec.training.sharding import (
    is_finite,
    is_sharded,
    launcher_settings,
    own_rows,
    shard_tables,
    whole_model,
)
from genrec.training.shards import load_shard, save_shard

Validate = Callable[[Recommender], Mapping[str, float]]


class TrainingLoader(DataLoader[Any]):
    """Loads `TrainingBatches`, this process's part of each; the trainer names the epochs."""

    batch_sampler: TrainingBatches

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.batch_sampler.set_epoch(epoch)


class RecommenderTrainer(Trainer):
    """`transformers.Trainer` whose evaluation is a ranking of the catalogue.

    Every validation that beats the best so far writes the model to `<output>/best`. A resumed run
    repeats the same steps, so it finds or rewrites the same folder.

    Args:
        sequences: training sequences whose `__getitems__` returns a whole batch.
        batches: which of them make up which batch.
        validate: model -> metrics with `ndcg@10`, from real decoding on the validation users.
        config: which optimisers train which parameters.
        average: running average of the weights, used for validation and for the best model.
        patience: stop after so many validations without a better one; 0 never stops.
        spent: what the steps before a resume took.
        **kwargs: of `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        sequences: TrainingSequences,
        batches: TrainingBatches,
        validate: Validate,
        config: TrainingConfig,
        average: WeightAverage | None = None,
        patience: int = 0,
        spent: Spent,
        **kwargs: Any,
    ) -> None:
        # Asked for by Trainer as both; `evaluate` ranks the validation users.
        self.shards = is_sharded(config)
        super().__init__(train_dataset=sequences, eval_dataset=sequences, **kwargs)
        if self.shards and config.shard_tables:
            self.accelerator.state.fsdp_plugin.ignored_modules = shard_tables(
                cast("Recommender", self.model),
                rows=config.shard_tables,
                device=self.accelerator.device,
            )
        self._step, self._part = -1, 0  # of the last draw
        self.clock = Clock(spent)
        self.validate, self.average, self.patience = validate, average, patience
        self.sequences, self.batches, self.config = sequences, batches, config

    def create_accelerator_and_postprocess(self) -> None:
        """As the base class; accelerate itself shards on GPUs only, and here on CPUs too."""
        super().create_accelerator_and_postprocess()
        if not self.shards:
            return
        state = self.accelerator.state
        if not self.is_fsdp_enabled:
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            state.distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True
        # FSDP would gather weights in bfloat16, which do not go with tables in float32; autocast,
        # as without FSDP, casts both.
        state.fsdp_plugin.mixed_precision_policy = None

    def get_train_dataloader(self) -> TrainingLoader:
        """The training batches, already shared out to processes."""
        return TrainingLoader(
            self.sequences,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The optimiser: `transformers.Trainer`'s AdamW, or what the configuration asks for."""
        if self.config.optimizer == "adamw" and not self.config.splits_tables:
            return super().create_optimizer(*args, **kwargs)
        if self.optimizer is None:
            model = self.accelerator.unwrap_model(self.model)
            decayed = set(self.get_decay_parameter_names(model))
            self.optimizer = build_optimizer(model, self.config, decayed=decayed)
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The batches of one step, and the labels of one of them in the mean over all processes.

        None for the only batch of a step in the only process.
        """
        batches = list(itertools.islice(epoch_iterator, num_batches))
        parts = len(batches) * self.accelerator.num_processes
        if parts < 2:
            return batches, None
        model: Recommender = self.accelerator.unwrap_model(self.model)
        whole = torch.stack([labels_mass(model, batch) for batch in batches]).sum()
        return batches, self.accelerator.reduce(whole.to(device), reduction="sum") / parts

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean over the labels of a step's batches in all processes, not the mean of means.

        Gradients are averaged afterwards over processes and over the batches that accumulate, so
        each batch's mean counts in proportion to its labels, or to what they weigh.

        Args:
            model: as wrapped for training.
            inputs: a batch.
            return_outputs: return the model's output too.
            num_items_in_batch: labels of a batch of this step, in the mean; see
                `get_batch_samples`.
        """
        plain: Recommender = self.accelerator.unwrap_model(model)
        head: Head = plain.head
        head.seed_draws(self._next_draw_seed())
        half = self.shards and self.args.bf16
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=half):
            output = model(**inputs)
        loss = output.loss
        if num_items_in_batch is not None:
            mean = torch.as_tensor(num_items_in_batch).clamp_min(1e-9)
            loss = loss * (labels_mass(plain, inputs) / mean)
        return (loss, output) if return_outputs else loss

    def _next_draw_seed(self) -> int:
        """What the next loss draws by: seed, step and part of the step alone.

        So it is the same in all processes, and after a resume.
        """
        step = self.state.global_step
        self._part = self._part + 1 if step == self._step else 0
        self._step = step
        key = np.random.SeedSequence([self.config.seed, step, self._part])
        return int(key.generate_state(1, np.uint64)[0] >> 1)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Rank the validation users with the (averaged) weights; keep the model if it is best."""
        with self.clock.validating(), contextlib.ExitStack() as stack:
            model: Recommender = self.accelerator.unwrap_model(self.model)
            if self.shards:
                model = whole_model(model)
            if self.average:
                stack.enter_context(self.average.swapped())
            stack.enter_context(full_precision(model))
            self._check_finite(model)
            found = dict(self.validate(model))
            best = Path(str(self.args.output_dir)) / "best"
            keep_if_best(best, model, found, epoch=self.state.epoch, step=self.state.global_step)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log({**metrics, **self.clock.read().known()})
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        if is_spent(self.state.log_history, self.patience):
            self.control.should_training_stop = True
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights, and the average beside them, as a checkpoint's first files."""
        if self.shards and _internal_call:
            return  # a checkpoint, whose weights are beside the optimiser's state
        super().save_model(output_dir, _internal_call)
        if self.average and output_dir and self.is_world_process_zero():
            self.average.save(Path(output_dir))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.shards:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        model: Any = self.model
        optimizer: Any = self.optimizer
        save_shard(Path(output_dir), model, optimizer)
        if self.args.should_save:
            schedule: Any = self.lr_scheduler
            torch.save(schedule.state_dict(), Path(output_dir) / SCHEDULE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.shards:  # or else it comes with the optimiser
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.shards:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            model: Any = self.model
            optimizer: Any = self.optimizer
            schedule: Any = self.lr_scheduler
            load_shard(Path(checkpoint), model, optimizer)
            schedule.load_state_dict(
                torch.load(Path(checkpoint) / SCHEDULE_FILE, weights_only=True)
            )
            # The schedule tells them after the next step.
            for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
                group["lr"] = rate

    def _check_finite(self, model: Recommender) -> None:
        """Raise GenrecError if the training diverged: nothing could be ranked."""
        for name, value in model.named_parameters():
            if not is_finite(value):
                run = Path(str(self.args.output_dir)).parent
                raise GenrecError(
                    f"{run}: the training diverged before step {self.state.global_step}: {name} "
                    "holds NaN or infinity; start over (--resume false) with a learning_rate "
                    f"below {self.args.learning_rate:g}, a longer warmup, or a max_grad_norm above "
                    "0 (with precision fp16 or bf16, try fp32 too)"
                )


@contextlib.contextmanager
def full_precision(model: Recommender) -> Iterator[None]:
    """Validate as the saved model will be tested: without accelerate's autocast around forward."""
    wrapped = model.__dict__.get("forward")
    if wrapped is not None and "_original_forward" in model.__dict__:
        model.__dict__["forward"] = model.__dict__["_original_forward"]
    try:
        yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped


def labels_mass(model: Recommender, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What the mean loss of a batch divides by, a scalar: its labels, or what they weigh."""
    given = {key: batch.get(key) for key in ("action", "query_action")}
    targets, actions = model.asked(batch["items"], batch["mask"], batch["labels"], **given)
    known = targets >= 0
    return model.head.mass(targets[known], None if actions is None else actions[known])


def is_spent(log: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Whether the last `patience` validations of a log brought nothing better; 0 is never spent."""
    found = [entry[f"eval_{METRIC}"] for entry in log if f"eval_{METRIC}" in entry]
    return bool(patience and found) and len(found) - 1 - found.index(max(found)) >= patience


@launcher_settings()
def train_model(
    build: Callable[[], Recommender],
    sequences: TrainingSequences,
    validate: Validate,
    output: str | Path,
    config: TrainingConfig,
    *,
    resume: bool = True,
    progress: bool = True,
) -> Path:
    """Train a recommender and keep the one with the best validation NDCG@10.

    Args:
        build: makes the untrained model; called after the seed is set.
        sequences: training sequences whose `__getitems__` returns a whole batch.
        validate: model -> validation metrics, at least `ndcg@10`.
        output: folder of checkpoints, log and the best model (`best/`).
        config: schedule and optimiser.
        resume: go on from the last whole checkpoint in `output`, if there is one, which must be
            of the same configuration; the result is that of an uninterrupted run.
        progress: show a line per validation, and a progress bar on a terminal.

    Returns:
        The folder of that model, for `Recommender.from_pretrained`.

    Raises:
        ConfigError: if there is nothing to train on, or no device for the precision.
        GenrecError: if the weights are not finite at a validation.
        ArtefactError: if a checkpoint cannot be written.
    """
    size = len(sequences)
    if size == 0:
        raise ConfigError("training: there are no training sequences; are all histories too short?")
    config.check_machine()
    output = Path(output)
    checkpoints = output / "checkpoints"
    with processes().main_process_first():  # it removes what the others must not see
        checkpoint = last_checkpoint(checkpoints, config) if resume else None
        if checkpoint is None and checkpoints.is_dir():
            shutil.rmtree(checkpoints)
    log = log_of(checkpoint) if checkpoint else []
    team = processes()
    batches = TrainingBatches(
        sequences.lengths,
        batch_size=config.batch_size,
        seed=config.seed,
        by_length=config.by_length,
        rank=team.process_index,
        processes=team.num_processes,
    )
    quiet_transformers()
    set_seed(config.seed)
    with own_rows(config):
        model = build()
    average = WeightAverage(model, decay=config.average) if config.average else None
    if checkpoint is not None and average is not None:
        average.load(checkpoint)
    trainer = RecommenderTrainer(
        model=model,
        args=training_arguments(config, checkpoints, len(batches), progress=progress),
        sequences=sequences,
        batches=batches,
        data_collator=_as_it_is,
        validate=validate,
        config=config,
        average=average,
        patience=config.patience,
        spent=Spent.of(log),
        callbacks=[average] if average else [],
    )
    if team.process_index:  # dropout; a checkpoint has the state of each process
        torch.manual_seed(config.seed + team.process_index)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if progress:
        trainer.add_callback(EpochLines() if sys.stderr.isatty() else PlainLines())
    if not is_spent(log, config.patience):  # or else it was killed after its last step
        with writing(checkpoints):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            log = trainer.state.log_history
            validated = [entry["step"] for entry in log if f"eval_{METRIC}" in entry]
            if trainer.state.global_step not in validated:  # epochs left over by eval_epochs
                trainer.evaluate()
        trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        write_json(output / "log.json", log)
    return check_folder(checkpoints / "best", kind=MODEL_KIND)


def _as_it_is(batch: Any) -> Any:
    return batch
