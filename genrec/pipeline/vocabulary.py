"""The stages from items to a SID vocabulary."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from rich.console import Console

from genrec.artefacts import check_target
from genrec.data import Catalog, Dataset
from genrec.embedding import EMBEDDERS, Embedder, ItemVectors, make_embedder
from genrec.errors import ConfigError
from genrec.pipeline.checks import check_part
from genrec.pipeline.notes import note
from genrec.pipeline.settings import SPLIT_DEFAULT, SplitConfig
from genrec.quantization import QUANTIZERS, Quantizer, make_quantizer
from genrec.tokenizers import SidVocabulary, build_vocabulary, print_summary, summarize

TEXT_DEFAULT: dict[str, Any] = {"type": "lexical"}
QUANTIZER_DEFAULT: dict[str, Any] = {"type": "rq-kmeans"}
Collisions = Literal["reassign", "append", "allow", "sinkhorn"]


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
        split: collaborative vectors read the training part of this split only.
        progress: say what was made.

    Returns:
        The vectors, as saved in `out`.
    """
    maker = build_embedder(embedder)
    check_target(out)
    data, parts = split.apply(Dataset.load(dataset))
    started = time.perf_counter()
    vectors = maker.embed(data.catalog, histories=data.histories, split=parts)
    seconds = time.perf_counter() - started
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
    collaborative: str | None = None,
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
        quantizer: `type` (rq-kmeans, rq-kmeans-plus, rq-vae, opq, mhq; random and hash are
            controls) and its options.
        collisions: `reassign`, `append`, `allow` or `sinkhorn`.
        dataset: dataset folder; with it the quantizer is fitted on items that occur in training
            only, as an honest evaluation needs, and titles are shown.
        collaborative: folder of vectors of the same items that say who interacts with what, for a
            quantizer that learns from them (rq-vae with `alignment`).
        split: which events are training.
        seed: key of the tie order (the quantizer has its own seed).
        progress: show progress bars.

    Returns:
        The vocabulary, as saved in `out`.
    """
    fitted = build_quantizer(quantizer)
    check_collaborative(fitted, collaborative)
    check_target(out)
    items = ItemVectors.from_pretrained(vectors)
    fit_items = None
    catalog = None
    if dataset is not None:
        data, parts = split.apply(Dataset.load(dataset))
        catalog = data.catalog
        items = items.aligned_to(catalog)
        fit_items = parts.train_counts(data.histories, len(catalog)) > 0
    side = None
    if collaborative is not None:
        own = catalog if catalog is not None else Catalog(pa.table({"item_id": items.item_ids}))
        side = ItemVectors.from_pretrained(collaborative).aligned_to(own).vectors
    started = time.perf_counter()
    if side is not None:
        rows = slice(None) if fit_items is None else fit_items
        fit_items = np.ones(len(side), dtype=bool) if fit_items is None else fit_items
        side_vectors = {"collaborative": side[rows]}
        fitted.fit(items.vectors[rows], side_vectors=side_vectors, progress=progress)
    vocabulary = build_vocabulary(
        items.vectors,
        items.item_ids,
        fitted,
        collisions=collisions,
        fit_items=fit_items,
        fit=side is None,
        seed=seed,
        progress=progress,
    )
    seconds = time.perf_counter() - started
    vocabulary.save_pretrained(out)
    if progress:
        print_summary(summarize(vocabulary, items.vectors, catalog=catalog))
        Console().print(f"built in {seconds:.1f} s, saved in {out}")
    return vocabulary


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


def check_collaborative(quantizer: Quantizer, collaborative: str | None) -> None:
    """Check that collaborative vectors are given to a quantizer that learns from them, and only so.

    Raises:
        ConfigError: if they are missing, or would be ignored.
    """
    learns = "collaborative" in quantizer.learns_from
    if learns and collaborative is None:
        raise ConfigError(
            f"quantizer {quantizer.type!r}: with an alignment it needs collaborative vectors; give "
            "their folder as `collaborative`, or leave alignment at 0"
        )
    if collaborative is not None and not learns:
        raise ConfigError(
            f"collaborative: quantizer {quantizer.type!r} does not learn from such vectors; use "
            "type rq-vae with an alignment, e.g. 0.01, or leave `collaborative` out"
        )
