"""Count how often the interval of `bootstrap_power_law` holds a known exponent.

    python scripts/scaling_coverage.py --sizes 4 --seeds 1

Simulated studies have losses of one law, with independent relative errors; the figures in
`genrec.evaluation.scaling` come from here.
"""

from __future__ import annotations

import argparse

import numpy as np

from genrec.evaluation.scaling import PowerLaw, bootstrap_power_law

LAW = PowerLaw(floor=2.5, scale=2000.0, exponent=0.45, error=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, default=4, help="from 50 thousand to 2 million")
    parser.add_argument("--seeds", type=int, default=1, help="models of each size")
    parser.add_argument("--noise", type=float, default=0.003, help="deviation of relative errors")
    parser.add_argument("--studies", type=int, default=100)
    given = parser.parse_args()
    sizes = np.repeat(np.geomspace(5e4, 2e6, given.sizes), given.seeds)
    generator = np.random.default_rng(1)
    held = 0
    for study in range(given.studies):
        losses = LAW.at(sizes) * (1 + given.noise * generator.standard_normal(len(sizes)))
        fit = bootstrap_power_law(sizes.tolist(), losses.tolist(), samples=100, seed=study)
        low, high = fit.intervals["exponent"]
        held += low <= LAW.exponent <= high
    print(f"{given.sizes} sizes, {given.seeds} seeds each: {held} of {given.studies} held it")


if __name__ == "__main__":
    main()
