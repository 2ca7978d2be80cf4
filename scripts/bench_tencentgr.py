"""Measure the parts of TencentGR's path on generated data of any size.

    python scripts/bench_tencentgr.py prepare work --users 50000 200000
    python scripts/bench_tencentgr.py wide work
    python scripts/bench_tencentgr.py batches work/50000
    python scripts/bench_tencentgr.py recommend work runs/ads
    python scripts/bench_tencentgr.py retrieve
    python scripts/bench_tencentgr.py score runs/tencentgr-generated

`prepare` generates files and prepares them: seconds, peak memory of all processes together, disk,
and how long the folder takes to open. `wide` prepares two small sets for each width of vectors and
prints what each item more costs. `batches` times training batches with all that the dataset
has, on one core. `recommend` answers users of a run's dataset and prints memory and what each user
more takes. `retrieve` searches 660,000 candidates for 10,000 users, exactly and with faiss;
`--indexes hnsw-contest` builds the graph as wide as the contest's baseline does.
`score` prints the contest's score of each ranker of a recipe that was run, in both readings and as
a mean over seeds, whether it was told time or action of the target, and from one to the next the
paired difference with its interval.
"""

from __future__ import annotations

import argparse
import itertools
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from genrec.data import Dataset, Histories, TrainingSequences
from genrec.data.arrays import write_arrays
from genrec.data.tencentgr import generate_tencentgr
from genrec.data.tencentgr.protocol import last_click_split
from genrec.data.tencentgr.schema import USER_FEATURES, VECTOR_SETS
from genrec.decoding.approximate import FaissPool, list_recall
from genrec.decoding.pool import pool_search
from genrec.evaluation import Evaluation, paired_difference
from genrec.evaluation.results import told_of
from genrec.evaluation.tencentgr import HIT_SHARE, NDCG_SHARE, evaluation_scores
from genrec.pipeline import Run
from genrec.pipeline.features import feature_tables

#: Kind and options of each index that `retrieve` knows.
INDEXES: dict[str, tuple[str, dict[str, int]]] = {
    "flat": ("flat", {}),
    "ivf": ("ivf", {}),
    "hnsw": ("hnsw", {"links": 16, "construction": 80, "breadth": 128}),
    "hnsw-contest": ("hnsw", {"links": 64, "construction": 1280, "breadth": 640}),
}


def prepare(args: argparse.Namespace) -> None:
    for users in args.users:
        files, out = Path(args.folder, f"files-{users}"), Path(args.folder, str(users))
        started = time.perf_counter()
        if not files.exists():
            generate_tencentgr(files, users=users, seed=args.seed)
        generated = time.perf_counter() - started
        seconds, spent, peak, own = prepared(files, out, "--workers", str(args.workers))
        started = time.perf_counter()
        dataset = Dataset.load(out)
        opened = time.perf_counter() - started
        events, items = dataset.histories.num_events, len(dataset.catalog)
        print(
            f"{users:,} users, {events:,} events, {items:,} items: generated in {generated:.0f} s "
            f"({size(files):.2f} GB), prepared in {seconds:.1f} s by {args.workers} processes "
            f"({spent:.1f} s of processor time, {1e6 * spent / events:.2f} us an event), peak "
            f"{peak / 2**30:.2f} GiB ({own / 2**30:.2f} GiB without mapped files), folder "
            f"{size(out):.2f} GB, opened in {opened:.2f} s",
            flush=True,
        )


def prepared(files: Path, out: Path, *options: str) -> tuple[float, float, int, int]:
    """Seconds, processor seconds, peak bytes and peak bytes of no file of `prepare tencentgr`."""
    return watched("prepare", "tencentgr", str(out), "--from", str(files), *options)


