"""`genrec bench decode`: what one constrained step costs, beside the alternatives."""

from __future__ import annotations

import datetime
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from genrec.artefacts import check_folder_place, replacing, write_json
from genrec.consoles import output_console
from genrec.decoding import Filter, PrefixTrie, expand_beams
from genrec.decoding.bits import BitRank
from genrec.decoding.codes import sort_keys
from genrec.decoding.step import chosen_backend
from genrec.errors import ConfigError, GenrecError, expected_one_of
from genrec.pipeline.bench_methods import (
    BruteForce,
    Found,
    HuggingFace,
    Ours,
    Situation,
    Static,
    Unconstrained,
)
from genrec.pipeline.bench_report import NAMES, markdown, plot, print_line, print_result, summary

CODES = 256
_BEAMS_HF = 16_000  # beams of a batch beyond which Python per beam takes minutes
_MATCHES = 2**28  # prefix comparisons of a step beyond which brute force takes minutes
_FILTER_BITS = 2**29  # items times users of the largest filter per user
_SLOW = 1.0  # seconds of one run beyond which it is not repeated
_TOLERANCE = 1e-4
_Steps = list[tuple[Any, Situation, Any]]  # a method, the beams, and what it keeps between steps
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def bench_decode(
    *,
    items: Sequence[int] = (10_000, 100_000),
    levels: Sequence[int] = (3, 4),
    batch: Sequence[int] = (1, 32),
    beam: Sequence[int] = (10, 50),
    methods: list[str] | None = None,
    full: bool = False,
    repeats: int = 9,
    threads: int = 1,
    clock: Literal["wall", "cpu"] = "wall",
    seed: int = 0,
    out: str | None = None,
) -> dict[str, Any]:
    """Time constrained steps beside Hugging Face's, STATIC's, brute force and no constraint at all.

    A cell is all steps but the first, for random tuples of 256 codes a level and the same random
    logits for every method, log-softmax included. Scores, and outside ties parents and codes, are
    compared before anything is timed, with brute force where it is not too large; then the methods
    take turns. Medians in milliseconds.

    Example:
        genrec bench decode --out runs/bench-decode

    Args:
        items: catalog sizes.
        levels: codes per item.
        batch: users at once.
        beam: beams per user.
        methods: some of hf, static, brute, unconstrained, torch, compiled, and the last two with a
            filter, torch+shared, compiled+users and so on; all that apply by default.
        full: 10 thousand, 1 million and 10 million items, batches of 1, 32 and 256, beams of 10, 50
            and 500; takes half an hour and 10 GB.
        repeats: runs of each method in a cell.
        threads: of torch and of the compiled kernel.
        clock: what is measured: time, or processor time of the process, which other processes do
            not add to.
        seed: of tuples and logits.
        out: folder for `decode.json`, `decode.md` and `decode.svg`.

    Returns:
        The machine, a row per trie, and a row per cell: the milliseconds of each method, those that
        were too large for it, what the scores were compared with and the largest difference.
    """
    if full:
        items, levels = [10_000, 1_000_000, 10_000_000], [3, 4]
        batch, beam = [1, 32, 256], [10, 50, 500]
    if min((*items, *levels, *batch, *beam, repeats, threads)) < 1 or min(levels) < 2:
        raise ConfigError(
            f"items={items}, levels={levels}, batch={batch}, beam={beam}, repeats={repeats}, "
            f"threads={threads}: expected at least 1, and 2 levels"
        )
    if clock not in CLOCKS:
        raise ConfigError(f"clock={clock!r}: {expected_one_of(clock, CLOCKS)}")
    unknown = set(methods or ()) - set(NAMES)
    if unknown:
        raise ConfigError(f"methods {sorted(unknown)}: expected some of {', '.join(NAMES)}")
    wanted = list(methods or NAMES)
    if chosen_backend("auto", torch.device("cpu")) == "torch":
        wanted = [name for name in wanted if not name.startswith("compiled")]
    folder = None if out is None else check_folder_place(out)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    console = output_console()
    result: dict[str, Any] = {
        "machine": _machine(threads, clock),
        "seed": seed,
        "tries": [],
        "cells": [],
    }
    console.print(
        f"{threads} of {os.cpu_count()} threads, load average {result['machine']['load']}, "
        f"torch {torch.__version__}; milliseconds of {clock} time, medians of up to {repeats} runs "
        "in turn"
    )
    try:
        for count, depth in itertools.product(items, levels):
            trie, row, ways = _trie(count, depth, seed, wanted, CLOCKS[clock])
            result["tries"].append(row)
            for users, width in itertools.product(batch, beam):
                cell = _cell(trie, ways, users, width, repeats, seed, CLOCKS[clock])
                result["cells"].append({"items": count, "levels": depth, **cell})
                print_line(console, result["cells"][-1])
    finally:
        torch.set_num_threads(before)
    result["summary"] = summary(result["cells"])
    print_result(console, result)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "decode.json", result)
        with replacing(folder / "decode.md") as temporary:
            temporary.write_text(markdown(result))
        with replacing(folder / "decode.svg") as temporary:
            plot(result["cells"], temporary)
    return result


