"""The stages from items to a SID vocabulary."""

from __future__ import annotations

import time
from typing import Any, Literal

import pyarrow as pa

from genrec.consoles import output_console
from genrec.data import Catalog, Dataset
from genrec.embedding import EMBEDDERS, Embedder, ItemVectors, make_embedder
from genrec.embedding.vectors import KIND as VECTORS_KIND
from genrec.errors import ConfigError
from genrec.pipeline.checks import check_part
from genrec.pipeline.notes import check_out, note
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
        split: collaborative vectors read the training part of this split only, note it, and are
            refused where another is trained and tested.
        progress: say what was made.

    Returns:
        The vectors, as saved in `out`.
    """
    maker = build_embedder(embedder)
    check_out(out, kind=VECTORS_KIND, progress=progress)
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
        quantizer: `type` (rq-kmeans, opq, mhq, ...) and its options; `--help` lists them all.
        collisions: `reassign`, `append`, `allow` or `sinkhorn`.
        dataset: dataset folder; with it the quantizer is fitted on items that occur in training
            only, as an honest evaluation needs, and titles are shown.
        collaborative: folder of vectors of the same items that say who interacts with what, for a
            quantizer that learns from them (rq-vae with `alignment`).
        split: which events are training; the vocabulary notes it, and is refused where another
            split is trained and tested.
        seed: key of the tie order (the quantizer has its own seed).
        progress: show progress bars.

    Returns:
        The vocabulary, as saved in `out`.
    """
    fitted = build_quantizer(quantizer)
    check_collaborative(fitted, collaborative)
    check_out(out, kind=VOCABULARY_KIND, progress=progress)
    items = ItemVectors.from_pretrained(vectors)
    known = items.config.get(TRAINING)
    other = None if collaborative is None else ItemVectors.from_pretrained(collaborative)
    fit_items = None
    catalog = None
    if other is not None:
        known = other.config.get(TRAINING, known)
    if dataset is not None:
        loaded = Dataset.load(dataset)
        check_training_events(vectors, items.config, loaded, split)
        if other is not None:
            check_training_events(str(collaborative), other.config, loaded, split)
        known = training_events(loaded, split)
        data, parts = split.apply(loaded)
        catalog = data.catalog
        items = items.aligned_to(catalog)
        fit_items = parts.train_counts(data.histories, len(catalog)) > 0
    side = {}
    if other is not None:
        own = catalog if catalog is not None else Catalog(pa.table({"item_id": items.item_ids}))
        side["collaborative"] = other.aligned_to(own).vectors
    started = time.perf_counter()
    with naming(vectors):
        vocabulary = build_vocabulary(
            items.vectors,
            items.item_ids,
            fitted,
            collisions=collisions,
            fit_items=fit_items,
            side_vectors=side,
            seed=seed,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    if known is not None:
        vocabulary.config[TRAINING] = known
    vocabulary.save_pretrained(out)
    if progress:
        print_summary(summarize(vocabulary, items.vectors, catalog=catalog))
        output_console().print(f"built in {seconds:.1f} s, saved in {out}")
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
