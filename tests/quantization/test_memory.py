"""Vectors on disk are quantized in memory that does not grow with their number."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from genrec.quantization import RQKMeans

# Private memory is limited to what the process holds after its imports and 144 MiB more.
SCRIPT = """
import resource, sys
import numpy as np, torch
from genrec.quantization import RQKMeans

torch.set_num_threads(1)
torch.randn(64, 64) @ torch.randn(64, 64)
held = int(open("/proc/self/status").read().split("VmData:")[1].split()[0]) * 1024
limit = held + 144 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
x = np.load(sys.argv[1], mmap_mode="r")
if sys.argv[2] == "whole":
    x = np.array(x)
quantizer = RQKMeans((32, 32), samples_per_code=64, iterations=3).fit(x)
np.save(sys.argv[3], quantizer.encode(x))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """192 MiB of vectors, more than may be held."""
    path = tmp_path_factory.mktemp("large") / "x.npy"
    matrix = np.lib.format.open_memmap(path, "w+", np.float32, (196_608, 256))
    rng = np.random.default_rng(0)
    for start in range(0, len(matrix), 16_384):
        matrix[start : start + 16_384] = rng.standard_normal((16_384, 256), dtype=np.float32)
    matrix.flush()
    return path


def run(*words):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, words)], capture_output=True, text=True
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits private memory as Linux")
def test_vectors_larger_than_memory(large, tmp_path):
    done = run(large, "mapped", tmp_path / "codes.npy")
    assert done.returncode == 0, done.stderr
    x = np.load(large)
    expected = RQKMeans((32, 32), samples_per_code=64, iterations=3).fit(x).encode(x)
    assert np.array_equal(np.load(tmp_path / "codes.npy"), expected)
    refused = run(large, "whole", tmp_path / "none.npy")
    assert refused.returncode != 0
    assert "Memory" in refused.stderr
