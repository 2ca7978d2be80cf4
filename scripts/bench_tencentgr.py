"""Measure the parts of TencentGR's path on generated data of any size.

    python scripts/bench_tencentgr.py prepare work --users 50000 200000
    python scripts/bench_tencentgr.py batches work/50000
    python scripts/bench_tencentgr.py retrieve

`prepare` generates files and prepares them: seconds, peak memory of all processes together, disk,
and how long the folder takes to open. `batches` times training batches with all that the dataset
has, on one core. `retrieve` searches 660,000 candidates for 10,000 users, exactly and with faiss.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from genrec.data import Dataset, TrainingSequences
from genrec.data.tencentgr import generate_tencentgr
from genrec.data.tencentgr.protocol import last_click_split
from genrec.decoding.approximate import FaissPool, list_recall
from genrec.decoding.pool import pool_search


def prepare(args: argparse.Namespace) -> None:
    for users in args.users:
        files, out = Path(args.folder, f"files-{users}"), Path(args.folder, str(users))
        started = time.perf_counter()
        if not files.exists():
            generate_tencentgr(files, users=users, seed=args.seed)
        generated = time.perf_counter() - started
        command = [sys.executable, "-m", "genrec.cli", "prepare", "tencentgr", str(out)]
        command += ["--from", str(files), "--workers", str(args.workers)]
        started, spent = time.perf_counter(), processor_seconds()
        child = subprocess.Popen(command)
        peak = 0
        while child.poll() is None:
            peak = max(peak, memory(child.pid))
            time.sleep(0.1)
        seconds = time.perf_counter() - started
        spent = processor_seconds() - spent
        if child.returncode:
            raise SystemExit(child.returncode)
        started = time.perf_counter()
        dataset = Dataset.load(out)
        opened = time.perf_counter() - started
        events, items = dataset.histories.num_events, len(dataset.catalog)
        print(
            f"{users:,} users, {events:,} events, {items:,} items: generated in {generated:.0f} s "
            f"({size(files):.2f} GB), prepared in {seconds:.1f} s by {args.workers} processes "
            f"({spent:.1f} s of processor time, {1e6 * spent / events:.2f} us an event), peak "
            f"{peak / 2**30:.2f} GiB, folder {size(out):.2f} GB, opened in {opened:.2f} s",
            flush=True,
        )


def processor_seconds() -> float:
    """Of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(pid: int) -> int:
    """Bytes of a process and those it started, shared pages counted once."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        own = 1024 * int(next(line for line in text.splitlines() if "Pss:" in line).split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, StopIteration):
        return 0
    return own + sum(memory(int(child)) for child in children)


def size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def batches(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dataset = Dataset.load(args.folder)
    split = last_click_split(dataset)
    sequences = TrainingSequences(dataset.histories, split, max_length=100, last_only=True)
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(sequences))
    fields = sorted(sequences.__getitems__(rows[: args.batch_size].tolist()))
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < args.seconds:
        low = done % (len(rows) - args.batch_size)
        done += len(sequences.__getitems__(rows[low : low + args.batch_size].tolist())["items"])
    rate = done / (time.perf_counter() - started)
    print(f"{rate:,.0f} histories of up to 100 events a second on one core: {', '.join(fields)}")


def retrieve(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(args.seed)
    centres = torch.randn(2_000, 32, generator=rng)
    pick = torch.randint(0, 2_000, (660_000,), generator=rng)
    vectors = centres[pick] + 0.5 * torch.randn(660_000, 32, generator=rng)
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    queries = centres[torch.randint(0, 2_000, (10_000,), generator=rng)]
    queries = torch.nn.functional.normalize(
        queries + 0.5 * torch.randn(10_000, 32, generator=rng), dim=1
    )
    import faiss

    faiss.omp_set_num_threads(1)
    before = memory_peak()
    started = time.perf_counter()
    exact, _ = pool_search(queries, vectors, k=10)
    seconds = time.perf_counter() - started
    above = memory_peak() - before
    print(f"exact: {seconds:.1f} s, {above:.2f} GiB above the vectors", flush=True)
    kinds: dict[str, dict[str, int]] = {
        "flat": {},
        "ivf": {},
        "hnsw": {"links": 32, "construction": 200, "breadth": 128},
    }
    for kind, options in kinds.items():
        started = time.perf_counter()
        index = FaissPool(vectors.numpy(), kind=kind, **options)
        built = time.perf_counter() - started
        started = time.perf_counter()
        found, _ = index.search(queries, k=10)
        seconds = time.perf_counter() - started
        recall = list_recall(found, exact)
        told = f"built in {built:.1f} s, {seconds:.1f} s, recall@10 {recall:.4f}"
        print(f"faiss {kind} {options}: {told}", flush=True)


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
    one = parts.add_parser("batches")
    one.add_argument("folder")
    one.add_argument("--batch_size", type=int, default=1024)
    one.add_argument("--seconds", type=float, default=10.0)
    one.set_defaults(run=batches)
    one = parts.add_parser("retrieve")
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=retrieve)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
