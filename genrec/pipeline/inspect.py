"""The stage that looks at a SID vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from genrec.artefacts import check_place, write_json
from genrec.data import Catalog, Dataset, Histories, Split
from genrec.embedding import ItemVectors
from genrec.errors import ArtefactError, ConfigError
from genrec.pipeline.inspect_page import Inspected, write_page
from genrec.pipeline.notes import note, note_missing_titles
from genrec.pipeline.settings import SPLIT_DEFAULT, SplitConfig
from genrec.tokenizers import (
    SidVocabulary,
    churn,
    inspect_vocabulary,
    print_churn,
    print_inspection,
)
from genrec.tokenizers.inspection import train_counts

# Where the categories are looked for, unless a column is named.
CATEGORY_COLUMNS = ("category", "categories")


def inspect(
    vocabulary: str,
    *,
    vectors: str | None = None,
    dataset: str | None = None,
    split: SplitConfig = SPLIT_DEFAULT,
    compare: str | None = None,
    compare_vectors: str | None = None,
    title_column: str = "title",
    category_column: str | None = None,
    facets: int | None = None,
    k: int = 20,
    queries: int = 1000,
    seed: int = 0,
    out: str | None = None,
    html: str | None = None,
    title_bytes: int = 32_000_000,
) -> dict[str, Any]:
    """Show the quality of a SID vocabulary.

    Example:
        genrec inspect runs/vocabulary --vectors runs/vectors --dataset data/demo

    Args:
        vocabulary: vocabulary folder.
        vectors: the vectors it was built from, for distortion, neighbours and ranks.
        dataset: dataset folder, for titles, categories and the histories.
        split: which events are training; the others are not looked at.
        compare: a second vocabulary of the same items, shown beside the first.
        compare_vectors: the vectors that one was built from, if they are others.
        title_column: column of titles; ids are shown where there is none.
        category_column: column of categories, for the purity of prefixes; `category` or
            `categories` by default where the items have it.
        facets: levels of each facet, where the codes of the first vocabulary have facets; by
            default what its quantizer says (`mhq` has facets).
        k: neighbours per item.
        queries: at most so many items are asked for their neighbours.
        seed: of all samples.
        out: JSON file to write.
        html: page to write: the figures, and the tree to walk.
        title_bytes: at most so many bytes of titles go into the page.

    Returns:
        The figures; with `compare`, those of the second vocabulary under `compare`, and under
        `churn` how many SIDs it changes.
    """
    for path in filter(None, (out, html)):
        check_place(path)
    if compare_vectors is not None and compare is None:
        raise ConfigError("compare_vectors: needs compare, the vocabulary they belong to")
    catalog: Catalog | None = None
    histories: Histories | None = None
    parts: Split | None = None
    if dataset is not None:
        data, parts = split.apply(Dataset.load(dataset))
        catalog, histories = data.catalog, data.histories
        note_missing_titles(catalog, title_column)
        if category_column is None:
            named = (name for name in CATEGORY_COLUMNS if name in catalog.columns)
            category_column = next(named, None)

    # Two folders of one name, such as runs/a/vocabulary and runs/b/vocabulary, need their paths.
    alike = compare is not None and Path(vocabulary).name == Path(compare).name

    def look(folder: str, of: str | None, facets: int | None = None) -> Inspected:
        loaded = SidVocabulary.from_pretrained(folder)
        figures = inspect_vocabulary(
            loaded,
            _values(of, loaded, catalog),
            catalog=catalog,
            histories=histories,
            split=parts,
            title_column=title_column,
            category_column=category_column,
            facets=facets,
            k=k,
            queries=queries,
            seed=seed,
        )
        return Inspected(folder if alike else Path(folder).name, loaded, figures)

    shown = [look(vocabulary, vectors, facets)]
    if compare is not None:
        try:
            shown.append(look(compare, compare_vectors or vectors))
        except ArtefactError as error:
            hint = "" if compare_vectors else " (others are named with --compare_vectors)"
            raise ArtefactError(f"compare: {error}{hint if vectors else ''}") from error
    for one in shown:
        print_inspection(one.figures, name=one.name if compare is not None else "")
    result = dict(shown[0].figures)
    if compare is not None:
        result["compare"] = shown[1].figures
        result["churn"] = churn(shown[0].vocabulary, shown[1].vocabulary)
        print_churn(result["churn"], title=f"From {shown[0].name} to {shown[1].name}")
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_json(out, result)
    if html:
        counts = None
        if histories is not None:
            counts = train_counts(shown[0].vocabulary, histories, parts)
        page = write_page(
            html,
            shown,
            catalog=catalog,
            title_column=title_column,
            category_column=category_column,
            counts=counts,
            title_bytes=title_bytes,
        )
        note(f"page: {page} ({page.stat().st_size / 1e3:,.0f} kB)")
    return result


def _values(
    vectors: str | None, vocabulary: SidVocabulary, catalog: Catalog | None
) -> np.ndarray | None:
    """The vectors in the order of the items, whichever order they were saved in."""
    if vectors is None:
        return None
    items = ItemVectors.from_pretrained(vectors)
    if catalog is None:
        catalog = Catalog.from_ids(vocabulary.item_ids)
    return items.aligned_to(catalog).vectors
