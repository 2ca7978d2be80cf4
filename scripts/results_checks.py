"""What the folders of runs must be so that one page may hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Runs = Mapping[tuple[str, str], Mapping[str, Any]]  # run.json by name and order of events
Rows = list[tuple[float, str, dict[str, Any]]]


def check_folders(folders: list[Path]) -> None:
    """Refuse what is no output folder of `genrec run`, before anything is written.

    Raises:
        SystemExit: naming the folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise SystemExit(f"{folder}: no such folder")
        if not any((folder / "runs").glob("*/*.json")):
            raise SystemExit(
                f"{folder}: no runs in it (runs/*/run.json); give the output folder of `genrec run`"
            )


def check_one_dataset(rows: Rows) -> None:
    """Refuse rows of several datasets, such as runs that are older than the folder's data.

    Raises:
        SystemExit: naming the datasets and the runs on each.
    """
    runs: dict[str, list[str]] = {}
    for _, method, metrics in rows:
        if made_from := metrics["fingerprints"].get("dataset"):
            runs.setdefault(made_from, []).append(f"{method} ({metrics['day_order']} order)")
    if len(runs) > 1:
        each = "; ".join(f"{made_from}: {', '.join(names)}" for made_from, names in runs.items())
        raise SystemExit(
            f"runs of several datasets cannot stand in one table: {each}. Run those again that are "
            "of other data, or take their folders out"
        )


def check_seeds(runs: Runs) -> None:
    """Refuse seeds of a method that differ in more, such as those left by an earlier recipe.

    Raises:
        SystemExit: naming two of them and the setting in which they differ.
    """
    first: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    for (name, order), record in runs.items():
        method, found, _ = name.rpartition("-seed")
        if not found:
            continue
        own = _settings(record)
        other, settings = first.setdefault((method, order), (name, own))
        for key in sorted(own.keys() & settings.keys()):  # an older run may know fewer
            if own[key] != settings[key]:
                raise SystemExit(
                    f"{other} and {name} ({order} order) are no seeds of one method: {key} is "
                    f"{settings[key]!r} and {own[key]!r}. Run them again by one recipe, or take "
                    "the folder of the older one out"
                )


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a training was asked for but its seed, by dotted names.

    A seed may read a vocabulary of its own.
    """
    kept = {key: record[key] for key in ("model", "split", "training") if key in record}
    flat = _flat(kept)
    if "vectors_fingerprint" in record:
        flat["vectors"] = record["vectors_fingerprint"]
    flat.pop("training.seed", None)
    return flat


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
