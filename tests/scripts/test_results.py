"""The page of results, from small output folders."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from genrec.evaluation import Evaluation, Ranks, SearchRecord, paired_difference

SCRIPTS = Path(__file__).parents[2] / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results() -> ModuleType:
    for beside in ("results_against", "results_curves"):  # which the script finds beside itself
        load(beside)
    return load("results")


@pytest.fixture(scope="module")
def results_table() -> ModuleType:
    return load("results_table")


def write(folder: Path, ndcg: float, *, machine: str = "CPU of a test", **more: Any) -> None:
    """`metrics.json` of a method; with a seed also the `run.json` of its training."""
    folder.mkdir(parents=True)
    metrics: dict[str, Any] = {
        "day_order": "file",
        "certificate_rate": 0.5,
        "parameters": 1234,
        "seconds": 3.0,
        "test/users": 40,
        "fingerprints": {"dataset": "abc"},
        "exact": True,
        **more,
    }
    if "seed" in metrics:
        trained = {"machine": machine, "threads": 1, "torch_version": "9.9"}
        metrics |= {"training_seconds": 120.0, "trained_on": trained}
        about = {"vectors": "../../vectors/white", "peak_memory_mb": 700.4}
        (folder / "run.json").write_text(json.dumps(about))
    for mask, factor in (("unmasked", 1), ("masked", 2)):
        for name in ("recall@10", "ndcg@10"):
            value = ndcg * factor
            entry = {"value": value, "low": value - 0.01, "high": value + 0.01}
            metrics[f"test/{mask}/{name}"] = entry
    (folder / "metrics.json").write_text(json.dumps(metrics))


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_methods_and_baselines_are_ranked_by_result(results: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "amazon2014-beauty-rpg"
    write(folder / "runs/rpg-seed0", 0.04, seed=0, effective_rank=12.34)
    write(folder / "runs/rpg-seed1", 0.02, seed=1, run_seconds=180.0)
    write(folder / "runs/beams", 0.01, seed=0, exact=False, beam_width=50)
    write(folder / "report/popularity", 0.03)
    name, text = results.page([folder], "A note.")
    assert name == "amazon2014-beauty-rpg"
    head, *rows = rows_of(text)
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows[:4]}
    assert list(table) == ["rpg-seed0", "popularity", "rpg-seed1", "beams"]
    first = table["rpg-seed0"]
    assert (first["R@10"], first["N@10"]) == (".0400", "**.0400**")
    assert (first["masked R@10"], first["masked N@10"]) == (".0800", "**.0800**")
    assert first["vectors"] == "white"
    assert first["memory"] == "700 MiB"
    assert first["rank of states"] == "12.3"
    assert first["training"] == "2.0 min" and table["rpg-seed1"]["training"] == "3.0 min"
    assert first["published"].startswith("R@10 .0809, N@10 .0464 unmasked (Hou et al. 2025")
    assert (first["beam"], table["beams"]["beam"]) == ("exact", "50")
    assert first["certified"] == "50.0%"
    assert table["beams"]["published"] == table["popularity"]["training"] == ""
    assert "Trained on CPU of a test, 1 thread, torch 9.9. A note." in text
    means = [row for row in rows if row[0] == "rpg"]
    assert means == [
        ["rpg", "file", "2", "", ".0300 (.0141)", ".0300 (.0141)", ".0600 (.0283)", ".0600 (.0283)"]
    ]


def test_codes_name_the_vectors_they_were_made_from(results: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "some-data"
    for name, made_from in (("a", "f1"), ("b", "other")):
        write(folder / f"runs/{name}", 0.04, seed=0)
        about = {"vectors": None, "vocabulary": f"../../vocabularies/{name}"}
        (folder / f"runs/{name}/run.json").write_text(json.dumps(about))
        (folder / f"vocabularies/{name}").mkdir(parents=True)
        record = folder / f"vocabularies/{name}/vocabulary.json"
        record.write_text(json.dumps({"vectors_fingerprint": made_from}))
    for name, fingerprint in (("white", "f1"), ("plain", "f2")):
        (folder / f"vectors/{name}").mkdir(parents=True)
        (folder / f"vectors/{name}/embedding.json").write_text(
            json.dumps({"fingerprint": fingerprint})
        )
    head, *rows = rows_of(results.page([folder], "")[1])
    assert [row[head.index("vectors")] for row in rows[:2]] == ["white (codes)", ""]


def test_vocabularies_behind_a_mean_are_counted(results: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "some-data"
    read = {"one": ["v", "v"], "each": ["v", "w"], "none": ["", ""]}
    for method, vocabularies in read.items():
        for seed, vocabulary in enumerate(vocabularies):
            made = {"dataset": "abc", "vocabulary": vocabulary}
            write(folder / f"runs/{method}-seed{seed}", 0.04, seed=seed, fingerprints=made)
    rows = rows_of(results.page([folder], "")[1])
    assert {row[0]: row[2:4] for row in rows if row[0] in read} == {
        "one": ["2", "1"],
        "each": ["2", "2"],
        "none": ["2", ""],
    }


def test_folders_of_earlier_versions_make_the_same_page(
    results: ModuleType, tmp_path: Path
) -> None:
    pages = []
    for version in ("now", "earlier"):
        folder = tmp_path / version / "some-data"
        for seed in (0, 1):
            write(folder / f"runs/a-seed{seed}", 0.04, seed=seed, day_order="shuffled-day")
            write_ranks(folder / f"runs/a-seed{seed}", np.arange(USERS) % 7)
        write(folder / "report/popularity", 0.01, day_order="shuffled-day")
        for path in folder.glob("*/*/metrics.json"):
            if version == "earlier":
                record = json.loads(path.read_text())
                record["tie_order"] = record.pop("day_order")
                path.write_text(json.dumps(record))
        pages.append(results.page([folder], "", compare="a-seed0"))
    assert pages[0] == pages[1] and "| shuffled-day |" in pages[0][1]


def test_runs_of_several_machines_are_told_apart(results: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "some-data"
    write(folder / "runs/a", 0.04, seed=0)
    write(folder / "runs/b", 0.02, seed=0, machine="another")
    _, text = results.page([folder], "")
    assert "Trained on CPU of a test, 1 thread, torch 9.9: a. Trained on another, 1" in text


def test_both_orders_stand_on_one_page(results: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "some-data/runs/a", 0.02, seed=0)
    write(tmp_path / "some-data-shuffled-day/runs/a", 0.04, seed=0, day_order="shuffled-day")
    _, text = results.page([tmp_path / "some-data", tmp_path / "some-data-shuffled-day"], "")
    assert [row[:2] for row in rows_of(text)[1:3]] == [["a", "file"], ["a", "shuffled-day"]]
    assert "--order shuffled-day" in text


def test_cold_items_are_told_apart(results: ModuleType, tmp_path: Path) -> None:
    cold = {"name": "cold (0)", "users": 1234}
    cold |= {f"{mask}/ndcg@10": {"value": v} for mask, v in (("unmasked", 0.01), ("masked", 0.02))}
    folder = tmp_path / "some-data"
    write(folder / "runs/a", 0.02, seed=0, slices={"popularity": [cold]})
    write(folder / "report/popularity", 0.01)
    head, row = rows_of(results.page([folder], "")[1].partition("## By popularity")[2])[:2]
    assert head == ["method", "order", "cold (0) (1,234 users)"]
    assert row == ["a", "file", ".0100 / .0200"]


def test_curves_are_drawn_where_there_are_logs(results: ModuleType, tmp_path: Path) -> None:
    folders = [tmp_path / "some-data", tmp_path / "some-data-shuffled-day"]
    for number, folder in enumerate(folders):
        write(folder / "runs/a", 0.02, seed=0, day_order=("file", "shuffled-day")[number])
    drawn = tmp_path / "curves.svg"
    assert not results.draw_curves(folders, drawn)
    assert not drawn.exists()
    log = [
        {"epoch": 1.0, "loss": 2.0},
        *({"epoch": e, "eval_ndcg@10": e / 100, "seconds": 60 * e} for e in (1.0, 2.0)),
    ]
    (folders[0] / "runs/a/log.json").write_text(json.dumps(log))
    assert results.draw_curves(folders, drawn)
    assert drawn.read_text().count("<svg") == 1
    assert "<!-- minutes of training with validations -->" in drawn.read_text()
    _, text = results.page(folders, "", curves="curves.svg")
    assert "![Validation by epoch](curves.svg)" in text
    assert "curves" not in results.page(folders, "")[1]


def test_which_validation_chose_and_whose_scores_rank_is_told(
    results: ModuleType, results_table: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "amazon2014-beauty"
    heads = {
        "dense": (True, {"exact": True}, ("masked", "items")),
        "parallel": (False, {"exact": True}, ("unmasked", "codes")),
        "liger": (False, {"exact": False, "beam_width": 5}, ("unmasked", "items, of codes")),
        "gone": (False, {}, ("unmasked", "")),
    }
    for head, (masked, how, _) in heads.items():
        write(folder / f"runs/{head}", 0.02, seed=0, **how)
        about = {"training": {"eval_masked": masked}, "model": {"head": {"type": head}}}
        (folder / f"runs/{head}/run.json").write_text(json.dumps(about))
    write(folder / "runs/all", 0.02, seed=0, exact=True)
    about = {"model": {"head": {"type": "liger"}}}
    (folder / "runs/all/run.json").write_text(json.dumps(about))
    write(folder / "report/popularity", 0.01)
    expected = {name: cells for name, (*_, cells) in heads.items()}
    expected |= {"all": ("", "items"), "popularity": ("", "")}
    page = tmp_path / "amazon2014-beauty.md"
    page.write_text(results.page([folder], "")[1])
    for text in (page.read_text(), results_table.table([page])):
        head, *rows = rows_of(text)
        places = [head.index(name) for name in ("method", "chosen by", "ranked by")]
        found = [[row[place] for place in places] for row in rows[:6]]
        assert {row[0]: tuple(row[1:]) for row in found} == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Epochs were chosen by masked validation NDCG@10.", ["masked", "masked", "masked", ""]),
        (
            "Epochs were chosen by unmasked of a, b-x0.1 and by masked of c (validation NDCG@10).",
            ["unmasked", "unmasked", "masked", ""],
        ),
        ("Nobody says it.", ["", "", "", ""]),
    ],
)
def test_older_pages_say_in_a_sentence_which_validation_chose(
    results_table: ModuleType, tmp_path: Path, sentence: str, expected: list[str]
) -> None:
    rows = [
        f"| {name} | file | {seed} |" for name, seed in (("a-seed0", 0), ("b-x0.1", 0), ("c", 1))
    ]
    table = ["| method | order | seed |", "|---|---|---:|", *rows, "| popularity | file |  |"]
    page = tmp_path / "amazon2014-beauty.md"
    page.write_text("\n".join(["# A page", "", f"Test split. {sentence}", "", *table]))
    assert [row["chosen by"] for row in results_table.read_page(page)] == expected


def test_the_time_to_a_runs_best_is_told(results: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "some-data"
    bests = {"slow": [(600, 0.01), (1200, 0.03), (1800, 0.02)], "fast": [(60, 0.02), (120, 0.04)]}
    for name, curve in bests.items():
        write(folder / f"runs/{name}", 0.02, seed=0)
        log = [
            {"epoch": float(n), "eval_ndcg@10": value, "seconds": seconds}
            for n, (seconds, value) in enumerate(curve, 1)
        ]
        if name == "fast":  # its validations took as long again
            for entry in log:
                entry |= {"training_seconds": entry["seconds"], "seconds": 2 * entry["seconds"]}
        (folder / f"runs/{name}/log.json").write_text(json.dumps(log))
    _, text = results.page([folder], "", reach="slow")
    rows = rows_of(text.partition("### Training until")[2].partition("## ")[0])[1:]
    assert rows == [
        ["fast", ".0400", "2", "4.0", "20.0%"],
        ["slow", ".0300", "2", "20.0", "100.0%"],
    ]
    assert "Minutes of training with validations, by which all" in text
    for name, run in (("slow", 0.25), ("fast", 5)):  # while others slowed the slow one
        path = folder / f"runs/{name}/log.json"
        log = json.loads(path.read_text())
        for entry in log:
            entry.setdefault("training_seconds", entry["seconds"])
            entry["training_cpu_seconds"] = entry["training_seconds"] * run
        path.write_text(json.dumps(log))
    _, text = results.page([folder], "", reach="slow")
    assert "Minutes of processors, by which all its runs can be compared; validations are" in text
    assert ["fast", ".0400", "2", "10.0", "200.0%"] in rows_of(text)
    _, text = results.page([folder], "", reach="fast")
    assert ["slow", ".0300", "never", "", ""] in rows_of(text)
    with pytest.raises(SystemExit, match="no such run"):
        results.page([folder], "", reach="other")


USERS = 30
GAIN = 1 / np.log2(np.arange(2, 12))  # of the target's place


def write_ranks(folder: Path, before: np.ndarray, *, users: int = USERS) -> np.ndarray:
    """Ranks of a run, twice as many places down with the history unmasked; NDCG@10 by user."""
    values = {}
    searches = {}
    for mask, places in (("unmasked", 2 * before), ("masked", before)):
        ones = np.ones(users, dtype=np.int64)
        nothing = {"certified": ones > 0, "target_excluded": ones < 0}
        searches[mask] = SearchRecord(
            ranks=Ranks(places, ones, places),
            leaked=np.zeros(users, dtype=np.float32),
            evaluations=ones,
            seconds=1.0,
            **nothing,
        )
        values[mask] = np.where(places < 10, GAIN[np.minimum(places, 9)], 0.0)
    (folder / "ranks").mkdir()
    Evaluation(
        ranker=folder.name,
        split="test",
        users=np.arange(users),
        targets=np.arange(users),
        history_lengths=np.ones(users, dtype=np.int64),
        searches=searches,
        ks=(10,),
        has_tuples=False,
        bootstrap=200,
    ).save(folder / "ranks/test.parquet")
    return np.stack([values["unmasked"], values["masked"]])


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
    write(other / "runs/elsewhere", 0.04, seed=0)
    by_user["elsewhere"] = write_ranks(other / "runs/elsewhere", drawn.integers(12, size=USERS))
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
        text = results.page([folder], "", compare=compare)[1].partition("## Against ")[2]
        text = text.partition("\n## ")[0]
        return text, sorted(rows_of(text)[1:])

    text, rows = section("sasrec")
    assert text.startswith("sasrec\n")
    assert rows == [expected("a", "sasrec", "2"), expected("worse", "sasrec")]
    assert "**" in rows[1][3]  # and not all of them
    assert "Evaluated on other users or items: few (file order)." in text
    assert section("a")[1] == [expected("sasrec", "a"), expected("worse", "a")]
    assert section("a-seed0")[1][0] == expected("a", "a-seed0", "2")
    assert len(section(str(other / "runs/elsewhere"))[1]) == 3
    assert section(str(other / "runs/elsewhere"))[1][1] == expected("sasrec", "elsewhere")
    with pytest.raises(SystemExit, match=r"no such run .* there are a-seed0, a-seed1, few"):
        section("popularity")
    assert "## Against" not in results.page([folder], "")[1]


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


def test_each_order_is_compared_with_its_own(results: ModuleType, tmp_path: Path) -> None:
    folders = [tmp_path / "some-data", tmp_path / "some-data-shuffled-day"]
    for folder, order in zip(folders, ("file", "shuffled-day"), strict=True):
        for name, place in (("base", 3), ("other", 0 if order == "file" else 4)):
            write(folder / f"runs/{name}", 0.04, seed=0, day_order=order)
            write_ranks(folder / f"runs/{name}", np.full(USERS, place))
    text = results.page(folders, "", compare="base")[1].partition("## Against")[2]
    rows = rows_of(text.partition("\n## ")[0])[1:]
    assert [row[:2] for row in rows] == [["other", "file"], ["other", "shuffled-day"]]
    assert [float(row[3].strip("*")) > 0 for row in rows] == [True, False]


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
    other = tmp_path / "decoding.md"
    other.write_text("| a | b |\n|---|---|\n| 1 | 2 |\n")
    text = results_table.table([*pages, other])
    head, *rows = rows_of(text)
    beauty = [dict(zip(head, row, strict=True)) for row in rows[:3]]
    assert [row["method"] for row in beauty] == ["rpg", "sid", "popularity"]
    assert [row["seeds"] for row in beauty] == ["2", "1", ""]
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
