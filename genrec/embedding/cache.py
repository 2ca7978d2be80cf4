"""A cache of text vectors on disk: append-only shards, found again by key.

Each shard is one safetensors file with `keys` (uint8 [n, 32]) and `vectors` (float32 [n, d]). It is
written under a temporary name and renamed, so a reader sees it whole or not at all, and several
processes can add shards to one folder without a lock.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genrec.errors import ArtefactError

_KEY = np.dtype("S32")


def text_keys(identity: str, texts: Sequence[str]) -> np.ndarray:
    """SHA-256 of (identity, text) for each text, as 32-byte strings [n]."""
    seed = hashlib.sha256(identity.encode() + b"\x00")
    digests = bytearray()
    for text in texts:
        digest = seed.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        digests += digest.digest()
    return np.frombuffer(bytes(digests), dtype=_KEY)


class VectorCache:
    """Vectors by 32-byte key, in a folder that only grows.

    Args:
        folder: created if needed; one per model, so that all vectors have one length.

    Raises:
        ArtefactError: if the folder cannot be created or written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ArtefactError(
                f"{self.folder}: the cache cannot be written ({error.strerror}); give another "
                "cache_dir, set GENREC_CACHE, or turn it off with cache=False"
            ) from error

    def get(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look up distinct keys, by one binary search per shard.

        Args:
            keys: 32-byte strings [n], as `text_keys` returns them, none twice.

        Returns:
            Which keys were found, bool [n], and their vectors, float32 [n, d], zero where not
            found ([n, 0] if none was).

        Raises:
            ArtefactError: if a shard is damaged.
        """
        from safetensors import SafetensorError, safe_open

        found = np.zeros(len(keys), dtype=bool)
        vectors = np.zeros((len(keys), 0), dtype=np.float32)
        if not len(keys):
            return found, vectors
        order = np.argsort(keys)
        in_order = keys[order]
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="numpy") as shard:
                    stored = shard.get_tensor("keys").view(_KEY).ravel()
                    place = np.searchsorted(in_order, stored).clip(max=len(keys) - 1)
                    rows = np.flatnonzero(in_order[place] == stored)
                    positions = order[place[rows]]
                    new = ~found[positions]
                    if not new.any():
                        continue
                    values = shard.get_tensor("vectors")
                    if vectors.shape[1] == 0:
                        vectors = np.zeros((len(keys), values.shape[1]), dtype=np.float32)
                    vectors[positions[new]] = values[rows[new]]
                    found[positions[new]] = True
            except (OSError, SafetensorError, ValueError) as error:
                raise ArtefactError(
                    f"{path}: this piece of the cache is damaged ({error}); delete the file, "
                    "its texts will be embedded again"
                ) from error
        return found, vectors

    def put(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Add a shard of vectors, float32 [n, d], under distinct `keys` [n].

        Raises:
            ArtefactError: if it cannot be written, for example on a full disk.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        temporary = self.folder / f".{uuid.uuid4().hex}"
        try:
            save_file(
                {
                    "keys": np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), 32),
                    "vectors": np.ascontiguousarray(vectors, dtype=np.float32),
                },
                temporary,
            )
            temporary.replace(self.folder / f"{uuid.uuid4().hex}.safetensors")
        except (OSError, SafetensorError) as error:
            raise ArtefactError(
                f"{self.folder}: the cache cannot be written ({error}); free some space or give "
                "another cache_dir; what was embedded before is kept"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
