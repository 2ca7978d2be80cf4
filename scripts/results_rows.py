"""A row of a page of results: what a method's `metrics.json` and `run.json` say, cell by cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genrec.artefacts import read_json
from genrec.evaluation.report import number
from genrec.evaluation.results import told_of
from genrec.models import HEADS

COLUMNS = (
    "method",
    "order",
    "seed",
    "R@10",
    "N@10",
    "95%",
    "masked R@10",
    "masked N@10",
    "95%",
    "chosen by",
    "ranked by",
    "beam",
    "certified",
    "parameters",
    "rank of states",
    "vectors",
    "training",
    "CPU",
    "memory",
    "evaluation",
    "published",
)


def row(
    method: str, metrics: dict[str, Any], run: dict[str, Any], published: dict[str, Any]
) -> list[str]:
    """The cells of one method.

    Args:
        method: name of its folder.
        metrics: its `metrics.json`.
        run: its `run.json`, with `vectors` as `vectors_of` names them; empty for a baseline.
        published: figures by method, of the page's dataset.
    """
    cells = [
        method,
        str(metrics["day_order"]),
        "" if metrics.get("seed") is None else str(metrics["seed"]),
    ]
    for mask in ("unmasked", "masked"):
        recall, ndcg = (metrics[f"test/{mask}/{name}@10"] for name in ("recall", "ndcg"))
        cells += [
            number(recall["value"]),
            f"**{number(ndcg['value'])}**",
            f"{number(ndcg['low'])} to {number(ndcg['high'])}",
        ]
    # With validations; earlier versions called it by the other name.
    training = metrics.get("run_seconds", metrics.get("training_seconds"))
    cpu = metrics.get("run_cpu_seconds")
    memory = run.get("peak_device_memory_mb", run.get("peak_memory_mb"))
    rank = metrics.get("effective_rank")
    return [
        *cells,
        chosen_by(run),
        ranked_by(metrics, run),
        "exact" if metrics.get("exact") else str(metrics["beam_width"]),
        f"{metrics['certificate_rate']:.1%}",
        f"{metrics.get('parameters', 0):,}",
        "" if rank is None else f"{rank:.1f}",
        run.get("vectors", ""),
        f"{training / 60:.1f} min" if training else "",
        f"{cpu / 60:.1f} min" if cpu else "",
        f"{memory:,.0f} MiB" if memory else "",
        f"{metrics['seconds']:.0f} s",
        beside(published.get(method.rpartition("-seed")[0] or method)),
    ]


def vectors_of(folder: Path, run: dict[str, Any]) -> str:
    """Name of the vectors that a run read, or of those that its codes were made from.

    Args:
        folder: of the run, in the output of its recipe.
        run: its `run.json`.
    """
    if run.get("vectors"):
        return Path(run["vectors"]).name
    record = folder / (run.get("vocabulary") or "") / "vocabulary.json"
    if not record.is_file():
        return ""
    made_from = read_json(record).get("vectors_fingerprint")
    for path in sorted(folder.parents[1].glob("vectors/*/embedding.json")):
        if made_from and read_json(path).get("fingerprint") == made_from:
            return f"{path.parent.name} (codes)"
    return ""


def chosen_by(run: dict[str, Any]) -> str:
    """Which validation chose a run's epochs: `masked`, `unmasked`; empty where it does not say."""
    masked = run.get("training", {}).get("eval_masked")
    return "" if masked is None else "masked" if masked else "unmasked"


def ranked_by(metrics: dict[str, Any], run: dict[str, Any]) -> str:
    """Whose scores order a method's lists: `codes`, `items`, or `items` that codes proposed."""
    head = HEADS.get(run.get("model", {}).get("head", {}).get("type"))
    if head is None:
        return ""
    if not head.uses_trie:
        return "items"
    if not head.ranks_items:
        return "codes"
    return "items" if metrics.get("exact") else "items, of codes"


def told(metrics: dict[str, Any], run: dict[str, Any]) -> str:
    """What a method knew of its target: `time`, `action`, both, or nothing.

    Folders of earlier versions say what was asked; what the model reads, their `run.json` says.
    """
    if "knows_request_time" in metrics:
        return told_of(metrics)
    parts = json.dumps(run.get("model", {}))
    reads = {"time": '"times": "request"', "action": '"type": "next-action"'}
    return ", ".join(
        name for name, text in reads.items() if metrics.get(f"request_{name}") and text in parts
    )


def beside(figures: dict[str, Any] | None) -> str:
    """Published figures of a method in a cell."""
    if figures is None:
        return ""
    names = (("R@10", "recall@10"), ("N@10", "ndcg@10"))
    found = [f"{name} {number(figures[key])}" for name, key in names if key in figures]
    return f"{', '.join(found)} {figures['mask']} ({figures['source']})"
