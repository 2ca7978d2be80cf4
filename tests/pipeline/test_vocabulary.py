from __future__ import annotations

import numpy as np
import pytest

from genrec.data import Dataset
from genrec.embedding import ItemVectors
from genrec.errors import ArtefactError, ConfigError, DataError
from genrec.pipeline import SplitConfig, embed, quantize
from genrec.tokenizers import SidVocabulary

RQ = {"type": "rq-kmeans", "codebook_sizes": [8, 8, 8]}


def test_embed_returns_what_it_saved(shop, tmp_path):
    made = embed(str(shop / "dataset"), str(tmp_path / "v"), embedder={"type": "lexical", "dim": 8})
    loaded = ItemVectors.from_pretrained(tmp_path / "v")
    assert made.vectors.shape == (150, 8)
    assert np.array_equal(made.vectors, loaded.vectors)
    assert made.fingerprint == loaded.fingerprint


def test_collaborative_vectors_see_the_training_part_of_the_split_only(shop, tmp_path):
    data = Dataset.load(shop / "dataset")
    middle, late = (int(q) for q in np.quantile(data.histories.timestamps, [0.5, 0.8]))
    options = {"type": "collaborative", "dim": 8}
    early = SplitConfig(type="temporal", validation_from=middle, test_from=late)
    one = embed(str(shop / "dataset"), str(tmp_path / "a"), embedder=options)
    two = embed(str(shop / "dataset"), str(tmp_path / "b"), embedder=options, split=early)
    assert one.fingerprint != two.fingerprint


def test_quantize_fits_on_items_of_the_training_events_only(shop, tmp_path):
    data, parts = SplitConfig().apply(Dataset.load(shop / "dataset"))
    seen = parts.train_counts(data.histories, 150) > 0
    assert not seen.all()
    paths = str(shop / "vectors"), str(tmp_path / "a")
    made = quantize(*paths, quantizer=RQ, dataset=str(shop / "dataset"), progress=False)
    vectors = ItemVectors.from_pretrained(shop / "vectors").vectors
    from genrec.quantization import make_quantizer

    alone = make_quantizer(**RQ).fit(vectors[seen])
    for book, expected in zip(made.quantizer.codebooks(), alone.codebooks(), strict=True):
        np.testing.assert_array_equal(book, expected)
    loaded = SidVocabulary.from_pretrained(tmp_path / "a")
    assert loaded.fingerprint == made.fingerprint


def test_what_is_replaced_is_said_before_the_work(shop, tmp_path, capsys):
    options = {"quantizer": {"type": "random", "codebook_sizes": [8, 8, 8]}}
    out = str(tmp_path / "vocabulary")
    quantize(str(shop / "vectors"), out, **options)
    assert "is replaced" not in capsys.readouterr().err
    quantize(str(shop / "vectors"), out, **options)
    said = f"{out}: exists, and is replaced, with all that is in it, once the new one is whole; "
    assert f"{said}models trained with it need" in capsys.readouterr().err
    quantize(str(shop / "vectors"), out, progress=False, **options)
    assert capsys.readouterr().err == ""


def test_one_seed_gives_one_vocabulary(shop, tmp_path):
    found = [
        quantize(str(shop / "vectors"), str(tmp_path / str(n)), quantizer=RQ, progress=False)
        for n in range(2)
    ]
    assert found[0].fingerprint == found[1].fingerprint
    assert np.array_equal(found[0].codes, found[1].codes)


@pytest.mark.parametrize(
    ("embedder", "expected"),
    [
        ({"type": "lexica"}, "did you mean 'lexical'"),
        ({"dim": 8}, "needs a `type`"),
        ({"type": "lexical", "dimm": 8}, "did you mean 'dim'"),
        ({"type": "lexical", "dim": "x"}, "dim='x'; expected int"),
        ({"type": "lexical", "template": [{"title": None}]}, "template="),
        ({"type": "fused", "parts": [{"type": "lexical", "di": 3}]}, "no argument 'di'"),
    ],
)
def test_a_wrong_embedder_is_found_before_anything_is_read(tmp_path, embedder, expected):
    with pytest.raises(ConfigError, match=expected):
        embed(str(tmp_path / "nowhere"), str(tmp_path / "v"), embedder=embedder)


