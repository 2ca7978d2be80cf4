"""The stage that looks at a SID vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from genrec.artefacts import check_place, write_json
from genrec.data import Dataset
from genrec.embedding import ItemVectors
from genrec.tokenizers import SidVocabulary, print_summary, summarize


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
