"""What a recipe's stages were asked for, with the default of every option that is left out.

A stage is up to date while these are the same, so a default that changes counts like a setting.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from genrec.models import BACKBONES, HEADS, ITEM_ENCODERS
from genrec.models.registry import with_defaults
from genrec.pipeline.scales import scaled
from genrec.pipeline.train import train
from genrec.pipeline.vocabulary import build_embedder, build_quantizer, quantize
from genrec.training import TrainingConfig

# What `run` gives to the stages itself.
SUPPLIED = ("dataset", "out", "split", "progress", "name", "resume")
PARTS: dict[str, Mapping[str, type[Any]]] = {
    "item_encoder": ITEM_ENCODERS,
    "backbone": BACKBONES,
    "head": HEADS,
}


def options_of(work: Callable[..., Any], supplied: tuple[str, ...] = SUPPLIED) -> list[str]:
    """Names of the options of a stage's function, without those that `run` gives to it."""
    return [name for name in inspect.signature(work).parameters if name not in supplied]


def resolved(
    work: Callable[..., Any], options: Mapping[str, Any], supplied: tuple[str, ...] = SUPPLIED
) -> dict[str, Any]:
    """`options` with the defaults of the others that `work` takes and `run` does not give to it."""
    found = inspect.signature(work).parameters
    defaults = {name: found[name].default for name in options_of(work, supplied)}
    empty = inspect.Parameter.empty
    return {name: value for name, value in defaults.items() if value is not empty} | dict(options)


def resolved_embedder(config: dict[str, Any]) -> dict[str, Any]:
    """The embedder's options and those of its parts."""
    return build_embedder(config).config


def resolved_vocabulary(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `quantize` and of its quantizer."""
    whole = resolved(quantize, options)
    return whole | {"quantizer": build_quantizer(whole["quantizer"]).config}


def resolved_run(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `train`, of the parts of its model, its preset of size, and its training."""
    whole = resolved(train, options)
    width, backbone = scaled(whole["scale"], whole["d_model"], whole["backbone"])
    whole |= {"d_model": width, "backbone": backbone}
    parts = {name: with_defaults(kinds, whole[name]) for name, kinds in PARTS.items()}
    training = whole["training"]
    if not isinstance(training, TrainingConfig):
        training = TrainingConfig(**training)
    return whole | parts | {"training": asdict(training)}
