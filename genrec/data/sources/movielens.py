"""MovieLens as GroupLens ships it: `ml-latest-small` (csv) and `ml-1m` (fields between ::).

    prepare("movielens", "data/movies", "downloads/ml-latest-small")
    prepare("movielens", "data/movies", download=True, name="ml-1m")

F. M. Harper and J. A. Konstan, "The MovieLens datasets: history and context", TiiS 5(4):19, 2015.
"""

from __future__ import annotations

import csv
import io
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from genrec.artefacts import cache_folder
from genrec.data.dataset import Dataset, check_dataset_target, write_dataset
from genrec.data.download import download as fetch
from genrec.data.download import movielens_url
from genrec.data.sources.registry import register
from genrec.errors import ConfigError, DataError

RATINGS = {"userId": "user_id", "movieId": "item_id", "rating": "rating", "timestamp": "timestamp"}
MOVIES = {"movieId": "item_id", "title": "title", "genres": "genres"}
TAGS = {"userId": "user_id", "movieId": "item_id", "tag": "tag"}
# The year stands at the end in parentheses; series have a span of years after a dash.
TITLE = r"^(?P<title>.*?)\s*\((?P<year>\d{4})(?:[-\u2013]\d{0,4})?\)\s*$"
NO_GENRES = "(no genres listed)"
LICENCE = "GroupLens: research use, no commercial use without permission; see its README"


def read_movielens(
    path: str | PathLike[str],
    *,
    min_rating: float | None = None,
    tags: bool = True,
    all_movies: bool = False,
) -> tuple[pa.Table, pa.Table, dict[str, Any]]:
    """Read the publisher's folder or zip archive.

    Args:
        path: folder, or zip, with `ratings.csv` and `movies.csv` (and `tags.csv`), or with
            `ratings.dat` and `movies.dat`.
        min_rating: leave out lower ratings; all are kept by default.
        tags: make the different tags of a movie, most used first, a text column.
        all_movies: also keep movies that nobody rated (or not high enough).

    Returns:
        Items by number (`item_id`, `title`, `year`, `genres`, `tags`), interactions (`user_id`,
        `item_id`, `timestamp` in seconds, `rating`) with users by number and each in time order,
        ties as in the file; and what is known about them.

    Raises:
        DataError: naming file, column and row of what is wrong, or if nothing is left.
    """
    files = _find(Path(path))
    new = "ratings.csv" in files
    ending = "csv" if new else "dat"
    ratings = _read(files, f"ratings.{ending}", RATINGS)
    movies = _read(files, f"movies.{ending}", MOVIES)
    repeated = movies["item_id"].duplicated()
    if repeated.any():
        row = int(np.argmax(repeated))
        raise DataError(
            f"{files[f'movies.{ending}'][0]}: movie {movies['item_id'][row]} is there twice "
            f"(row {row + 1}); remove one"
        )
    counts = {"ratings": len(ratings)}
    if min_rating is not None:
        ratings = ratings[ratings["rating"] >= min_rating]
        if ratings.empty:
            raise DataError(f"{path}: no rating is at least {min_rating}; lower min_rating")
    ratings = ratings.sort_values(["user_id", "timestamp"], kind="stable")
    movies = movies.sort_values("item_id", kind="stable")
    if not all_movies:
        movies = movies[movies["item_id"].isin(ratings["item_id"])]
    items = _items(movies)
    if tags and "tags.csv" in files:
        items["tags"] = _tags(_read(files, "tags.csv", TAGS), items["item_id"])
    info = {
        "name": "ml-latest-small" if new else "ml-1m",
        "source": "MovieLens, GroupLens, University of Minnesota",
        "licence": LICENCE,
        "order": "file",
        "options": {"min_rating": min_rating, "tags": tags, "all_movies": all_movies},
        "read": counts,
    }
    tables = (pa.Table.from_pandas(frame, preserve_index=False) for frame in (items, ratings))
    content, interactions = (table.replace_schema_metadata(None) for table in tables)
    return content, interactions, info


@register("movielens")
def prepare_movielens(
    folder: str | PathLike[str],
    path: str | PathLike[str] | None = None,
    *,
    download: bool = False,
    name: str = "ml-latest-small",
    min_rating: float | None = None,
    tags: bool = True,
    all_movies: bool = False,
    sha256: str | None = None,
) -> Dataset:
    """Write a dataset folder from MovieLens.

    Example:
        genrec prepare movielens data/movies --path downloads/ml-latest-small

    Args:
        folder: dataset folder to write.
        path: the publisher's folder or zip; the folder where the download goes, if `download`.
        download: fetch the archive from the publisher if it is not there.
        name: what to fetch: `ml-latest-small` or `ml-1m`. What lies in a folder tells itself.
        min_rating: leave out lower ratings; all are kept by default.
        tags: make the tags of a movie a text column.
        all_movies: also keep movies that nobody rated.
        sha256: expected checksum of the archive.

    Raises:
        ConfigError: if there is nothing to read or no such archive.
        DataError: naming file, column and row of what is wrong.
        ArtefactError: if the folder cannot be written.
    """
    check_dataset_target(folder)
    if download:
        place = Path(path) if path is not None else cache_folder("movielens")
        source = fetch(movielens_url(name), place / f"{name}.zip", sha256)
    elif path is None:
        raise ConfigError("give the publisher's folder or zip as path, or set download")
    else:
        source = Path(path)
    items, interactions, info = read_movielens(
        source, min_rating=min_rating, tags=tags, all_movies=all_movies
    )
    return write_dataset(
        folder,
        items,
        interactions,
        info,
        timestamp_unit="s",
        items_name=f"{source} (movies)",
        interactions_name=f"{source} (ratings)",
    )


