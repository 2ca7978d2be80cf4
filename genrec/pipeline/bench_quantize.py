"""`genrec bench quantize`: RQ-k-means beside three faiss k-means on residuals."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from rich.table import Table

from genrec.artefacts import check_folder_place, write_json
from genrec.consoles import output_console
from genrec.errors import ConfigError, DataError
from genrec.quantization import RQKMeans
from genrec.quantization.nearest import has_bfloat16
from genrec.quantization.vectors import Vectors

CLUSTERS = 8_000
_LATENT = 64  # dimensions that the cluster centres lie in
_BLOCK = 16_384  # rows


def bench_quantize(
    *,
    items: int = 20_000,
    dim: int = 128,
    codebook_sizes: Sequence[int] = (256, 256, 256),
    iterations: int = 25,
    samples_per_code: int = 256,
    shape: str = "embedding",
    vectors: str | None = None,
    repeats: int = 1,
    threads: int = 1,
    seed: int = 0,
    out: str | None = None,
) -> dict[str, Any]:
    """Time plain RQ-k-means beside one faiss k-means per level on the residuals.

    Both train on samples of one size with the same limit of iterations, encode every vector, and
    take turns. Seconds are of the processor (all threads), which other work on the machine does
    not lengthen much; seconds on the clock stand beside them in the JSON. Medians over repeats,
    of memory the peak.

    Example:
        genrec bench quantize --items 20000 --dim 128 --out runs/bench-quantize

    Args:
        items: vectors to generate.
        dim: their length.
        codebook_sizes: codes per level.
        iterations: of each level at most; faiss always does them all.
        samples_per_code: rows to train on per code of the largest level.
        shape: of the generated vectors, which are unit vectors around 8,000 centres: `embedding`
            (centres in 64 dimensions of falling variance) or `isotropic`.
        vectors: a .npy file of float32 vectors to use instead; read from disk as needed.
        repeats: runs of each method; seed, seed + 1, ... are their seeds.
        threads: of both.
        seed: of the vectors and the first run.
        out: folder for `quantize.json`.

    Returns:
        The machine, what was quantized, and per method seconds, mean squared error, peak memory.
    """
    if min(items, dim, repeats, threads, iterations, samples_per_code) < 1:
        raise ConfigError(
            f"items={items}, dim={dim}, repeats={repeats}, threads={threads}, "
            f"iterations={iterations}, samples_per_code={samples_per_code}: expected at least 1"
        )
    if shape not in ("embedding", "isotropic"):
        raise ConfigError(f"shape: {shape!r} is unknown; use 'embedding' or 'isotropic'")
    options: dict[str, Any] = {
        "codebook_sizes": list(codebook_sizes),
        "iterations": iterations,
        "samples_per_code": samples_per_code,
    }
    RQKMeans(**options, balanced=False)
    folder = None if out is None else check_folder_place(out)
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, "vectors.npy")
            if vectors is None:
                write_vectors(path, items, dim, shape=shape, seed=seed)
            matrix = _open(
                path if vectors is None else Path(vectors), max(options["codebook_sizes"])
            )
            runs: dict[str, list[dict[str, float]]] = {"genrec": [], "faiss": []}
            for turn in range(repeats):
                for name in sorted(runs, reverse=bool(turn % 2)):
                    fit = _genrec if name == "genrec" else _faiss
                    runs[name].append(_run(fit, matrix, {**options, "seed": seed + turn}))
            megabytes = matrix.nbytes / 2**20
            count, width = matrix.shape
            del matrix
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
    result: dict[str, Any] = {
        "machine": {
            "threads": threads,
            "processors": os.cpu_count(),
            "torch": torch.__version__,
            "instructions": torch.backends.cpu.get_cpu_capability()
            + (", bf16" if has_bfloat16() else ""),
            "faiss": faiss.__version__,
        },
        "items": count,
        "dim": width,
        "input_mb": megabytes,
        "vectors": shape if vectors is None else vectors,
        **options,
        "seed": seed,
        "repeats": repeats,
        "runs": runs,
        "methods": {name: _medians(each) for name, each in runs.items()},
    }
    ours, theirs = (result["methods"][name] for name in ("genrec", "faiss"))
    result["speedup"] = theirs["seconds"] / ours["seconds"]
    result["mse_ratio"] = ours["mse"] / theirs["mse"]
    _show(result)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "quantize.json", result)
    return result


def write_vectors(path: Path, items: int, dim: int, *, shape: str, seed: int) -> None:
    """Write unit vectors float32 [items, dim] around 8,000 centres as .npy, block by block.

    Args:
        path: file to write.
        items: rows.
        dim: columns.
        shape: "embedding" (centres in a space of 64 dimensions whose variances fall as 1, 1/2,
            1/3, ...) or "isotropic"; noise of half a centre's length in all dimensions either way.
        seed: the same seed gives the same rows.
    """
    rng = np.random.default_rng(seed)
    if shape == "embedding":
        latent = rng.normal(size=(CLUSTERS, _LATENT)) / np.sqrt(np.arange(1, _LATENT + 1))
        centres = latent @ rng.normal(size=(_LATENT, dim))
    else:
        centres = rng.normal(size=(CLUSTERS, dim))
    centres = (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype(np.float32)
    matrix = np.lib.format.open_memmap(path, "w+", np.float32, (items, dim))
    for start in range(0, items, _BLOCK):
        rows = min(_BLOCK, items - start)
        block = rng.standard_normal((rows, dim), dtype=np.float32)
        block *= 0.5 / np.sqrt(dim)
        block += centres[rng.integers(CLUSTERS, size=rows)]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        matrix[start : start + rows] = block
    matrix.flush()


def _open(path: Path, largest: int) -> np.ndarray:
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: is no .npy file of vectors ({error})") from error
    if matrix.ndim != 2 or matrix.dtype != np.float32 or len(matrix) < largest:
        raise DataError(
            f"{path}: holds {matrix.dtype} of shape {matrix.shape}; expected float32 [items, "
            f"dimensions] with at least {largest} items, one per code of the largest level"
        )
    return matrix


Fitted = tuple[Callable[[np.ndarray], np.ndarray], list[np.ndarray]]


def _genrec(matrix: np.ndarray, options: dict[str, Any]) -> Fitted:
    quantizer = RQKMeans(**options, balanced=False).fit(matrix)
    return quantizer.encode, quantizer.codebooks()


def _faiss(matrix: np.ndarray, options: dict[str, Any]) -> Fitted:
    """One `faiss.Kmeans` per level, trained on what the levels before leave of the sample."""
    sizes, seed = options["codebook_sizes"], options["seed"]
    rng = np.random.default_rng(seed)
    rest = Vectors(matrix).sample(options["samples_per_code"] * max(sizes), rng).numpy()
    books: list[np.ndarray] = []
    indexes = []
    for level, size in enumerate(sizes):
        trained = faiss.Kmeans(
            rest.shape[1],
            size,
            niter=options["iterations"],
            seed=seed + level,
            min_points_per_centroid=1,
            max_points_per_centroid=len(rest),
        )
        trained.train(rest)
        books.append(np.asarray(trained.centroids))
        indexes.append(trained.index)
        if level + 1 < len(sizes):
            rest -= books[level][trained.index.search(rest, 1)[1][:, 0]]

    def encode(vectors: np.ndarray) -> np.ndarray:
        codes = np.empty((len(vectors), len(sizes)), dtype=np.int32)
        for start in range(0, len(vectors), _BLOCK):
            block = np.array(vectors[start : start + _BLOCK])
            for level, index in enumerate(indexes):
                codes[start : start + len(block), level] = index.search(block, 1)[1][:, 0]
                if level + 1 < len(sizes):
                    block -= books[level][codes[start : start + len(block), level]]
        return codes

    return encode, books


def _run(
    fit: Callable[[np.ndarray, dict[str, Any]], Fitted],
    matrix: np.ndarray,
    options: dict[str, Any],
) -> dict[str, float]:
    peak = _Peak()
    with peak:
        times = [(time.process_time(), time.perf_counter())]
        encode, books = fit(matrix, options)
        times.append((time.process_time(), time.perf_counter()))
        codes = encode(matrix)
        times.append((time.process_time(), time.perf_counter()))
    (cpu0, clock0), (cpu1, clock1), (cpu2, clock2) = times
    return {
        "train_seconds": cpu1 - cpu0,
        "encode_seconds": cpu2 - cpu1,
        "seconds": cpu2 - cpu0,
        "clock_train_seconds": clock1 - clock0,
        "clock_encode_seconds": clock2 - clock1,
        "mse": _mse(matrix, codes, books),
        "peak_mb": peak.megabytes,
    }


def _mse(matrix: np.ndarray, codes: np.ndarray, books: list[np.ndarray]) -> float:
    """Mean over all rows of the squared distance between a vector and its reconstruction."""
    total = 0.0
    for start in range(0, len(matrix), _BLOCK):
        part = codes[start : start + _BLOCK]
        gap = np.array(matrix[start : start + _BLOCK])
        for level, book in enumerate(books):
            gap -= book[part[:, level]]
        total += float(np.einsum("nd,nd->n", gap, gap).sum(dtype=np.float64))
    return total / len(matrix)


class _Peak:
    """Peak of the process's own memory, looked at every 10 ms, less what it had before.

    Pages of the mapped file are left out: the system takes them back when it needs them.
    """

    def __enter__(self) -> _Peak:
        self.start = self.most = _own_memory()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.01):
            self.most = max(self.most, _own_memory())

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    @property
    def megabytes(self) -> float:
        return (self.most - self.start) / 2**20


def _own_memory() -> float:
    """Bytes of resident memory that no file backs; not a number where the system has no /proc."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
    except OSError:
        return float("nan")
    return float((int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE"))


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Medians over runs; of the peaks the largest, as later runs use what the first one took."""
    found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return found | {"peak_mb": max(run["peak_mb"] for run in runs)}


def _show(result: dict[str, Any]) -> None:
    console, machine = output_console(), result["machine"]
    console.print(
        f"{result['items']:,} x {result['dim']} float32 ({result['input_mb']:,.0f} MiB on disk, "
        f"{result['vectors']}), codes {' x '.join(map(str, result['codebook_sizes']))}, "
        f"{machine['threads']} of {machine['processors']} threads, {machine['instructions']}, "
        f"torch {machine['torch']}, faiss {machine['faiss']}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = Table()
    table.add_column("method")
    for title in ("train s", "encode s", "total s", "speed", "MSE", "peak MiB", "of input"):
        table.add_column(title, justify="right")
    for name, row in result["methods"].items():
        table.add_row(
            name,
            f"{row['train_seconds']:.1f}",
            f"{row['encode_seconds']:.1f}",
            f"{row['seconds']:.1f}",
            f"{result['methods']['faiss']['seconds'] / row['seconds']:.2f}x",
            f"{row['mse']:.5f}",
            f"{row['peak_mb']:.0f}",
            f"{row['peak_mb'] / result['input_mb']:.2f}x",
        )
    console.print(table)
