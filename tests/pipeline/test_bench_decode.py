"""`genrec bench decode`: every method gives the same scores, and its figures hold together."""

from __future__ import annotations

import json
import time

import pytest
import torch

from genrec.errors import ConfigError, GenrecError
from genrec.pipeline import bench_decode as module
from genrec.pipeline.bench_decode import bench_decode
from genrec.pipeline.bench_report import NAMES, summary

SMALL = {"items": [400], "levels": [3], "batch": [2], "beam": [7], "repeats": 1}


def test_all_methods_agree_and_the_files_say_what_was_returned(tmp_path):
    threads = torch.get_num_threads()
    result = bench_decode(**SMALL, clock="cpu", out=str(tmp_path / "bench"))
    assert torch.get_num_threads() == threads
    (cell,) = result["cells"]
    assert set(cell["ms"]) == set(NAMES)
    assert min(cell["ms_min"].values()) > 0
    assert cell["too_large"] == [] and cell["reference"] == "brute"
    assert 0 <= cell["difference"] < 1e-4
    assert json.loads((tmp_path / "bench/decode.json").read_text())["cells"] == result["cells"]
    page = (tmp_path / "bench/decode.md").read_text()
    assert "| 400 | 3 | 2 | 7 |" in page and "| hf/compiled |" in page and "cpu time" in page
    assert "| brute/compiled |" in page and " brute force | no constraint |" in page
    assert "| scores compared with | largest difference |" in page and "too large" not in page
    assert (tmp_path / "bench/decode.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda scores, *rest: (scores + 0.01, *rest), "scores"),
        (lambda *found: tuple(of[:, :1] for of in found), "scores"),
        (lambda scores, *rest: (scores, *(of.flip(1) for of in rest)), "parents and codes"),
    ],
    ids=["other scores", "one beam", "other parents"],
)
@pytest.mark.parametrize("method", ["hf", "static", "brute", "compiled"])
def test_other_beams_are_no_result(monkeypatch, method, spoil, what):
    way = type(module._trie(400, 3, 0, [method], time.process_time)[2][method])
    step = way.step

    def spoilt(self, *given):
        found = step(self, *given)
        # the torch path is of the same class as the compiled one: spoil one of the two only
        wrong = method != "compiled" or self.backend == "compiled"
        return spoil(*found) if wrong else found

    monkeypatch.setattr(way, "step", spoilt)
    wrong = f"({method} and torch|torch and {method}) disagree about the {what} of level"
    with pytest.raises(GenrecError, match=wrong):
        bench_decode(**SMALL, methods=["torch", method])


def test_brute_force_that_is_too_large_is_said_and_not_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "_MATCHES", 400 * 7)  # one user's beams, not those of two
    options = {**SMALL, "batch": [1, 2], "methods": ["torch", "brute", "torch+users"]}
    one, two = bench_decode(**options, out=str(tmp_path / "bench"))["cells"]
    assert one["too_large"] == [] and one["reference"] == "brute"
    assert two["too_large"] == ["brute"] and two["reference"] == "torch"
    assert "brute" in one["ms"] and "brute" not in two["ms"]
    assert "brute too large" in capsys.readouterr().out
    row = next(
        line
        for line in (tmp_path / "bench/decode.md").read_text().splitlines()
        if line.startswith("| 400 | 3 | 2 | 7 |")
    )
    assert row.split(" | ")[4] == "too large"
    assert "gaps: too large" in (tmp_path / "bench/decode.svg").read_text()


@pytest.mark.parametrize("kind", ["shared", "users"])
def test_filtered_steps_are_compared_with_brute_force_over_the_filtered_items(monkeypatch, kind):
    alive = module.Filter.alive
    monkeypatch.setattr(
        module.Filter, "alive", lambda self, depth, nodes: ~alive(self, depth, nodes)
    )
    with pytest.raises(GenrecError, match=rf"compiled\+{kind} and brute disagree"):
        bench_decode(**SMALL, methods=["brute", f"compiled+{kind}"])


def test_ratios_are_of_the_cells_that_have_both():
    cells = [
        {"ms": {"hf": 6.0, "compiled": 2.0}},
        {"ms": {"hf": 10.0, "compiled": 2.0}},
        {"ms": {"compiled": 1.0}},
    ]
    assert summary(cells) == {"hf/compiled": {"median": 4.0, "min": 3.0, "max": 5.0}}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"items": [0]}, "expected at least 1"),
        ({"levels": [1]}, "and 2 levels"),
        ({"methods": ["grid"]}, "expected some of hf"),
        ({"clock": "sun"}, "expected one of wall, cpu"),
    ],
)
def test_impossible_cells_are_named(bad, message):
    with pytest.raises(ConfigError, match=message):
        bench_decode(**{**SMALL, **bad})
