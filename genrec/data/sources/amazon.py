"""Amazon reviews as their publisher ships them: 2014, 2018 and 2023.

    prepare("amazon", "data/beauty", "downloads/", category="Beauty")
    prepare("amazon", "data/beauty", download=True, version="2014", category="Beauty")

Reviews and metadata are found in a folder by the publisher's names, and their layout is told from
their first line. J. McAuley and colleagues, UCSD: "Ups and downs" (WWW 2016), "Justifying
recommendations" (EMNLP 2019), "Bridging language and items" (arXiv 2403.03952).
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.artefacts import cache_folder
from genrec.data.dataset import Dataset, check_dataset_target, write_dataset
from genrec.data.download import amazon_urls
from genrec.data.download import download as fetch
from genrec.data.kcore import k_core
from genrec.data.sources.amazon_metadata import read_metadata
from genrec.data.sources.amazon_reviews import Reviews, read_reviews
from genrec.data.sources.registry import register
from genrec.errors import ConfigError, DataError

DAY = 86_400
ENDINGS = (".json.gz", ".jsonl.gz", ".json", ".jsonl")
LICENCE = "none stated; offered for research by UCSD, texts are Amazon's and its sellers'"


def read_amazon(
    reviews: str | PathLike[str],
    metadata: str | PathLike[str] | None,
    *,
    core: int = 5,
    min_rating: float | None = None,
    duplicates: str = "first",
    order: str = "file",
    seed: int = 0,
    skip_broken: bool = False,
) -> tuple[pa.Table, pa.Table, dict[str, Any]]:
    """Read one category.

    Args:
        reviews: file of reviews.
        metadata: file of metadata, or None for items without content.
        core: repeat removing users and items with fewer reviews until none is left; 0 keeps all.
        min_rating: leave out reviews with a lower rating, or without one.
        duplicates: if a user reviewed an item several times, keep the `first` or the `last` review
            in time, or `keep` them all.
        order: reviews of one user at one time stand as in the `file`, or, for `shuffled-day`,
            those of one UTC day are shuffled (their times become the day's midnight). Two in five
            Beauty test items are decided by this.
        seed: of the shuffle.
        skip_broken: leave out lines that cannot be read, and count them, instead of raising.

    Returns:
        Items sorted by id, interactions (`user_id`, `item_id`, `timestamp` in seconds, `rating`)
        with users in order of appearance, each in time order, and what is known about them.

    Raises:
        ConfigError: if an option is out of range.
        DataError: naming file and line of what is wrong, or if nothing is left.
    """
    _check_options(core, duplicates, order, seed)
    found = read_reviews(Path(reviews), skip_broken=skip_broken)
    counts = {"reviews": len(found), "broken_review_lines": found.broken}

    if min_rating is not None:
        found = found.take(np.flatnonzero(found.ratings >= min_rating))
    in_time = found.take(np.lexsort((found.times, found.users)))
    if duplicates != "keep":
        in_time = in_time.take(_distinct(in_time, last=duplicates == "last"))
    counts["after_rating_and_duplicates"] = len(in_time)
    mask = k_core(in_time.users, in_time.items, user_min=core, item_min=core)
    in_time = in_time.take(np.flatnonzero(mask))
    if len(in_time) == 0:
        raise DataError(
            f"{reviews}: no review is left of {counts['reviews']:,} after min_rating and the "
            f"{core}-core; use a lower core or min_rating"
        )
    seconds = in_time.times // in_time.layout.per_second
    if order == "shuffled-day":
        seconds = seconds // DAY * DAY
        key = np.random.default_rng(seed).random(len(seconds))
        by_day = np.lexsort((key, seconds, in_time.users))
        in_time, seconds = in_time.take(by_day), seconds[by_day]

    item_ids, items = _sorted_ids(in_time)
    content = pa.table({"item_id": item_ids})
    if metadata is not None:
        content, more = read_metadata(Path(metadata), item_ids, skip_broken=skip_broken)
        counts |= more
    interactions = pa.table(
        {
            "user_id": in_time.user_ids.take(pa.array(in_time.users)),
            "item_id": item_ids.take(pa.array(items)),
            "timestamp": seconds,
            "rating": pa.array(in_time.ratings, from_pandas=True),
        }
    )
    info: dict[str, Any] = {
        "name": f"amazon{in_time.version}-{_category_of(Path(reviews)).lower()}",
        "source": f"Amazon reviews {in_time.version}, J. McAuley and colleagues, UCSD",
        "licence": LICENCE,
        "order": order,
        "options": {"core": core, "min_rating": min_rating, "duplicates": duplicates},
        "files": [Path(file).name for file in (reviews, metadata) if file is not None],
        "read": counts,
    }
    if order == "shuffled-day":
        info["order_seed"] = seed
    return content, interactions, info


@register("amazon")
def prepare_amazon(
    folder: str | PathLike[str],
    path: str | PathLike[str] | None = None,
    *,
    category: str | None = None,
    download: bool = False,
    version: str = "2014",
    reviews: str | None = None,
    metadata: str | None = None,
    core: int = 5,
    min_rating: float | None = None,
    duplicates: str = "first",
    order: str = "file",
    seed: int = 0,
    skip_broken: bool = False,
    name: str | None = None,
    sha256: Mapping[str, str] | None = None,
) -> Dataset:
    """Write a dataset folder from one category of Amazon reviews.

    Example:
        genrec prepare amazon data/beauty --path downloads/ --category Beauty

    Args:
        folder: dataset folder to write.
        path: folder that holds the publisher's files; where downloads go, if `download`.
        category: as in the file names, `Beauty` or `Sports_and_Outdoors` for example; may be left
            out if the folder holds one category.
        download: fetch files that are not there from the publisher.
        version: which generation to fetch: `2014` (5-core), `2018` (5-core) or `2023` (all). What
            lies in a folder tells its version itself.
        reviews: file of reviews in `path`, if it has a name of its own.
        metadata: file of metadata in `path`, if it has a name of its own; `none` for items without
            content.
        core: see `read_amazon`, as for the following.
        min_rating: lowest rating that counts.
        duplicates: `first`, `last` or `keep`.
        order: `file` or `shuffled-day`.
        seed: of the shuffle.
        skip_broken: leave out and count lines that cannot be read.
        name: of the dataset; version and category by default.
        sha256: expected checksums of downloaded files by name.

    Raises:
        ConfigError: if an option is out of range.
        DataError: naming file and line of what is wrong.
        ArtefactError: if the folder cannot be written.
    """
    check_dataset_target(folder)
    _check_options(core, duplicates, order, seed)
    place = None if path is None else Path(path)
    if download:
        if category is None or reviews is not None or metadata not in (None, "none"):
            raise ConfigError(
                "download needs a category, such as Beauty or Sports_and_Outdoors, and chooses the "
                "files itself; leave out reviews and metadata (or set metadata to none)"
            )
        place = place or cache_folder(f"amazon{version}")
        for url in amazon_urls(version, category)[: 1 if metadata == "none" else 2]:
            file = url.rsplit("/", 1)[1]
            fetch(url, place / file, (sha256 or {}).get(file))
            if reviews is None:
                reviews = file
            else:
                metadata = file
    if place is None:
        raise ConfigError("give the folder with the files as path, or set download")
    files = find_files(place, category, reviews, metadata)
    items, interactions, info = read_amazon(
        *files,
        core=core,
        min_rating=min_rating,
        duplicates=duplicates,
        order=order,
        seed=seed,
        skip_broken=skip_broken,
    )
    info["name"] = name or info["name"]
    return write_dataset(
        folder, items, interactions, info, timestamp_unit="s", interactions_name=str(files[0])
    )


def find_files(
    path: Path, category: str | None, reviews: str | None = None, metadata: str | None = None
) -> tuple[Path, Path | None]:
    """The files of reviews and metadata in a folder; 5-core reviews rather than all of them.

    Raises:
        DataError: if one is missing or it is not clear which one is meant.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected the one with the publisher's files")
    if reviews is not None:
        reviews_file = path / reviews
    else:
        candidates = [p for p in sorted(path.iterdir()) if _category_of(p) and not _is_metadata(p)]
        matching = [p for p in candidates if category in (None, _category_of(p))]
        matching = [p for p in matching if "_5." in p.name] or matching
        if len(matching) != 1:
            listing = ", ".join(p.name for p in candidates[:10]) or "none"
            problem = "no reviews" if not matching else "several files of reviews"
            what = f" of category {category}" if category else ""
            raise DataError(
                f"{path}: {problem}{what} (review files there: {listing}); expected for example "
                "reviews_Beauty_5.json.gz; say which with category or reviews"
            )
        reviews_file = matching[0]
    if metadata == "none":
        return reviews_file, None
    if metadata is not None:
        return reviews_file, path / metadata
    of = category or _category_of(reviews_file)
    for ending in ENDINGS:
        if (path / f"meta_{of}{ending}").is_file():
            return reviews_file, path / f"meta_{of}{ending}"
    raise DataError(
        f"{path}: no meta_{of}.json.gz or .jsonl.gz beside {reviews_file.name}; fetch it, say "
        "which file it is with metadata, or set metadata to none for items without titles"
    )


def _is_metadata(path: Path) -> bool:
    return path.name.startswith("meta_")


def _category_of(path: Path) -> str:
    """Category in a file name of the publisher, "" if it is none."""
    for ending in ENDINGS:
        if path.name.endswith(ending):
            stem = path.name.removesuffix(ending)
            return stem.removeprefix("reviews_").removeprefix("meta_").removesuffix("_5")
    return ""


def _check_options(core: int, duplicates: str, order: str, seed: int) -> None:
    for option, value, choices in (
        ("duplicates", duplicates, ("first", "last", "keep")),
        ("order", order, ("file", "shuffled-day")),
    ):
        if value not in choices:
            raise ConfigError(f"{option} {value!r}: choose from {', '.join(choices)}")
    if core < 0 or seed < 0:
        raise ConfigError(f"core is {core}, seed is {seed}; expected numbers >= 0")


def _distinct(reviews: Reviews, *, last: bool) -> np.ndarray:
    """Rows of the first (or last) review of each user and item, in order; reviews are in time."""
    pair = reviews.users.astype(np.int64) * len(reviews.item_ids) + reviews.items
    if last:
        return np.sort(len(pair) - 1 - np.unique(pair[::-1], return_index=True)[1])
    return np.sort(np.unique(pair, return_index=True)[1])


def _sorted_ids(reviews: Reviews) -> tuple[pa.Array, np.ndarray]:
    """Ids of the items that occur, sorted, and the item of every review as a number into them."""
    used, items = np.unique(reviews.items, return_inverse=True)
    ids = reviews.item_ids.take(pa.array(used))
    by_id = pc.sort_indices(ids)
    rank = np.empty(len(used), dtype=np.int64)
    rank[by_id.to_numpy()] = np.arange(len(used))
    return ids.take(by_id), rank[items]