def _find(path: Path) -> dict[str, tuple[str, bytes]]:
    """The publisher's tables in a folder or zip: name -> (what errors call it, content)."""
    wanted = ("ratings.csv", "movies.csv", "tags.csv", "ratings.dat", "movies.dat")
    if path.is_dir():
        there = [path / name for name in wanted if (path / name).is_file()]
        files = {file.name: (str(file), file.read_bytes()) for file in there}
    elif path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                files = {
                    Path(name).name: (f"{path}: {name}", archive.read(name))
                    for name in archive.namelist()
                    if Path(name).name in wanted
                }
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"{path}: is no zip archive, or truncated ({error}); fetch it again"
            ) from error
    else:
        raise DataError(f"{path}: no such folder or zip; expected the publisher's files")
    if not any({f"ratings.{e}", f"movies.{e}"} <= set(files) for e in ("csv", "dat")):
        raise DataError(
            f"{path}: expected ratings.csv and movies.csv (ml-latest-small) or ratings.dat and "
            f"movies.dat (ml-1m); found {sorted(files) or 'neither'}"
        )
    return files


def _read(files: dict[str, tuple[str, bytes]], name: str, columns: dict[str, str]) -> pd.DataFrame:
    """A table with its columns renamed and its numbers checked."""
    where, data = files[name]
    try:
        if name.endswith(".csv"):
            frame = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
        else:
            frame = _read_dat(data.decode("latin-1"), list(columns), where)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{where}: the table is empty; fetch it again") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: is not a table ({error}); fetch it again") from error
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(
            f"{where}: column {missing[0]!r} is missing; it has {list(frame.columns)}; expected "
            f"{list(columns)}"
        )
    if frame.empty:
        raise DataError(f"{where}: the table is empty; fetch it again")
    frame = frame[list(columns)].rename(columns=columns)
    for column in frame.columns:
        if column in ("user_id", "item_id", "timestamp", "rating"):
            frame[column] = _numbers(frame[column], where, column)
    return frame


def _read_dat(text: str, columns: list[str], where: str) -> pd.DataFrame:
    # One character between fields lets the fast reader do it; control characters never occur.
    table = io.StringIO(text.replace("::", "\x1f"))
    frame = pd.read_csv(
        table, sep="\x1f", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
    )
    form = "::".join(columns)
    if len(frame.columns) != len(columns):
        raise DataError(f"{where}: row 1 has {len(frame.columns)} fields, expected {form}")
    short = (frame == "").any(axis=1).to_numpy()
    if short.any():
        raise DataError(f"{where}: row {int(np.argmax(short)) + 1} lacks a field, expected {form}")
    return frame.set_axis(columns, axis=1)


def _numbers(values: pd.Series, where: str, column: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    whole = column != "rating"
    bad = numbers.isna() | ((numbers % 1 != 0) if whole else False)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{where}: {column} in row {row + 1} is {values.iloc[row]!r}, expected a number"
        )
    return numbers.astype(np.int64 if whole else np.float32)


def _items(movies: pd.DataFrame) -> pd.DataFrame:
    """Titles without the year, the year, and genres as text."""
    parts = movies["title"].str.extract(TITLE)
    genres = movies["genres"].str.replace("|", ", ", regex=False)
    return pd.DataFrame(
        {
            "item_id": movies["item_id"],
            "title": parts["title"].fillna(movies["title"].str.strip()),
            "year": pd.to_numeric(parts["year"]).astype("Int64"),
            "genres": genres.where(~genres.isin([NO_GENRES, ""]), None),
        }
    ).reset_index(drop=True)


def _tags(tags: pd.DataFrame, item_ids: pd.Series) -> pd.Series:
    """The different tags of each movie as one text, most used first, then by name."""
    tags = tags.assign(tag=tags["tag"].str.strip().str.lower())
    tags = tags[tags["tag"] != ""]
    counts = tags.groupby(["item_id", "tag"], as_index=False).size()
    counts = counts.sort_values(["item_id", "size", "tag"], ascending=[True, False, True])
    texts = counts.groupby("item_id")["tag"].agg(", ".join)
    return item_ids.map(texts).where(lambda column: column.notna(), None)
