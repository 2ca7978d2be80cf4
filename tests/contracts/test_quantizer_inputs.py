"""What every registered quantizer saves and loads, takes and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genrec.errors import ArtefactError, ConfigError, DataError, GenrecError
from genrec.quantization import QUANTIZERS, load_quantizer, make_quantizer
from tests.contracts.quantizers import CASES, NAMES, build, type_of

QUICKER = {
    "rq-vae": {"steps": 20, "warmup_steps": 5},
    "rq-kmeans-plus": {"steps": 15},
    "mhq": {"epochs": 1},
}


def test_save_and_load_to_the_bit(fitted, x, tmp_path):
    fitted.save_pretrained(tmp_path / "q")
    loaded = load_quantizer(tmp_path / "q")
    assert type(loaded) is type(fitted)
    assert loaded.config == fitted.config
    assert loaded.report == fitted.report
    assert loaded.is_fitted
    codes = fitted.encode(x)
    assert np.array_equal(loaded.encode(x), codes)
    assert loaded.decode(codes).tobytes() == fitted.decode(codes).tobytes()
    for ours, theirs in zip(fitted.codebooks(), loaded.codebooks(), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    loaded.save_pretrained(tmp_path / "again")
    manifests = [(tmp_path / f / "manifest.json").read_text() for f in ("q", "again")]
    assert manifests[0] == manifests[1]
    assert type(type(fitted).from_pretrained(tmp_path / "q")) is type(fitted)


def test_config_is_json_and_builds_an_equal_quantizer(name, fitted, x):
    config = json.loads(json.dumps(fitted.config))
    assert config["type"] == name
    assert "device" not in config
    again = make_quantizer(**config)
    assert again.config == fitted.config
    assert np.array_equal(again.fit(x).encode(x), fitted.encode(x))
    assert type(fitted).__name__ in repr(fitted)


def test_another_class_refuses_the_folder(name, fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "q")
    for other in NAMES:
        if other != name:
            with pytest.raises(ArtefactError, match=name):
                QUANTIZERS[other].from_pretrained(tmp_path / "q")


@pytest.mark.parametrize("file", ["config.json", "quantizer.safetensors"])
def test_an_edited_or_truncated_folder_is_refused(fitted, tmp_path, file):
    fitted.save_pretrained(tmp_path / "q")
    path = tmp_path / "q" / file
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtefactError, match=file):
        load_quantizer(tmp_path / "q")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_values_that_are_not_usable_are_named(case, fitted, x, value):
    bad = x.copy()
    bad[17, 3] = value
    for run in (build(case).fit, fitted.encode):
        with pytest.raises(DataError, match="row 17, column 3"):
            run(bad)
    with pytest.raises(DataError, match="row 17, column 3"):
        fitted.encode(bad, batch_size=5)
    with pytest.raises(DataError, match="row 17, column 3"):
        fitted.level_distances(torch.from_numpy(bad), np.zeros((len(x), 0), dtype=int))


def test_another_width_is_refused(fitted, x):
    with pytest.raises(DataError, match=r"11 columns.*fitted on 12"):
        fitted.encode(x[:, :11])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((0, 4), dtype=np.float32), "empty"),
        (np.zeros((100, 0), dtype=np.float32), "no columns"),
        (np.zeros(100, dtype=np.float32), "shape"),
        (np.array([["a", "b"]] * 100), "dtype"),
        (torch.zeros(100, 4, dtype=torch.complex64), "dtype"),
        (np.zeros((5, 4), dtype=np.float32), "5 rows.*8 codes.*at most 5"),
    ],
)
def test_vectors_that_cannot_be_fitted_are_refused(case, vectors, message):
    quantizer = build(case)
    with pytest.raises(DataError, match=message):
        quantizer.fit(vectors)
    assert not quantizer.is_fitted


def test_65535_codes_for_few_vectors_are_a_clear_error(case, x):
    with pytest.raises(GenrecError, match=r"200 rows, but a level has 65535 codes|power of two"):
        build(case, size=65_535).fit(x)


def test_an_unfitted_quantizer_says_so(case, x, tmp_path):
    quantizer = build(case)
    codes = np.zeros((1, 3), dtype=int)
    for run in (
        lambda: quantizer.encode(x),
        lambda: quantizer.decode(codes),
        lambda: quantizer.level_distances(x[:1], codes[:, :1]),
        quantizer.codebooks,
        lambda: quantizer.save_pretrained(tmp_path / "q"),
    ):
        with pytest.raises(ConfigError, match="not fitted"):
            run()
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, 0, 8]], "row 0, level 2 is 8; expected 0 to 7"),
        ([[0, 0, 0], [0, -1, 0]], "row 1, level 1 is -1"),
        ([[0, 0]], "shape"),
        ([[0.0, 0.0, 0.0]], "integers"),
    ],
)
def test_codes_that_do_not_exist_are_refused(fitted, codes, message):
    with pytest.raises(DataError, match=message):
        fitted.decode(codes)


def test_prefixes_that_do_not_fit_are_refused(fitted, x):
    with pytest.raises(DataError, match="shape"):
        fitted.level_distances(x, np.zeros((len(x), 3), dtype=int))
    with pytest.raises(DataError, match="1 rows"):
        fitted.level_distances(x, np.zeros((1, 1), dtype=int))
    with pytest.raises(DataError, match="prefix_codes: row 0, level 0"):
        fitted.level_distances(x[:1], [[99]])
    with pytest.raises(ConfigError, match="batch_size"):
        fitted.encode(x, batch_size=0)


def test_side_vectors_are_checked(case, x):
    quantizer = build(case)
    with pytest.raises(ConfigError, match="colaborative"):
        quantizer.fit(x, side_vectors={"colaborative": x})
    for known in quantizer.side_inputs:
        with pytest.raises(DataError, match=known):
            quantizer.fit(x, side_vectors={known: x[:-1]})


def test_a_misspelt_option_is_named_with_the_closest(name):
    with pytest.raises(ConfigError, match=r"'sed'.*did you mean 'seed'"):
        make_quantizer(name, sed=1)


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((40, 5), dtype=np.float32),
        np.zeros((40, 5), dtype=np.float32),
        np.repeat(np.eye(5, dtype=np.float32), 8, axis=0),
        np.c_[np.arange(40), np.full(40, 7), np.zeros(40)].astype(np.float32),
        1e6 + np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32),
        np.random.default_rng(0).normal(size=(40, 1)).astype(np.float32),
        np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32),
        np.arange(80).reshape(40, 2),
    ],
    ids=["ones", "zeros", "few distinct", "constant columns", "far", "one column", "n=K", "ints"],
)
def test_unusual_vectors_give_valid_codes(case, vectors, tmp_path):
    quantizer = build(case).fit(vectors)
    codes = quantizer.encode(vectors)
    assert ((codes >= 0) & (codes < 8)).all()
    assert np.array_equal(codes, quantizer.encode(vectors, batch_size=1))
    assert np.isfinite(quantizer.decode(codes)).all()
    _, group = np.unique(vectors, axis=0, return_inverse=True)
    for number in np.unique(group):
        assert len(np.unique(codes[group.ravel() == number], axis=0)) == 1
    quantizer.save_pretrained(tmp_path / "q")
    assert np.array_equal(load_quantizer(tmp_path / "q").encode(vectors), codes)


odd_vectors = st.tuples(st.integers(1, 30), st.integers(1, 6)).flatmap(
    lambda shape: hnp.arrays(
        np.float32,
        shape,
        elements=st.one_of(
            st.sampled_from([0.0, 1.0, -1.0, 0.5]),
            st.floats(-(2.0**49), 2.0**49, width=32),
            st.floats(-1, 1, width=32),
            st.sampled_from([float("nan"), float("inf")]) if shape[0] > 25 else st.just(0.0),
        ),
    )
)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=15, deadline=None)
@given(vectors=odd_vectors, size=st.sampled_from([2, 4, 8]), levels=st.integers(1, 3))
def test_any_vectors_give_valid_codes_or_a_clear_error(case, vectors, size, levels):
    quick = QUICKER.get(type_of(case), {})
    quantizer = build(case, size=size, levels=levels, **quick)
    try:
        quantizer.fit(vectors)
    except GenrecError as error:
        assert len(vectors) < size or not np.isfinite(vectors).all()
        assert str(error)
        return
    codes = quantizer.encode(vectors)
    assert ((codes >= 0) & (codes < size)).all()
    assert np.isfinite(quantizer.decode(codes)).all()
    assert np.array_equal(quantizer.encode(vectors, batch_size=3), codes)
    again = build(case, size=size, levels=levels, **quick).fit(vectors)
    assert np.array_equal(again.encode(vectors), codes)


@pytest.mark.parametrize("quantizer_name", NAMES)
@pytest.mark.parametrize("seed", [-1, 0.5, True, "1"])
def test_a_seed_that_is_none(quantizer_name, seed):
    with pytest.raises(ConfigError, match=r"seed: is .*; expected an integer of 0 or more"):
        build(quantizer_name, seed=seed)
