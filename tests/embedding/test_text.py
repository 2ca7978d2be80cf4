import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from genrec.data import Catalog
from genrec.embedding import TextEmbedder
from genrec.embedding.encoders import EncoderSource
from genrec.errors import ArtefactError, ConfigError, DataError


@pytest.fixture
def make(tiny_model, tmp_path):
    def build(**kwargs):
        defaults = {
            "model": str(tiny_model),
            "cache_dir": str(tmp_path / "cache"),
            "device": "cpu",
            "batch_size": 8,
            "progress": False,
        }
        return TextEmbedder(**(defaults | kwargs))

    return build


@pytest.fixture
def encoded(monkeypatch):
    """The texts that reach the model, in order."""
    import sentence_transformers

    seen = []
    real = sentence_transformers.SentenceTransformer.encode

    def spy(self, texts, **options):
        seen.extend(texts)
        return real(self, texts, **options)

    monkeypatch.setattr(sentence_transformers.SentenceTransformer, "encode", spy)
    return seen


def one_by_one(tiny_model, texts, **options):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model), device="cpu")
    return np.stack([model.encode(text, **options) for text in texts])


def test_agrees_with_one_text_at_a_time(make, tiny_model, catalog):
    embedded = make(template="{title}. {categories}").embed(catalog)
    texts = catalog.text(None, "{title}. {categories}")
    expected = one_by_one(tiny_model, texts, normalize_embeddings=True)
    np.testing.assert_allclose(embedded.vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embedded.vectors, axis=1), 1, atol=1e-5)


def test_entities_nulls_and_lists(make, encoded):
    catalog = Catalog(
        pa.table(
            {
                "item_id": [1, 2],
                "title": ["Soap &amp; brush", None],
                "categories": [["a", "b"], ["c"]],
            }
        )
    )
    make(template="{title}. {categories}", cache=False).embed(catalog)
    assert encoded == ["Soap & brush. a, b", "c"]


def test_each_distinct_text_is_read_once_longest_first(make, catalog, encoded):
    report = make(columns=["title"]).embed(catalog).config["report"]
    assert len(encoded) == len(set(encoded)) == report["distinct_texts"] < len(catalog)
    assert [len(t) for t in encoded] == sorted(map(len, encoded), reverse=True)
    assert report["empty_texts"] == 1


def test_only_new_texts_are_read(make, catalog, encoded):
    first = make(columns=["title"]).embed(catalog)
    encoded.clear()
    again = make(columns=["title"]).embed(catalog)
    assert encoded == []
    assert again.fingerprint == first.fingerprint
    assert again.config == first.config

    table = catalog.table.append_column("n", pa.array(range(40)))
    extra = pa.table({"item_id": ["new"], "title": ["a new red soap"], "n": [1]})
    grown = Catalog(pa.concat_tables([table, extra], promote_options="default"))
    result = make(columns=["title"]).embed(grown)
    assert encoded == ["a new red soap"]
    np.testing.assert_array_equal(result.vectors[:40], first.vectors)


@pytest.mark.parametrize("change", [{"max_length": 4}, {"prompt": "red "}, {"dtype": "bfloat16"}])
def test_other_settings_are_other_vectors(make, catalog, encoded, change):
    first = make().embed(catalog)
    count = len(encoded)
    second = make(**change).embed(catalog)
    assert len(encoded) == 2 * count
    assert second.fingerprint != first.fingerprint


def test_settings_without_effect_on_vectors_share_the_cache(make, catalog, encoded):
    first = make(normalize=True).embed(catalog)
    count = len(encoded)
    second = make(normalize=False, batch_size=3, progress=True).embed(catalog)
    assert len(encoded) == count
    unit = second.vectors / np.linalg.norm(second.vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, first.vectors, atol=1e-6)


