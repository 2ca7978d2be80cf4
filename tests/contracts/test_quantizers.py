"""What every registered quantizer must do; a new one is picked up by itself."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genrec.errors import ArtefactError, ConfigError, DataError, GenrecError
from genrec.quantization import QUANTIZERS, Quantizer, load_quantizer, make_quantizer
from genrec.quantization.fixed_codes import FixedCodes
from genrec.tokenizers.refit import relabel_quantizer

# Options that make a quantizer quick enough to be fitted dozens of times.
QUICK = {
    "rq-vae": {
        "hidden": (16,),
        "latent": 8,
        "steps": 150,
        "warmup_steps": 50,
        "batch_size": 64,
        "learning_rate": 1e-2,
        "refine": 2,
    },
    "rq-kmeans-plus": {"hidden": (16,), "steps": 60, "batch_size": 64, "refine": 2},
    "opq": {"iterations": 3},
    "mhq": {"epochs": 3, "batch_size": 64, "refine": 2},
}
QUICKER = {
    "rq-vae": {"steps": 20, "warmup_steps": 5},
    "rq-kmeans-plus": {"steps": 15},
    "mhq": {"epochs": 1},
}
# Options that lead through other code of a quantizer, under a name of their own.
VARIANTS: dict[str, tuple[str, dict]] = {
    "mhq, one subspace": ("mhq", {"num_subspaces": 1}),
    "mhq, penalty": ("mhq", {"orthogonality": "penalty"}),
    "opq, no rotation": ("opq", {"rotate": False}),
    "rq-kmeans, plain": ("rq-kmeans", {"balanced": False}),
    "rq-vae, further terms": ("rq-vae", {"update": "ste", "diversity": 1e-3, "sinkhorn": 0.01}),
}
NAMES = sorted(QUANTIZERS)
CASES = sorted([*QUANTIZERS, *VARIANTS])
# Controls, whose codes are not fitted to the vectors.
UNFITTED = [name for name in NAMES if issubclass(QUANTIZERS[name], FixedCodes)]


def type_of(case: str) -> str:
    return VARIANTS[case][0] if case in VARIANTS else case


def build(case: str, *, levels: int = 3, size: int = 8, **options) -> Quantizer:
    name, variant = type_of(case), VARIANTS.get(case, ("", {}))[1]
    known = inspect.signature(QUANTIZERS[name]).parameters
    options = QUICK.get(name, {}) | variant | options
    if "codebook_sizes" in known:
        options["codebook_sizes"] = (size,) * levels
    elif "num_subspaces" in variant:
        options |= {"levels": levels, "codebook_size": size}
    else:
        options |= {"num_subspaces": levels, "codebook_size": size}
        options |= {"levels": 1} if "levels" in known else {}
    return make_quantizer(name, **options)


def clustered(n: int = 200, d: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(8, d)) * 5
    return (centers[rng.integers(8, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


@pytest.fixture(scope="module", params=CASES)
def case(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def name(case) -> str:
    return type_of(case)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return clustered()


@pytest.fixture(scope="module")
def fitted(case, x) -> Quantizer:
    return build(case).fit(x)


def test_codes_are_int32_below_the_codebook_sizes(fitted, x):
    codes = fitted.encode(x)
    assert codes.dtype == np.int32
    assert codes.shape == (len(x), fitted.num_levels)
    assert (codes >= 0).all()
    assert (codes < np.array(fitted.codebook_sizes)).all()
    assert fitted.num_levels == len(fitted.codebook_sizes) == 3


def test_one_codebook_per_level_and_not_a_view(fitted, x):
    books = fitted.codebooks()
    assert [len(book) for book in books] == list(fitted.codebook_sizes)
    assert all(book.dtype == np.float32 and np.isfinite(book).all() for book in books)
    before = fitted.encode(x)
    for book in books:
        book[:] = 0
    assert np.array_equal(fitted.encode(x), before)


def test_fit_returns_itself_and_leaves_vectors_and_global_state_alone(case, x):
    quantizer, copy = build(case), x.copy()
    torch.manual_seed(3)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()[1].copy()
    assert quantizer.fit(x) is quantizer
    assert np.array_equal(x, copy)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.get_num_threads() == threads


def test_rows_left_out_are_not_learned_from(case, fitted, x):
    places = np.sort(np.random.default_rng(1).choice(300, size=len(x), replace=False))
    longer = 3 + clustered(n=300, seed=7)
    longer[places] = x
    some = build(case).fit(longer, rows=places)
    codes = fitted.encode(longer)
    assert np.array_equal(some.encode(longer), codes)
    assert np.array_equal(some.decode(codes), fitted.decode(codes))
    for ours, theirs in zip(some.codebooks(), fitted.codebooks(), strict=True):
        assert np.array_equal(ours, theirs)


def test_same_seed_same_codes_whatever_the_global_seed(case, fitted, x):
    torch.manual_seed(99)
    again = build(case).fit(x)
    assert np.array_equal(again.encode(x), fitted.encode(x))
    assert np.array_equal(again.decode(again.encode(x)), fitted.decode(fitted.encode(x)))


def test_threads_do_not_change_codes(case):
    x = clustered(n=1500, d=50, seed=1)
    threads, codes = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            codes.append(build(case, size=32).fit(x).encode(x))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*codes)


@pytest.mark.parametrize("batch_size", [1, 7, 199])
def test_a_row_does_not_depend_on_its_batch(fitted, x, batch_size):
    assert np.array_equal(fitted.encode(x, batch_size=batch_size), fitted.encode(x))


def test_a_row_does_not_depend_on_its_place(fitted, x):
    order = np.random.default_rng(5).permutation(len(x))
    assert np.array_equal(fitted.encode(x[order]), fitted.encode(x)[order])


def test_numpy_torch_memory_maps_and_strides_give_the_same_codes(fitted, x, tmp_path):
    codes = fitted.encode(x)
    np.save(tmp_path / "x.npy", x)
    wide = np.zeros((len(x), 2 * x.shape[1]), dtype=np.float32)
    wide[:, ::2] = x
    for same in (
        torch.from_numpy(x),
        torch.from_numpy(x).requires_grad_(),
        x.astype(np.float64),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        np.asfortranarray(x),
        wide[:, ::2],
    ):
        assert np.array_equal(fitted.encode(same), codes)
    assert fitted.encode(x.astype(np.float16)).shape == codes.shape
    assert fitted.encode(torch.from_numpy(x).bfloat16()).shape == codes.shape


def test_no_rows_give_no_codes(fitted, x):
    assert fitted.encode(x[:0]).shape == (0, 3)
    assert fitted.decode(np.zeros((0, 3), dtype=int)).shape == (0, x.shape[1])
    assert fitted.level_distances(x[:0], np.zeros((0, 1), dtype=int)).shape == (0, 8)


def test_decode_comes_near_the_vectors(name, fitted, x):
    decoded = fitted.decode(fitted.encode(x))
    assert decoded.dtype == np.float32
    assert decoded.shape == x.shape
    share = 1 if name in UNFITTED else 0.5
    assert ((decoded - x) ** 2).sum() < share * ((x - x.mean(0)) ** 2).sum()


def test_decoded_vectors_encode_to_nearly_themselves(name, fitted, x):
    if name in UNFITTED:
        pytest.skip("a control: where a vector lies does not decide its codes, or only roughly")
    decoded = fitted.decode(fitted.encode(x))
    again = fitted.decode(fitted.encode(decoded))
    assert ((again - decoded) ** 2).sum() < 0.25 * ((x - x.mean(0)) ** 2).sum()


def test_encode_takes_a_nearest_code_of_each_level(fitted, x):
    codes = fitted.encode(x)
    for level in range(fitted.num_levels):
        distances = fitted.level_distances(x, codes[:, :level])
        assert distances.dtype == np.float32
        assert distances.shape == (len(x), fitted.codebook_sizes[level])
        assert (distances >= 0).all()
        chosen = distances[np.arange(len(x)), codes[:, level]]
        assert np.allclose(chosen, distances.min(axis=1), rtol=1e-4, atol=1e-4)


def test_level_distances_are_squared_ones_to_the_codebook(case, x):
    """Each row and level has a point whose squared distances to the codes they are.

    Up to what the row has for all codes, as a point may lie off the plane that the codes span.
    """
    if type_of(case) in UNFITTED:
        pytest.skip("a control: its codebooks are learned after its codes")
    quantizer = build(case, size=32).fit(x)
    codes = quantizer.encode(x)
    for level, book in enumerate(map(np.float64, quantizer.codebooks())):
        assert len(book) > book.shape[1] + 1, "too few codes to say where a point is"
        found = np.float64(quantizer.level_distances(x, codes[:, :level]))
        # |p - c|^2 = |p|^2 - 2 p c + |c|^2
        factors = np.c_[np.ones(len(book)), -2 * book]
        points = np.linalg.lstsq(factors, (found - (book**2).sum(1)).T, rcond=1e-6)[0][1:].T
        apart = ((points[:, None] - book) ** 2).sum(2)
        offset = found - apart
        close = 1e-4 * np.abs(found).max()
        assert (np.ptp(offset, axis=1) < close).all()
        assert (offset > -close).all()


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


@pytest.mark.parametrize("case", CASES)
def test_renamed_codes_are_what_is_encoded_or_are_refused(case):
    x = clustered()
    quantizer = build(case).fit(x)
    codes = quantizer.encode(x)
    rng = np.random.default_rng(0)
    labels = [rng.permutation(size) for size in quantizer.codebook_sizes]
    if type_of(case) in UNFITTED:
        with pytest.raises(ConfigError, match=f"{type_of(case)!r}: its codes cannot be renamed"):
            relabel_quantizer(quantizer, labels)
        return
    renamed = relabel_quantizer(quantizer, labels)
    expected = np.stack([label[column] for label, column in zip(labels, codes.T, strict=True)], 1)
    assert np.array_equal(renamed.encode(x), expected)
    assert np.array_equal(renamed.decode(expected), quantizer.decode(codes))
    assert not np.array_equal(expected, codes)
