from __future__ import annotations

import json

import numpy as np
import pytest

from genrec.artefacts import atomic_folder, write_json
from genrec.errors import ArtefactError, ConfigError
from genrec.quantization import (
    OPQ,
    QUANTIZERS,
    Quantizer,
    RQKMeans,
    load_quantizer,
    make_quantizer,
    register,
)


@pytest.fixture(scope="module")
def fitted() -> RQKMeans:
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    return RQKMeans((4, 3), seed=2).fit(x)


def test_the_registry_has_the_built_in_quantizers():
    assert {"rq-kmeans", "rq-kmeans-plus", "rq-vae", "opq", "mhq", "random", "hash"} <= set(
        QUANTIZERS
    )
    assert QUANTIZERS["opq"] is OPQ
    assert OPQ.type == "opq"


def test_an_unknown_type_is_named_with_the_closest():
    with pytest.raises(ConfigError, match=r"'rq-kmean' is unknown; did you mean 'rq-kmeans'"):
        make_quantizer("rq-kmean")
    with pytest.raises(ConfigError, match=r"expected one of hash, mhq, opq, random, rq-k"):
        make_quantizer("zzz")


def test_a_new_quantizer_is_one_class(monkeypatch):
    monkeypatch.setattr("genrec.quantization.base.QUANTIZERS", dict(QUANTIZERS))

    @register("mine")
    class Mine(RQKMeans):
        pass

    quantizer = make_quantizer("mine", codebook_sizes=[2, 2])
    assert isinstance(quantizer, Mine)
    assert quantizer.config["type"] == "mine"
    assert "mine" not in QUANTIZERS


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((), "empty"),
        (256, "one size per level"),
        ("256", "one size per level"),
        (None, "one size per level"),
        ((4, 0), "level 1 is 0"),
        ((4, 65_537), "level 1 is 65537"),
        ((4, 2.5), "level 1 is 2.5"),
        ((True,), "level 0 is True"),
    ],
)
def test_codebook_sizes_that_are_impossible_are_named(sizes, message):
    for name in ("rq-kmeans", "rq-vae"):
        with pytest.raises(ConfigError, match=message):
            make_quantizer(name, codebook_sizes=sizes)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rq-kmeans", {"iterations": 0}, "iterations: is 0"),
        ("rq-kmeans", {"init": "kmeans++"}, r"init: 'kmeans\+\+'.*did you mean 'k-means\+\+'"),
        ("rq-kmeans", {"samples_per_code": "many"}, "samples_per_code"),
        ("rq-vae", {"update": "emma"}, "did you mean 'ema'"),
        ("rq-vae", {"steps": 100, "warmup_steps": 100}, "codebooks never start"),
        ("rq-vae", {"decay": 1.0}, "decay"),
        ("rq-vae", {"hidden": (0,)}, "hidden: is 0"),
        ("rq-vae", {"learning_rate": -1}, "learning_rate"),
        ("opq", {"codebook_size": 100}, "codebook_size: is 100; expected a power of two, e.g. 64"),
        ("opq", {"num_subspaces": 0}, "num_subspaces"),
    ],
)
def test_impossible_options_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_quantizer(name, **options)


def test_the_base_class_loads_any_type(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "q")
    assert isinstance(Quantizer.from_pretrained(tmp_path / "q"), RQKMeans)
    content = json.loads((tmp_path / "q" / "config.json").read_text())
    assert content["config"] == fitted.config
    assert content["width"] == 4


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with atomic_folder(tmp_path / "d", kind="dataset"):
        pass
    with pytest.raises(ArtefactError, match="'dataset' folder; expected a 'quantizer'"):
        load_quantizer(tmp_path / "d")
    with pytest.raises(ArtefactError, match="no such folder"):
        load_quantizer(tmp_path / "none")


def rewrite(source, target, change) -> None:
    """A folder with a correct manifest around changed content, as another version may write it."""
    content = json.loads((source / "config.json").read_text())
    change(content)
    with atomic_folder(target, kind="quantizer") as folder:
        write_json(folder / "config.json", content)
        (folder / "quantizer.safetensors").write_bytes(
            (source / "quantizer.safetensors").read_bytes()
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["config"].update(colour=1), "colour"),
        (lambda c: c["config"].update(type="dream"), "dream"),
        (lambda c: c["config"].update(codebook_sizes=[4, 3, 2]), "codebook.2"),
        (lambda c: c["config"].update(codebook_sizes=[4, 4]), "codebook 1 has shape"),
        (lambda c: c.update(width=5), "codebook 0 has shape"),
        (lambda c: c.pop("width"), "width"),
    ],
)
def test_a_folder_of_another_version_is_refused(fitted, tmp_path, change, message):
    fitted.save_pretrained(tmp_path / "q")
    rewrite(tmp_path / "q", tmp_path / "other", change)
    with pytest.raises(ArtefactError, match=message):
        load_quantizer(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rq-vae", {"latent": 3}),
        ("rq-vae", {"hidden": [9]}),
        ("rq-vae", {"codebook_sizes": [4, 3]}),
        ("opq", {"codebook_size": 8}),
        ("opq", {"num_subspaces": 4}),
        ("mhq", {"levels": 1}),
        ("mhq", {"dim": 2}),
        ("rq-kmeans-plus", {"hidden": [9]}),
        ("random", {"codebook_sizes": [4, 3]}),
        ("hash", {"codebook_sizes": [4, 8]}),
    ],
)
def test_learned_arrays_of_another_shape_are_refused(tmp_path, name, change):
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    options = {
        "rq-vae": {
            "codebook_sizes": (4, 4),
            "hidden": (8,),
            "latent": 4,
            "steps": 5,
            "warmup_steps": 2,
        },
        "opq": {"num_subspaces": 2, "codebook_size": 4, "iterations": 2},
        "mhq": {"num_subspaces": 2, "levels": 2, "codebook_size": 4, "epochs": 1},
        "rq-kmeans-plus": {"codebook_sizes": (4, 4), "hidden": (8,), "steps": 5},
        "random": {"codebook_sizes": (4, 4)},
        "hash": {"codebook_sizes": (4, 4)},
    }[name]
    make_quantizer(name, **options).fit(x).save_pretrained(tmp_path / "q")
    rewrite(tmp_path / "q", tmp_path / "other", lambda c: c["config"].update(change))
    with pytest.raises(ArtefactError, match="shape"):
        load_quantizer(tmp_path / "other")


def test_no_half_written_folder(fitted, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genrec.quantization.base.save_file", full)
    with pytest.raises(ArtefactError, match="No space left"):
        fitted.save_pretrained(tmp_path / "q")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_someone_else_is_left_alone(fitted, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="not written by genrec"):
        fitted.save_pretrained(tmp_path)
