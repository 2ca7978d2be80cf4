from __future__ import annotations

import argparse
import importlib.util
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from genrec.data import Dataset
from genrec.data.tencentgr import generate_tencentgr
from genrec.data.tencentgr.protocol import last_click_split
from genrec.pipeline import run

PATH = Path(__file__).parents[2] / "scripts" / "bench_tencentgr.py"


def script():
    spec = importlib.util.spec_from_file_location("bench_tencentgr", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scores_are_those_of_a_loop_over_users(tmp_path: Path, capsys: pytest.CaptureFixture):
    generate_tencentgr(
        tmp_path / "files", users=400, items=480, max_length=20, actions="10M", vectors=()
    )
    plan = {
        "name": "ads",
        "prepare": {"source": "tencentgr", "path": str(tmp_path / "files"), "vectors": []},
        "split": {"type": "last-click", "share": 0.4, "targets": [1, 2]},
        "runs": {
            "ads": {
                "item_encoder": {
                    "type": "sum",
                    "parts": {
                        "item": {"type": "features", "columns": ["101"]},
                        "gap": {"type": "time-gap", "times": "request"},
                    },
                },
                "backbone": {"type": "transformer", "layers": 1, "heads": 1},
                "head": {"type": "dense", "loss": "infonce", "negatives": 8, "in_batch": 8},
                "d_model": 8,
                "max_history": 20,
                "training": {"epochs": 1, "batch_size": 128},
                "seeds": [0, 1],
            }
        },
        "evaluate": {"bootstrap": 0, "examples": 0},
    }
    (tmp_path / "ads.yaml").write_text(yaml.safe_dump(plan))
    out = run(str(tmp_path / "ads.yaml"), out=str(tmp_path / "out"), progress=False)
    capsys.readouterr()
    script().score(argparse.Namespace(folder=str(out), only=[]))
    printed = capsys.readouterr().out

    data = Dataset.load(out / "dataset")
    split = last_click_split(data, share=0.4, actions=(1, 2))
    types = [[0, *data.histories.action_names][code] for code in split.test.actions]
    assert {1, 2} == set(types)
    for mask in ("unmasked", "masked"):
        part = re.split(r"(?m)^(?=masked)", printed)[mask == "masked"]
        assert part.startswith(f"{mask}, {len(types)} users, {types.count(2)} of them conversions")
        totals = {"literal": 0.0, "user-weighted": 0.0}
        for seed in (0, 1):
            table = pq.read_table(out / "runs" / f"ads-seed{seed}" / "ranks" / "test.parquet")
            for name, weigh in (
                ("literal", lambda _: 1.0),
                ("user-weighted", {1: 1.0, 2: 2.5}.get),
            ):
                worth = gained = 0.0
                for row, kind in zip(table.to_pylist(), types, strict=True):
                    weight, ties = weigh(kind), row[f"{mask}/ties"]
                    places = [row[f"{mask}/before"] + 1 + n for n in range(ties)]
                    inside = [place for place in places if place <= 10]
                    hit = len(inside) / max(ties, 1)
                    gain = sum(1 / math.log2(place + 1) for place in inside) / max(ties, 1)
                    worth += weight
                    gained += weight * (0.31 * hit + 0.69 * gain)
                totals[name] += gained / worth / 2
        for name, total in totals.items():
            row = rf"ads \(told the target's time\), 2 seed\(s\): .*{name} (\S+) "
            (found,) = re.findall(row, part)
            assert float(found) == pytest.approx(total, abs=6e-5)
        assert totals["literal"] != pytest.approx(totals["user-weighted"], abs=1e-6)
        assert "ads - popularity: " in part or "popularity - ads: " in part

    asked = argparse.Namespace(
        folder=str(tmp_path / "asked"), run_folder=str(out / "runs/ads-seed0"), users=[9]
    )
    script().recommend(asked)
    assert capsys.readouterr().out.startswith(f"9 users, {data.histories.offsets[9]:,} events, ")
    assert len(set(pq.read_table(tmp_path / "asked/asked-9.parquet")["user_id"].to_pylist())) == 9
    asked.users = [9, 4_000]
    with pytest.raises(SystemExit, match="--users 4000: the dataset has 400"):
        script().recommend(asked)

    script().score(argparse.Namespace(folder=str(out), only=["popularity"]))
    assert "ads" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--only adz: no such ranker"):
        script().score(argparse.Namespace(folder=str(out), only=["adz", "popularity"]))


def test_what_one_more_wide_vector_costs(tmp_path: Path, capsys: pytest.CaptureFixture):
    asked = argparse.Namespace(
        folder=str(tmp_path), widths=[64], items=[600, 300], layout="competition", seed=0
    )
    script().wide(asked)
    printed = capsys.readouterr().out
    (found,) = re.findall(
        r"width 64, (\S+) and (\S+) items, each item more: (\S+) bytes of files, (\S+) bytes of "
        r"folder, \S+ us of processor time, \S+ bytes of peak memory, \S+ without mapped files",
        printed,
    )
    few, many, files, folder = (float(value.replace(",", "")) for value in found)
    # The folder holds a vector twice, as parquet and as the index that is mapped.
    for size, place, each in ((few, "64-300", folder), (many, "64-600", folder)):
        assert len(Dataset.load(tmp_path / place).catalog) == size
        assert 2 * 4 * 64 < each < 2 * 4 * 64 + 400
    # Json lines take 15 to 25 bytes a number, and one item in thirty has no vector.
    assert 15 * 64 < files < 25 * 64


def test_every_index_of_a_search_is_built_and_compared(capsys: pytest.CaptureFixture):
    bench = script()
    asked = argparse.Namespace(candidates=3_000, users=20, indexes=list(bench.INDEXES), seed=0)
    bench.retrieve(asked)
    printed = capsys.readouterr().out
    assert re.search(r"^exact: \S+ s of one core, \S+ GiB above the vectors$", printed, re.M)
    recall = dict(re.findall(r"^faiss (\S+) .* recall@10 (\S+)$", printed, re.M))
    assert list(recall) == list(bench.INDEXES)
    assert float(recall["flat"]) == float(recall["hnsw-contest"]) == 1.0
    assert all(0.5 < float(value) <= 1.0 for value in recall.values())
