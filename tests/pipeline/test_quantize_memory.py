from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from genrec.embedding import ItemVectors

# Private memory is limited to what the process holds after its imports and 256 MiB more.
SCRIPT = """
import resource, sys
import torch
from genrec.pipeline import quantize

torch.set_num_threads(1)
torch.randn(64, 64) @ torch.randn(64, 64)
held = int(open("/proc/self/status").read().split("VmData:")[1].split()[0]) * 1024
limit = held + 256 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
quantizer = {"type": "rq-kmeans", "codebook_sizes": [32, 32], "iterations": 3}
quantize(sys.argv[1], sys.argv[2], quantizer=quantizer, collisions="allow")
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits private memory as Linux")
def test_quantize_needs_less_memory_than_the_vectors(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((393_216, 256), dtype=np.float32)
    assert vectors.nbytes == 384 * 2**20
    ItemVectors(vectors, np.arange(len(vectors))).save_pretrained(tmp_path / "vectors")
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "vectors"), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "distortion" in done.stdout
