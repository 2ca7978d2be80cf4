"""The SID vocabulary: the whole item <-> semantic ID mapping as one artefact."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artefacts import (
    atomic_folder,
    check_folder,
    fingerprint,
    read_json,
    vectors_fingerprint,
    write_json,
)
from genrec.data import Catalog
from genrec.decoding import PrefixTrie
from genrec.errors import ArtefactError, DataError
from genrec.quantization import Quantizer, load_quantizer
from genrec.tokenizers.checks import (
    check_codes,
    check_ids,
    check_quantizer,
    check_same_items,
    check_tie_order,
)
from genrec.tokenizers.keys import TupleKeys
from genrec.tokenizers.ties import as_item_ids, make_tie_order
from genrec.tokenizers.tries import changed_trie

KIND = "sid-vocabulary"
CONFIG = "vocabulary.json"
ITEMS = "items.parquet"
QUANTIZER = "quantizer"


class SidVocabulary:
    """Items and their semantic IDs.

    Args:
        codes: `int [N, L]`, one row per item.
        item_ids: N distinct strings or integers.
        codebook_sizes: codes per level; codes of level l are below `codebook_sizes[l]`.
        tie_order: `int64 [N]`, rank of every item (smaller wins a tie); made from the ids with
            seed 0 if not given.
        collision_policy: the policy the codes went through.
        quantizer: what made the codes, if known. `append` adds one level that it does not have.
        vectors_fingerprint: fingerprint of the vectors the codes were made from, if known.
        fitted: `bool [N]`, the items the quantizer was fitted on, if known.
        config: JSON-able facts about how the vocabulary was built.

    Raises:
        DataError: if the parts do not fit together; the message names the row and id.
    """

    def __init__(
        self,
        codes: np.ndarray,
        item_ids: Sequence[Any] | np.ndarray | pa.Array,
        codebook_sizes: Sequence[int],
        *,
        tie_order: np.ndarray | None = None,
        collision_policy: str = "allow",
        quantizer: Quantizer | None = None,
        vectors_fingerprint: str = "",
        fitted: np.ndarray | None = None,
        config: dict[str, Any] | None = None,
    ):
        self.item_ids = as_item_ids(item_ids)
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        check_ids(self.item_ids)
        check_codes(np.asarray(codes), self.item_ids, self.codebook_sizes)
        self._tie_seed: int | None = 0 if tie_order is None else None
        if tie_order is None:
            tie_order = make_tie_order(self.item_ids)
        check_tie_order(np.asarray(tie_order), len(self.item_ids))
        if quantizer is not None:
            check_quantizer(quantizer, self.codebook_sizes, collision_policy)
        if fitted is not None and np.shape(fitted) != (len(self.item_ids),):
            raise DataError(
                f"fitted: has shape {np.shape(fitted)}; expected one flag for each of the "
                f"{len(self.item_ids):,} items"
            )
        self.codes = _frozen(codes, np.int32)
        self.tie_order = _frozen(tie_order, np.int64)
        self.fitted = None if fitted is None else _frozen(fitted, np.bool_)
        self.collision_policy = collision_policy
        self.quantizer = quantizer
        self.vectors_fingerprint = vectors_fingerprint
        self.config = dict(config or {})

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        sizes = "x".join(map(str, self.codebook_sizes))
        return (
            f"SidVocabulary({len(self):,} items, {sizes} codes, "
            f"collisions={self.collision_policy!r}, fingerprint={self.fingerprint!r})"
        )

    @property
    def num_levels(self) -> int:
        """Number of codes in a semantic ID."""
        return len(self.codebook_sizes)

    @property
    def num_tuples(self) -> int:
        """Number of distinct semantic IDs."""
        return self._keys.num_tuples

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes when any code, item id, codebook size or tie rank changes."""
        return fingerprint([self.codes, self.item_ids, self.codebook_sizes, self.tie_order])

    def index(self, ids: Sequence[Any] | np.ndarray | pa.Array) -> np.ndarray:
        """Item indices `int64 [n]` of item ids, -1 where the vocabulary has no such item."""
        return self._lookup.index(ids)

    def encode(self, items: np.ndarray) -> np.ndarray:
        """Codes `int32 [..., L]` of item indices `int [...]`.

        Raises:
            DataError: if an index is not in 0..N-1.
        """
        items = np.asarray(items, dtype=np.int64)
        if items.size and (items.min() < 0 or items.max() >= len(self)):
            wrong = int(items[(items < 0) | (items >= len(self))].flat[0])
            raise DataError(
                f"item index {wrong}: the vocabulary has items 0..{len(self) - 1}; "
                "leave out padding and unknown items before encoding"
            )
        return self.codes[items]

    def encode_ids(self, ids: Sequence[Any] | np.ndarray | pa.Array) -> np.ndarray:
        """Codes `int32 [n, L]` of item ids.

        Raises:
            DataError: naming the first id that the vocabulary does not have.
        """
        items = self.index(ids)
        if (items < 0).any():
            wrong = as_item_ids(ids)[items < 0]
            raise DataError(
                f"item id {wrong.item(0)!r}: not in the SID vocabulary ({len(wrong):,} unknown of "
                f"{len(items):,}); leave such items out or build a vocabulary that has them"
            )
        return self.codes[items]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Item indices `int64 [...]` of tuples `int [..., L]`.

        Of colliding items the first in the tie order is returned, and -1 for a tuple that no item
        has.
        """
        codes = self._tuples(codes)
        bucket = self._keys.lookup(codes.reshape(-1, self.num_levels))
        starts, items = self._buckets
        return np.where(bucket < 0, -1, items[starts[:-1][bucket]]).reshape(codes.shape[:-1])

    def bucket(self, codes: Sequence[int] | np.ndarray) -> np.ndarray:
        """Item indices `int64 [m]` that share one tuple, in tie order; empty if none has it."""
        codes = self._tuples(codes)
        if codes.ndim != 1:
            raise DataError(f"codes: have shape {codes.shape}; bucket() takes one tuple")
        return self.buckets(codes[None])[1]

    def buckets(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Buckets of many tuples.

        Args:
            codes: `int [n, L]`.

        Returns:
            `offsets int64 [n + 1]` and `items int64 [offsets[-1]]`: the items of tuple i are
            `items[offsets[i]:offsets[i + 1]]`, in tie order.
        """
        bucket = self._keys.lookup(self._tuples(codes).reshape(-1, self.num_levels))
        starts, items = self._buckets
        counts = np.where(bucket < 0, 0, starts[bucket + 1] - starts[bucket])
        offsets = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        return offsets, items[np.repeat(starts[bucket], counts) + within]

    @functools.cached_property
    def bucket_sizes(self) -> np.ndarray:
        """`int64 [N]`: for every item, how many items share its tuple, itself included."""
        return np.diff(self._buckets[0])[self._keys.row]

    def trie(self) -> PrefixTrie:
        """The prefix trie over these codes (built once)."""
        return self._trie

    def has_tie_seed(self, seed: int) -> bool:
        """Whether the tie order is `make_tie_order(item_ids, seed)`; hashes every id, once."""
        if self._tie_seed != seed and (make_tie_order(self.item_ids, seed) == self.tie_order).all():
            self._tie_seed = seed
        return self._tie_seed == seed

    def continue_from(self, of: SidVocabulary, before: np.ndarray) -> None:
        """Take over what is known of another vocabulary, so that it costs no work again.

        That is the seed of its tie order, and its trie if it was built.

        Args:
            of: a vocabulary whose tie order has the seed that this one's has.
            before: `int64 [N]`, index in `of` of each item that has the same codes there, else -1.
        """
        self._tie_seed = of._tie_seed
        if "_trie" in of.__dict__ and of.codebook_sizes == self.codebook_sizes:
            self._trie = changed_trie(of.trie(), self.codes, self.tie_order, before)

    def check_catalog(self, catalog: Catalog) -> None:
        """Check that the catalog has exactly these items, in this order.

        Raises:
            ArtefactError: naming the first item that differs.
        """
        check_same_items(self.item_ids, as_item_ids(catalog.item_ids))

    def check_vectors(self, vectors: np.ndarray) -> None:
        """Check that these are the vectors the codes were made from.

        Args:
            vectors: `float32 [N, d]`, in the order of the items.

        Raises:
            ArtefactError: if their number or their fingerprint differs.
        """
        if len(vectors) != len(self):
            raise ArtefactError(
                f"vectors: {len(vectors):,} rows for a SID vocabulary of {len(self):,} items; "
                "use the vectors it was built from, or build it again"
            )
        found = vectors_fingerprint(vectors, self.item_ids)
        if self.vectors_fingerprint and found != self.vectors_fingerprint:
            raise ArtefactError(
                f"vectors: are not those the SID vocabulary was built from (fingerprint {found}, "
                f"expected {self.vectors_fingerprint}); use the original vectors in the order of "
                "its items, or build the vocabulary again"
            )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write `vocabulary.json`, `items.parquet` and `quantizer/`; whole or not at all.

        Raises:
            ArtefactError: if the folder cannot be written.
        """
        columns: dict[str, Any] = {"item_id": pa.array(self.item_ids)}
        for level in range(self.num_levels):
            columns[f"code_{level}"] = self.codes[:, level]
        columns["tie_order"] = self.tie_order
        if self.fitted is not None:
            columns["fitted"] = self.fitted
        with atomic_folder(folder, kind=KIND) as temporary:
            pq.write_table(pa.table(columns), temporary / ITEMS, compression="zstd")
            write_json(
                temporary / CONFIG,
                {
                    "format": 1,
                    "num_items": len(self),
                    "codebook_sizes": list(self.codebook_sizes),
                    "collision_policy": self.collision_policy,
                    "fingerprint": self.fingerprint,
                    "vectors_fingerprint": self.vectors_fingerprint,
                    "has_quantizer": self.quantizer is not None,
                    "config": self.config,
                },
            )
            if self.quantizer is not None:
                self.quantizer.save_pretrained(temporary / QUANTIZER)
        return Path(folder)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> SidVocabulary:
        """Read and check a folder that `save_pretrained` wrote.

        Raises:
            ArtefactError: if it is missing, truncated or edited, or its parts do not fit together.
        """
        folder = check_folder(folder, kind=KIND)
        facts = read_json(folder / CONFIG)
        try:
            sizes = [int(size) for size in facts["codebook_sizes"]]
            table = pq.read_table(folder / ITEMS)
            levels = [f"code_{level}" for level in range(len(sizes))]
            codes = np.column_stack([table[name].to_numpy() for name in levels])
            vocabulary = cls(
                codes,
                table["item_id"],
                sizes,
                tie_order=table["tie_order"].to_numpy(),
                collision_policy=facts["collision_policy"],
                quantizer=load_quantizer(folder / QUANTIZER) if facts["has_quantizer"] else None,
                vectors_fingerprint=facts["vectors_fingerprint"],
                fitted=table["fitted"].to_numpy() if "fitted" in table.column_names else None,
                config=facts["config"],
            )
        except KeyError as error:
            raise ArtefactError(
                f"{folder}: {CONFIG} or {ITEMS} lacks {error}; make the SID vocabulary again"
            ) from error
        except (DataError, pa.ArrowException) as error:
            raise ArtefactError(f"{folder / ITEMS}: {error}") from error
        if vocabulary.fingerprint != facts.get("fingerprint"):
            raise ArtefactError(
                f"{folder / ITEMS}: does not match the fingerprint in {CONFIG} "
                f"({vocabulary.fingerprint}, expected {facts.get('fingerprint')}): codes, ids or "
                "the tie order were edited; build the SID vocabulary again"
            )
        return vocabulary

    @functools.cached_property
    def _keys(self) -> TupleKeys:
        return TupleKeys(self.codes, self.codebook_sizes)

    @functools.cached_property
    def _buckets(self) -> tuple[np.ndarray, np.ndarray]:
        """`starts [U + 1]` and `items [N]`: the items of each tuple, in tie order."""
        counts = np.bincount(self._keys.row, minlength=self._keys.num_tuples)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return starts, np.lexsort((self.tie_order, self._keys.row))

    @functools.cached_property
    def _trie(self) -> PrefixTrie:
        return PrefixTrie.from_codes(self.codes, self.codebook_sizes, self.tie_order)

    @functools.cached_property
    def _lookup(self) -> Catalog:
        return Catalog.from_ids(self.item_ids)

    def _tuples(self, codes: Sequence[int] | np.ndarray) -> np.ndarray:
        codes = np.asarray(codes)
        if codes.ndim == 0 or codes.shape[-1] != self.num_levels or codes.dtype.kind not in "iu":
            raise DataError(
                f"codes: {codes.dtype} of shape {codes.shape}; expected integers, "
                f"{self.num_levels} codes in the last dimension"
            )
        return codes


def _frozen(values: np.ndarray, dtype: type) -> np.ndarray:
    """A copy that nobody can change: fingerprint, trie and buckets are computed once."""
    values = np.array(values, dtype=dtype)
    values.flags.writeable = False
    return values
