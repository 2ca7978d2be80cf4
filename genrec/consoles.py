"""The console that tables are printed on, whether a person or a file reads them."""

from __future__ import annotations

import os

from rich.console import Console

WIDE = 1000  # characters: no table needs as many


def output_console() -> Console:
    """A console on standard output that cuts no table where nobody has a screen.

    In a pipe or a file a line may be as long as it needs to be, so that nothing is lost to `grep`
    and logs, colored (`FORCE_COLOR`) or not; on a terminal it fits the screen, and a number in
    `COLUMNS` of the environment is kept everywhere.
    """
    console = Console()
    has_screen = console.file.isatty() or console.is_jupyter
    chosen = os.environ.get("COLUMNS", "").isdigit()
    return console if has_screen or chosen else Console(width=WIDE)


def screen_width(console: Console) -> int:
    """Characters of a line for what fills it whatever its content: 120 where there is no screen."""
    return console.width if console.width < WIDE else 120
