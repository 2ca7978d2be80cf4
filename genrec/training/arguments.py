"""Settings of `transformers`: those of its trainer, and how much it says."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import TrainingArguments

from genrec.processes import processes
from genrec.training.config import TrainingConfig
from genrec.training.sharding import is_sharded


def quiet_transformers() -> None:
    """Switch off the bars that saving and loading draw, and notes that no user can act on."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def training_arguments(
    config: TrainingConfig, checkpoints: Path, batches: int, *, progress: bool
) -> TrainingArguments:
    """A training's settings in the words of `transformers.Trainer`.

    Args:
        config: the training's.
        checkpoints: folder of its checkpoints.
        batches: of an epoch, of all processes together.
        progress: draw bars, where standard error is a terminal.
    """
    steps = math.ceil(batches / config.gradient_accumulation)
    total = steps * config.epochs
    every = steps * config.eval_epochs
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=math.ceil(config.batch_size / processes().num_processes),
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        lr_scheduler_type=config.schedule
        if config.schedule != "constant"
        else ("constant_with_warmup" if config.warmup else "constant"),
        warmup_steps=round(config.warmup * total),
        max_grad_norm=config.max_grad_norm,
        use_cpu=not torch.accelerator.is_available(),
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=every,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        fsdp_config=dict(config.fsdp_config),
        fsdp=cast("Any", is_sharded(config)),
        remove_unused_columns=False,
        label_names=["labels"],
        # Every parameter of every part has a gradient in every step; a test holds that.
        ddp_find_unused_parameters=False,
        report_to=config.report_to.split(","),
        disable_tqdm=not progress or not sys.stderr.isatty(),
    )
    if arguments.n_gpu > 1:
        # Several GPUs without a launcher: the first one alone, and not nn.DataParallel over all,
        # which would cut batches and draws in another way than a process per GPU does.
        arguments._n_gpu = 1
    return arguments
