from __future__ import annotations

import numpy as np
import pytest

from genrec import cli
from genrec.data import Dataset
from genrec.embedding import ItemVectors
from genrec.errors import ArtefactError
from genrec.pipeline import SplitConfig, refresh
from genrec.pipeline.settings import TRAINING, training_events
from genrec.tokenizers import SidVocabulary, remove_items


@pytest.fixture
def smaller(shop, tmp_path):
    """The shop's vocabulary as it was before its last 20 items came."""
    built = SidVocabulary.from_pretrained(shop / "vocabulary")
    place = tmp_path / "smaller"
    remove_items(built, built.item_ids[130:]).save_pretrained(place)
    return place


def test_items_come_and_the_others_keep_their_sids(shop, smaller, tmp_path, capsys):
    before = SidVocabulary.from_pretrained(smaller)
    made = refresh(str(smaller), str(shop / "vectors"), str(tmp_path / "v"))
    out = capsys.readouterr().out
    assert "items kept" in out and "130" in out and "0.00% of the items kept" in out
    loaded = SidVocabulary.from_pretrained(tmp_path / "v")
    assert loaded.fingerprint == made.fingerprint
    assert len(loaded) == loaded.num_tuples == 150
    assert np.array_equal(loaded.encode_ids(before.item_ids), before.codes)
    loaded.check_vectors(ItemVectors.from_pretrained(shop / "vectors").vectors)


def test_a_refit_is_on_items_of_the_training_events(shop, smaller, tmp_path):
    data, parts = SplitConfig().apply(Dataset.load(shop / "dataset"))
    seen = parts.train_counts(data.histories, 150) > 0
    made = refresh(
        str(smaller),
        str(shop / "vectors"),
        str(tmp_path / "v"),
        refit=True,
        dataset=str(shop / "dataset"),
        progress=False,
    )
    assert not seen.all()
    assert np.array_equal(made.fitted, seen)
    made.check_catalog(data.catalog)
    assert made.config["refresh"]["refit"]


def noted(folder, loader, note):
    """The artefact, saved again with this note of training events, or with none."""
    artefact = loader.from_pretrained(folder)
    artefact.config.pop(TRAINING, None)
    if note is not None:
        artefact.config[TRAINING] = note
    artefact.save_pretrained(folder)


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("with_dataset", [False, True])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("new", [False, True])
def test_the_note_of_training_events_stays_with_the_sids(
    own_shop, tmp_path, refit, with_dataset, old, new
):
    note = training_events(Dataset.load(own_shop / "dataset"), SplitConfig())
    noted(own_shop / "vocabulary", SidVocabulary, note if old else None)
    noted(own_shop / "vectors", ItemVectors, note if new else None)
    made = refresh(
        str(own_shop / "vocabulary"),
        str(own_shop / "vectors"),
        str(tmp_path / "v"),
        refit=refit,
        dataset=str(own_shop / "dataset") if with_dataset else None,
        progress=False,
    )
    expected = note if old or new or (refit and with_dataset) else None
    assert made.config.get(TRAINING) == expected
    assert SidVocabulary.from_pretrained(tmp_path / "v").config.get(TRAINING) == expected


@pytest.mark.parametrize("refit", [False, True])
def test_vectors_of_other_training_events_are_refused(own_shop, tmp_path, refit):
    note = training_events(Dataset.load(own_shop / "dataset"), SplitConfig())
    places = str(own_shop / "vocabulary"), str(own_shop / "vectors"), str(tmp_path / "v")
    noted(own_shop / "vectors", ItemVectors, {**note, "dataset_fingerprint": "other"})
    with pytest.raises(
        ArtefactError, match=r"vectors: stands for .* another dataset \(other\) tha"
    ):
        refresh(*places, refit=refit, progress=False)
    noted(own_shop / "vectors", ItemVectors, {**note, "split": {"type": "temporal"}})
    with pytest.raises(ArtefactError, match=r"another split \(type=temporal\) than .*vocabulary"):
        refresh(*places, refit=refit, progress=False)
    assert not (tmp_path / "v").exists()


def test_a_refit_on_other_training_events_is_refused(shop, tmp_path):
    places = str(shop / "vocabulary"), str(shop / "vectors"), str(tmp_path / "v")
    dataset, split = str(shop / "dataset"), SplitConfig(order="shuffled-day")
    refresh(*places, dataset=dataset, split=split, progress=False)
    with pytest.raises(ArtefactError, match=r"dataset: stands for .* another split"):
        refresh(*places[:2], str(tmp_path / "w"), refit=True, dataset=dataset, split=split)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("vocabulary", "vectors", "expected"),
    [
        ("vocabulary", "vocabulary", "expected a 'vectors' folder"),
        ("vectors", "vectors", "expected a 'sid-vocabulary' folder"),
        ("imported", "vectors", "has no quantizer (it was imported)"),
    ],
)
def test_what_fails_exits_with_2_and_leaves_nothing(
    own_shop, tmp_path, capsys, vocabulary, vectors, expected
):
    SidVocabulary([[0]], ["x"], [1]).save_pretrained(own_shop / "imported")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        cli.main(["refresh", str(own_shop / vocabulary), str(own_shop / vectors), str(out)])
    assert end.value.code == 2
    assert expected in capsys.readouterr().err.replace("\n", " ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop"]
