"""Presets of model size: a ladder for studies of scale, and the sizes of published models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genrec.errors import ConfigError, expected_one_of
from genrec.models import BACKBONES

# d_model, layers, heads: each backbone has about four times the parameters of the one before.
SCALES: dict[str, tuple[int, int, int]] = {
    "xs": (32, 1, 1),
    "s": (64, 1, 2),
    "m": (96, 2, 2),
    "l": (192, 2, 4),
    "xl": (256, 4, 4),
    "xxl": (512, 4, 8),
}
# Layers x width of the HSTU models with published figures on TencentGR. Where heads were not
# published, they are ours.
PUBLISHED: dict[str, tuple[int, int, int]] = {
    "4x128": (128, 4, 4),
    "8x256": (256, 8, 8),
    "8x512": (512, 8, 8),
    "24x512": (512, 24, 8),
    "12x1024": (1024, 12, 8),
}


WIDTH = 64  # without a preset or a width


def scaled(
    scale: str | None, d_model: int | None, backbone: Mapping[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Width and backbone of a preset; unchanged without one.

    Args:
        scale: a name in `SCALES` or `PUBLISHED`, or None.
        d_model: the width without a preset, None for the default.
        backbone: `type` and options; see `Backbone.of_scale` for what a preset sets.

    Raises:
        ConfigError: for an unknown name, or a width or a backbone's option that is given beside a
            preset that sets it.
    """
    if scale is None:
        return WIDTH if d_model is None else d_model, dict(backbone)
    known = SCALES | PUBLISHED
    if scale not in known:
        raise ConfigError(f"scale={scale!r}; {expected_one_of(scale, known)}")
    width, layers, heads = known[scale]
    if d_model is not None:
        raise ConfigError(
            f"scale={scale!r} sets d_model to {width}, which is {d_model} here; leave one of them "
            "out"
        )
    chosen = dict(backbone)
    kind = BACKBONES.get(str(chosen.get("type")))
    for name, value in (kind.of_scale(layers=layers, heads=heads) if kind else {}).items():
        if name in chosen:
            raise ConfigError(
                f"scale={scale!r} sets the backbone's {name}, which is {chosen[name]} here; "
                "leave one of them out"
            )
        chosen[name] = value
    return width, chosen
