"""The stages from items to a SID vocabulary."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from genrec.artefacts import check_place, check_target, write_json
from genrec.data import Dataset
from genrec.embedding import EMBEDDERS, Embedder, ItemVectors, make_embedder
from genrec.embedding.vectors import KIND as VECTORS_KIND
from genrec.pipeline.checks import check_part
from genrec.pipeline.notes import note
from genrec.pipeline.settings import (
    SPLIT_DEFAULT,
    TRAINING,
    SplitConfig,
    check_training_events,
    naming,
    training_events,
)
from genrec.quantization import QUANTIZERS, Quantizer, make_quantizer
from genrec.tokenizers import SidVocabulary, build_vocabulary, print_summary, summarize
from genrec.tokenizers.vocabulary import KIND as VOCABULARY_KIND

TEXT_DEFAULT: dict[str, Any] = {"type": "lexical"}
QUANTIZER_DEFAULT: dict[str, Any] = {"type": "rq-kmeans"}
Collisions = Literal["reassign", "append", "allow"]


def embed(
    dataset: str,
    out: str,
    *,
    embedder: dict[str, Any] = TEXT_DEFAULT,
    split: SplitConfig = SPLIT_DEFAULT,
    progress: bool = True,
) -> ItemVectors:
    """Turn item content (or histories) into vectors.

    Example:
        genrec embed data/demo runs/vectors --embedder.type lexical
        --embedder.template "{title}. {category}" --embedder.dim 64

    Args:
        dataset: dataset folder.
        out: folder to write.
        embedder: `type` (text, lexical, precomputed, collaborative or fused) and its options.
        split: collaborative vectors read the training part of this split only, note it, and are
            refused where another is trained and tested.
        progress: say what was made.

    Returns:
        The vectors, as saved in `out`.
    """
    maker = build_embedder(embedder)
    check_target(out, kind=VECTORS_KIND)
    loaded = Dataset.load(dataset)
    data, parts = split.apply(loaded)
    started = time.perf_counter()
    vectors = maker.embed(data.catalog, histories=data.histories, split=parts)
    seconds = time.perf_counter() - started
    if maker.reads_histories:
        vectors.config[TRAINING] = training_events(loaded, split)
    vectors.save_pretrained(out)
    if progress:
        note(f"{len(vectors.vectors):,} vectors x {vectors.dim} in {seconds:.1f} s, saved in {out}")
    return vectors


def quantize(
    vectors: str,
    out: str,
    *,
    quantizer: dict[str, Any] = QUANTIZER_DEFAULT,
    collisions: Collisions = "reassign",
    dataset: str | None = None,
    split: SplitConfig = SPLIT_DEFAULT,
    seed: int = 0,
    progress: bool = True,
) -> SidVocabulary:
    """Quantize item vectors into a SID vocabulary.

    Example:
        genrec quantize runs/vectors runs/vocabulary --dataset data/demo
        --quantizer.type rq-kmeans --quantizer.codebook_sizes "[64,64,64]"

    Args:
        vectors: folder of item vectors.
        out: folder to write.
        quantizer: `type` (rq-kmeans, rq-vae, opq) and its options.
        collisions: `reassign`, `append` or `allow`.
        dataset: dataset folder; with it the quantizer is fitted on items that occur in training
            only, as an honest evaluation needs, and titles are shown.
        split: which events are training; the vocabulary notes it, and is refused where another
            split is trained and tested.
        seed: key of the tie order (the quantizer has its own seed).
        progress: show progress bars.

    Returns:
        The vocabulary, as saved in `out`.
    """
    fitted = build_quantizer(quantizer)
    check_target(out, kind=VOCABULARY_KIND)
    items = ItemVectors.from_pretrained(vectors)
    known = items.config.get(TRAINING)
    fit_items = None
    catalog = None
    if dataset is not None:
        loaded = Dataset.load(dataset)
        check_training_events(vectors, items.config, loaded, split)
        known = training_events(loaded, split)
        data, parts = split.apply(loaded)
        catalog = data.catalog
        items = items.aligned_to(catalog)
        fit_items = parts.train_counts(data.histories, len(catalog)) > 0
    started = time.perf_counter()
    with naming(vectors):
        vocabulary = build_vocabulary(
            items.vectors,
            items.item_ids,
            fitted,
            collisions=collisions,
            fit_items=fit_items,
            seed=seed,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    if known is not None:
        vocabulary.config[TRAINING] = known
    vocabulary.save_pretrained(out)
    if progress:
        print_summary(summarize(vocabulary, items.vectors, catalog=catalog))
        Console().print(f"built in {seconds:.1f} s, saved in {out}")
    return vocabulary


def inspect(
    vocabulary: str,
    *,
    vectors: str | None = None,
    dataset: str | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Show the quality of a SID vocabulary.

    Example:
        genrec inspect runs/vocabulary --vectors runs/vectors --dataset data/demo

    Args:
        vocabulary: vocabulary folder.
        vectors: the vectors it was built from, for the distortion.
        dataset: dataset folder, for titles.
        out: JSON file to write.

    Returns:
        The figures.
    """
    if out:
        check_place(out)
    loaded = SidVocabulary.from_pretrained(vocabulary)
    catalog = Dataset.load(dataset).catalog if dataset else None
    values: np.ndarray | None = None
    if vectors:
        items = ItemVectors.from_pretrained(vectors)
        values = (items.aligned_to(catalog) if catalog is not None else items).vectors
    summary = summarize(loaded, values, catalog=catalog)
    print_summary(summary)
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_json(out, summary)
    return summary


def build_embedder(config: dict[str, Any]) -> Embedder:
    """The embedder of `{type: ..., ...}`.

    Raises:
        ConfigError: for an unknown type, a misspelt key or a value that makes no sense.
    """
    name, options = check_part("embedder", EMBEDDERS, config)
    return make_embedder(name, **options)


def build_quantizer(config: dict[str, Any]) -> Quantizer:
    """The unfitted quantizer of `{type: ..., ...}`.

    Raises:
        ConfigError: for an unknown type, a misspelt key or a value that makes no sense.
    """
    name, options = check_part("quantizer", QUANTIZERS, config)
    return make_quantizer(name, **options)
