from __future__ import annotations

import json

import numpy as np
import pytest

from genrec import cli
from genrec.errors import ArtefactError, ConfigError
from genrec.pipeline import export_sids, import_sids
from genrec.tokenizers import SidVocabulary


def test_there_and_back_with_the_items_of_the_dataset(shop, tmp_path, capsys):
    built = SidVocabulary.from_pretrained(shop / "vocabulary")
    path = export_sids(str(shop / "vocabulary"), str(tmp_path / "new" / "shop.index.json"))
    assert "150 SIDs of 3 codes" in capsys.readouterr().err
    sizes = list(built.codebook_sizes)
    made = import_sids(
        str(path), str(tmp_path / "v"), dataset=str(shop / "dataset"), codebook_sizes=sizes
    )
    assert "SID vocabulary of 150 items" in capsys.readouterr().out
    assert made.fingerprint == built.fingerprint
    assert SidVocabulary.from_pretrained(tmp_path / "v").fingerprint == built.fingerprint


def test_ids_from_the_table_of_a_vocabulary_or_from_text(shop, tmp_path):
    built = SidVocabulary.from_pretrained(shop / "vocabulary")
    (tmp_path / "ids.txt").write_text("\n".join(built.item_ids.tolist()) + "\n")
    path = export_sids(
        str(shop / "vocabulary"), str(tmp_path / "s.npy"), format="npy", progress=False
    )
    for number, ids in enumerate((shop / "vocabulary" / "items.parquet", tmp_path / "ids.txt")):
        made = import_sids(str(path), str(tmp_path / str(number)), ids=str(ids), progress=False)
        assert np.array_equal(made.codes, built.codes)
        assert made.item_ids.tolist() == built.item_ids.tolist()


def test_an_imported_vocabulary_trains(shop, tmp_path):
    from genrec.pipeline import train
    from genrec.training import TrainingConfig

    path = export_sids(str(shop / "vocabulary"), str(tmp_path / "s.index.json"), progress=False)
    import_sids(str(path), str(tmp_path / "v"), dataset=str(shop / "dataset"), progress=False)
    run = train(
        str(shop / "dataset"),
        str(tmp_path / "run"),
        vocabulary=str(tmp_path / "v"),
        d_model=16,
        max_history=12,
        backbone={"type": "transformer", "layers": 1},
        training=TrainingConfig(epochs=1, batch_size=64),
        progress=False,
    )
    assert run is not None


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail with exit code 2 and say these words."""

    def run(*args, expected):
        with pytest.raises(SystemExit) as end:
            cli.main([str(arg) for arg in args])
        assert end.value.code == 2
        assert expected in capsys.readouterr().err.replace("\n", " ")

    return run


def test_what_fails_exits_with_2_and_leaves_nothing(shop, tmp_path, refused, monkeypatch):
    source = tmp_path / "s.index.json"
    source.write_text(json.dumps({"0": ["<a_1>"], "1": ["<b_1>"]}))
    out = tmp_path / "out"
    refused("import-sids", source, out, expected="item '1': token 1 is '<b_1>'")
    refused("import-sids", tmp_path / "no.npy", out, expected="no.npy: no such file")
    source.write_text(json.dumps({"0": ["<a_1>"]}))
    refused(
        "import-sids", source, out, "--dataset", shop / "dataset", expected="no SID for 149 of 150"
    )
    refused("export-sids", shop / "vectors", out, expected="expected a 'sid-vocabulary' folder")
    refused("export-sids", shop / "vocabulary", out, "--format", "csv", expected="format")
    refused(
        "export-sids", shop / "vocabulary", out, "--format=npy", "--names=ids", expected="no choice"
    )

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genrec.tokenizers.exporters.np.save", full)
    refused("export-sids", shop / "vocabulary", out, "--format=npy", expected="No space left")
    assert [path.name for path in tmp_path.iterdir()] == ["s.index.json"]


def test_what_is_refused_before_anything_is_read(shop, tmp_path):
    with pytest.raises(ConfigError, match="give one of the two"):
        import_sids("nowhere.json", str(tmp_path / "v"), dataset="a", ids="b")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "below", tmp_path / "file"):
        with pytest.raises(ArtefactError, match="is a file"):
            import_sids("nowhere.json", str(place))
    with pytest.raises(ArtefactError, match="is a file"):
        export_sids("nowhere", str(tmp_path / "file" / "below"))
