"""The report as one HTML page that needs no network and no other file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import genrec
from genrec.artefacts import replacing
from genrec.errors import ConfigError
from genrec.evaluation.beams import BeamStudy
from genrec.evaluation.examples import Example
from genrec.evaluation.html_sections import (
    examples_section,
    protocol_section,
    rankers_section,
    vocabulary_section,
)
from genrec.evaluation.markup import image, metric_name, section, table
from genrec.evaluation.report import comparison, describe, headline_metric, number, span
from genrec.evaluation.results import Evaluation, best_first
from genrec.evaluation.slices import Slice
from genrec.evaluation.style import CSS

Slices = Mapping[str, Mapping[str, Sequence[Slice]]]

_UNPROVEN = "Not certified means not proven, not wrong; --exact true proves every list."


def write_report(
    path: str | os.PathLike[str],
    evaluations: Sequence[Evaluation],
    *,
    title: str,
    slices: Slices | None = None,
    beams: Mapping[str, BeamStudy] | None = None,
    facts: Mapping[str, Any] | None = None,
    vocabularies: Mapping[str, Mapping[str, Any]] | None = None,
    examples: Sequence[Example] = (),
    rankers: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write the report.

    Args:
        path: the page.
        evaluations: rankers on one split; the first is the one the report compares to the best,
            whose figures stand on top.
        title: heading of the page.
        slices: what was cut by (`training popularity of the target`) to each ranker's slices.
        beams: name of a ranker to its beam widths against exact search.
        facts: protocol facts shown as they are (dataset, order within a day, fingerprints ...).
        vocabularies: name to the summary of a SID vocabulary; nested mappings get sub-headings.
        examples: histories beside recommendations.
        rankers: name of a ranker to what is known of it beside its evaluation (seed, time of the
            training, fingerprints); one row each.

    Raises:
        ConfigError: if there is no evaluation, or they are of different splits or masks.
        ArtefactError: if the page cannot be written.
    """
    page = render(
        evaluations,
        title=title,
        slices=slices,
        beams=beams,
        facts=facts,
        vocabularies=vocabularies,
        examples=examples,
        rankers=rankers,
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def render(
    evaluations: Sequence[Evaluation],
    *,
    title: str,
    slices: Slices | None = None,
    beams: Mapping[str, BeamStudy] | None = None,
    facts: Mapping[str, Any] | None = None,
    vocabularies: Mapping[str, Mapping[str, Any]] | None = None,
    examples: Sequence[Example] = (),
    rankers: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The page as text; arguments as for `write_report`."""
    if not evaluations:
        raise ConfigError("there is no evaluation to report")
    first = evaluations[0]
    for other in evaluations[1:]:
        if (other.split, list(other.searches), other.ks) != (
            first.split,
            list(first.searches),
            first.ks,
        ):
            raise ConfigError(
                f"{first.ranker!r} and {other.ranker!r} differ in split, masks or list lengths; "
                "a report compares rankers under one protocol"
            )
    parts = [
        _cards(_best(evaluations)),
        *(_comparison(evaluations, mask) for mask in first.searches),
        _bars(evaluations),
    ]
    if slices:
        parts.append(_slices(first, slices))
    parts += [_beams(study, name) for name, study in (beams or {}).items()]
    parts += [protocol_section(first, facts or {}), rankers_section(evaluations, rankers or {})]
    parts += [vocabulary_section(name, summary) for name, summary in (vocabularies or {}).items()]
    if examples:
        parts.append(examples_section(examples))
    items = first.facts.get("items")
    catalogue = f", {items:,} items" if isinstance(items, int) else ""
    pool = first.facts.get("candidates")
    ranking = "full ranking" if pool is None else f"ranking within a pool of {pool:,} items"
    subtitle = f"{first.split} split, {len(first):,} users{catalogue}, {ranking}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n"
        + "\n".join(parts)
        + f"\n<footer>genrec {escape(genrec.__version__)}</footer>\n</main>\n</body>\n</html>\n"
    )


def _best(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The best ranker by the ordering metric of the first mask."""
    first = evaluations[0]
    return best_first(evaluations, next(iter(first.searches)), headline_metric(first))[0]


def _cards(first: Evaluation) -> str:
    """The figures of one ranker, the best one, which they name."""
    metric = headline_metric(first)
    told = f", told the {first.told.replace(', ', ' and ')} of the target" if first.told else ""
    ordering = next(iter(first.searches))
    cards = [("Best ranker", first.ranker, f"by {metric_name(metric)}, {ordering}{told}")]
    for mask in first.searches:
        found = first.metrics[f"{first.split}/{mask}/{metric}"]
        cards.append(
            (f"{metric_name(metric)}, {mask}", number(found.value), f"95% interval {span(found)}")
        )
    width = first.facts.get("beam_width")
    search = "exact search" if first.facts.get("exact") else f"beam width {width}"
    cards.append(
        (
            f"Users with a proven top {first.ks[-1]}",
            f"{first.value(ordering, 'certificate_rate'):.1%}",
            search,
        )
    )
    seconds = first.facts.get("seconds", sum(s.seconds for s in first.searches.values()))
    parameters = first.facts.get("parameters")
    cards.append(
        (
            "Evaluation time",
            f"{seconds:.1f} s",
            f"{parameters:,} parameters" if isinstance(parameters, int) else "",
        )
    )
    cells = "".join(
        f'<div class="card"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="more">{escape(more)}</div></div>'
        for label, value, more in cards
    )
    return f'<div class="cards">{cells}</div>'


def _comparison(evaluations: Sequence[Evaluation], mask: str) -> str:
    first = evaluations[0]
    metric = headline_metric(first)
    rows = comparison(evaluations, mask)
    tuples = any(evaluation.has_tuples for evaluation in evaluations)
    names = [f"{name}@{k}" for name in ("recall", "ndcg") for k in first.ks] + [
        f"mrr@{first.ks[-1]}"
    ]
    best = {name: max(e.value(mask, name) for e, _ in rows) for name in names}
    told = any(evaluation.told for evaluation in evaluations)
    longest = metric.partition("@")[2]
    head = [
        "ranker",
        *(["told"] if told else []),
        *map(metric_name, names),
        "to the best",
        "certified",
        "seconds",
    ]
    if tuples:
        head.append(f"tuple-level recall@{longest}")
    body = []
    for place, (evaluation, difference) in enumerate(rows):
        cells = [f"<td>{escape(evaluation.ranker)}</td>"]
        if told:
            cells.append(f"<td>{evaluation.told or '-'}</td>")
        for name in names:
            found = evaluation.metrics[f"{evaluation.split}/{mask}/{name}"]
            detail = f'<span class="span">{span(found)}</span>' if name == metric else ""
            top = ' class="top"' if evaluation.value(mask, name) == best[name] else ""
            cells.append(f"<td{top}>{number(found.value)}{detail}</td>")
        gap = "best" if place == 0 else describe(difference)
        detail = "" if difference is None else f'<span class="span">{span(difference)}</span>'
        cells.append(f"<td>{gap}{detail}</td>")
        cells.append(f"<td>{evaluation.value(mask, 'certificate_rate'):.1%}</td>")
        cells.append(f"<td>{evaluation.searches[mask].seconds:.1f}</td>")
        if tuples:
            shown = "-"
            if evaluation.has_tuples:
                shown = number(evaluation.value(mask, f"tuple_recall@{longest}"))
            cells.append(f"<td>{shown}</td>")
        body.append((cells, place == 0))
    note = (
        "All items may be recommended."
        if mask == "unmasked"
        else "The items of each user's history are left out inside the search."
    )
    repeated = first.facts.get("targets_in_history")
    if mask == "masked" and repeated:
        note += f" {repeated:.2%} of the targets are in the history themselves and count as misses."
    rest = (
        " Item level, collisions by expectation, intervals by bootstrap over users. The difference"
        f" to the best is in {metric_name(metric)} and paired, user by user; ~ marks one whose"
        f" interval holds zero. Certified: users whose top {first.ks[-1]} is proven exact."
        f" {_UNPROVEN}"
    )
    if told:
        rest += (
            " Told: what a ranker knew of the event to be predicted, and others did not. Compare "
            "those that knew the same."
        )
    if tuples:
        rest += (
            " Tuple-level recall counts every item of a hit tuple as a hit and is shown only to"
            " compare with work that reports it."
        )
    return section(
        f"Results, {mask}",
        f'<p class="verdict">{_verdict(evaluations, mask, metric)}</p>'
        f'<p class="note">{note}{rest}</p>' + table(head, body),
    )


def _verdict(evaluations: Sequence[Evaluation], mask: str, metric: str) -> str:
    """One sentence that says who wins, also when it is a baseline."""
    first = evaluations[0]
    if len(evaluations) == 1:
        return f"{escape(first.ranker)} alone; there is no other ranker to compare it with."
    ranked = best_first(evaluations, mask, metric)
    if ranked[0] is first:
        rival = ranked[1]
        values = _against(first.value(mask, metric), rival.value(mask, metric), metric)
        text = f"<b>{escape(first.ranker)}</b> is ahead of <b>{escape(rival.ranker)}</b>{values}"
    else:
        rival = ranked[0]
        values = _against(rival.value(mask, metric), first.value(mask, metric), metric)
        text = f"<b>{escape(rival.ranker)}</b> beats <b>{escape(first.ranker)}</b>{values}"
    if first.same_users(rival) and not first.minus(rival, mask, metric).significant:
        text += ", but the difference could be chance"
    return text + "."


def _against(better: float, worse: float, metric: str) -> str:
    return f": {number(better)} against {number(worse)} in {metric_name(metric)}"


def _bars(evaluations: Sequence[Evaluation]) -> str:
    from genrec.evaluation.plots import data_uri, metric_bars  # matplotlib is slow to import

    first = evaluations[0]
    k = headline_metric(first).partition("@")[2]
    figure = metric_bars(evaluations, list(first.searches), [f"recall@{k}", f"ndcg@{k}"])
    return section(
        "Metrics with intervals", image(data_uri(figure), f"Recall and NDCG at {k} per ranker")
    )


def _slices(first: Evaluation, slices: Slices) -> str:
    """One plot and one table per cut, shown for the last mask and the ordering metric."""
    mask = list(first.searches)[-1]
    body = ""
    for heading, cut in slices.items():
        shown = next(part for parts in cut.values() for part in parts).metrics
        key = f"{mask}/{headline_metric(first)}"
        body += _one_cut(cut, key if key in shown else next(iter(shown)), heading, mask)
    return section("Slices", body)


def _one_cut(cut: Mapping[str, Sequence[Slice]], key: str, heading: str, mask: str) -> str:
    from genrec.evaluation.plots import data_uri, slice_bars

    title = f"By {heading} ({mask})"
    figure = slice_bars(cut, key, title=title, xlabel=heading)
    keys = list(next(iter(cut.values()))[0].metrics)
    head = ["ranker", "slice", "users"]
    head += [f"{metric_name(name)}, {mask}" for mask, name in (key.split("/") for key in keys)]
    body = []
    for ranker, parts in cut.items():
        for part in parts:
            cells = [f"<td>{escape(ranker)}</td>", f"<td>{escape(part.name)}</td>"]
            cells.append(f"<td>{part.users:,}</td>")
            for name in keys:
                found = part.metrics[name]
                cells.append(
                    f'<td>{number(found.value)}<span class="span">{span(found)}</span></td>'
                )
            body.append((cells, False))
    details = f"<details><summary>as a table</summary>{table(head, body, title)}</details>"
    return image(data_uri(figure), title) + details


def _beams(study: BeamStudy, ranker: str) -> str:
    from genrec.evaluation.plots import beam_curves, data_uri

    head = [
        "search",
        f"recall of the exact top {study.k}",
        "certified",
        f"Recall@{study.k}",
        f"NDCG@{study.k}",
        "leaked mass",
        "prefixes expanded",
        "ms per user",
    ]
    body = [
        (
            [
                f"<td>{escape(row.name)}</td>",
                f"<td>{row.list_recall:.4f}</td>",
                f"<td>{row.certificate_rate:.1%}</td>",
                f"<td>{number(row.recall)}</td>",
                f"<td>{number(row.ndcg)}</td>",
                f"<td>{row.leaked_mass:.4f}</td>",
                f"<td>{row.evaluations:.1f}</td>",
                f"<td>{1000 * row.seconds / study.users:.3f}</td>",
            ],
            False,
        )
        for row in study.rows
    ]
    wrong = sum(row.false_certificates for row in study.rows)
    note = (
        f"{study.users:,} users, {'masked' if study.masked else 'unmasked'}: each width against "
        "exact search. A certified list is proven to be the exact one; "
        f"{wrong} certified lists differed from exact search. {_UNPROVEN}"
    )
    return section(
        f"Beam width against recall and time, {ranker}",
        f'<p class="note">{escape(note)}</p>'
        + image(data_uri(beam_curves(study)), "Recall, certificates and time by beam width")
        + table(head, body),
    )
