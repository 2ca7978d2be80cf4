"""Rows that a page keeps beside those made anew."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "quantizer_table.py"


@pytest.fixture(scope="module")
def quantizer_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quantizer_table", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(table: ModuleType, name: str, vectors: str, validation: str) -> list[str]:
    row = dict.fromkeys(table.COLUMNS, "-")
    row |= {"vocabulary": name, "vectors": vectors, "validation N@10": validation}
    return list(row.values())


def test_rows_made_anew_replace_those_of_the_page(
    quantizer_table: ModuleType, tmp_path: Path
) -> None:
    page = tmp_path / "quantizers.md"
    old = [
        cells(quantizer_table, "balanced", "text", ".0330 (.0002)"),
        cells(quantizer_table, "hash", "text", ".0214"),
    ]
    head, *rows = (f"| {' | '.join(line)} |" for line in (quantizer_table.COLUMNS, *old))
    page.write_text("\n".join(["# A page", "", head, "|---|---:|", *rows, ""]))
    made = [(0.04, cells(quantizer_table, "hash", "text", ".0400"))]
    assert quantizer_table.kept(page, made) == [(0.033, old[0])]


def test_a_page_of_other_columns_is_refused(quantizer_table: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "quantizers.md"
    page.write_text("| vocabulary | vectors |\n|---|---|\n| hash | text |\n")
    with pytest.raises(SystemExit, match="without --keep"):
        quantizer_table.kept(page, [])
