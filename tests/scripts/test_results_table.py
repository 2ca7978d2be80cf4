"""The table of all pages."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

from tests.scripts.pages import rows_of, write


def test_time_of_processors_has_a_column(
    results: ModuleType, results_table: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "amazon2014-beauty"
    for seed, spent in enumerate((90.0, 150.0)):
        write(folder / f"runs/sid-seed{seed}", 0.03, seed=seed, run_cpu_seconds=spent)
    write(folder / "runs/earlier", 0.02, seed=0)
    _, text = results.page([folder], "")
    head, *rows = rows_of(text)
    shown = {row[0]: row[head.index("CPU")] for row in rows[:3]}
    assert shown == {"sid-seed0": "1.5 min", "sid-seed1": "2.5 min", "earlier": ""}
    assert rows[0][head.index("training")] == "2.0 min" and "CPU: time of processors" in text
    page = tmp_path / "amazon2014-beauty.md"
    page.write_text(text)
    text = results_table.table([page])
    head, *rows = rows_of(text)
    assert {row[0]: row[head.index("CPU minutes")] for row in rows} == {"sid": "2", "earlier": ""}
    assert "CPU minutes: of processors" in text
    write(tmp_path / "steam-100k/runs/a", 0.02, seed=0)
    _, text = results.page([tmp_path / "steam-100k"], "")
    assert "CPU" not in rows_of(text)[0] and "CPU: " not in text
    page.write_text(text)
    text = results_table.table([page])
    assert "CPU minutes" not in text


def test_pages_become_one_table(
    results: ModuleType, results_table: ModuleType, tmp_path: Path
) -> None:
    first, second = tmp_path / "amazon2014-beauty", tmp_path / "amazon2014-beauty-rpg"
    write(first / "runs/sid", 0.03, seed=0)
    write(first / "report/popularity", 0.01)
    write(second / "runs/rpg-seed0", 0.05002, seed=0)
    write(second / "runs/rpg-seed1", 0.05006, seed=1)  # as figures of four digits .0001 apart
    for seed, memory in enumerate((1500.0, 980.0)):
        about = {"vectors": "../../vectors/white", "peak_memory_mb": memory}
        (second / f"runs/rpg-seed{seed}/run.json").write_text(json.dumps(about))
    write(second / "report/popularity", 0.01)
    write(tmp_path / "steam-100k/runs/sid", 0.02, seed=0)
    pages = []
    for folder in (first, second, tmp_path / "steam-100k"):
        name, text = results.page([folder], "")
        pages.append(tmp_path / f"{name}.md")
        pages[-1].write_text(text)
    for name in ("rpg", "liger"):
        page = tmp_path / f"amazon2014-beauty-{name}"
        write(page / "runs/sasrec", 0.04, seed=0)
    pages[1].write_text(results.page([tmp_path / "amazon2014-beauty-rpg"], "")[1])
    pages.append(tmp_path / "amazon2014-beauty-liger.md")
    pages[-1].write_text(results.page([tmp_path / "amazon2014-beauty-liger"], "")[1])
    other = tmp_path / "decoding.md"
    other.write_text("| a | b |\n|---|---|\n| 1 | 2 |\n")
    text = results_table.table([*pages, other])
    head, *rows = rows_of(text)
    beauty = [dict(zip(head, row, strict=True)) for row in rows[:4]]
    # LIGER's page has a seed of sasrec to stand beside it; a table of all pages has it once.
    assert [row["method"] for row in beauty] == ["rpg", "sasrec", "sid", "popularity"]
    assert [row["seeds"] for row in beauty] == ["2", "1", "1", ""]
    assert beauty[0]["N@10"] == ".0500 (.0000)"
    assert beauty[0]["masked R@10"] == ".1001 (.0001)"
    assert (beauty[0]["vectors"], beauty[0]["memory"]) == ("white", "1,500 MiB")
    assert beauty[0]["page"] == "[amazon2014-beauty-rpg](amazon2014-beauty-rpg.md)"
    assert "published" in head and "Hou et al." in beauty[0]["published"]
    assert text.index("## Amazon 2014 Beauty") < text.index("## Steam-100K")
    assert "decoding" not in text


def test_seeds_that_differ_are_all_told(
    results: ModuleType, results_table: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "amazon2014-beauty"
    for seed, width in enumerate((50, 50, 100)):
        more = {"exact": False, "beam_width": width, "parameters": 1000 + width}
        write(folder / f"runs/sid-seed{seed}", 0.03, seed=seed, certificate_rate=seed / 2, **more)
    page = tmp_path / "amazon2014-beauty.md"
    page.write_text(results.page([folder], "")[1])
    head, row = rows_of(results_table.table([page]))[:2]
    shown = dict(zip(head, row, strict=True))
    assert shown["certified"] == "50.0%"
    assert sorted(shown["beam"].split("; ")) == ["100", "50"]
    assert sorted(shown["parameters"].split("; ")) == ["1,050", "1,100"]
    assert shown["vectors"] == "white"


def test_what_a_method_was_told_has_a_column(
    results: ModuleType, results_table: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "amazon2014-beauty"
    write(folder / "runs/told", 0.04, seed=0, knows_request_time=True, knows_request_action=False)
    write(folder / "runs/not", 0.03, seed=0, knows_request_time=False, knows_request_action=False)
    write(folder / "report/popularity", 0.01)
    # Of an earlier version, which noted what was asked: the model says what it reads.
    write(folder / "runs/earlier", 0.02, seed=0, request_time=True, request_action=True)
    about = folder / "runs/earlier/run.json"
    parts = {"item_encoder": {"type": "sum", "parts": {"a": {"type": "next-action"}}}}
    about.write_text(json.dumps({"model": {"backbone": {"times": "request"}, **parts}}))
    _, text = results.page([folder], "")
    head, *rows = rows_of(text)
    shown = [dict(zip(head, row, strict=True)) for row in rows[:4]]
    expected = {"told": "time", "not": "", "earlier": "time, action", "popularity": ""}
    assert {row["method"]: row["told"] for row in shown} == expected
    page = tmp_path / "amazon2014-beauty.md"
    page.write_text(text)
    head, *rows = rows_of(results_table.table([page]))
    assert {row[0]: row[head.index("told")] for row in rows} == expected
    write(tmp_path / "steam-100k/runs/a", 0.02, seed=0)
    _, text = results.page([tmp_path / "steam-100k"], "")
    assert "told" not in rows_of(text)[0]
    page.write_text(text)
    assert "told" not in rows_of(results_table.table([page]))[0]


def test_every_method_of_the_pages_is_explained(results_table: ModuleType) -> None:
    pages = sorted(page for page in results_table.DOCS.glob("*.md") if page.name != "table.md")
    told = results_table.glossary(results_table.methods(pages))
    assert "sasrec" in told and "hstu" in told
    assert [name for name, words in told.items() if not words] == []


def test_every_method_is_in_the_picture(
    results: ModuleType, results_table: ModuleType, results_picture: ModuleType, tmp_path: Path
) -> None:
    pages = []
    for name, order, value in (
        ("amazon2014-beauty", "file", 0.03),
        ("amazon2014-beauty-shuffled-day", "shuffled-day", 0.02),
        ("amazon2014-beauty-rpg", "file", 0.04),
    ):
        for run in ("runs/sid-seed0", "report/popularity"):
            write(tmp_path / name / run, value, seed=0, day_order=order)
        pages.append(tmp_path / f"{name}.md")
        pages[-1].write_text(results.page([tmp_path / name], "")[1])
    assert "(table-amazon2014-beauty.svg)" in results_table.table(pages)
    methods = results_table.methods(pages)
    drawn = tmp_path / "drawn.svg"
    results_picture.draw_results(methods, drawn)
    # Two pages have a `sid`, one of them in both orders; a baseline has one line.
    labels = [
        "sid (amazon2014-beauty)",
        "sid (amazon2014-beauty-rpg)",
        "popularity",
        "day shuffled",
    ]
    assert [drawn.read_text().count(f">{label}<") for label in labels] == [1, 1, 1, 1]
    results_picture.draw_results(results_table.methods(pages[:1]), drawn)
    assert "day shuffled" not in drawn.read_text()
    for axes, column in zip(
        results_picture.figure_of(methods).axes, ("N@10", "masked N@10"), strict=True
    ):
        points = [point.get_offsets()[0] for point in axes.collections]
        assert sorted(x for x, _ in points) == sorted(one.mean(column) for one in methods)
        low, high = axes.get_xlim()
        assert all(low <= x <= high for x, _ in points), "a point is outside of the panel"
        low, high = axes.get_ylim()
        assert all(low <= y <= high for _, y in points)
