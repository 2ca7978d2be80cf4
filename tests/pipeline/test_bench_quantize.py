from __future__ import annotations

import json

import numpy as np
import pytest

from genrec import cli
from genrec.errors import ConfigError, DataError
from genrec.pipeline.bench_quantize import _faiss, _mse, _Peak, bench_quantize, write_vectors

SMALL = {"codebook_sizes": [16, 8], "samples_per_code": 64, "iterations": 5}


def test_both_are_measured_and_written(tmp_path, capsys):
    result = bench_quantize(items=3000, dim=8, repeats=2, out=str(tmp_path / "bench"), **SMALL)
    assert json.loads((tmp_path / "bench" / "quantize.json").read_text()) == result
    assert (result["items"], result["dim"], result["repeats"]) == (3000, 8, 2)
    for name in ("genrec", "faiss"):
        method = result["methods"][name]
        assert len(result["runs"][name]) == 2
        assert method["train_seconds"] > 0 and method["encode_seconds"] > 0
        assert 0 < method["mse"] < 1  # of unit vectors
    assert result["speedup"] > 0
    assert result["mse_ratio"] == pytest.approx(1, abs=0.1)
    assert "faiss " in capsys.readouterr().out


def test_vectors_of_the_user_and_the_command_line(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.eye(40, dtype=np.float32))
    cli.main(
        ["bench", "quantize", "--vectors", str(tmp_path / "x.npy"), "--codebook_sizes", "[4, 4]"]
    )
    assert "40 x 40 float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"items": 0}, ConfigError, "items=0"),
        ({"shape": "round"}, ConfigError, "'round' is unknown"),
        ({"codebook_sizes": [0]}, ConfigError, "level 0 is 0"),
        ({"items": 15, **SMALL}, DataError, r"\(15, 128\); expected .* at least 16 items"),
        ({"vectors": "nowhere.npy"}, DataError, "nowhere.npy: is no .npy file"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        bench_quantize(**options)


@pytest.mark.parametrize("shape", ["embedding", "isotropic"])
def test_vectors_follow_the_seed_and_lie_on_the_sphere(tmp_path, shape):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_vectors(tmp_path / f"{name}.npy", 500, 6, shape=shape, seed=seed)
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert np.allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)


def test_codes_of_faiss_are_those_of_a_loop():
    x = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    encode, books = _faiss(x, {**SMALL, "seed": 0})
    codes, rest = encode(x), x.copy()
    for level, book in enumerate(books):
        expected = np.square(rest[:, None] - book[None]).sum(axis=2).argmin(axis=1)
        assert np.array_equal(codes[:, level], expected)
        rest -= book[expected]
    assert _mse(x, codes, books) == pytest.approx(np.square(rest).sum(axis=1).mean(), rel=1e-5)


def test_peak_memory_counts_what_was_held():
    peak = _Peak()
    with peak:
        held = np.ones(2**23)
        while peak.most - peak.start < held.nbytes / 2:
            pass
    assert 32 <= peak.megabytes < 200
