"""Sections of the report that list what is known: protocol, rankers, vocabularies, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from genrec.evaluation.examples import Example
from genrec.evaluation.markup import facts as fact_list
from genrec.evaluation.markup import plain, section, table, words
from genrec.evaluation.results import Evaluation

_HISTORY_SHOWN = 12


# What is said of all rankers under Protocol.
OF_ALL = ("items", "targets_in_history", "candidates", "targets_outside_candidates")


def ranked_items(evaluation: Evaluation) -> str:
    """Which items were ranked, in words."""
    pool, items = evaluation.facts.get("candidates"), evaluation.facts.get("items")
    if pool is None:
        return "whole catalogue, no sampled negatives"
    return f"only a given pool of {pool:,} items{f' of {items:,}' if items else ''}"


def protocol_section(first: Evaluation, facts: Mapping[str, Any]) -> str:
    """What holds for all rankers; `facts` are shown as they are."""
    shown: dict[str, Any] = {
        "split": first.split,
        "users evaluated": len(first),
        "candidates": ranked_items(first),
        "ties": "expectation inside a tuple or a popularity count, else a fixed order of the items",
        "intervals": f"95%, bootstrap over users, {first.bootstrap} resamples",
        **facts,
    }
    if first.facts.get("targets_in_history") is not None:
        shown["targets in the history"] = f"{first.facts['targets_in_history']:.2%}"
    if "users_without_history" in first.facts:
        answered = first.facts["without_history"]
        shown["users without a history"] = (
            f"{first.facts['users_without_history']:,}, answered by {answered}"
        )
    if "targets_outside_candidates" in first.facts:
        outside = first.facts["targets_outside_candidates"]
        shown["targets outside the pool"] = f"{outside:.2%}, counted as misses"
    return section("Protocol", f'<div class="flow">{fact_list(shown)}</div>')


def rankers_section(
    evaluations: Sequence[Evaluation], known: Mapping[str, Mapping[str, Any]]
) -> str:
    """How each ranker came about and was evaluated, a row each; a column that is empty is left out.

    What is said of all of them (items, share of targets in the history) stands under Protocol.
    """
    rows = {
        one.ranker: {
            key: value
            for key, value in {**known.get(one.ranker, {}), **one.facts}.items()
            if value is not None and key not in OF_ALL
        }
        for one in evaluations
    }
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    body = []
    for ranker, row in rows.items():
        cells = [f"<td>{escape(plain(row[key])) if key in row else '-'}</td>" for key in keys]
        body.append(([f"<td>{escape(ranker)}</td>", *cells], False))
    note = (
        "Seconds are of the evaluation. Peak memory is the process's: what ran before in the same "
        "process (a training, other rankers) counts too."
    )
    return section(
        "Rankers",
        f'<p class="note">{escape(note)}</p>' + table(["ranker", *map(words, keys)], body),
    )


def vocabulary_section(name: str, vocabulary: Mapping[str, Any]) -> str:
    """Plain values first, then a block per mapping, then a table per list of mappings."""
    single: dict[str, Any] = {}
    blocks = tables = ""
    for key, value in vocabulary.items():
        heading = f"<h3>{escape(words(key))}</h3>"
        if isinstance(value, Mapping):
            blocks += heading + fact_list(value)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            tables += heading + _records(value)
        else:
            single[key] = value
    body = f'<div class="flow">{fact_list(single)}{blocks}</div>{tables}'
    return section(f"SID vocabulary of {name}", body)


def _records(records: Sequence[Mapping[str, Any]]) -> str:
    """Mappings with the same keys as a numbered table."""
    keys = list(records[0])
    body = [
        ([f"<td>{place}</td>"] + [f"<td>{escape(plain(row[key]))}</td>" for key in keys], False)
        for place, row in enumerate(records)
    ]
    return table(["", *map(words, keys)], body)


def examples_section(examples: Sequence[Example]) -> str:
    """Histories beside lists."""
    body = []
    for example in examples:
        shown = example.history[-_HISTORY_SHOWN:]
        earlier = len(example.history) - len(shown)
        items = "".join(f"<li>{escape(title)}</li>" for title in shown)
        column = f"<div><h4>history{f', last {len(shown)}' if earlier else ''}</h4>"
        column += f'<ol start="{earlier + 1}">{items}'
        column += f'<li class="next">next: {escape(example.target)}</li></ol></div>'
        for name, titles in example.lists.items():
            entries = "".join(
                f"<li{' class=hit' if item.hit else ''}>{escape(item.title)}</li>"
                for item in titles
            )
            column += f"<div><h4>recommended by {escape(name)}</h4><ol>{entries}</ol></div>"
        body.append(
            f'<div class="example"><h3>user {escape(example.user)}</h3>'
            f'<div class="lists">{column}</div></div>'
        )
    return section(
        "What was recommended",
        '<p class="note">Users drawn at random, not chosen. Items of the history are left out; '
        "what the user took next is ticked.</p>" + "".join(body),
    )