def test_prompt_and_max_length_reach_the_model(make, tiny_model, catalog):
    texts = catalog.text()
    prompted = make(prompt="red lamp ", normalize=False).embed(catalog)
    expected = one_by_one(tiny_model, [f"red lamp {text}" for text in texts])
    np.testing.assert_allclose(prompted.vectors, expected, atol=1e-5)
    short = make(max_length=4, normalize=False).embed(
        Catalog(pa.table({"item_id": [1, 2], "title": ["red lamp", "red lamp chair desk soap"]}))
    )
    np.testing.assert_allclose(short.vectors[0], short.vectors[1], atol=1e-5)


def test_without_a_cache_the_same_catalog_gives_the_same_bits(make, catalog):
    a, b = (make(cache=False).embed(catalog) for _ in range(2))
    assert a.fingerprint == b.fingerprint


def test_the_order_of_the_items_does_not_matter(make, catalog):
    backwards = Catalog(catalog.table.take(pa.array(range(39, -1, -1))))
    first = make(cache=False).embed(catalog)
    second = make(cache=False).embed(backwards)
    np.testing.assert_array_equal(first.vectors, second.vectors[::-1])


def test_a_killed_run_goes_on_where_it_stopped(make, catalog, encoded, monkeypatch):
    import sentence_transformers

    monkeypatch.setattr("genrec.embedding.text._SHARD_SECONDS", 0.0)
    spied = sentence_transformers.SentenceTransformer.encode

    def interrupted(self, texts, **options):
        if len(encoded) >= 16:
            raise KeyboardInterrupt
        return spied(self, texts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sentence_transformers.SentenceTransformer, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(columns=["title"]).embed(catalog)
    done = set(encoded)
    assert len(done) == 16
    encoded.clear()
    resumed = make(columns=["title"]).embed(catalog)
    assert done.isdisjoint(encoded)
    fresh = make(columns=["title"], cache=False).embed(catalog)
    np.testing.assert_allclose(resumed.vectors, fresh.vectors, atol=1e-6)


def test_vectors_that_are_not_finite_name_the_item_and_are_not_kept(make, catalog, monkeypatch):
    import sentence_transformers

    real = sentence_transformers.SentenceTransformer.encode

    def overflow(self, texts, **options):
        vectors = real(self, texts, **options)
        vectors[[text.startswith("soap") for text in texts]] = np.nan
        return vectors

    template = "{categories}. {title}"
    with monkeypatch.context() as patch:
        patch.setattr(sentence_transformers.SentenceTransformer, "encode", overflow)
        with pytest.raises(DataError, match="item 'i0'"):
            make(template=template).embed(catalog)
    assert np.isfinite(make(template=template).embed(catalog).vectors).all()


def test_machine_settings_stay_out_of_the_artefact(make, catalog, tmp_path):
    embedder = make()
    config = embedder.embed(catalog).config
    assert str(tmp_path / "cache") not in str(config)
    assert {"device", "processes", "progress"}.isdisjoint(config)
    assert embedder.config["cache_dir"] == str(tmp_path / "cache")
    assert config["report"]["model_identity"].startswith("files:")


def test_max_length_beyond_the_model_is_refused(make, catalog):
    with pytest.raises(ConfigError, match=r"max_length=4000.*40 tokens"):
        make(max_length=4000).embed(catalog)


def test_an_unwritable_cache_is_reported_before_the_model_is_loaded(
    make, catalog, tmp_path, monkeypatch
):
    def load(self, **options):
        raise AssertionError("loaded")

    monkeypatch.setattr(EncoderSource, "load", load)
    (tmp_path / "file").touch()
    with pytest.raises(ArtefactError, match="cache=False"):
        make(cache_dir=str(tmp_path / "file" / "x")).embed(catalog)


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("processes", 0), ("max_length", 0), ("dtype", "int8")]
)
def test_impossible_arguments_are_named(name, value):
    with pytest.raises(ConfigError, match=name):
        TextEmbedder(**{name: value})


def test_importing_the_package_does_not_import_sentence_transformers():
    code = "import sys, genrec.embedding; sys.exit('sentence_transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_two_processes_agree_with_one(make, catalog):
    one = make(cache=False).embed(catalog)
    two = make(cache=False, processes=2).embed(catalog)
    np.testing.assert_allclose(two.vectors, one.vectors, atol=1e-6)
