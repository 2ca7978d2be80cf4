"""A SID vocabulary for a catalog that has changed: `genrec refresh`."""

from __future__ import annotations

from typing import Any

from genrec.data import Dataset
from genrec.embedding import ItemVectors
from genrec.errors import ArtefactError
from genrec.pipeline.notes import check_out, note
from genrec.pipeline.settings import (
    SPLIT_DEFAULT,
    TRAINING,
    SplitConfig,
    check_training_events,
    plain_settings,
    training_events,
)
from genrec.tokenizers import SidVocabulary, print_churn, refresh_vocabulary
from genrec.tokenizers.vocabulary import KIND as VOCABULARY_KIND


def refresh(
    vocabulary: str,
    vectors: str,
    out: str,
    *,
    refit: bool = False,
    dataset: str | None = None,
    split: SplitConfig = SPLIT_DEFAULT,
    progress: bool = True,
) -> SidVocabulary:
    """Refresh a SID vocabulary for items that came and went; those that stay keep their SIDs.

    Example:
        genrec refresh runs/vocabulary runs/vectors runs/refreshed --dataset data/demo

    Args:
        vocabulary: vocabulary folder to start from.
        vectors: folder of the vectors of all items there shall be, from the same embedder.
        out: folder to write.
        refit: fit the codebooks on the new vectors too; some items that stay then change their
            SID, and the model needs training.
        dataset: dataset folder; the vocabulary takes its order of items, and with `refit` the
            quantizer is fitted on items that occur in training only.
        split: which events are training.
        progress: show what changed.

    Returns:
        The vocabulary, as saved in `out`; `config["refresh"]["churn"]` says what changed. It keeps
        the note of the training events that the old one was made from, as SIDs that stay do.

    Raises:
        ArtefactError: if the vectors, or with `refit` the dataset and split, stand for other
            training events than the vocabulary.
    """
    check_out(out, kind=VOCABULARY_KIND, progress=progress)
    loaded = SidVocabulary.from_pretrained(vocabulary)
    items = ItemVectors.from_pretrained(vectors)
    known = items.config.get(TRAINING)
    _check_same_events(vocabulary, loaded, vectors, known)
    fit_items = None
    if dataset is not None:
        whole = Dataset.load(dataset)
        check_training_events(vectors, items.config, whole, split)
        if refit:
            known = training_events(whole, split)
            _check_same_events(vocabulary, loaded, str(dataset), known)
        data, parts = split.apply(whole)
        items = items.aligned_to(data.catalog)
        fit_items = parts.train_counts(data.histories, len(data.catalog)) > 0
    made = refresh_vocabulary(
        loaded, items.vectors, items.item_ids, refit=refit, fit_items=fit_items, progress=progress
    )
    if known is not None:
        made.config[TRAINING] = known
    made.save_pretrained(out)
    if progress:
        print_churn(made.config["refresh"]["churn"])
        note(f"refreshed from {vocabulary}, saved in {out}")
    return made


def _check_same_events(
    vocabulary: str, loaded: SidVocabulary, other: str, known: dict[str, Any] | None
) -> None:
    """Check that `other` adds no training events to those that SIDs and codebooks stand for."""
    old = loaded.config.get(TRAINING)
    if old is None or known is None or old == known:
        return
    key = "split" if old.get("split") != known.get("split") else "dataset_fingerprint"
    raise ArtefactError(
        f"{other}: stands for the training events of another {key.partition('_')[0]} "
        f"({plain_settings(known.get(key))}) than {vocabulary} ({plain_settings(old.get(key))}), "
        "whose SIDs stay: the two together may know events that are tested; use those of one "
        "dataset and split, or build the vocabulary again with genrec quantize"
    )
