"""Backbones: one file each, all behind `Backbone`."""

from genrec.models.backbones.base import Backbone, BackboneSpec, BeamState, ContextState
from genrec.models.backbones.transformer import CausalTransformer

BACKBONES: dict[str, type[Backbone]] = {"transformer": CausalTransformer}

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneSpec",
    "BeamState",
    "CausalTransformer",
    "ContextState",
]
