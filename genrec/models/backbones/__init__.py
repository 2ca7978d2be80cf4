"""Backbones: one file each, all behind `Backbone`."""

from genrec.models.backbones.base import Backbone, BackboneSpec, BeamState, ContextState
from genrec.models.backbones.fuxi import FuXiAlpha, FuXiBeta
from genrec.models.backbones.hstu import HSTU
from genrec.models.backbones.tokenformer import TokenFormer
from genrec.models.backbones.transformer import CausalTransformer

BACKBONES: dict[str, type[Backbone]] = {
    "transformer": CausalTransformer,
    "hstu": HSTU,
    "fuxi-alpha": FuXiAlpha,
    "fuxi-beta": FuXiBeta,
    "tokenformer": TokenFormer,
}

__all__ = [
    "BACKBONES",
    "HSTU",
    "Backbone",
    "BackboneSpec",
    "BeamState",
    "CausalTransformer",
    "ContextState",
    "FuXiAlpha",
    "FuXiBeta",
    "TokenFormer",
]
