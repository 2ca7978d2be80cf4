"""SIDs from and for other people's code: `genrec import-sids` and `genrec export-sids`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pyarrow as pa

from genrec.artefacts import check_place, replacing
from genrec.data import Dataset
from genrec.embedding.vectors import read_ids
from genrec.errors import ConfigError
from genrec.pipeline.notes import check_out, note
from genrec.tokenizers import (
    SidVocabulary,
    export_vocabulary,
    import_vocabulary,
    print_summary,
    summarize,
)
from genrec.tokenizers.vocabulary import KIND as VOCABULARY_KIND

ExportFormat = Literal["index.json", "npy", "parquet", "tokens"]


def import_sids(
    source: str,
    out: str,
    *,
    dataset: str | None = None,
    ids: str | None = None,
    names: Literal["numbers", "ids"] = "numbers",
    codebook_sizes: list[int] | None = None,
    collisions: Literal["allow", "append"] = "allow",
    layout: Literal["auto", "items", "levels"] = "auto",
    columns: list[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SidVocabulary:
    """Import semantic IDs that other code made as a SID vocabulary.

    Example:
        genrec import-sids runs/demo.index.json runs/imported --dataset data/demo

    Args:
        source: LETTER, LC-Rec or MiniOneRec `*.index.json`; .json of item -> codes; .npy or .pt
            of codes (items by levels, or levels by items); .parquet with `item_id` and codes.
        out: folder to write.
        dataset: dataset folder whose items these are; the vocabulary takes their order.
        ids: instead, a file of the item ids: .parquet (column `item_id`), .npy, or text with one
            id a line. With neither, the file's own ids or numbers are the ids.
        names: what the keys of a JSON file are: `numbers` (key n is the n-th id, from 0) or `ids`.
        codebook_sizes: codes per level; as many as are used by default.
        collisions: `allow`, or `append` a level that numbers the items of a tuple.
        layout: of .npy and .pt: is a row one of the `items` or one of the `levels`?
        columns: of .parquet: the columns of codes, where they are not found by themselves.
        seed: key of the tie order.
        progress: show what was imported.

    Returns:
        The vocabulary, as saved in `out`. It has no quantizer: it can be trained on, decoded and
        exported, but not refreshed with new items.
    """
    if dataset is not None and ids is not None:
        raise ConfigError("ids: the dataset names the items already; give one of the two")
    check_out(out, kind=VOCABULARY_KIND, progress=progress)
    catalog = Dataset.load(dataset).catalog if dataset is not None else None
    item_ids: pa.Array | None = read_ids(ids) if ids is not None else None
    vocabulary = import_vocabulary(
        source,
        catalog.item_ids if catalog is not None else item_ids,
        names=names,
        codebook_sizes=codebook_sizes,
        collisions=collisions,
        layout=layout,
        columns=columns,
        seed=seed,
    )
    vocabulary.save_pretrained(out)
    if progress:
        print_summary(summarize(vocabulary, catalog=catalog))
        note(f"imported from {source}, saved in {out}")
    return vocabulary


def export_sids(
    vocabulary: str,
    out: str,
    *,
    format: ExportFormat = "index.json",
    names: Literal["numbers", "ids"] = "numbers",
    progress: bool = True,
) -> Path:
    """Export a SID vocabulary as a file that other code reads.

    Example:
        genrec export-sids runs/vocabulary runs/demo.index.json --format index.json

    Args:
        vocabulary: vocabulary folder.
        out: file to write.
        format: `index.json` (LETTER, LC-Rec, MiniOneRec), `npy` (codes, items by levels), `parquet`
            (`item_id` and a column a level) or `tokens` (JSON: the special tokens to add to a
            language model's tokenizer, and each item's SID as text).
        names: what `index.json` calls the items: `numbers` in the vocabulary's order, or `ids`.
        progress: say what was written.

    Returns:
        The file.
    """
    check_place(out)
    loaded = SidVocabulary.from_pretrained(vocabulary)
    with replacing(out) as temporary:
        export_vocabulary(loaded, temporary, format=format, names=names)
    if progress:
        note(f"{len(loaded):,} SIDs of {loaded.num_levels} codes, saved in {out}")
    return Path(out)
