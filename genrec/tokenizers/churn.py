"""How much of one SID vocabulary another keeps: what a trained model has to unlearn."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from genrec.consoles import output_console
from genrec.data import Catalog
from genrec.tokenizers.vocabulary import SidVocabulary

_ITEMS = ("kept", "added", "removed")
_SEPARATE = 0.95  # Share of changed SIDs from which two vocabularies hardly share codebooks.


def churn(old: SidVocabulary, new: SidVocabulary) -> dict[str, Any]:
    """Compare the SIDs of two vocabularies, items matched by id.

    Returns:
        JSON-able: `items_kept`, `items_added`, `items_removed`; `changed_tuples`, the share of kept
        items whose SID differs (all of them if the numbers of levels differ); `changed_levels`, per
        common level the share of kept items whose code differs; and `codebook_sizes`, those of
        `old` and of `new` (a model trained with other sizes does not fit).
    """
    before = Catalog.from_ids(old.item_ids).index(new.item_ids)
    kept = np.flatnonzero(before >= 0)
    levels = min(old.num_levels, new.num_levels)
    differs = old.codes[before[kept], :levels] != new.codes[kept, :levels]
    changed = differs.any(axis=1) | (old.num_levels != new.num_levels)
    return {
        "items_kept": len(kept),
        "items_added": len(new) - len(kept),
        "items_removed": len(old) - len(kept),
        "changed_tuples": float(changed.mean()) if len(kept) else 0.0,
        "changed_levels": differs.mean(axis=0).tolist() if len(kept) else [0.0] * levels,
        "codebook_sizes": [list(old.codebook_sizes), list(new.codebook_sizes)],
    }


def churn_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what `churn` returned."""
    rows = [(f"items {name}", f"{found[f'items_{name}']:,}") for name in _ITEMS]
    rows.append(("changed SIDs", f"{found['changed_tuples']:.2%} of the items kept"))
    for level, share in enumerate(found["changed_levels"]):
        rows.append((f"changed codes, level {level}", f"{share:.2%}"))
    before, after = found["codebook_sizes"]
    if before != after:
        rows.append(("codebook sizes", f"{before} -> {after}: train a new model"))
    if not found["items_kept"]:
        rows.append(("why", "no item id in common: are these vocabularies of one catalogue?"))
    elif before == after and found["changed_tuples"] > _SEPARATE:
        rows.append(
            ("why", "codebooks learned apart number their codes apart; genrec refresh keeps SIDs")
        )
    return rows


def print_churn(
    found: dict[str, Any], console: Console | None = None, *, title: str | None = None
) -> None:
    """Print what `churn` returned as a table."""
    table = Table(show_header=False, title=title)
    for row in churn_rows(found):
        table.add_row(*row)
    (console or output_console()).print(table)
