"""Fetch a file from its publisher: resumed where it broke off, checked, and whole or absent."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from genrec.artefacts import file_sha256
from genrec.errors import ConfigError, DataError

BLOCK = 1 << 20
#: Answers that may be different the next time.
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
AMAZON_2014 = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
AMAZON_LATER = "https://mcauleylab.ucsd.edu/public_datasets/data"
MOVIELENS = "https://files.grouplens.org/datasets/movielens"


def amazon_urls(version: str, category: str) -> tuple[str, str]:
    """Where the publisher keeps the reviews and the metadata of an Amazon category.

    Args:
        version: `2014` (5-core), `2018` (5-core) or `2023` (all reviews).
        category: as in the publisher's file names, `Sports_and_Outdoors` for example.

    Raises:
        ConfigError: if there is no such version, or the category is no file name.
    """
    if not re.fullmatch(r"\w+", category):
        raise ConfigError(
            f"category {category!r}: expected the publisher's spelling, such as Sports_and_Outdoors"
        )
    urls = {
        "2014": (
            f"{AMAZON_2014}/reviews_{category}_5.json.gz",
            f"{AMAZON_2014}/meta_{category}.json.gz",
        ),
        "2018": (
            f"{AMAZON_LATER}/amazon_v2/categoryFilesSmall/{category}_5.json.gz",
            f"{AMAZON_LATER}/amazon_v2/metaFiles2/meta_{category}.json.gz",
        ),
        "2023": (
            f"{AMAZON_LATER}/amazon_2023/raw/review_categories/{category}.jsonl.gz",
            f"{AMAZON_LATER}/amazon_2023/raw/meta_categories/meta_{category}.jsonl.gz",
        ),
    }
    if version not in urls:
        raise ConfigError(f"version {version!r} of Amazon reviews: choose from {', '.join(urls)}")
    return urls[version]


def movielens_url(name: str) -> str:
    """Where GroupLens keeps a MovieLens archive.

    Raises:
        ConfigError: if the name is not one that genrec reads.
    """
    names = ("ml-latest-small", "ml-1m")
    if name not in names:
        raise ConfigError(f"MovieLens {name!r}: choose from {', '.join(names)}")
    return f"{MOVIELENS}/{name}.zip"


def download(
    url: str,
    target: str | os.PathLike[str],
    sha256: str | None = None,
    resume: bool = True,
    progress: bool = True,
    *,
    retries: int = 4,
    backoff: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """Fetch `url` into `target`; a file that is already there and right is left alone.

    Bytes go into `target` + `.part`, which outlives an interruption. The next try asks for the
    rest of the same version (by its ETag or date) and starts over if the publisher has another
    one or cannot send parts. `target` appears only when all bytes are there and the checksum fits.

    Args:
        url: http or https address.
        target: file to write; its folder is made if needed.
        sha256: expected checksum in hexadecimal, if known.
        resume: continue a `.part` file that an earlier call left.
        progress: show a progress bar where standard error is a terminal.
        retries: further tries after one that brought nothing new; each waits twice as long.
        backoff: seconds before the second try.
        timeout: seconds of silence after which a connection counts as broken.

    Returns:
        `target`.

    Raises:
        ConfigError: if `url` is not http or https.
        DataError: if the publisher has no such file, the connection keeps failing, the checksum
            differs, or the file cannot be written.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url}: expected an address that starts with http:// or https://")
    target = Path(target)
    if target.is_file():
        if sha256 is not None and file_sha256(target) != sha256.lower():
            raise DataError(
                f"{target}: is already there but its SHA-256 is not {sha256}; remove it to fetch "
                "it again"
            )
        return target
    part, tag = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.tag")
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            part.unlink(missing_ok=True)
    _fetch_all(url, part, tag, progress, retries, backoff, timeout)
    if sha256 is not None and (found := file_sha256(part)) != sha256.lower():
        part.unlink()
        tag.unlink(missing_ok=True)
        raise DataError(
            f"{url}: the SHA-256 of what came is {found}, expected {sha256}; it was removed. Fetch "
            "it again, or check whether the publisher has a new version"
        )
    with _writing(target):
        part.replace(target)
        tag.unlink(missing_ok=True)
    return target


def _fetch_all(
    url: str, part: Path, tag: Path, progress: bool, retries: int, backoff: float, timeout: float
) -> None:
    """Try until the whole file is in `part`; give up after `retries` tries without progress."""
    furthest = part.stat().st_size if part.is_file() else 0
    failures = 0
    while True:
        try:
            _fetch(url, part, tag, progress, timeout)
            return
        except urllib.error.HTTPError as error:
            if error.code not in TEMPORARY:
                raise DataError(
                    f"{url}: the publisher answers {error.code} {error.reason}; check the name, or "
                    "fetch the file by hand and give its folder as path"
                ) from error
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        size = part.stat().st_size if part.is_file() else 0
        failures = 0 if size > furthest else failures + 1
        furthest = max(furthest, size)
        if failures > retries:
            raise DataError(
                f"{url}: the connection fails ({reason}); {size:,} bytes are kept in {part} and "
                "the next call goes on from there. Or fetch the file by hand and give its folder "
                "as path"
            )
        time.sleep(backoff * 2 ** max(failures - 1, 0))


def _fetch(url: str, part: Path, tag: Path, progress: bool, timeout: float) -> None:
    """One request: append to `part` what is missing, or write it anew.

    Raises:
        OSError or http.client.HTTPException: if the connection fails or breaks off early.
    """
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    # Without Accept-Encoding: identity a server may compress, and then no length fits.
    headers = {"User-Agent": "genrec", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # All bytes may be there already; otherwise the part belongs to another file.
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.unlink()
        raise ConnectionError("the publisher's file is shorter than the kept part") from error
    with response:
        start = 0
        if response.status == 206:
            content_range = response.headers.get("Content-Range", "")
            found = re.match(r"bytes (\d+)-", content_range)
            start = int(found[1]) if found else -1
            if start != have:
                part.unlink()
                raise ConnectionError(f"asked for bytes from {have}, got {content_range!r}")
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with contextlib.ExitStack() as stack:
            with _writing(part):
                _remember_version(response, tag)
                file = stack.enter_context(open(part, "ab" if start else "wb"))
            _copy(response, file, part, start, total, progress)
        size = part.stat().st_size
        if total is not None and size < total:
            raise ConnectionError(f"broke off after {size:,} of {total:,} bytes")


def _remember_version(response: http.client.HTTPResponse, tag: Path) -> None:
    """Keep what names the version of the file; without it a part cannot be trusted later."""
    etag = response.headers.get("ETag", "")
    version = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    if version:
        tag.write_text(version)
    else:
        tag.unlink(missing_ok=True)


def _copy(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    part: Path,
    start: int,
    total: int | None,
    progress: bool,
) -> None:
    bar = tqdm(
        total=total,
        initial=start,
        unit="B",
        unit_scale=True,
        desc=part.name.removesuffix(".part"),
        disable=None if progress else True,
    )
    with bar:
        # read1 hands over what has come, so that nothing is lost when the connection breaks.
        while block := response.read1(BLOCK):
            with _writing(part):
                file.write(block)
            bar.update(len(block))
        with _writing(part):
            file.flush()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into an error that is not taken for one of the connection."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose "
            "another folder and run the command again"
        ) from error
