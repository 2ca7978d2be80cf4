"""A SID vocabulary, or two side by side, as one HTML page that needs no network and no server."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import genrec
from genrec.artefacts import replacing
from genrec.data import Catalog
from genrec.evaluation.markup import facts, plain, section, table
from genrec.evaluation.style import CSS
from genrec.pipeline.inspect_data import PageData, page_data
from genrec.tokenizers import SidVocabulary, churn
from genrec.tokenizers.churn import churn_rows
from genrec.tokenizers.inspection import popularity_rows

# Nothing may be loaded, whatever the data hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_FEW_LEVELS = 4
_SINGLE = 0.99  # levels at which nearly all prefixes have one child need no distribution


@dataclass(frozen=True)
class Inspected:
    """A SID vocabulary and what `inspect_vocabulary` found."""

    name: str
    vocabulary: SidVocabulary
    figures: Mapping[str, Any]


def write_page(
    path: str | os.PathLike[str],
    shown: Sequence[Inspected],
    *,
    catalog: Catalog | None = None,
    title_column: str = "title",
    category_column: str | None = None,
    counts: np.ndarray | None = None,
    title_bytes: int = 32_000_000,
) -> Path:
    """Write the page.

    Args:
        path: the page.
        shown: one vocabulary, or two of the same items.
        catalog: titles and categories of the items of the first vocabulary.
        title_column: column of titles.
        category_column: column of categories.
        counts: `int [N]`, how often each item of the first vocabulary occurs in training.
        title_bytes: at most so many bytes of titles; the page says what was left out.

    Raises:
        ArtefactError: if the vocabularies are of different items, or the page cannot be written.
    """
    data = page_data(
        [one.vocabulary for one in shown],
        catalog=catalog,
        title_column=title_column,
        category_column=category_column,
        counts=counts,
        title_bytes=title_bytes,
    )
    page = _page(shown, data)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def _page(shown: Sequence[Inspected], data: PageData) -> str:
    first = shown[0]
    title = " and ".join(one.name for one in shown)
    items = len(first.vocabulary)
    parts = [
        *(_cards(one.figures, one.name if len(shown) > 1 else "") for one in shown),
        _tree(shown, data),
        _both("Use of the codes", shown, _usage),
        _both("Prefixes and fan-out", shown, _prefixes),
        _both("Buckets", shown, _buckets),
        _both("Neighbours", shown, _neighbours),
        _both("Distortion, popularity and ranks", shown, _more),
        _both("How it was built", shown, _build),
    ]
    if len(shown) > 1:
        parts.insert(-1, _changes(shown))
    own = files("genrec.pipeline")
    style = CSS + own.joinpath("inspect_page.css").read_text(encoding="utf-8")
    script = own.joinpath("inspect_page.js").read_text(encoding="utf-8")
    plural = "vocabularies" if len(shown) > 1 else "vocabulary"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<main{' class=two' if len(shown) > 1 else ''}>\n"
        f"<header><h1>{escape(title)}</h1>"
        f"<p>SID {plural} of {items:,} items</p></header>\n"
        + "\n".join(parts)
        + f"\n<footer>genrec {escape(genrec.__version__)}, samples drawn with seed "
        f"{first.figures['seed']}</footer>\n</main>\n"
        f'<script type="application/json" id="tree-header">{data.header_json()}</script>\n'
        f'<script type="text/plain" id="tree-data">{data.blob()}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _both(
    heading: str, shown: Sequence[Inspected], part: Callable[[Mapping[str, Any], int], str]
) -> str:
    """A section with the same part of each vocabulary; none if there is nothing to say."""
    parts = [part(one.figures, which) for which, one in enumerate(shown)]
    if not any(parts):
        return ""
    if len(shown) == 1:
        return section(heading, parts[0])
    body = "".join(
        f"<div><h3>{escape(one.name)}</h3>{part}</div>"
        for one, part in zip(shown, parts, strict=True)
    )
    return section(heading, f'<div class="pair">{body}</div>')


def _cards(figures: Mapping[str, Any], name: str) -> str:
    levels = figures["levels"]
    used = sum(level["used"] for level in levels) / sum(level["codes"] for level in levels)
    dead = sum(level["dead"] for level in levels)
    flattery = figures.get("popularity", {}).get("flattery", figures["flattery"])
    cards = [
        ("Items that share a tuple", f"{figures['collision_share']:.2%}", _collided(figures)),
        ("Codes in use", f"{used:.1%}", f"{dead:,} dead"),
        (
            "Tuple-level hits flatter by",
            f"{flattery:.3f}\u00d7",
            "targets as frequent as in training"
            if "popularity" in figures
            else "each item as target equally often",
        ),
    ]
    distortion = figures.get("distortion")
    if distortion:
        which = "unseen" if "unseen" in distortion else "all"
        cards.append(
            (
                f"Distortion, {which} items",
                f"{distortion[which]['relative_to_variance']:.1%}",
                f"of the variance; {distortion[which]['items']:,} items",
            )
        )
    found = figures["neighbours"]
    by = found.get("vectors", {})
    kept = by.get("reconstruction", by.get("prefix"))
    if kept is not None:
        how = "reconstruction" if "reconstruction" in by else "prefix"
        cards.append(
            (f"Neighbours kept, of {found['k']}", f"{kept:.1%}", f"by {how}; {_asked(found)}")
        )
    cells = "".join(
        f'<div class="card"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="more">{escape(more)}</div></div>'
        for label, value, more in cards
    )
    heading = f"<h3>{escape(name)}</h3>" if name else ""
    return f'{heading}<div class="cards">{cells}</div>'


def _collided(figures: Mapping[str, Any]) -> str:
    return f"{figures['tuples']:,} tuples, largest bucket {figures['largest_bucket']['size']:,}"


def _asked(found: Mapping[str, Any]) -> str:
    return f"{found['queries']:,} items asked, {found['candidates']:,} searched"


def _tree(shown: Sequence[Inspected], data: PageData) -> str:
    note = (
        "Open a prefix to see what lies below it; a row with several codes is a way without forks. "
        "Keys: arrows, Home, End, Enter. The address of the page changes with the prefix, so that "
        "a link leads back to it."
    )
    if data.left_out:
        note += f" <b>Left out:</b> {escape(' '.join(data.left_out))}"
    trees = "".join(
        f"<div>{f'<h3>{escape(one.name)}</h3>' if len(shown) > 1 else ''}"
        f'<ul class="tree" role="tree" id="tree-{which}" '
        f'aria-label="Prefixes of {escape(one.name)}"></ul></div>'
        for which, one in enumerate(shown)
    )
    bar = (
        '<div class="bar"><form id="search" role="search">'
        '<input id="words" type="search" placeholder="words of a title, an id, or codes: 12/7" '
        'aria-label="Find items or a prefix"><button class="go">find</button></form>'
        '<select id="order" aria-label="Order of the rows"><option value="code">in order of code'
        '</option><option value="size">largest first</option></select></div>'
        '<div id="results" aria-live="polite"></div>'
    )
    script = "<noscript><p>The tree needs JavaScript; nothing is loaded.</p></noscript>"
    return section(
        "Walk the tree", f'<p class="note">{note}</p>{bar}<div class="pair">{trees}</div>{script}'
    )


def _usage(figures: Mapping[str, Any], which: int) -> str:
    levels = figures["levels"]
    maps = "".join(
        f'<figure><canvas data-usage="usage_{which}_{number}" role="img" '
        f'aria-label="Use of the codes of level {number}: {level["used"]:,} of {level["codes"]:,} '
        f'used"></canvas><figcaption><b>level {number}</b> {level["used"]:,} of {level["codes"]:,}'
        f"<br>perplexity {level['perplexity']:,.0f}, Gini {level['gini']:.2f}</figcaption></figure>"
        for number, level in enumerate(levels)
    )
    head = ["level", "codes", "used", "dead", "utilisation", "perplexity", "Gini"]
    rows = [_cells(number, *_use(level)) for number, level in enumerate(levels)]
    body = (
        '<div class="legend"><span><i style="background:var(--dead)"></i>dead</span>'
        '<span><i style="background:var(--cold)"></i>rare</span>'
        '<span><i style="background:var(--hot)"></i>the level\'s most frequent</span></div>'
        f'<div class="maps{" few" if len(levels) <= _FEW_LEVELS else ""}">{maps}</div>'
        f"<details><summary>as a table</summary>{table(head, rows)}</details>"
    )
    if "facets" in figures:
        head = ["facet", "levels", *head[1:], "distinct tuples"]
        rows = [
            _cells(
                number,
                f"{facet['first_level']}-{facet['first_level'] + facet['levels'] - 1}",
                *_use(facet),
                f"{facet['tuples']:,}",
            )
            for number, facet in enumerate(figures["facets"])
        ]
        body += f"<h3>Facets (perplexity and Gini: means over their levels)</h3>{table(head, rows)}"
    return body


def _use(part: Mapping[str, Any]) -> list[str]:
    return [
        f"{part['codes']:,}",
        f"{part['used']:,}",
        f"{part['dead']:,}",
        f"{part['utilisation']:.1%}",
        f"{part['perplexity']:,.1f}",
        f"{part['gini']:.3f}",
    ]


def _prefixes(figures: Mapping[str, Any], which: int) -> str:
    purity = figures.get("purity", {}).get("prefixes")
    head = ["codes", "prefixes", "children, mean", "median", "max", "single child"]
    note = "Children per prefix, by the number of codes the prefix has."
    if purity:
        column = figures["purity"]
        head += ["purity", "shuffled"]
        note += (
            f" Purity: share of the {column['items']:,} items with a category in "
            f"{column['column']!r} that are of the largest of their prefix; shuffled: the same "
            "with the categories dealt out at random. Small prefixes are pure either way."
        )
    rows = []
    for depth in range(len(figures["levels"]) + 1):
        last = depth == len(figures["fan_out"])
        if last:
            cells: list[Any] = [depth, f"{figures['tuples']:,}", "", "", "", ""]
        else:
            level = figures["fan_out"][depth]
            cells = [depth, f"{level['nodes']:,}", f"{level['mean']:,.2f}"]
            cells += [f"{level['median']:,g}", f"{level['max']:,}"]
            cells.append(f"{level['single_child_share']:.1%}")
        if purity:
            cells += [f"{purity[depth][key]:.1%}" for key in ("purity", "shuffled")]
        rows.append(_cells(*cells))
    forked = [
        _bins(level["histogram"], "1 code" if depth == 1 else f"{depth} codes", "prefixes")
        for depth, level in enumerate(figures["fan_out"])
        if depth and level["single_child_share"] < _SINGLE
    ]
    maps = ""
    if forked:
        few = " few" if len(forked) < _FEW_LEVELS else ""
        maps = (
            "<h3>Prefixes by their number of children, up to</h3>"
            f'<div class="maps{few}">{"".join(forked)}</div>'
        )
    return f'<p class="note">{escape(note)}</p>{table(head, rows)}{maps}'


def _bins(histogram: Sequence[Sequence[int]], name: str, what: str) -> str:
    """A bar per bin 1, 2, 3-4, 5-8 ..., as high as the number in it."""
    total = sum(count for _, _, count in histogram)
    most = max(count for _, _, count in histogram)
    bars = "".join(
        f'<div title="{low:,} to {high:,}: {count:,} {what}">'
        f'<i style="height:{60 * count / most:.1f}px"></i><span>{_short(high)}</span></div>'
        for low, high, count in histogram
    )
    return (
        f'<figure><div class="bins">{bars}</div>'
        f"<figcaption><b>{escape(name)}</b> {total:,} {what}</figcaption></figure>"
    )


def _short(value: int) -> str:
    return f"{value // 1024}k" if value >= 1024 else str(value)


def _buckets(figures: Mapping[str, Any], which: int) -> str:
    if not figures["largest_buckets"]:
        return '<p class="note">No two items share a tuple.</p>'
    rows = []
    for bucket in figures["largest_buckets"]:
        sid = "/".join(map(str, bucket["codes"]))
        titles = "; ".join(bucket["items"])
        titles += "; \u2026" if bucket["size"] > len(bucket["items"]) else ""
        rows.append(
            (
                [
                    f'<td class="sid"><a href="#{"other" if which else ""}/{sid}">{sid}</a></td>',
                    f"<td>{bucket['size']:,}</td>",
                    f'<td class="text">{escape(titles)}</td>',
                ],
                False,
            )
        )
    bins = _bins(figures["bucket_sizes"], "all", "tuples")
    note = f'<p class="note">The largest of {figures["tuples"]:,} buckets.</p>'
    largest = table(["semantic ID", "items", "titles"], rows)
    return (
        f"{note}{largest}<h3>Tuples by their number of items, up to</h3>"
        f'<div class="maps few">{bins}</div>'
    )


def _neighbours(figures: Mapping[str, Any], which: int) -> str:
    found = figures["neighbours"]
    truths = {"vectors": "in the vectors", "co_consumption": "taken by the same users"}
    kept = [name for name in truths if name in found]
    if not kept:
        return ""
    note = (
        f"Mean share of an item's {found['k']} nearest items that are among the {found['k']} "
        f"nearest in codes ({_asked(found)}); equals in random order, by expectation."
    )
    if "co_consumption" in found:
        part = found["co_consumption"]
        note += (
            f" {part['queries']:,} of them were taken together with others in the training "
            f"histories of {part['users']:,} users."
        )
    spearman = found.get("vectors", {}).get("spearman")
    if spearman is not None:
        note += (
            f" The rank correlation (Spearman) of the distances of "
            f"{found['vectors']['pairs']:,} pairs of items before and after is {spearman:.3f}."
        )
    labels = {
        "vectors": "the vectors themselves",
        "reconstruction": "vectors the codes stand for",
        "prefix": "leading codes in common",
        "chance": "chance",
    }
    rows = []
    for name, label in labels.items():
        values = [found[truth].get(name) for truth in kept]
        if any(value is not None for value in values):
            shown = ("" if value is None else f"{value:.4f}" for value in values)
            rows.append(_cells(label, *shown))
    head = ["nearest by", *(truths[name] for name in kept)]
    return f'<p class="note">{escape(note)}</p>{table(head, rows)}'


def _more(figures: Mapping[str, Any], which: int) -> str:
    rows: dict[str, str] = {}
    for name, part in figures.get("distortion", {}).items():
        rows[f"distortion, {name} items ({part['items']:,})"] = (
            f"{part['relative_to_variance']:.2%} of the variance"
        )
    if "popularity" in figures:
        rows |= dict(popularity_rows(figures["popularity"]))
    rows["tuple-level hits flatter, items alike"] = f"{figures['flattery']:.3f}x"
    ranks = figures["effective_rank"]
    if "vectors" in ranks:
        rows["effective rank of the vectors"] = (
            f"{ranks['vectors']:.1f} of {ranks['dimensions']:,} ({ranks['rows']:,} items)"
        )
    for level, rank in enumerate(ranks.get("codebooks", [])):
        rows[f"effective rank of codebook {level}"] = f"{rank:.1f}"
    return f'<div class="flow">{facts(rows)}</div>'


def _build(figures: Mapping[str, Any], which: int) -> str:
    build = dict(figures["build"])
    rows: dict[str, Any] = {
        "fingerprint": figures["fingerprint"],
        "codebook sizes": figures["codebook_sizes"],
        "collision policy": figures["collision_policy"],
        "trie, bytes per item": f"{figures['search_bytes_per_item']:.1f} searched, "
        f"{figures['bytes_per_item']:.1f} in all",
    }
    nested = {key: value for key, value in build.items() if isinstance(value, Mapping)}
    rows |= {key: value for key, value in build.items() if key not in nested and value is not None}
    blocks = "".join(f"<h3>{escape(key)}</h3>{facts(value)}" for key, value in nested.items())
    return f'<div class="flow">{facts(rows)}{blocks}</div>'


def _changes(shown: Sequence[Inspected]) -> str:
    """What a model trained with the first vocabulary would have to unlearn for the second."""
    first, second = shown
    rows = dict(churn_rows(churn(first.vocabulary, second.vocabulary)))
    heading = f"From {first.name} to {second.name}"
    return section(heading, f'<div class="flow">{facts(rows)}</div>')


def _cells(*values: Any) -> tuple[list[str], bool]:
    return [f"<td>{escape(plain(value))}</td>" for value in values], False
