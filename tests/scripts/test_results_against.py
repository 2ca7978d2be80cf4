"""Methods of the page of results compared by user."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from genrec.evaluation import paired_difference
from tests.scripts.pages import USERS, rows_of, write, write_ranks


def test_methods_are_compared_user_by_user(results: ModuleType, tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    folder, other = tmp_path / "some-data", tmp_path / "other"
    by_user = {}
    for name in ("a-seed0", "a-seed1", "sasrec", "worse"):
        write(folder / f"runs/{name}", 0.04, seed=0)
        places = drawn.integers(5 if name == "worse" else 0, 12, size=USERS)
        by_user[name] = write_ranks(folder / f"runs/{name}", places)
    write(folder / "runs/few", 0.04, seed=0)
    write_ranks(folder / "runs/few", np.zeros(10, dtype=np.int64), users=10)
    write(folder / "report/popularity", 0.01)  # an older one, without ranks
    write(folder / "report/last-item", 0.02)
    by_user["last-item"] = write_ranks(folder / "report/last-item", drawn.integers(12, size=USERS))
    for name in ("elsewhere", "many-seed0", "many-seed1"):
        write(other / f"runs/{name}", 0.04, seed=0)
        by_user[name] = write_ranks(other / f"runs/{name}", drawn.integers(12, size=USERS))
    by_user["many"] = (by_user["many-seed0"] + by_user["many-seed1"]) / 2
    by_user["a"] = (by_user["a-seed0"] + by_user["a-seed1"]) / 2

    def expected(method: str, base: str, seeds: str = "1") -> list[str]:
        cells = []
        for first, second in zip(by_user[method], by_user[base], strict=True):
            found = paired_difference(first, second, replicates=200, seed=0)
            value = f"{found.value:.4f}".replace("0.", ".", 1)
            low, high = (f"{end:.4f}".replace("0.", ".", 1) for end in (found.low, found.high))
            bold = "**" if found.low > 0 or found.high < 0 else ""
            cells += [f"{bold}{value}{bold}", f"{low} to {high}"]
        return [method, "file", seeds, *cells]

    def section(compare: str) -> tuple[str, list[list[str]]]:
        text = results.page([folder], "", compare=[compare])[1].partition("## Against ")[2]
        text = text.partition("\n## ")[0]
        return text, sorted(rows_of(text)[1:])

    text, rows = section("sasrec")
    assert text.startswith("sasrec\n")
    assert rows == [
        expected("a", "sasrec", "2"),
        expected("last-item", "sasrec", ""),
        expected("worse", "sasrec"),
    ]
    assert any("**" in cell for cell in rows[2]) and not all("**" in cell for cell in rows[2][3::2])
    assert "Evaluated on other users or items: few (file order)." in text
    assert section("a")[1] == [
        expected("last-item", "a", ""),
        expected("sasrec", "a"),
        expected("worse", "a"),
    ]
    assert section("a-seed0")[1][0] == expected("a", "a-seed0", "2")
    text, rows = section(str(other / "runs/elsewhere"))
    assert text.startswith("elsewhere of other\n")
    assert len(rows) == 4 and rows[2] == expected("sasrec", "elsewhere")
    text, rows = section(str(other / "runs/many"))
    assert text.startswith("many of other\n") and "of which there are 2 seeds" in text
    assert rows[0] == expected("a", "many", "2") and rows[2] == expected("sasrec", "many")
    both = results.page([folder], "", compare=["sasrec", str(other / "runs/many")])[1]
    assert both.count("## Against ") == 2
    with pytest.raises(SystemExit, match=r"no such run .* there are a-seed0, a-seed1, few"):
        section("popularity")
    assert "## Against" not in results.page([folder], "")[1]


def test_each_order_is_compared_with_its_own(results: ModuleType, tmp_path: Path) -> None:
    folders = [tmp_path / "some-data", tmp_path / "some-data-shuffled-day"]
    for folder, order in zip(folders, ("file", "shuffled-day"), strict=True):
        for name, place in (("base", 3), ("other", 0 if order == "file" else 4)):
            write(folder / f"runs/{name}", 0.04, seed=0, day_order=order)
            write_ranks(folder / f"runs/{name}", np.full(USERS, place))
    text = results.page(folders, "", compare=["base"])[1].partition("## Against")[2]
    rows = rows_of(text.partition("\n## ")[0])[1:]
    assert [row[:2] for row in rows] == [["other", "file"], ["other", "shuffled-day"]]
    assert [float(row[5].strip("*")) > 0 for row in rows] == [True, False]
    alone = folders[0].rename(tmp_path / "alone")  # a run of one order says nothing of the other
    text = results.page(folders[1:], "", compare=["base", str(alone / "runs/base")])[1]
    assert rows_of(text.partition("## Against base of alone")[2].partition("\n## ")[0])[1:] == []


def test_seeds_elsewhere_have_one_setting(results: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "some-data/runs/a", 0.04, seed=0)
    write_ranks(tmp_path / "some-data/runs/a", np.arange(USERS) % 7)
    other = tmp_path / "other/runs"
    for seed, epochs in ((0, 2), (1, 8)):
        run = other / f"many-seed{seed}"
        write(run, 0.04, seed=seed)
        write_ranks(run, np.arange(USERS) % 5)
        (run / "run.json").write_text(json.dumps({"training": {"epochs": epochs, "seed": seed}}))
    with pytest.raises(SystemExit, match=r"training\.epochs is 2 and 8"):
        results.page([tmp_path / "some-data"], "", compare=[str(other / "many")])
    results.page([tmp_path / "some-data"], "", compare=[str(other / "many-seed0")])
