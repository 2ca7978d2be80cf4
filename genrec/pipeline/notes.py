"""One-line notes on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from genrec.artefacts import MANIFEST, check_target
from genrec.data import Catalog
from genrec.processes import processes
from genrec.tokenizers.vocabulary import KIND as VOCABULARY


def note(text: str, style: str = "") -> None:
    """Print one line on stderr, whatever it holds taken literally; the first process alone does."""
    if not processes().is_main_process:
        return
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text(text, style=style))


def plural(count: int, noun: str) -> str:
    """`1 event`, `2,000 events`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def check_out(out: str, *, kind: str, progress: bool) -> None:
    """Check that an artefact may be written at `out`, and say so if it takes another's place.

    Args:
        out: folder to create or to replace.
        kind: of the artefact.
        progress: say it.

    Raises:
        ArtefactError: as `check_target`.
    """
    if (check_target(out, kind=kind) / MANIFEST).is_file() and progress:
        trained = "; models trained with it need it" if kind == VOCABULARY else ""
        replaced = "exists, and is replaced, with all that is in it, once the new one is whole"
        note(f"{out}: {replaced}{trained}", "yellow")


def note_missing_titles(catalog: Catalog, column: str) -> None:
    """Say that ids will be shown if the items have no such column."""
    if column in catalog.columns:
        return
    others = [name for name in catalog.columns if name != "item_id"]
    choice = f", choose one with --title_column: {', '.join(others[:8])}" if others else ""
    note(f"no column {column!r} in the items; showing ids{choice}", "yellow")
