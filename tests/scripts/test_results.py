"""The page of results, from small output folders."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.scripts.pages import USERS, rows_of, write, write_ranks


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


def test_lists_that_are_certified_are_told_with_their_length(
    results: ModuleType, results_table: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "amazon2014-sports"
    entry = {"beam_width": 50, "list_recall": 0.9, "certificate_rate": 0.57, "recall": 0.1}
    entry |= {"false_certificates": 0, "ndcg": 0.1, "leaked_mass": 0.1, "seconds": 1.0}
    longer = {"test/unmasked/recall@20": {"value": 0.1}, "test/masked/recall@50": {"value": 0.1}}
    beams = {"users": 40, "k": 10, "rows": [entry]}
    write(folder / "runs/sasrec", 0.03, seed=0, certificate_rate=0.454, beams=beams, **longer)
    _, text = results.page([folder], "")
    main, _, study = text.partition("### Beam width")
    assert "Certified: share of users whose list of the top 20, unmasked, the search" in main
    assert "Certified: share of users whose top 10 the search proved exact." in study
    head, row = rows_of(main)[:2]
    assert row[head.index("certified")] == "45.4%" and "57.0%" in study
    assert (
        row[head.index("published")] == "R@10 .0553 masked (arXiv 2508.14910, full cross-entropy)"
    )
    write(folder / "report/popularity", 0.01)
    assert "whose list of the top 10 or 20, unmasked" in results.page([folder], "")[1]
    page = tmp_path / "amazon2014-sports.md"
    page.write_text(text)
    table = results_table.table([page])
    head, row = rows_of(table)[:2]
    assert row[head.index("certified")] == "45.4%" and "of 20 items unless the page says" in table


def test_runs_of_other_data_are_refused(results: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "some-data"
    write(folder / "runs/now", 0.03, seed=0)
    write(folder / "runs/before", 0.02, seed=0, fingerprints={"dataset": "old"})
    write(folder / "report/popularity", 0.01)
    with pytest.raises(SystemExit) as raised:
        results.page([folder], "")
    assert "old: before (file order)" in str(raised.value)
    assert "abc: now (file order), popularity (file order)" in str(raised.value)


@pytest.mark.parametrize("there", ["nothing", "empty", "a run"])
def test_a_folder_without_runs_leaves_the_page_as_it_is(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    folder = tmp_path / "rnus/some-data"
    if there == "empty":
        folder.mkdir(parents=True)
    elif there == "a run":
        write(folder, 0.02, seed=0)
    page = tmp_path / "some-data.md"
    page.write_text("what was there")
    monkeypatch.setattr(results, "DOCS", tmp_path)
    monkeypatch.setattr("sys.argv", ["results.py", str(folder)])
    with pytest.raises(SystemExit, match="no such folder" if there == "nothing" else "no runs in"):
        results.main()
    assert page.read_text() == "what was there"
    assert not list(tmp_path.glob("*.svg"))


def test_a_record_that_is_cut_off_is_named(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "some-data/runs/a", 0.02, seed=0)
    record = tmp_path / "some-data/runs/a/metrics.json"
    record.write_text(record.read_text()[:50])
    monkeypatch.setattr("sys.argv", ["results.py", str(tmp_path / "some-data")])
    with pytest.raises(SystemExit, match=r"^error: .*runs/a/metrics\.json"):
        results.main()


def test_a_run_stands_on_a_page_once(results: ModuleType, tmp_path: Path) -> None:
    folders = [tmp_path / "some-data", tmp_path / "other-data"]
    for folder in folders:
        write(folder / "runs/a-seed0", 0.02, seed=0)
    for twice in (folders, [folders[0], folders[0]]):
        with pytest.raises(SystemExit, match="a-seed0 in file order stands in another folder too"):
            results.page(twice, "")


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("training.epochs", 8),
        ("model.head.temperature", 0.1),
        ("vectors_fingerprint", "w"),
        ("vocabulary", "../../vocabularies/other-seed2"),
    ],
)
def test_seeds_of_other_settings_are_no_seeds(
    results: ModuleType, tmp_path: Path, key: str, changed: float | str
) -> None:
    folder = tmp_path / "some-data"
    for seed in (0, 1, 2):
        write(folder / f"runs/a-seed{seed}", 0.02, seed=seed)
        record = {
            "training": {"epochs": 2, "seed": seed, "workers": seed},
            "model": {"head": {"temperature": 0.2}},
            "vectors_fingerprint": "v",
            "vocabulary": f"../../vocabularies/codes-seed{seed}" if seed else "codes",
        }
        (folder / f"runs/a-seed{seed}/run.json").write_text(json.dumps(record))
    assert "| a | file | 3 |" in results.page([folder], "")[1]
    place = record
    *parents, last = key.split(".")
    for parent in parents:
        place = place[parent]
    place[last] = changed
    (folder / "runs/a-seed2/run.json").write_text(json.dumps(record))
    # An older run that knows no settings leaves the others to be compared.
    (folder / "runs/a-seed0/run.json").write_text(json.dumps({"training": {"seed": 0}}))
    named = key.replace("_fingerprint", "")
    with pytest.raises(SystemExit, match=f"a-seed1 and a-seed2 .* {named} is "):
        results.page([folder], "")


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
        pages.append(results.page([folder], "", compare=["a-seed0"]))
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
    assert "`genrec run recipes/some-data.yaml` and the same with `--order shuffled-day`" in text


def test_an_order_may_have_a_page_of_its_own(results: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "some-data-shuffled-day/runs/a", 0.04, seed=0, day_order="shuffled-day")
    name, text = results.page([tmp_path / "some-data-shuffled-day"], "")
    assert name == "some-data-shuffled-day"
    assert "`genrec run recipes/some-data.yaml --order shuffled-day`;" in text
    write(tmp_path / "some-data/runs/a", 0.04, seed=0)
    _, text = results.page([tmp_path / "some-data"], "")
    assert "`genrec run recipes/some-data.yaml`;" in text


def test_cold_items_are_told_apart(results: ModuleType, tmp_path: Path) -> None:
    cold = {"name": "cold (0)", "users": 1234}
    cold |= {f"{mask}/ndcg@10": {"value": v} for mask, v in (("unmasked", 0.01), ("masked", 0.02))}
    folder, other = tmp_path / "some-data", tmp_path / "some-data-shuffled-day"
    write(folder / "runs/a", 0.02, seed=0, slices={"popularity": [cold]})
    write(folder / "report/popularity", 0.01)
    fewer = {"popularity": [{**cold, "users": 47}]}
    write(other / "runs/a", 0.02, seed=0, day_order="shuffled-day", slices=fewer)
    text = results.page([folder, other], "")[1].partition("## By popularity")[2]
    assert rows_of(text.partition("\n## ")[0]) == [
        ["method", "order", "cold (0)"],
        ["users", "file", "1,234"],
        ["a", "file", ".0100 / .0200"],
        ["users", "shuffled-day", "47"],
        ["a", "shuffled-day", ".0100 / .0200"],
    ]


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


def test_validations_are_told_where_some_runs_were_not_tested(
    results: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "some-data"
    curves = {"a-rate1": [0.01, 0.03], "a-rate2": [0.04, 0.02], "b": [0.05]}
    for name, curve in curves.items():
        write(folder / "runs" / name, 0.02, seed=0)
        log = [
            {"epoch": float(n), "eval_ndcg@10": value, "seconds": 1.0}
            for n, value in enumerate(curve, 1)
        ]
        (folder / f"runs/{name}/log.json").write_text(json.dumps(log))
    training = {"eval_masked": True, "epochs": 9}
    (folder / "runs/b/run.json").write_text(json.dumps({"training": training}))
    assert "## Validation of all" not in results.page([folder], "")[1]
    (folder / "runs/a-rate1/metrics.json").unlink()
    _, text = results.page([folder], "")
    assert rows_of(text.partition("## Validation of all")[2].partition("\n## ")[0])[1:] == [
        ["a-rate1", ".0300", "2", "", "", ""],
        ["a-rate2", ".0400", "1", "", "", "yes"],
        ["b", ".0500", "1", "9", "masked", "yes"],
    ]
    other = tmp_path / "some-data-shuffled-day"
    write(other / "runs/b", 0.02, seed=0, day_order="shuffled-day")
    assert "| some-data/a-rate1 | .0300 | 2 |  |  |  |" in results.page([folder, other], "")[1]


def test_a_recipe_that_evaluates_validation_has_a_page_of_it(
    results: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "some-tries"
    write(folder / "report/popularity", 0.01)
    metrics = (folder / "report/popularity/metrics.json").read_text()
    (folder / "report/popularity/metrics.json").write_text(metrics.replace("test/", "validation/"))
    (folder / "runs/a").mkdir(parents=True)
    log = [{"epoch": 3.0, "eval_ndcg@10": 0.02, "seconds": 1.0}]
    (folder / "runs/a/log.json").write_text(json.dumps(log))
    name, text = results.page([folder], "Why.", curves="curves.svg")
    assert name == "some-tries" and "recipes/some-tries.yaml`" in text and "Why." in text
    assert "None was tested." in text and "| a | .0200 | 3 |  |  |  |" in text
    assert "(curves.svg)" in text and "Test split" not in text


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
