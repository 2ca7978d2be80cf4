"""Registered quantizers, quick enough to be fitted dozens of times."""

from __future__ import annotations

import inspect

import numpy as np

from genrec.quantization import QUANTIZERS, Quantizer, make_quantizer
from genrec.quantization.fixed_codes import FixedCodes

# Options that make a quantizer quick enough to be fitted dozens of times.
QUICK = {
    "rq-vae": {
        "hidden": (16,),
        "latent": 8,
        "steps": 150,
        "warmup_steps": 50,
        "batch_size": 64,
        "learning_rate": 1e-2,
        "refine": 2,
    },
    "rq-kmeans-plus": {"hidden": (16,), "steps": 60, "batch_size": 64, "refine": 2},
    "opq": {"iterations": 3},
    "mhq": {"epochs": 3, "batch_size": 64, "refine": 2},
}
# Options that lead through other code of a quantizer, under a name of their own.
VARIANTS: dict[str, tuple[str, dict]] = {
    "mhq, one subspace": ("mhq", {"num_subspaces": 1}),
    "mhq, penalty": ("mhq", {"orthogonality": "penalty"}),
    "opq, no rotation": ("opq", {"rotate": False}),
    "rq-kmeans, plain": ("rq-kmeans", {"balanced": False}),
    "rq-vae, further terms": ("rq-vae", {"update": "ste", "diversity": 1e-3, "sinkhorn": 0.01}),
}
NAMES = sorted(QUANTIZERS)
CASES = sorted([*QUANTIZERS, *VARIANTS])
# Controls, whose codes are not fitted to the vectors.
UNFITTED = [name for name in NAMES if issubclass(QUANTIZERS[name], FixedCodes)]


def type_of(case: str) -> str:
    return VARIANTS[case][0] if case in VARIANTS else case


def build(case: str, *, levels: int = 3, size: int = 8, **options) -> Quantizer:
    name, variant = type_of(case), VARIANTS.get(case, ("", {}))[1]
    known = inspect.signature(QUANTIZERS[name]).parameters
    options = QUICK.get(name, {}) | variant | options
    if "codebook_sizes" in known:
        options["codebook_sizes"] = (size,) * levels
    elif "num_subspaces" in variant:
        options |= {"levels": levels, "codebook_size": size}
    else:
        assert {"num_subspaces", "codebook_size"} <= set(known), (
            f"quantizer {name!r} names its shape by {', '.join(known)}; expected codebook_sizes, "
            "or num_subspaces and codebook_size, as docs/how-to/add-a-quantizer.md says"
        )
        options |= {"num_subspaces": levels, "codebook_size": size}
        options |= {"levels": 1} if "levels" in known else {}
    return make_quantizer(name, **options)


def clustered(n: int = 200, d: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(8, d)) * 5
    return (centers[rng.integers(8, size=n)] + rng.normal(size=(n, d))).astype(np.float32)