def _machine(threads: int, clock: str) -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    return {
        "threads": threads,
        "clock": clock,
        "cpus": os.cpu_count(),
        "load": round(load, 1),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def _trie(
    count: int, depth: int, seed: int, wanted: list[str], clock: Callable[[], float]
) -> tuple[PrefixTrie, dict[str, Any], dict[str, Any]]:
    """A trie of random tuples, what it and the other structures cost, and the methods over it."""
    codes = np.random.default_rng(seed).integers(0, CODES, (count, depth))
    sizes = [CODES] * depth
    seconds, trie = _timed(lambda: PrefixTrie.from_codes(codes, sizes), clock)
    mask = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.5
    filter_seconds, shared = _timed(lambda: Filter.from_mask(trie, mask), clock)
    row = {
        "items": count,
        "levels": depth,
        "build_s": seconds,
        "bytes_per_item": trie.index_nbytes / count,
        "filter_ms": 1e3
        * min(filter_seconds, _timed(lambda: Filter.from_mask(trie, mask), clock)[0]),
    }
    ways: dict[str, Any] = {"unconstrained": Unconstrained()}
    for backend in ("torch", "compiled"):
        ways[backend] = Ours(trie, backend)
        ways[f"{backend}+shared"] = Ours(trie, backend, shared)
        ways[f"{backend}+users"] = Ours(trie, backend)
    if "static" in wanted:
        keys = sort_keys(codes, tuple(sizes))  # its tables are made from sorted tuples, as ours
        sorting, _ = _timed(lambda: np.lexsort(keys[::-1]) if keys[1:] else np.sort(keys[0]), clock)
        seconds, ways["static"] = _timed(lambda: Static(trie), clock)
        row["static_build_s"] = sorting + seconds
        row["static_bytes_per_item"] = ways["static"].nbytes / count
    if "hf" in wanted:
        row["hf_build_s"], ways["hf"] = _timed(lambda: HuggingFace(trie), clock)
    if "brute" in wanted:
        ways["brute"] = BruteForce(trie)
    return trie, row, {name: ways[name] for name in wanted}


def _cell(
    trie: PrefixTrie,
    ways: dict[str, Any],
    users: int,
    width: int,
    repeats: int,
    seed: int,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """The median milliseconds of every method, for the steps after the first together."""
    situations = _situations(trie, users, width, seed)
    beams = max(situation.nodes.numel() for situation in situations)
    runs: dict[str, _Steps] = {}
    limits = {
        "hf": beams > _BEAMS_HF,
        "brute": beams * trie.num_leaves > _MATCHES,
        "users": users * trie.num_positions > _FILTER_BITS,
    }
    filters: dict[str, Filter | None] = {"": None}
    too_large = [name for name in ways if limits.get(name.split("+")[-1])]
    for name, way in ways.items():
        if name in too_large:
            continue
        kind = name.partition("+")[2]
        if kind == "users":
            filters.setdefault(kind, _filter_per_user(trie, users, seed))
            way.filter = filters[kind]
        elif kind == "shared":
            filters[kind] = way.filter
        runs[name] = _steps(way, situations)
    slow: dict[str, _Steps] = {}
    if "brute" in ways and "brute" not in too_large:
        slow = {kind: _steps(BruteForce(trie, some), situations) for kind, some in filters.items()}
    seconds, reference, difference = _checked(runs, slow, clock)
    spent = {name: [once] for name, once in seconds.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, steps in runs.items():
            if spent[name][0] > _SLOW:
                times[name] = spent[name]
            else:
                times[name].append(_timed(partial(_run, steps), clock)[0])
    return {
        "batch": users,
        "beam": width,
        "ms": {name: 1e3 * statistics.median(some) for name, some in times.items()},
        "ms_min": {name: 1e3 * min(some) for name, some in times.items()},
        "too_large": too_large,
        "reference": reference,
        "difference": difference,
    }


def _steps(way: Any, situations: list[Situation]) -> _Steps:
    return [(way, situation, way.prepare(situation)) for situation in situations]


def _run(steps: _Steps) -> list[Found]:
    return [way.step(situation, state) for way, situation, state in steps]


def _compared(steps: _Steps, found: list[Found]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Scores and places of each step, as wide as was asked: -inf and -1 where there are fewer."""
    wide = []
    for (way, situation, state), one in zip(steps, found, strict=True):
        missing = (0, situation.keep - one[0].shape[1])
        cells = way.cells(situation, state, one)
        wide.append((F.pad(one[0], missing, value=-math.inf), F.pad(cells, missing, value=-1)))
    return wide


def _clear(scores: torch.Tensor) -> torch.Tensor:
    """Which of the ranked scores ``[B, n]`` are no near ties, of others or of what is left out."""
    clear = scores.isfinite()
    apart = scores[:, :-1] - scores[:, 1:] > 2 * _TOLERANCE
    clear[:, 1:] &= apart
    clear[:, :-1] &= apart
    clear[:, -1] = False
    return clear


def _checked(
    runs: dict[str, _Steps], slow: dict[str, _Steps], clock: Callable[[], float]
) -> tuple[dict[str, float], str, float]:
    """Run every method once and compare what it found with what the reference found.

    Args:
        runs: the methods.
        slow: brute force for each kind of filter, or nothing; then the first method of the kind is
            the reference.
        clock: of the runs.

    Returns:
        The seconds each took, the reference of the methods without a filter, and the largest
        difference of a score.

    Raises:
        GenrecError: if a score differs by more than rounding, or elsewhere than in near ties a
            parent or a code.
    """
    spent, found = {}, {}
    for name, steps in runs.items():
        spent[name], results = _timed(partial(_run, steps), clock)
        found[name] = _compared(steps, results)
        if name.startswith("compiled"):  # the first run may have compiled it
            spent[name], _ = _timed(partial(_run, steps), clock)
    references = {kind: ("brute", _compared(steps, _run(steps))) for kind, steps in slow.items()}
    largest = 0.0
    for name, steps_found in found.items():
        if name == "unconstrained":
            continue
        reference, expected = references.setdefault(name.partition("+")[2], (name, steps_found))
        for level, (one, another) in enumerate(zip(steps_found, expected, strict=True), 1):
            (mine, cells), (other, other_cells) = one, another
            what = ""
            if not torch.allclose(mine, other, atol=_TOLERANCE):
                what = "scores"
            elif ((cells != other_cells) & _clear(other)).any():
                what = "parents and codes"
            if what:
                raise GenrecError(
                    f"bench: {name} and {reference} disagree about the {what} of level {level}"
                )
            apart = (mine - other).abs()[mine != other]  # -inf less -inf is NaN
            largest = max(largest, float(apart.max()) if apart.numel() else 0.0)
    return spent, references.get("", ("", []))[0], largest


def _situations(trie: PrefixTrie, users: int, width: int, seed: int) -> list[Situation]:
    """The beams before each step but the first, as a search with random logits meets them."""
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.zeros(users, 1, dtype=torch.int64)
    scores = torch.zeros(users, 1)
    prefixes = torch.empty(users, 1, 0, dtype=torch.int64)
    found = []
    for level in range(trie.num_levels):
        logits = 2 * torch.randn(*nodes.shape, CODES, generator=generator)
        found.append(Situation(level, logits, nodes, prefixes, scores, width))
        step = expand_beams(
            trie, level, logits, nodes, scores, keep=width, logits=True, backend="torch"
        )
        nodes, scores = step.nodes, step.scores
        above = prefixes.gather(1, step.parent[:, :, None].expand(-1, -1, level))
        prefixes = torch.cat([above, step.code[:, :, None]], dim=2)
    return found[1:]


def _filter_per_user(trie: PrefixTrie, users: int, seed: int) -> Filter:
    """Half of the items, others for each user."""
    generator = torch.Generator().manual_seed(seed)
    size = trie.num_positions
    low, high = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
    words = torch.randint(low, high, (users, size // 64 + 1), generator=generator)
    words[:, -1] &= (1 << size % 64) - 1
    return Filter(BitRank(words, size), trie.num_items, trie)


def _timed(work: Callable[[], Any], clock: Callable[[], float]) -> tuple[float, Any]:
    start = clock()
    result = work()
    return clock() - start, result
