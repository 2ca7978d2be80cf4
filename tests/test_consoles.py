"""Tables are whole where nobody has a screen, and fit it where somebody has."""

from __future__ import annotations

from pathlib import Path

import pytest

import genrec
from genrec.consoles import WIDE, output_console, screen_width
from genrec.pipeline.bench_report import print_result

RESULT = {
    "tries": [{f"a_long_name_of_column_{i}": 0.00012345 for i in range(12)}],
    "summary": {},
}


def test_a_pipe_cuts_no_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    console = output_console()
    assert console.width == WIDE and screen_width(console) == 120
    print_result(console, RESULT)
    text = capsys.readouterr().out
    assert "…" not in text and text.count("0.000123") == 12
    assert "a long name of column 11" in text
    assert max(map(len, text.splitlines())) < WIDE


def test_a_screen_and_columns_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    assert output_console().width == screen_width(output_console()) == 90
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert output_console().width < WIDE


@pytest.mark.parametrize(
    ("name", "value"), [("FORCE_COLOR", "1"), ("COLUMNS", ""), ("COLUMNS", "x")]
)
def test_what_says_nothing_of_a_width_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv(name, value)
    assert output_console().width == WIDE


def test_nothing_is_printed_on_a_console_of_80_characters() -> None:
    """A table on rich's own console would be cut in a pipe."""
    package = Path(genrec.__file__).parent
    plain = [p.name for p in package.rglob("*.py") if " Console()" in p.read_text()]
    assert plain == ["consoles.py"]