def recommend(args: argparse.Namespace) -> None:
    """What `recommend --histories` takes for more and more users of one dataset folder."""
    dataset = Run.open(Path(args.run_folder)).load_dataset()
    of = dataset.histories
    if of.timestamps is None or of.actions is None:
        raise SystemExit(f"{args.run_folder}: its dataset has no times or no actions")
    if max(args.users) > len(of.user_ids):
        raise SystemExit(f"--users {max(args.users)}: the dataset has {len(of.user_ids):,}")
    found = []
    for users in args.users:
        place = Path(args.folder, f"asked-{users}")
        end = int(of.offsets[users])
        asked = Histories(
            of.offsets[: users + 1],
            of.items[:end],
            of.timestamps[:end],
            of.actions[:end],
            of.user_ids[:users],
            of.action_names,
        )
        table = None if dataset.users is None else dataset.users.slice(0, users)
        write_arrays(str(place), dataset.catalog, asked, {"name": place.name}, users=table)
        out = place.with_suffix(".parquet")
        about = ("--histories", str(place), "--out", str(out), "--k", "10")
        _, spent, peak, own = watched("recommend", args.run_folder, *about)
        found.append(np.array([users, spent, peak, own]))
        print(
            f"{users:,} users, {end:,} events, {len(dataset.catalog):,} items: {spent:.1f} s of "
            f"processor time, peak {peak / 2**30:.2f} GiB ({own / 2**30:.2f} GiB without mapped "
            "files)",
            flush=True,
        )
    more = found[-1] - found[0]
    if more[0]:
        each = more[1:] / more[0]
        print(
            f"each user more: {1e3 * each[0]:.2f} ms of processor time, {each[1] / 1e3:.1f} kB, "
            f"{each[2] / 1e3:.1f} kB without mapped files"
        )


def watched(*arguments: str) -> tuple[float, float, int, int]:
    """Seconds, processor seconds, peak bytes and peak bytes of no file of a command of genrec."""
    started, spent = time.perf_counter(), processor_seconds()
    child = subprocess.Popen([sys.executable, "-m", "genrec.cli", *arguments])
    peak = own = 0
    while child.poll() is None:
        whole, of_no_file = memory(child.pid)
        peak, own = max(peak, whole), max(own, of_no_file)
        time.sleep(0.1)
    if child.returncode:
        raise SystemExit(child.returncode)
    return time.perf_counter() - started, processor_seconds() - spent, peak, own


def wide(args: argparse.Namespace) -> None:
    """What one more vector of a width costs: the difference between a smaller and a larger set."""
    numbers = {width: number for number, width in VECTOR_SETS.items()}
    for width in args.widths:
        number = numbers.get(width, "82")
        found = []
        for items in sorted(args.items):
            files = Path(args.folder, f"files-{width}-{items}")
            out = Path(args.folder, f"{width}-{items}")
            if not files.exists():
                sets = (f"emb_{number}_{width}",)
                generate_tencentgr(
                    files, users=200, items=items, layout=args.layout, vectors=sets, seed=args.seed
                )
            place = files / ("mm_emb" if args.layout == "huggingface" else "creative_emb")
            options = ("--workers", "1", "--vectors", f"[{number}]")
            _, spent, peak, own = prepared(files, out, *options)
            matrix = Dataset.load(out).catalog.vectors(f"mm_{number}")
            assert matrix.shape[1] == width
            found.append(
                np.array([len(matrix), size(place), size(out), spent, peak / 1e9, own / 1e9])
            )
        more = found[-1] - found[0]
        per = more[1:] / more[0] * 1e9
        print(
            f"width {width:,}, {found[0][0]:,.0f} and {found[-1][0]:,.0f} items, each item more: "
            f"{per[0]:,.0f} bytes of files, {per[1]:,.0f} bytes of folder, {per[2] / 1e3:,.0f} us "
            f"of processor time, {per[3]:,.0f} bytes of peak memory, {per[4]:,.0f} without mapped "
            f"files; at the larger: {found[-1][4]:.2f} GB, {found[-1][5]:.2f} GB without mapped "
            f"files, {found[-1][3]:.1f} s of processor time",
            flush=True,
        )


