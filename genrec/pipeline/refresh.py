"""A SID vocabulary for a catalog that has changed: `genrec refresh`."""

from __future__ import annotations

from genrec.artefacts import check_target
from genrec.data import Dataset
from genrec.embedding import ItemVectors
from genrec.pipeline.notes import note
from genrec.pipeline.settings import (
    SPLIT_DEFAULT,
    TRAINING,
    SplitConfig,
    check_training_events,
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
        The vocabulary, as saved in `out`; `config["refresh"]["churn"]` says what changed.
    """
    check_target(out, kind=VOCABULARY_KIND)
    loaded = SidVocabulary.from_pretrained(vocabulary)
    items = ItemVectors.from_pretrained(vectors)
    # Codebooks that stay were fitted on content: of these items' events they know none.
    known = items.config.get(TRAINING)
    fit_items = None
    if dataset is not None:
        whole = Dataset.load(dataset)
        check_training_events(vectors, items.config, whole, split)
        if refit:
            known = training_events(whole, split)
        data, parts = split.apply(whole)
        items = items.aligned_to(data.catalog)
        fit_items = parts.train_counts(data.histories, len(data.catalog)) > 0
    made = refresh_vocabulary(
        loaded, items.vectors, items.item_ids, refit=refit, fit_items=fit_items, progress=progress
    )
    made.config.pop(TRAINING, None)
    if known is not None:
        made.config[TRAINING] = known
    made.save_pretrained(out)
    if progress:
        print_churn(made.config["refresh"]["churn"])
        note(f"refreshed from {vocabulary}, saved in {out}")
    return made
