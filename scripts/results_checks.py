"""What the folders of runs must be so that one page may hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Runs = Mapping[tuple[str, str], Mapping[str, Any]]  # run.json by name and order of events
IRRELEVANT = ("training.seed", "training.workers", "training.report_to")
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

    Settings that only some of them noted are compared among these.

    Raises:
        SystemExit: naming two of them and the setting in which they differ.
    """
    known: dict[tuple[str, str], dict[str, tuple[str, Any]]] = {}
    for (name, order), record in sorted(runs.items()):
        method, found, _ = name.rpartition("-seed")
        if not found:
            continue
        settings = known.setdefault((method, order), {})
        if (differ := difference(settings, name, settings_of(record))) is not None:
            other, what = differ
            raise SystemExit(
                f"{other} and {name} ({order} order) are no seeds of one method: {what}. Run them "
                "again by one recipe, or take the folder of the older one out"
            )


def difference(
    settings: dict[str, tuple[str, Any]], name: str, own: Mapping[str, Any]
) -> tuple[str, str] | None:
    """The first run that differs from this one and in what, or None; what is new is noted.

    Args:
        settings: of the runs so far, with the name of the first that said each; added to.
        name: of the run.
        own: its settings.
    """
    for key, value in own.items():
        other, expected = settings.setdefault(key, (name, value))
        if value != expected:
            return other, f"{key} is {expected!r} and {value!r}"
    return None


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says that it was asked for but its seed, by dotted names.

    A seed may read a vocabulary of its own, `opq-seed1` where others read `opq`.

    Args:
        record: its `run.json`.
    """
    settings = _flat({key: record[key] for key in ("model", "split", "training") if key in record})
    for key in IRRELEVANT:
        settings.pop(key, None)
    if "vectors_fingerprint" in record:
        settings["vectors"] = record["vectors_fingerprint"]
    if "vocabulary" in record:
        settings["vocabulary"] = re.sub(r"-seed\d+$", "", Path(record["vocabulary"] or "").name)
    return settings


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
