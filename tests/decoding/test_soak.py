"""Random requests while the catalog changes: short and long runs of `scripts/soak_decode.py`."""

from __future__ import annotations

import importlib.util
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.decoding import levels

SCRIPT = Path(__file__).parents[2] / "scripts" / "soak_decode.py"
spec = importlib.util.spec_from_file_location("soak_decode", SCRIPT)
soak_decode = importlib.util.module_from_spec(spec)
spec.loader.exec_module(soak_decode)


SHAPES = (
    "families above 32",
    "full levels above 32",
    "codes above 255",
    "codes above 65,000",
    "single children",
    "one item",
    "fewer than k",
)


def run(requests: int, *, trace: bool, **options) -> soak_decode.Soak:
    """As many requests, half of them to warm up; nothing may be kept of the others."""
    soak = soak_decode.Soak(**options)
    if trace:  # which makes everything slower
        tracemalloc.start()
    try:
        while soak.counts["requests"] < requests // 2 and not soak.wrong:
            soak.round()
        tensors, memory = soak_decode.living_tensors(), tracemalloc.get_traced_memory()[0]
        while soak.counts["requests"] < requests and not soak.wrong:
            soak.round()
        more = soak_decode.living_tensors() - tensors
        grown = tracemalloc.get_traced_memory()[0] - memory
    finally:
        tracemalloc.stop()
    assert soak.wrong == []
    assert more < 100
    assert grown < 20 * 2**20
    return soak


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """A soak says how large a level must be to be bits."""
    monkeypatch.setattr(levels, "LARGE", levels.LARGE)


@pytest.mark.parametrize("form", soak_decode.FORMS)
def test_random_requests_over_a_changing_catalog(form):
    sizes = (8, 100) if form.get("bits") else (6, 5, 5)
    soak = run(2400, trace=False, seed=0, items=300, batch=15, sizes=sizes, **form)
    assert (soak.counts["bits"] > 0) == form.get("bits", False)
    for name in (*soak_decode.SEARCHES, "added", "removed", "filters", "renumberings", "ruled out"):
        assert soak.counts[name] > 0, name


def test_every_catalog_of_the_soak_is_searched_and_has_what_it_is_for():
    """Families above a chunk, full levels, codes of two bytes, one item, short lists: all occur."""
    counts = Counter()
    for sizes, items, batch in soak_decode.CATALOGS:
        rounds = 15 if sizes[0] > 60_000 else 40
        options = {"sizes": sizes, "items": items, "batch": batch}
        counts += run(rounds * batch, trace=False, **options).counts
    for name in (*soak_decode.BACKENDS, *SHAPES):
        assert counts[name] > 0, name


@pytest.mark.slow
def test_a_hundred_thousand_requests():
    assert run(100_000, trace=True, seed=2).counts["certified"] > 60_000


def test_the_soak_sees_what_is_wrong():
    """Each kind of damage to a result is reported; otherwise the soak would prove nothing."""
    soak = soak_decode.Soak(items=200, batch=4, sizes=(6, 5, 5))
    levels = [soak._quarters((4, size)) for size in soak.sizes]
    scores = torch.stack([u[:, c] for u, c in zip(levels, soak.codes.T, strict=True)]).sum(0)
    soak.allowed = soak.there[None]
    seen = np.full((4, 0), -1)

    def problems(damage) -> str:
        result = soak_decode.exact_parallel_search(levels, soak.trie, k=5)
        damage(result)
        soak.wrong.clear()
        soak._compare("exact", result, scores, seen, 5)
        return " ".join(soak.wrong)

    assert problems(lambda result: None) == ""
    assert "twice" in problems(lambda result: result.items[1].fill_(int(result.items[1, 0])))
    assert "a score that is not" in problems(lambda result: result.scores[2].sub_(0.25))
    assert "fewer items" in problems(lambda result: result.items[:, 4:].fill_(-1))
    assert "another list" in problems(lambda result: result.items.copy_(result.items.flip(1)))
    assert "no certificate" in problems(lambda result: result.certified.fill_(False))
    soak.allowed = np.zeros((1, 200), dtype=bool)
    assert "gone, seen or not allowed" in problems(lambda result: None)
