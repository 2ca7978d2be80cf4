"""The stages from items to a SID vocabulary."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rich.console import Console

from genrec.artefacts import write_json
from genrec.data import Dataset
from genrec.embedding import ItemVectors, make_embedder
from genrec.pipeline.settings import SPLIT_DEFAULT, SplitConfig, typed_part
from genrec.quantization import make_quantizer
from genrec.tokenizers import SidVocabulary, build_vocabulary, print_summary, summarize

TEXT_DEFAULT: dict[str, Any] = {"type": "lexical"}
QUANTIZER_DEFAULT: dict[str, Any] = {"type": "rq-kmeans"}


def embed(
    dataset: str,
    out: str,
    *,
    embedder: dict[str, Any] = TEXT_DEFAULT,
    split: SplitConfig = SPLIT_DEFAULT,
) -> ItemVectors:
    """Turn item content (or histories) into vectors.

    Example:
        genrec embed data/demo runs/vectors --embedder.type text
        --embedder.model all-MiniLM-L6-v2 --embedder.template "{title}. {category}"

    Args:
        dataset: dataset folder.
        out: folder to write.
        embedder: `type` (text, lexical, precomputed, collaborative or fused) and its options.
        split: collaborative vectors read the training part of this split only.

    Returns:
        The vectors, as saved in `out`.
    """
    name, options = typed_part("embedder", embedder)
    data, parts = split.apply(Dataset.load(dataset))
    maker = make_embedder(name, **options)
    vectors = maker.embed(data.catalog, histories=data.histories, split=parts)
    vectors.save_pretrained(out)
    return vectors


def quantize(
    vectors: str,
    out: str,
    *,
    quantizer: dict[str, Any] = QUANTIZER_DEFAULT,
    collisions: str = "reassign",
    dataset: str | None = None,
    split: SplitConfig = SPLIT_DEFAULT,
    seed: int = 0,
    progress: bool = True,
) -> SidVocabulary:
    """Quantize item vectors into a SID vocabulary.

    Example:
        genrec quantize runs/vectors runs/vocabulary --dataset data/demo
        --quantizer.type rq-kmeans --quantizer.codebook_sizes "[256,256,256]"

    Args:
        vectors: folder of item vectors.
        out: folder to write.
        quantizer: `type` (rq-kmeans, rq-vae, opq) and its options.
        collisions: `reassign`, `append` or `allow`.
        dataset: dataset folder; with it the quantizer is fitted on items that occur in training
            only, as an honest evaluation needs, and titles are shown.
        split: which events are training.
        seed: key of the tie order (the quantizer has its own seed).
        progress: show progress bars.

    Returns:
        The vocabulary, as saved in `out`.
    """
    name, options = typed_part("quantizer", quantizer)
    items = ItemVectors.from_pretrained(vectors)
    fit_items = None
    catalog = None
    if dataset is not None:
        data, parts = split.apply(Dataset.load(dataset))
        catalog = data.catalog
        items = items.aligned_to(catalog)
        fit_items = parts.train_counts(data.histories, len(catalog)) > 0
    started = time.perf_counter()
    vocabulary = build_vocabulary(
        items.vectors,
        items.item_ids,
        make_quantizer(name, **options),
        collisions=collisions,
        fit_items=fit_items,
        seed=seed,
        progress=progress,
    )
    seconds = time.perf_counter() - started
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
    loaded = SidVocabulary.from_pretrained(vocabulary)
    catalog = Dataset.load(dataset).catalog if dataset else None
    values: np.ndarray | None = None
    if vectors:
        items = ItemVectors.from_pretrained(vectors)
        values = (items.aligned_to(catalog) if catalog is not None else items).vectors
    summary = summarize(loaded, values, catalog=catalog)
    print_summary(summary)
    if out:
        write_json(out, summary)
    return summary
