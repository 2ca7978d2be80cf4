"""A SID vocabulary as the files that others read: `index.json`, `.npy`, parquet, special tokens.

What these files say of a vocabulary is its codes. Codebooks, tie order and fingerprints stay in the
vocabulary's folder, which is what to share where the reader has genrec.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec.errors import ConfigError, expected_one_of
from genrec.tokenizers.index_json import write_index_json
from genrec.tokenizers.sid_files import SIZES, Names
from genrec.tokenizers.tokens import item_texts, sid_tokens
from genrec.tokenizers.vocabulary import SidVocabulary


def export_vocabulary(
    vocabulary: SidVocabulary, path: str | Path, *, format: str, names: Names = "numbers"
) -> None:
    """Write the codes of a SID vocabulary as one file.

    Args:
        vocabulary: what to write.
        path: the file; written in place, a caller that may be interrupted gives a temporary name.
        format: a name in `EXPORTS`.
        names: what the items are called in `index.json`: `numbers` 0..N-1 in the order of the
            vocabulary, as LETTER, LC-Rec and MiniOneRec have it, or `ids`. A .npy file has numbers
            and the other formats have ids always.

    Raises:
        ConfigError: if the format is unknown, or `names` is given to one that has no choice.
    """
    if format not in EXPORTS:
        raise ConfigError(f"format: {format!r} is unknown; {expected_one_of(format, EXPORTS)}")
    if names != "numbers" and format != "index.json":
        raise ConfigError(f"names: {format!r} has no choice; the option is for 'index.json'")
    EXPORTS[format](vocabulary, Path(path), names)


def _index_json(vocabulary: SidVocabulary, path: Path, names: Names) -> None:
    keys = vocabulary.item_ids if names == "ids" else np.arange(len(vocabulary))
    write_index_json(vocabulary, path, list(map(str, keys.tolist())))


def _npy(vocabulary: SidVocabulary, path: Path, names: Names) -> None:
    with open(path, "wb") as file:  # np.save would add .npy to a temporary name
        np.save(file, vocabulary.codes)


def _parquet(vocabulary: SidVocabulary, path: Path, names: Names) -> None:
    columns = {"item_id": pa.array(vocabulary.item_ids)}
    for level in range(vocabulary.num_levels):
        columns[f"code_{level}"] = pa.array(vocabulary.codes[:, level])
    sizes = json.dumps(vocabulary.codebook_sizes)
    table = pa.table(columns).replace_schema_metadata({SIZES: sizes})
    pq.write_table(table, path, compression="zstd")


def _tokens(vocabulary: SidVocabulary, path: Path, names: Names) -> None:
    ids = map(str, vocabulary.item_ids.tolist())
    content = {
        "special_tokens": sid_tokens(vocabulary),
        "items": dict(zip(ids, item_texts(vocabulary), strict=True)),
    }
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


EXPORTS: dict[str, Callable[[SidVocabulary, Path, Names], None]] = {
    "index.json": _index_json,
    "npy": _npy,
    "parquet": _parquet,
    "tokens": _tokens,
}