@pytest.mark.parametrize(
    ("quantizer", "expected"),
    [
        ({"type": "rq-kmean"}, "rq-kmeans"),
        ({"type": "rq-kmeans", "codebook_size": [8]}, "codebook_sizes"),
        (
            {"type": "rq-kmeans", "codebook_sizes": 8},
            "codebook_sizes=8; expected a list of int, such as .8, 8",
        ),
        ({"type": "rq-kmeans", "codebook_sizes": [0]}, "codebook_sizes"),
        ({"type": "opq", "num_subspaces": "4"}, "num_subspaces='4'; expected int"),
    ],
)
def test_a_wrong_quantizer_is_found_before_anything_is_read(tmp_path, quantizer, expected):
    with pytest.raises(ConfigError, match=expected):
        quantize(str(tmp_path / "nowhere"), str(tmp_path / "v"), quantizer=quantizer)


@pytest.mark.parametrize("stage", ["embed", "quantize"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    shop, tmp_path, stage, monkeypatch
):
    file = tmp_path / "file"
    file.write_text("")
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    work = {
        "embed": lambda out: embed(str(shop / "dataset"), str(out)),
        "quantize": lambda out: quantize(str(shop / "vectors"), str(out), quantizer=RQ),
    }[stage]
    monkeypatch.setattr("genrec.data.Dataset.load", None)
    monkeypatch.setattr("genrec.embedding.ItemVectors.from_pretrained", None)
    for out, expected in (
        (file / "below", "is a file"),
        (file, "is a file"),
        (foreign, "not written by genrec"),
    ):
        with pytest.raises(ArtefactError, match=expected):
            work(out)
    assert (foreign / "thesis.tex").exists()


LETTER = {
    "type": "rq-vae",
    "codebook_sizes": [8, 8],
    "hidden": [16],
    "latent": 4,
    "steps": 60,
    "warmup_steps": 20,
    "alignment": 0.1,
}


def test_quantize_learns_from_collaborative_vectors_of_the_same_items(shop, tmp_path):
    vectors = ItemVectors.from_pretrained(shop / "vectors")
    rng = np.random.default_rng(0)
    side = rng.normal(size=(150, 5)).astype(np.float32)
    order = rng.permutation(150)
    ids = np.array(vectors.item_ids.to_pylist())
    ItemVectors(side[order], ids[order]).save_pretrained(tmp_path / "side")
    data, parts = SplitConfig().apply(Dataset.load(shop / "dataset"))
    seen = parts.train_counts(data.histories, 150) > 0
    from genrec.quantization import make_quantizer

    for dataset, rows in ((None, np.ones(150, dtype=bool)), (str(shop / "dataset"), seen)):
        made = quantize(
            str(shop / "vectors"),
            str(tmp_path / "v"),
            quantizer=LETTER,
            collaborative=str(tmp_path / "side"),
            dataset=dataset,
            progress=False,
        )
        given = {"collaborative": side[rows]}
        alone = make_quantizer(**LETTER).fit(vectors.vectors[rows], side_vectors=given)
        for book, expected in zip(made.quantizer.codebooks(), alone.codebooks(), strict=True):
            np.testing.assert_array_equal(book, expected)
        assert made.config["fitted_items"] == rows.sum()


def test_collaborative_vectors_of_other_items_are_named(shop, tmp_path):
    ItemVectors(np.ones((2, 3)), ["a", "b"]).save_pretrained(tmp_path / "side")
    with pytest.raises(DataError, match="2 vectors belong to no item"):
        quantize(
            str(shop / "vectors"),
            str(tmp_path / "v"),
            quantizer=LETTER,
            collaborative=str(tmp_path / "side"),
            progress=False,
        )


@pytest.mark.parametrize(
    ("quantizer", "collaborative", "expected"),
    [
        (LETTER, None, "'rq-vae': with an alignment it needs collaborative vectors"),
        (RQ, "side", "collaborative: quantizer 'rq-kmeans' does not learn from such vectors"),
        ({**LETTER, "alignment": 0.0}, "side", "quantizer 'rq-vae' does not learn"),
    ],
)
def test_missing_and_idle_collaborative_vectors_are_found_before_anything_is_read(
    tmp_path, quantizer, collaborative, expected
):
    with pytest.raises(ConfigError, match=expected):
        quantize(
            str(tmp_path / "nowhere"),
            str(tmp_path / "v"),
            quantizer=quantizer,
            collaborative=collaborative,
        )
