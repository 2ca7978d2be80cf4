"""The training stage."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import genrec
from genrec.artefacts import (
    fingerprint,
    read_json,
)
from genrec.data import Dataset, TrainingSequences
from genrec.embedding import ItemVectors
from genrec.errors import ConfigError
from genrec.evaluation import ModelRanker, PeakMemory, evaluate, machine
from genrec.models import (
    BACKBONES,
    HEADS,
    ITEM_ENCODERS,
    Recommender,
    RecommenderConfig,
)
from genrec.pipeline.check import check_before_training
from genrec.pipeline.checks import check_part
from genrec.pipeline.features import feature_tables
from genrec.pipeline.notes import note, plural
from genrec.pipeline.run_life import (
    check_out,
    finish,
    held,
    is_finished,
    plot_learning_curve,
    start,
)
from genrec.pipeline.runs import (
    RUN_FILE,
    UNFINISHED_FILE,
    Run,
)
from genrec.pipeline.scales import scaled
from genrec.pipeline.settings import (
    SPLIT_DEFAULT,
    SplitConfig,
    check_training_events,
    naming,
)
from genrec.processes import processes
from genrec.tokenizers import SidVocabulary, make_tie_order
from genrec.training import TrainingConfig, as_launched, train_model
from genrec.training.clock import Spent
from genrec.training.sharding import tables_to_split

ENCODER_DEFAULT: dict[str, Any] = {"type": "sid"}
BACKBONE_DEFAULT: dict[str, Any] = {"type": "transformer"}
TRAINING_DEFAULT = TrainingConfig()
HEAD_DEFAULT: dict[str, Any] = {"type": "autoregressive"}


def train(
    dataset: str,
    out: str,
    *,
    vocabulary: str | None = None,
    vectors: str | None = None,
    item_encoder: dict[str, Any] = ENCODER_DEFAULT,
    backbone: dict[str, Any] = BACKBONE_DEFAULT,
    head: dict[str, Any] = HEAD_DEFAULT,
    scale: str | None = None,
    d_model: int | None = None,
    max_history: int = 50,
    input_norm: bool = False,
    input_dropout: float = 0.0,
    initial: str = "parts",
    training: TrainingConfig = TRAINING_DEFAULT,
    split: SplitConfig = SPLIT_DEFAULT,
    name: str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Run:
    """Train a recommender on a dataset and keep the one with the best validation NDCG@10.

    Example:
        genrec train data/demo runs/sid --vocabulary runs/vocabulary
        --head.type autoregressive --training.epochs 5

    Args:
        dataset: dataset folder.
        out: run folder to write.
        vocabulary: SID vocabulary folder, for models that read or write codes.
        vectors: item vectors folder, for models that read them.
        item_encoder: `type` (sid, semantic, id, sum of parts, ...) and its options; `--help` lists
            them all, as it does the next two.
        backbone: `type` (transformer, hstu, hf, ...) and its options.
        head: `type` (autoregressive, parallel, dense, ...) and its options.
        scale: preset of width, layers and heads, in place of `d_model`: xs, s, m, l, xl, xxl, or
            layers x width of published models (4x128, 8x256, 8x512, 24x512, 12x1024).
        d_model: width, 64 by default.
        max_history: longest history in items; longer ones keep their latest events.
        input_norm: layer norm on item vectors before the backbone.
        input_dropout: dropout on the backbone's input.
        initial: how weights begin: `parts`, each part's own way, or `xavier`, normal with the
            deviation of Glorot and Bengio for every matrix, as in the baseline of TencentGR.
        training: schedule, optimiser, validation.
        split: which events train, validate and test.
        name: name in tables, the folder's by default.
        resume: go on after an interruption, and leave a run that was finished with the same
            settings as it is; a run of other settings stays until the new one is finished.
        progress: show progress bars.

    Returns:
        The finished run.

    Raises:
        ConfigError: for parts that do not fit, or checkpoints of another configuration in `out`.
        ArtefactError: if vocabulary or vectors belong to other items or were made from the training
            events of another split, or `out` cannot be written.
    """
    memory = PeakMemory()
    folder = check_out(out)
    if name and Path(name).name != name:
        raise ConfigError(f"train: name={name!r}; expected a name without a folder")
    training = as_launched(training)
    training.check_machine()
    loaded = Dataset.load(dataset)
    data, parts = split.apply(loaded)
    with naming(dataset):
        check_before_training(data, parts)
    num_items = len(data.catalog)
    sids = SidVocabulary.from_pretrained(vocabulary) if vocabulary else None
    if sids is not None:
        sids.check_catalog(data.catalog)
        check_training_events(str(vocabulary), sids.config, loaded, split)
    content = ItemVectors.from_pretrained(vectors).aligned_to(data.catalog) if vectors else None
    if content is not None:
        check_training_events(str(vectors), content.config, loaded, split)
    counts = parts.train_counts(data.histories, num_items)
    ids = np.asarray(data.catalog.item_ids)
    # The order that `quantize` stores by default, so that runs with and without SIDs compare.
    tie_order = sids.tie_order if sids is not None else make_tie_order(ids)

    features, of_features = feature_tables(data, item_encoder)
    d_model, backbone = scaled(scale, d_model, backbone)
    config = RecommenderConfig(
        num_items=num_items,
        **features,
        codebook_sizes=sids.codebook_sizes if sids is not None else (),
        vector_dim=content.dim if content is not None else 0,
        d_model=d_model,
        max_history=max_history,
        item_encoder=item_encoder,
        backbone=backbone,
        head=head,
        input_norm=input_norm,
        input_dropout=input_dropout,
        initial=initial,
        vocabulary_fingerprint=sids.fingerprint if sids is not None else "",
    )
    tables: dict[str, Any] = {"counts": counts, "tie_order": tie_order, **of_features}
    if sids is not None:
        tables["codes"] = sids.codes
    if content is not None:
        tables["vectors"] = content.vectors

    checked = check_parts(config)
    check_fields(checked, data, dataset)
    if training.shard_tables:
        tables_to_split(checked, training.shard_tables)
    with naming(dataset):
        sequences = TrainingSequences(
            data.histories,
            parts,
            max_length=max_history,
            last_only=training.last_only,
            augmentation=training.augmentation,
        )

    def build() -> Recommender:
        return Recommender(config, tables=tables)

    resolved = {
        "genrec_version": genrec.__version__,
        "name": name or folder.name,
        "dataset": os.path.relpath(dataset, folder),
        "vocabulary": os.path.relpath(vocabulary, folder) if vocabulary else None,
        "vectors": os.path.relpath(vectors, folder) if vectors else None,
        "dataset_fingerprint": loaded.fingerprint,
        "vocabulary_fingerprint": config.vocabulary_fingerprint,
        "vectors_fingerprint": content.fingerprint if content is not None else "",
        "tie_order_fingerprint": fingerprint([np.asarray(tie_order, dtype=np.int64)]),
        "model": {
            key: getattr(config, key)
            for key in (
                "item_encoder",
                "backbone",
                "head",
                "d_model",
                "max_history",
                "input_norm",
                "input_dropout",
                "initial",
            )
        },
        "training": asdict(training),
        "split": split.describe(),
    }
    # Launched as several processes, all of them train; the first one alone writes and speaks.
    team = processes()
    progress = progress and team.is_main_process
    questions = parts.validation
    if training.eval_users:
        questions = questions.sample(training.eval_users, training.seed)
    mask = "masked" if training.eval_masked else "unmasked"

    def validate(model: Recommender) -> dict[str, float]:
        ranker = ModelRanker(model, trie, beam_width=training.beam_width)
        found = evaluate(
            ranker,
            data,
            questions,
            split="validation",
            ks=(10,),
            max_length=max_history,
            masks=(mask,),
            bootstrap=0,
            # Tables split by rows are looked up by all processes together.
            shared=not training.shard_tables,
            candidates=parts.candidates,
        )
        return {metric: found.value(mask, metric) for metric in ("ndcg@10", "recall@10")}

    with held(folder) if team.is_main_process else nullcontext():
        finished = resume and is_finished(folder, resolved)
        team.wait_for_everyone()
        if finished:
            if team.is_main_process:
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                (folder / UNFINISHED_FILE).unlink(missing_ok=True)
            if progress:
                note(f"{folder}: is trained with these settings; --resume false trains it again")
            return Run.open(folder)
        if progress and (folder / RUN_FILE).is_file():
            note(f"{folder}: holds a finished run, which this one replaces when it ends", "yellow")
        if team.is_main_process:
            start(folder, resolved, resume=resume)
        team.wait_for_everyone()
        unseen = fitted_without_training(sids, counts)
        if unseen and progress:
            note(
                f"{vocabulary}: was fitted on {plural(unseen, 'item')} without a training event, "
                f"which flatters an evaluation; quantize with --dataset {dataset} to leave them "
                "out",
                "yellow",
            )
        trie = sids.trie() if sids is not None else None
        train_model(
            build,
            sequences,
            validate,
            folder,
            training,
            resume=resume,
            progress=progress,
        )
        team.wait_for_everyone()
        if team.is_main_process:
            log = read_json(folder / "log.json")
            plot_learning_curve(log, folder / "learning_curve.png")
            finish(
                folder,
                {
                    **resolved,
                    "parameters": sum(p.numel() for p in checked.parameters()),
                    "processes": team.num_processes,
                    **Spent.of(log).known(),
                    **machine(),
                    **memory.read(),
                },
            )
        team.wait_for_everyone()
    if progress:
        kept = read_json(folder / "model" / "validation.json")
        note(
            f"kept epoch {round(kept['epoch'], 2):g} (validation NDCG@10 {kept['ndcg@10']:.4f}), "
            f"saved in {folder}"
        )
    return Run.open(folder)


def fitted_without_training(sids: SidVocabulary | None, counts: np.ndarray) -> int | None:
    """Items that a quantizer was fitted on though they have no training event; None if unknown.

    Args:
        sids: the vocabulary, if there is one.
        counts: int64 [N], training events of each item.
    """
    if sids is None or sids.fitted is None:
        return None
    return int((sids.fitted & (counts == 0)).sum())


def check_parts(config: RecommenderConfig) -> Recommender:
    """Build the parts without memory, so that a misspelt key is found before anything is written.

    Returns:
        The model, without values.

    Raises:
        ConfigError: for unknown types and keys, values that make no sense, parts that need codes
            or vectors where the configuration has none, and codes or vectors that no part reads.
    """
    check_part("item encoder", ITEM_ENCODERS, config.item_encoder)
    check_part("backbone", BACKBONES, config.backbone)
    check_part("head", HEADS, config.head)
    for name, least in (("d_model", 1), ("max_history", 1)):
        if getattr(config, name) < least:
            raise ConfigError(f"train: {name}={getattr(config, name)}; expected at least {least}")
    if not 0 <= config.input_dropout < 1:
        raise ConfigError(f"train: input_dropout={config.input_dropout}; expected from 0 to 1")
    with torch.device("meta"):
        model = Recommender(config)
    for name, given, option in (
        ("codes", config.codebook_sizes, "vocabulary"),
        ("vectors", config.vector_dim, "vectors"),
    ):
        if given and name not in model.tables.required:
            raise ConfigError(
                f"train: {option} is given, but item encoder "
                f"{config.item_encoder['type']!r} and head {config.head['type']!r} read no {name}; "
                f"leave {option} out, or name a part that reads it"
            )
    return model


def check_fields(model: Recommender, data: Dataset, dataset: str) -> None:
    """Raise ConfigError if the model reads times or actions that the dataset does not have."""
    histories = data.histories
    backbone, encoder = model.config.backbone["type"], model.config.item_encoder["type"]
    if histories.timestamps is None and model.backbone.spec.uses_time:
        raise ConfigError(
            f"train: the backbone {backbone!r} reads the time of every event, which {dataset} does "
            "not have; set --backbone.times none or choose another backbone"
        )
    for field, known in (("time", histories.timestamps), ("action", histories.actions)):
        if known is None and any(field in name for name in model.item_encoder.reads):
            raise ConfigError(
                f"train: the item encoder {encoder!r} reads the {field} of every event, which "
                f"{dataset} does not have; leave that part out"
            )
