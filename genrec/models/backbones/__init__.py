"""Backbones: one file each, all behind `Backbone`."""

from genrec.models.backbones.base import (
    BACKBONES,
    Backbone,
    BackboneSpec,
    BeamState,
    ContextState,
    register,
)
from genrec.models.backbones.fuxi import FuXiAlpha, FuXiBeta
from genrec.models.backbones.hstu import HSTU
from genrec.models.backbones.huggingface import HuggingFaceDecoder
from genrec.models.backbones.nextitnet import NextItNet
from genrec.models.backbones.t5 import T5
from genrec.models.backbones.tokenformer import TokenFormer
from genrec.models.backbones.transformer import CausalTransformer
from genrec.registry import import_parts

import_parts(__name__, __path__)

__all__ = [
    "BACKBONES",
    "HSTU",
    "T5",
    "Backbone",
    "BackboneSpec",
    "BeamState",
    "CausalTransformer",
    "ContextState",
    "FuXiAlpha",
    "FuXiBeta",
    "HuggingFaceDecoder",
    "NextItNet",
    "TokenFormer",
    "register",
]
