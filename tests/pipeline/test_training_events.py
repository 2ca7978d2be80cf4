"""What has seen training events is refused where other events train."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.artefacts import read_json
from genrec.data import Dataset
from genrec.data.sources import prepare_generated
from genrec.embedding import ItemVectors
from genrec.errors import ArtefactError
from genrec.pipeline import SplitConfig, embed, evaluate, quantize, train
from genrec.pipeline.notes import plural
from genrec.pipeline.settings import TRAINING, training_events
from genrec.tokenizers import SidVocabulary
from genrec.training import TrainingConfig

CF = {"type": "collaborative", "dim": 8}
FUSED = {
    "type": "fused",
    "parts": [{"type": "lexical", "dim": 4}, {"type": "fused", "parts": [CF]}],
}
RQ = {"type": "rq-kmeans", "codebook_sizes": [8, 8, 8]}
SHUFFLED = SplitConfig(order="shuffled-day")
QUICK = {"d_model": 8, "training": TrainingConfig(epochs=1), "progress": False}
DENSE = {"item_encoder": {"type": "semantic"}, "head": {"type": "dense"}, **QUICK}


@pytest.fixture(scope="module")
def made(shop, tmp_path_factory):
    """Collaborative and fused vectors, and vocabularies, all made under the default split."""
    root = tmp_path_factory.mktemp("made")
    dataset = str(shop / "dataset")
    embed(dataset, str(root / "cf"), embedder=CF, progress=False)
    embed(dataset, str(root / "fused"), embedder=FUSED, progress=False)
    plain = {"quantizer": RQ, "progress": False}
    quantize(str(shop / "vectors"), str(root / "fitted"), dataset=dataset, **plain)
    quantize(str(root / "cf"), str(root / "inherited"), **plain)
    quantize(str(shop / "vectors"), str(root / "all"), **plain)
    return root


def test_who_read_training_events_notes_which(shop, made):
    dataset = Dataset.load(shop / "dataset")
    expected = training_events(dataset, SplitConfig())
    assert expected["split"] == {"type": "leave-one-out", "order": "file"}
    for name in ("cf", "fused"):
        assert ItemVectors.from_pretrained(made / name).config[TRAINING] == expected
    for name in ("fitted", "inherited"):
        assert SidVocabulary.from_pretrained(made / name).config[TRAINING] == expected
    assert TRAINING not in SidVocabulary.from_pretrained(made / "all").config
    assert TRAINING not in ItemVectors.from_pretrained(shop / "vectors").config


@pytest.mark.parametrize("name", ["cf", "fused"])
def test_vectors_of_another_split_are_refused(shop, made, tmp_path, name):
    options = {"vectors": str(made / name), **DENSE}
    with pytest.raises(ArtefactError, match=rf"{name}: was made .*another split .*order=file.*day"):
        train(str(shop / "dataset"), str(tmp_path / "run"), split=SHUFFLED, **options)
    with pytest.raises(ArtefactError, match=rf"{name}: was made .*another split"):
        quantize(
            str(made / name),
            str(tmp_path / "v"),
            quantizer=RQ,
            dataset=str(shop / "dataset"),
            split=SHUFFLED,
            progress=False,
        )
    assert list(tmp_path.iterdir()) == []
    # In file order the seed shuffles nothing.
    run = train(str(shop / "dataset"), str(tmp_path / "run"), split=SplitConfig(seed=3), **options)
    assert run.config["vectors_fingerprint"]


@pytest.mark.parametrize("name", ["fitted", "inherited"])
def test_vocabularies_of_another_split_or_dataset_are_refused(shop, made, tmp_path, name):
    options = {"vocabulary": str(made / name), **QUICK}
    with pytest.raises(ArtefactError, match=rf"{name}: was made .*another split"):
        train(str(shop / "dataset"), str(tmp_path / "run"), split=SHUFFLED, **options)
    # The same items, other histories.
    prepare_generated(tmp_path / "other", num_items=150, num_users=199, max_length=14)
    ids = [Dataset.load(path).catalog.item_ids for path in (shop / "dataset", tmp_path / "other")]
    assert ids[0].equals(ids[1])
    with pytest.raises(ArtefactError, match=rf"{name}: was made .*another dataset"):
        train(str(tmp_path / "other"), str(tmp_path / "run"), **options)
    assert not (tmp_path / "run").exists()


def test_moments_are_compared_as_moments(shop):
    dataset = Dataset.load(shop / "dataset")
    dates = {"validation_from": "2014-03-01", "test_from": "2014-04-01T00:00:00Z"}
    seconds = {"validation_from": 1_393_632_000, "test_from": "1396310400"}
    one, other = (
        training_events(dataset, SplitConfig(type="temporal", **moments))
        for moments in (dates, seconds)
    )
    assert one == other


def test_items_fitted_without_training_are_counted_and_said(shop, made, tmp_path, capsys):
    data, parts = SplitConfig().apply(Dataset.load(shop / "dataset"))
    unseen = int((parts.train_counts(data.histories, 150) == 0).sum())
    assert unseen > 0
    counted = {}
    for name in ("all", "fitted"):
        options = {"vocabulary": str(made / name), **QUICK, "progress": True}
        run = train(str(shop / "dataset"), str(tmp_path / name), **options)
        said = capsys.readouterr().err.replace("\n", " ")
        assert ("without a training event" in said) == (name == "all")
        assert name == "fitted" or f"was fitted on {plural(unseen, 'item')} without" in said
        evaluate(str(run.folder), str(tmp_path / "r"), beams=[], bootstrap=0, progress=False)
        record = read_json(run.folder / "metrics.json")
        counted[name] = record["fitted_items_without_training"]
    assert counted == {"all": unseen, "fitted": 0}
    page = (tmp_path / "r" / "report.html").read_text()
    assert "<th>fitted items without training</th>" in page


def test_collaborative_vectors_depend_on_the_split(shop, tmp_path):
    found = [
        embed(
            str(shop / "dataset"), str(tmp_path / str(n)), embedder=CF, split=split, progress=False
        )
        for n, split in enumerate((SplitConfig(), SHUFFLED))
    ]
    assert not np.array_equal(found[0].vectors, found[1].vectors)
