"""Check on this machine what the results rest on, and write docs/results/checks.md.

    python scripts/checks.py --work runs/checks

Popularity on two public datasets against its published figures; the demo run twice, which must give
the same codes, weights and metrics within 90 seconds each; and a third demo whose training is
killed half-way and run again, which must end as the others did. Takes four times as long as the
demo. The popularity rows need the folder named by GENREC_DATA. Exits with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow.parquet import read_table

from genrec.artefacts import read_json
from genrec.data import Dataset, leave_one_out
from genrec.data.sources import prepare
from genrec.evaluation import PopularityRanker, evaluate
from genrec.evaluation.report import number

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "checks.md"
METRICS = [f"{metric}@{k}" for k in (5, 10, 20) for metric in ("recall", "ndcg")]
# Recall and NDCG at 5, 10 and 20 as published with S3-Rec (arXiv 2008.07873): counted over all
# interactions, the items of the history left out.
PUBLISHED = {
    "amazon2014-beauty": (0.0080, 0.0044, 0.0152, 0.0068, 0.0217, 0.0084),
    "amazon2014-sports": (0.0056, 0.0041, 0.0094, 0.0053, 0.0192, 0.0078),
}
SECONDS = 90
KILLED = "runs/sid"  # the run that is killed
Row = tuple[str, str, str, bool]


def popularity(work: Path) -> Iterator[Row]:
    """Known answers, to the last digit."""
    for name, published in PUBLISHED.items():
        folder = work / name
        if not folder.exists():
            source = Path(os.environ["GENREC_DATA"]) / name / "joined"
            prepare("tables", folder, path=source, name=name)
        dataset = Dataset.load(folder)
        items = len(dataset.catalog)
        counts = dataset.histories.counts(items)
        ranker = PopularityRanker(counts, np.random.default_rng(0).permutation(items))
        split = leave_one_out(dataset.histories)
        found = evaluate(ranker, dataset, split.test, split="test", bootstrap=0)
        values = tuple(round(found.value("masked", metric), 4) for metric in METRICS)
        yield (
            f"popularity on {name}: {', '.join(METRICS)}",
            ", ".join(map(number, published)),
            ", ".join(map(number, values)),
            values == published,
        )


def demo(out: Path, *, kill: bool = False) -> float:
    """Seconds that the demo took; with `kill`, until it was killed half-way through a training."""
    command = [sys.executable, "-m", "genrec.cli", "run", str(ROOT / "recipes" / "demo.yaml")]
    started = time.perf_counter()
    with subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if kill and len(list((out / KILLED / "checkpoints").glob("checkpoint-*"))) >= 2:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02 if kill else 0.2)
        code = process.wait()
    if code != (-signal.SIGKILL if kill else 0):
        raise SystemExit(f"the demo in {out} ended with {code}, see above")
    return time.perf_counter() - started


def results(out: Path) -> dict[str, Any]:
    """What must not differ between runs: fingerprints of codes and weights, metrics, beams."""
    found: dict[str, Any] = {}
    for path in sorted(out.glob("vocabularies/*/vocabulary.json")):
        found[f"codes of {path.parent.name}"] = read_json(path)["fingerprint"]
    for path in sorted([*out.glob("runs/*/metrics.json"), *out.glob("report/*/metrics.json")]):
        metrics = read_json(path)
        beams = metrics.get("beams", {}).get("rows", [])
        kept = [{k: v for k, v in row.items() if k != "seconds"} for row in beams]
        names = [name for name in metrics if name.startswith("test/") and "seconds" not in name]
        flat = {name: metrics[name] for name in names}
        found[path.parent.name] = (metrics.get("fingerprints"), flat, kept)
    for path in sorted(out.glob("runs/*/model/manifest.json")):
        found[f"weights of {path.parent.parent.name}"] = read_json(path)["files"]
    for path in sorted(out.glob("runs/*/ranks/*")):
        found[f"ranks of {path.parent.parent.name}"] = read_table(path).replace_schema_metadata()
    return found


def demos(work: Path) -> Iterator[Row]:
    first, second, third = (work / f"demo-{name}" for name in ("first", "second", "killed"))
    for folder in (first, second, third):
        shutil.rmtree(folder, ignore_errors=True)
    seconds = [demo(first), demo(second)]
    yield (
        "`make demo` after installation, twice",
        f"at most {SECONDS} s",
        " and ".join(f"{value:.0f} s" for value in seconds),
        max(seconds) <= SECONDS,
    )
    one, two = results(first), results(second)
    yield ("codes, weights, beams and metrics of the two", "equal", same(one, two), one == two)
    ndcg = {
        path.parent.name: read_json(path)["test/unmasked/ndcg@10"]["value"]
        for path in (first / "runs/sid/metrics.json", first / "report/popularity/metrics.json")
    }
    times = ndcg["sid"] / ndcg["popularity"]
    yield ("NDCG@10 of the SID model over popularity", "at least 3x", f"{times:.1f}x", times >= 3)
    demo(third, kill=True)
    demo(third)
    resumed = results(third)
    yield (
        "the same, training killed (SIGKILL) half-way and the command given again",
        "equal",
        same(one, resumed),
        one == resumed,
    )


def same(one: dict[str, Any], other: dict[str, Any]) -> str:
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return f"{len(one)} of {len(one)} parts equal" if not names else f"differ: {', '.join(names)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/checks"), help="folder to work in")
    parser.add_argument("--note", default="", help="a sentence on the machine")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    if os.environ.get("GENREC_DATA"):
        rows += popularity(given.work)
    else:
        print("GENREC_DATA is not set: popularity on public data is left out")
    for row in demos(given.work):
        print(*row[:3], "holds" if row[3] else "DOES NOT HOLD", sep=" | ", flush=True)
        rows.append(row)
    machine = f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}"
    lines = [
        "# Checks",
        "",
        f"`python scripts/checks.py`, {datetime.date.today()}, {machine}. {given.note}".rstrip(),
        "",
        "| check | expected | found | |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row[:3])} | {'holds' if row[3] else '**no**'} |" for row in rows),
    ]
    PAGE.write_text("\n".join(lines) + "\n")
    print(f"written to {PAGE}")
    sys.exit(not all(row[3] for row in rows))


if __name__ == "__main__":
    main()