def processor_seconds() -> float:
    """Of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(pid: int) -> tuple[int, int]:
    """Bytes of a process and those it started, and how many of them are of no file.

    Shared pages count once. The first counts mapped pages of files too, which the system may take
    back.
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
    each = [memory(int(child)) for child in children]
    own = 1024 * int(found.get("Pss", 0)), 1024 * int(found.get("Pss_Anon", 0))
    return own[0] + sum(whole for whole, _ in each), own[1] + sum(part for _, part in each)


def size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def batches(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dataset = Dataset.load(args.folder)
    split = last_click_split(dataset)
    sequences = TrainingSequences(dataset.histories, split, max_length=100, last_only=True)
    rows = np.random.default_rng(0).permutation(len(sequences))
    fields = sorted(sequences.__getitems__(rows[: args.batch_size].tolist()))
    columns = [name for name in dataset.catalog.columns if name.isdigit() or name == "reid"]
    encoder = {
        "type": "sum",
        "parts": {
            "item": {"type": "features", "columns": columns, "vectors": ["mm_81"]},
            "user": {"type": "user", "columns": [f.name for f in USER_FEATURES]},
        },
    }
    found = feature_tables(dataset, encoder)[1]
    tables = {name: torch.tensor(table) for name, table in found.items()}

    def rate(look_up: bool) -> float:
        """Histories a second of processor time, so that other processes do not count."""
        done, started = 0, time.process_time()
        while time.process_time() - started < args.seconds:
            low = done % (len(rows) - args.batch_size)
            made = sequences.__getitems__(rows[low : low + args.batch_size].tolist())
            if look_up:
                items = made["items"][made["mask"]]
                for name in ("features", "more_vectors", "known"):
                    tables[name].index_select(0, items)
                tables["user_features"].index_select(0, made["user"][:, 0])
            done += len(made["items"])
        return done / (time.process_time() - started)

    print(
        f"{rate(False):,.0f} histories of up to 100 events per second of one core, "
        f"{args.batch_size} in a batch: {', '.join(fields)}; {rate(True):,.0f} with {len(columns)} "
        f"features and a vector looked up for every event, and {len(USER_FEATURES)} features of "
        "the user"
    )


def retrieve(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(args.seed)
    centres = torch.randn(2_000, 32, generator=rng)
    size, users = args.candidates, args.users
    pick = torch.randint(0, 2_000, (size,), generator=rng)
    vectors = centres[pick] + 0.5 * torch.randn(size, 32, generator=rng)
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    queries = centres[torch.randint(0, 2_000, (users,), generator=rng)]
    queries = torch.nn.functional.normalize(
        queries + 0.5 * torch.randn(users, 32, generator=rng), dim=1
    )
    import faiss

    faiss.omp_set_num_threads(1)

    def timed(work: Callable[[], Any]) -> tuple[Any, float]:
        """What it returns, and its seconds of processor time."""
        started = time.process_time()
        return work(), time.process_time() - started

    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = memory_peak()
    (exact, _), seconds = timed(lambda: pool_search(queries, vectors, k=10))
    print(
        f"exact: {seconds:.1f} s of one core, {memory_peak() - before:.2f} GiB above the vectors",
        flush=True,
    )
    for name in args.indexes:
        kind, options = INDEXES[name]
        index, built = timed(lambda k=kind, o=options: FaissPool(vectors.numpy(), kind=k, **o))
        (found, _), seconds = timed(lambda i=index: i.search(queries, k=10))
        print(
            f"faiss {name} {options}: built in {built:.1f} s, searched in {seconds:.1f} s of one "
            f"core, recall@10 {list_recall(found, exact):.4f}",
            flush=True,
        )


def score(args: argparse.Namespace) -> None:
    """Both readings of the contest's score, means over seeds, and paired differences in order."""
    root = Path(args.folder)
    paths = sorted(root.rglob("ranks/test.parquet"))
    found: dict[str, list[Evaluation]] = {}
    told: dict[str, str] = {}
    for path in paths:
        name = re.sub(r"-seed\d+$", "", path.parents[1].name)
        if args.only and name not in args.only:
            continue
        found.setdefault(name, []).append(Evaluation.load(path))
        known = told_of(found[name][0].facts)
        told[name] = f" (told the target's {known})" if known else ""
    if unknown := set(args.only) - found.keys():
        raise SystemExit(f"--only {' '.join(sorted(unknown))}: no such ranker with ranks in {root}")
    data, split = Run.open(min(path.parent for path in root.rglob("run.json"))).data
    kinds = np.array([0, *data.histories.action_names])[split.test.actions]
    for mask in ("unmasked", "masked"):
        print(f"{mask}, {len(kinds):,} users, {int((kinds == 2).sum()):,} of them conversions")
        each = {}
        for name, seeds in found.items():
            hit, gain = (
                np.mean([one.per_user(mask, f"{metric}@10") for one in seeds], axis=0)
                for metric in ("recall", "ndcg")
            )
            each[name] = combined_each(hit, gain)
            readings = [evaluation_scores(one, kinds)[mask] for one in seeds]
            shown = [
                f"{reading} {mean(one[reading].score for one in readings):.4f} "
                f"(HR {mean(one[reading].hit_rate for one in readings):.4f}, "
                f"NDCG {mean(one[reading].ndcg for one in readings):.4f})"
                for reading in readings[0]
            ]
            print(f"  {name}{told[name]}, {len(seeds)} seed(s): {'; '.join(shown)}")
        order = sorted(each, key=lambda name: -each[name].mean())
        for better, worse in itertools.pairwise(order):
            found_apart = paired_difference(each[better], each[worse], replicates=2_000, seed=0)
            print(
                f"  {better} - {worse}: {found_apart.value:+.4f}, 95% from {found_apart.low:+.4f} "
                f"to {found_apart.high:+.4f}"
            )


def combined_each(hit: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """The score of every user, `[n]`."""
    return HIT_SHARE * hit + NDCG_SHARE * gain


def memory_peak() -> float:
    """Peak of this process so far, GiB."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if "VmHWM" in line).split()[1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("prepare")
    one.add_argument("folder")
    one.add_argument("--users", type=int, nargs="+", default=[50_000, 200_000])
    one.add_argument("--workers", type=int, default=2)
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=prepare)
    one = parts.add_parser("wide")
    one.add_argument("folder")
    one.add_argument("--widths", type=int, nargs="+", default=[32, 1024, 4096])
    one.add_argument("--items", type=int, nargs="+", default=[2_000, 8_000])
    one.add_argument("--layout", choices=("huggingface", "competition"), default="huggingface")
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=wide)
    one = parts.add_parser("batches")
    one.add_argument("folder")
    one.add_argument("--batch_size", type=int, default=1024)
    one.add_argument("--seconds", type=float, default=10.0)
    one.set_defaults(run=batches)
    one = parts.add_parser("recommend")
    one.add_argument("folder")
    one.add_argument("run_folder")
    one.add_argument("--users", type=int, nargs="+", default=[10_000, 40_000])
    one.set_defaults(run=recommend)
    one = parts.add_parser("retrieve")
    one.add_argument("--candidates", type=int, default=660_000)
    one.add_argument("--users", type=int, default=10_000)
    one.add_argument("--indexes", choices=list(INDEXES), nargs="*", default=["flat", "ivf", "hnsw"])
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=retrieve)
    one = parts.add_parser("score")
    one.add_argument("folder")
    one.add_argument("--only", nargs="*", default=[], help="these rankers, without their seeds")
    one.set_defaults(run=score)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
