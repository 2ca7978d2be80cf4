"""Pieces of HTML that the report is put together from; everything given is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any


def section(heading: str, body: str) -> str:
    """A titled block of the page."""
    return f"<section><h2>{escape(heading)}</h2>{body}</section>"


def table(head: Iterable[str], body: Iterable[tuple[list[str], bool]], caption: str = "") -> str:
    """A table; `body` holds rows of ready `<td>` cells and whether the row is the best."""
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    titles = "".join(f"<th>{escape(title).replace('@', '<wbr>@')}</th>" for title in head)
    rows = "".join(
        f"<tr{' class=best' if best else ''}>{''.join(cells)}</tr>" for cells, best in body
    )
    return (
        f'<div class="scroll"><table>{above}<thead><tr>{titles}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def facts(values: Mapping[str, Any]) -> str:
    """Names and values, one per line."""
    return "".join(
        f'<div class="fact"><span>{escape(words(key))}</span>'
        f"<span>{escape(plain(value))}</span></div>"
        for key, value in values.items()
    )


def image(source: str, alt: str) -> str:
    """An image from a data URI."""
    return f'<img src="{source}" alt="{escape(alt)}">'


def plain(value: Any) -> str:
    """A value as a reader wants it: thousands separated, four significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{words(key)} {plain(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(part) for part in value)
    return str(value)


def words(key: str) -> str:
    """A key without underscores."""
    return str(key).replace("_", " ")


def metric_name(name: str) -> str:
    """`ndcg@10` as `NDCG@10`."""
    metric, _, k = name.partition("@")
    title = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR"}.get(metric, metric)
    return f"{title}@{k}" if k else title
