"""Fit the loss of a recipe's runs as a power law of their parameters, and draw it.

    genrec run recipes/mine.yaml        # with sweep: {scale: [xs, s, m, l, xl]}
    python scripts/scaling.py runs/mine --out scaling

The loss is the mean training loss of the last epoch (`log.json`), the parameters are all of the
model's (`run.json`). Runs that differ in more than size, seed and learning rates have no law
together: `--only 'sid-scale*'` names those to take. Writes scaling.png and scaling.json.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from results_checks import difference, settings_of

from genrec.artefacts import read_json, replacing, write_json
from genrec.errors import ConfigError, GenrecError
from genrec.evaluation.scaling import ScalingFit, bootstrap_power_law

# What presets of size and their kind set, of all backbones.
OF_SIZE = (
    "d_model",
    "layers",
    "decoder_layers",
    "heads",
    "kv_heads",
    "head_width",
    "ffn",
    "hidden",
    "windows",
    "dilations",
)


def read_points(folder: Path, only: Collection[str] = ()) -> list[dict[str, Any]]:
    """Name, parameters and training loss of the last epoch of each finished run below `folder`.

    Args:
        folder: output of `genrec run`.
        only: names of trainings to take, or patterns of them such as `sid-scale*`; all by default.

    Raises:
        ConfigError: if there are none, or they differ in more than size, seed and learning rates.
    """
    points = []
    settings: dict[str, tuple[str, Any]] = {}
    for path in sorted((folder / "runs").glob("*/run.json")):
        name = path.parent.name
        if only and not any(fnmatchcase(name, one) for one in only):
            continue
        record = read_json(path)
        own = {
            key: value
            for key, value in settings_of(record).items()
            if key.rpartition(".")[2] not in OF_SIZE and not key.endswith("learning_rate")
        }
        if (differ := difference(settings, name, own)) is not None:
            other, what = differ
            raise ConfigError(
                f"{folder}: {other} and {name} are no sizes of one method: {what}; name those of "
                "one with --only, or take older folders out"
            )
        loss = loss_of_last_epoch(path.with_name("log.json"))
        points.append({"run": name, "parameters": record["parameters"], "loss": loss})
    if not points:
        named = f" of {', '.join(only)}" if only else ""
        raise ConfigError(f"{folder}: no finished runs{named} (runs/*/run.json)")
    return points


def loss_of_last_epoch(path: Path) -> float:
    """The last loss of a log, a mean since the loss before it.

    Raises:
        ConfigError: if it is of other steps than those of the last epoch.
    """
    log = read_json(path)
    losses = [(entry["epoch"], entry["loss"]) for entry in log if "loss" in entry]
    ends = [0.0, *(epoch for epoch, _ in losses)]
    if not losses or ends[-1] < max(entry["epoch"] for entry in log) or ends[-1] - ends[-2] > 1:
        raise ConfigError(
            f"{path}: notes a loss at the epochs {ends[1:]}, so none of the last epoch alone; "
            "train with training.eval_epochs: 1 to compare losses"
        )
    return float(losses[-1][1])


def draw(points: list[dict[str, Any]], fit: ScalingFit, path: Path) -> None:
    """The runs and the law over a logarithmic axis of parameters."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = np.array([point["parameters"] for point in points], dtype=float)
    along = np.logspace(np.log10(sizes.min() / 1.5), np.log10(sizes.max() * 1.5), 200)
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(along, fit.law.at(along), color="tab:orange", label=described(fit))
    axes.plot(sizes, [point["loss"] for point in points], "o", color="tab:blue")
    axes.set(xscale="log", xlabel="parameters", ylabel="training loss of the last epoch")
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)


def described(fit: ScalingFit) -> str:
    """The law with the interval of its exponent."""
    law, (low, high) = fit.law, fit.intervals["exponent"]
    found = "exponent" if low > 0 else "exponent not determined:"
    return (
        f"{law.floor:.3f} + {law.scale:.3g} N^-{law.exponent:.3f} "
        f"({found} {low:.3f} to {high:.3f}, {fit.level:.0%})"
    )


def main(given: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="output folder of `genrec run`")
    parser.add_argument("--out", type=Path, default=Path("scaling"), help="without an ending")
    parser.add_argument("--samples", type=int, default=500, help="draws of the bootstrap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", default=(), help="names or patterns of the runs to take"
    )
    arguments = parser.parse_args(given)
    points = read_points(arguments.folder, arguments.only)
    fit = bootstrap_power_law(
        [point["parameters"] for point in points],
        [point["loss"] for point in points],
        samples=arguments.samples,
        seed=arguments.seed,
    )
    found = {
        "points": points,
        "floor": fit.law.floor,
        "scale": finite(fit.law.scale),
        "exponent": fit.law.exponent,
        "relative_error": fit.law.error,
        "intervals": {name: [finite(end) for end in ends] for name, ends in fit.intervals.items()},
        "level": fit.level,
        "seed": arguments.seed,
    }
    draw(points, fit, arguments.out.with_suffix(".png"))
    write_json(arguments.out.with_suffix(".json"), found)
    print(json.dumps({key: value for key, value in found.items() if key != "points"}, indent=2))
    if len({point["parameters"] for point in points}) < 6:
        print(
            "Few sizes: intervals are too narrow (see genrec.evaluation.scaling), the more so with "
            "one seed a size."
        )
    return found


def finite(value: float) -> float | None:
    """The value, or None for one that JSON does not have."""
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    try:
        main()
    except GenrecError as error:
        raise SystemExit(f"error: {error}") from error
