"""What the page of a SID vocabulary holds for its tree: small arrays in one compressed blob.

A trie is a code per node and a number of children per node, so a million items take a few
megabytes. Everything that is known of an item stands in the order of the first trie's leaves, in
which neighbours have similar titles, which compresses well. A script unpacks the blob and makes
rows of the tree only where a reader opens it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrec.data import Catalog
from genrec.errors import ArtefactError
from genrec.tokenizers import SidVocabulary
from genrec.tokenizers.inspection import category_labels
from genrec.tokenizers.summary import item_titles

SHORTEST = 24  # bytes of a title that still tell what an item is
MAX_CATEGORIES = 65_536
_ELLIPSIS = "\u2026".encode()


@dataclass
class PageData:
    """The blob, what is in it, and what was left out of it.

    Attributes:
        header: JSON-able: `arrays` (name to dtype, offset in bytes and length), `trees` (number of
            levels of each), `categories` (names).
        left_out: sentences for the reader.
    """

    header: dict[str, Any] = field(
        default_factory=lambda: {"arrays": {}, "trees": [], "categories": []}
    )
    left_out: list[str] = field(default_factory=list)
    _parts: list[bytes] = field(default_factory=list)
    _size: int = 0

    def add(self, name: str, values: np.ndarray) -> None:
        """Add non-negative integers in the smallest type that holds them."""
        largest = int(values.max()) if len(values) else 0
        bits = next(bits for bits in (8, 16, 32) if largest < 1 << bits)
        content = np.ascontiguousarray(values, dtype=f"<u{bits // 8}").tobytes()
        self.header["arrays"][name] = [f"u{bits // 8}", self._size, len(values)]
        padding = -len(content) % 4
        self._parts.append(content + bytes(padding))
        self._size += len(content) + padding

    def add_texts(self, name: str, texts: Sequence[bytes]) -> None:
        """Add texts as `name` (UTF-8, one after the other) and `name_lengths`."""
        self.add(name, np.frombuffer(b"".join(texts), dtype=np.uint8))
        self.add(f"{name}_lengths", byte_lengths(texts))

    def blob(self) -> str:
        """All arrays, compressed (zlib), in base64."""
        return base64.b64encode(zlib.compress(b"".join(self._parts), 6)).decode()

    def header_json(self) -> str:
        """The header as JSON that no HTML parser mistakes for markup."""
        return json.dumps(self.header, separators=(",", ":")).replace("<", "\\u003c")


def page_data(
    vocabularies: Sequence[SidVocabulary],
    *,
    catalog: Catalog | None = None,
    title_column: str = "title",
    category_column: str | None = None,
    counts: np.ndarray | None = None,
    title_bytes: int = 32_000_000,
) -> PageData:
    """Pack one SID vocabulary, or two of the same items.

    Args:
        vocabularies: the first decides the order of the items.
        catalog: for titles and categories; ids stand for titles without it.
        title_column: column of titles.
        category_column: column of categories.
        counts: `int [N]`, how often each item occurs in training; shown, and the items that keep
            their title where not all titles fit.
        title_bytes: at most so many bytes of titles, before compression. Beyond it item ids are
            left out, then titles are cut, then those of rare items are left out.

    Raises:
        ArtefactError: if the second vocabulary is of other items.
    """
    data = PageData()
    first = vocabularies[0]
    order = first.trie().leaf_items.numpy().astype(np.int64)
    _add_texts(data, first, order, catalog, title_column, counts, title_bytes)
    if catalog is not None and category_column is not None:
        labels, names = category_labels(catalog, category_column)
        if len(names) < MAX_CATEGORIES:
            data.header["categories"] = names
            data.add("category", labels[order] + 1)  # 0 where unknown
        else:
            data.left_out.append(f"There are {len(names):,} categories; they are not shown.")
    if counts is not None:
        data.add("count", counts[order])
    for number, vocabulary in enumerate(vocabularies):
        _add_tree(data, number, vocabulary)
    for vocabulary in vocabularies[1:]:
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        theirs = vocabulary.trie().leaf_items.numpy().astype(np.int64)
        data.add("other_items", place[_same_items(first, vocabulary)[theirs]])
    return data


def _add_tree(data: PageData, number: int, vocabulary: SidVocabulary) -> None:
    trie = vocabulary.trie()
    data.header["trees"].append(trie.num_levels)
    for level, pointers in enumerate(trie.pointers):
        data.add(f"codes_{number}_{level}", trie.level(level).array())
        data.add(f"children_{number}_{level}", np.diff(pointers.numpy()))
        usage = np.bincount(vocabulary.codes[:, level], minlength=vocabulary.codebook_sizes[level])
        data.add(f"usage_{number}_{level}", usage)
    data.add(f"bucket_{number}", np.diff(trie.item_starts[-1].numpy()))


def _same_items(ours: SidVocabulary, theirs: SidVocabulary) -> np.ndarray:
    """Our item index of each of their items."""
    found = ours.index(theirs.item_ids)
    if len(ours) != len(theirs) or (found < 0).any():
        unknown = theirs.item_ids[found < 0]
        such = f", such as {unknown[0]!r}" if len(unknown) else ""
        raise ArtefactError(
            f"compare: the SID vocabularies have {len(ours):,} and {len(theirs):,} items, "
            f"{len(unknown):,} only in the second{such}; compare vocabularies of the same items"
        )
    return found


def _add_texts(
    data: PageData,
    vocabulary: SidVocabulary,
    order: np.ndarray,
    catalog: Catalog | None,
    title_column: str,
    counts: np.ndarray | None,
    budget: int,
) -> None:
    """Titles in `order`, with ids where they fit; rows of items where a title is left out."""
    titles = [
        " ".join(text.split()).encode()
        for text in item_titles(vocabulary, order, catalog, title_column)
    ]
    total = int(byte_lengths(titles).sum())
    if catalog is not None and title_column in catalog.columns:
        ids = [str(name).encode() for name in vocabulary.item_ids[order].tolist()]
        if total + int(byte_lengths(ids).sum()) <= budget:
            data.add_texts("id", ids)
        else:
            data.left_out.append(f"Item ids, to stay within {_mega(budget)} of titles.")
    if total > budget:
        rank = vocabulary.tie_order[order] if counts is None else -counts[order]
        titles, length, kept = fit_texts(titles, budget, rank)
        data.left_out.append(f"Titles beyond {length} bytes are cut.")
        if kept < len(titles):
            whose = "drawn at random" if counts is None else "most frequent in training"
            data.left_out.append(
                f"{len(titles) - kept:,} of {len(titles):,} titles; those of the {kept:,} items "
                f"{whose} are kept, the others have the number of their row."
            )
            data.add("row", order)
    data.add_texts("title", titles)


def fit_texts(
    texts: Sequence[bytes], budget: int, rank: np.ndarray
) -> tuple[list[bytes], int, int]:
    """Cut texts to the longest length at which they fit, but not below `SHORTEST` bytes.

    Args:
        texts: UTF-8.
        budget: bytes of all together, the ellipses of those that are cut left aside.
        rank: `[N]`; where even short texts do not fit, the smallest ranks keep theirs.

    Returns:
        The texts, the length and the number of texts that are left; the others are empty.
    """
    lengths = byte_lengths(texts)
    low, high = SHORTEST, max(int(lengths.max()), SHORTEST)
    while low < high:
        middle = (low + high + 1) // 2
        fits = int(np.minimum(lengths, middle).sum()) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    order = np.argsort(rank, kind="stable")
    keep = np.zeros(len(texts), dtype=bool)
    keep[order] = np.cumsum(np.minimum(lengths, low)[order]) <= budget
    cut = [_cut(text, low) if kept else b"" for text, kept in zip(texts, keep, strict=True)]
    return cut, low, int(keep.sum())


def byte_lengths(texts: Sequence[bytes]) -> np.ndarray:
    """Lengths in bytes, `int64 [n]`."""
    return np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))


def _cut(text: bytes, length: int) -> bytes:
    if len(text) <= length:
        return text
    # A cut inside a character leaves bytes that are no UTF-8; they are dropped.
    return text[:length].decode(errors="ignore").rstrip().encode() + _ELLIPSIS


def _mega(count: int) -> str:
    return f"{count / 1e6:g} MB"
