"""How large the page of a SID vocabulary is, and how long it takes to make.

    python scripts/bench_inspect.py --items 1000000 --out /tmp/million.html

Codes are drawn with uneven frequencies (three levels of 256), titles have about 48 characters, and
every item has one of 900 categories. Titles drawn at random compress worse than real ones.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pyarrow as pa

from genrec.data import Catalog, Histories
from genrec.pipeline.inspect_page import Inspected, write_page
from genrec.tokenizers import SidVocabulary, inspect_vocabulary

WORDS = (
    "lipstick shampoo vinyl lamp garden steel cotton organic travel kit deluxe mini large blue red "
    "green black series edition classic set pack brush cream phone case cable stand holder cover"
)
CODES = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--title_bytes", type=int, default=100_000_000)
    parser.add_argument("--out", default="inspect.html")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, CODES + 1) ** 0.7
    first, second = rng.choice(CODES, (2, options.items), p=weights / weights.sum())
    codes = np.column_stack([first, 7 * second % CODES, rng.integers(0, CODES, options.items)])
    known = np.array(WORDS.split())
    words = known[rng.integers(0, len(known), (options.items, 7))].tolist()
    catalog = Catalog(
        pa.table(
            {
                "item_id": [f"B{number:09d}" for number in range(options.items)],
                "title": [" ".join((*row, str(number))) for number, row in enumerate(words)],
                "category": [", ".join(row[:2]) for row in words],
            }
        )
    )
    lengths = rng.integers(3, 12, options.users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    histories = Histories(offsets, rng.integers(0, options.items, offsets[-1]))
    vocabulary = SidVocabulary(codes, catalog.item_ids, [CODES] * 3)
    started = time.perf_counter()
    figures = inspect_vocabulary(
        vocabulary, catalog=catalog, histories=histories, category_column="category"
    )
    print(f"figures: {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    page = write_page(
        options.out,
        [Inspected("vocabulary", vocabulary, figures)],
        catalog=catalog,
        category_column="category",
        counts=histories.counts(options.items),
        title_bytes=options.title_bytes,
    )
    seconds = time.perf_counter() - started
    print(f"page: {seconds:.1f} s, {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
