"""Backbones: one file each, all behind `Backbone`."""

from genrec.models.backbones.base import Backbone, BackboneSpec, BeamState, ContextState
from genrec.models.backbones.hstu import HSTU
from genrec.models.backbones.transformer import CausalTransformer

BACKBONES: dict[str, type[Backbone]] = {"transformer": CausalTransformer, "hstu": HSTU}

__all__ = [
    "BACKBONES",
    "HSTU",
    "Backbone",
    "BackboneSpec",
    "BeamState",
    "CausalTransformer",
    "ContextState",
]
