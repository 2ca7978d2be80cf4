"""Folders on disk that are either whole or absent, and fingerprints that say what is in them.

An artefact is a folder of JSON, safetensors, npy and parquet files with a manifest
(`manifest.json`) that holds the SHA-256 of every file. It is written under a temporary name beside
its target and renamed, so that an interrupted or failed write leaves nothing half-made behind.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genrec.errors import ArtefactError

MANIFEST = "manifest.json"
OLD = ".old"  # ends the hidden name of a folder while another takes its place


@contextlib.contextmanager
def atomic_folder(target: str | os.PathLike[str], *, kind: str) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` when the block ends without an error.

    Args:
        target: folder to create or to replace; a folder that is replaced must be an artefact
            of the same kind (its manifest says so) or empty, so that no other folder is ever
            deleted. It is there again if the new one cannot be put into its place.
        kind: what the artefact is (`dataset`, `vectors`, ...), written into the manifest.

    Raises:
        ArtefactError: if the place cannot be written, the disk is full, or `target` holds
            something else.
    """
    target = check_target(target, kind=kind)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        temporary.chmod(0o755)
    except OSError as error:
        raise ArtefactError(
            f"{target}: cannot be written ({error.strerror}); choose a folder you may write to"
        ) from error
    try:
        yield temporary
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        write_json(
            temporary / MANIFEST,
            {
                "kind": kind,
                "files": {p.relative_to(temporary).as_posix(): file_sha256(p) for p in files},
            },
        )
        _replace(temporary, target)
    except OSError as error:
        raise ArtefactError(
            f"{target}: writing failed ({error.strerror or error}); nothing was kept; "
            "free some space or choose another folder and run the command again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(new: Path, target: Path) -> None:
    """Put `new` into the place of `target`, whose old content stays or comes back on failure."""
    if not target.exists():
        new.rename(target)
        return
    old = new.with_name(new.name + OLD)
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:  # Ctrl-C too
        try:
            old.rename(target)
        except OSError as error:
            raise ArtefactError(
                f"{target}: could not be replaced; what it held is in {old} now "
                f"({error.strerror or error}): rename it back"
            ) from error
        raise
    try:
        shutil.rmtree(old)
    except OSError as error:
        warnings.warn(
            f"{target}: is written, but what it held before could not be removed from {old} "
            f"({error.strerror or error}); remove it",
            stacklevel=4,
        )


def check_target(target: str | os.PathLike[str], *, kind: str) -> Path:
    """Check that an artefact may be written at `target`, before any work is done for it.

    Args:
        target: folder to create or to replace.
        kind: of the artefact; only one of the same kind is replaced.

    Raises:
        ArtefactError: if it is a file, a folder that genrec did not write, an artefact of another
            kind, or lies where nothing can be written.
    """
    target = Path(target)
    if target.is_dir() and any(target.iterdir()):
        if not (target / MANIFEST).is_file():
            raise ArtefactError(
                f"{target}: the folder exists and was not written by genrec; "
                "choose another output folder or remove it first"
            )
        found = read_manifest(target)["kind"]
        if found != kind:
            raise ArtefactError(
                f"{target}: is a {found!r} folder, which a {kind!r} folder would replace; "
                "choose another output folder or remove it first"
            )
    return check_folder_place(target)


def check_folder_place(path: str | os.PathLike[str]) -> Path:
    """Check that a folder could be made or written at `path`.

    Raises:
        ArtefactError: if it or something above it is a file or may not be written to.
    """
    path = _check_writable(path)
    if path.exists() and not path.is_dir():
        raise ArtefactError(f"{path}: is a file, expected a folder to write; choose another name")
    return path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends without an error.

    Raises:
        ArtefactError: if the place cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise ArtefactError(
            f"{path}: writing failed ({error.strerror or error}); "
            "free some space or choose another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_place(path: str | os.PathLike[str]) -> Path:
    """Check that a file could be made or written at `path`.

    Raises:
        ArtefactError: if it is a folder, or something above it is a file or may not be written to.
    """
    path = _check_writable(path)
    if path.is_dir():
        raise ArtefactError(f"{path}: is a folder, expected a file to write; name a file in it")
    return path


def _check_writable(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    place = path.absolute()
    above = next(p for p in (place, *place.parents) if p.exists())
    if above != place and not above.is_dir():
        raise ArtefactError(f"{path}: cannot be written ({above} is a file); choose another place")
    if not os.access(above, os.W_OK):
        raise ArtefactError(
            f"{path}: cannot be written (no permission for {above}); choose a place you may write"
        )
    return path


def check_folder(folder: str | os.PathLike[str], *, kind: str, deep: bool = True) -> Path:
    """Check that `folder` is a whole artefact of `kind` and return it as a path.

    Args:
        folder: the artefact.
        kind: the kind its manifest must name.
        deep: also compare the SHA-256 of every file (seconds per gigabyte).

    Raises:
        ArtefactError: if it is missing, of another kind, truncated or edited.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtefactError(no_folder(folder, f"a genrec {kind} folder"))
    if not (folder / MANIFEST).is_file():
        raise ArtefactError(f"{folder}: has no {MANIFEST}; expected a genrec {kind} folder")
    manifest = read_manifest(folder)
    found = manifest["kind"]
    if found != kind:
        raise ArtefactError(f"{folder}: is a {found!r} folder; expected a {kind!r} folder")
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise ArtefactError(f"{path}: is missing; the {kind} is truncated, make it again")
        if deep and file_sha256(path) != digest:
            raise ArtefactError(
                f"{path}: was changed or truncated after it was written "
                "(its SHA-256 differs from the manifest); make it again"
            )
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artefact: its `kind`, and under `files` the SHA-256 of each file.

    Raises:
        ArtefactError: if it is not what genrec writes.
    """
    path = folder / MANIFEST
    manifest = read_json(path)
    if (
        not isinstance(manifest, dict)
        or not isinstance(manifest.get("kind"), str)
        or not isinstance(manifest.get("files"), dict)
    ):
        raise ArtefactError(
            f"{path}: expected an object with `kind` and `files`; it was edited, make the folder "
            "again"
        )
    return manifest


def no_folder(folder: Path, expected: str) -> str:
    """The message about a missing folder; after a kill in the middle of replacing it, where it is.

    Args:
        folder: what is missing.
        expected: what it should be.
    """
    message = f"{folder}: no such folder; expected {expected}"
    left = sorted(folder.absolute().parent.glob(f".{glob.escape(folder.name)}-*{OLD}"))
    if left:
        message += (
            f"; a write was killed while it replaced the folder, whose content is in {left[-1]}: "
            "rename it back, or make it again"
        )
    return message


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write indented JSON with sorted keys, through a temporary name."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, default=_plain) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise ArtefactError(
            f"{path}: writing failed ({error.strerror or error}); "
            "free some space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        ArtefactError: naming the line and column where the file is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ArtefactError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path}: is not valid JSON ({error}); make it again") from error


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(parts: Iterable[Any]) -> str:
    """SHA-256 over arrays (dtype, shape, bytes) and JSON-like values, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            if part.dtype == object or part.dtype.kind in "US":
                digest.update(json.dumps([str(x) for x in part.tolist()]).encode())
            else:
                digest.update(f"{part.dtype.str}{part.shape}".encode())
                digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=_plain).encode())
        digest.update(b"\x00")
    return digest.hexdigest()[:16]


def vectors_fingerprint(vectors: np.ndarray, item_ids: np.ndarray) -> str:
    """Fingerprint of float32 vectors [N, d] and the ids [N] of their items."""
    return fingerprint([np.asarray(vectors, dtype=np.float32), item_ids])


def cache_folder(name: str) -> Path:
    """Where what can be had again is kept: `name` in `$GENREC_CACHE`, else in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("GENREC_CACHE") or Path(base, "genrec"), name).expanduser()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
