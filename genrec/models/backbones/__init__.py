"""Backbones: one file each, all behind `Backbone`."""

from genrec.models.backbones.base import Backbone, BackboneSpec, BeamState, ContextState
from genrec.models.backbones.fuxi import FuXiAlpha, FuXiBeta
from genrec.models.backbones.hstu import HSTU
from genrec.models.backbones.huggingface import HuggingFaceDecoder
from genrec.models.backbones.nextitnet import NextItNet
from genrec.models.backbones.t5 import T5
from genrec.models.backbones.tokenformer import TokenFormer
from genrec.models.backbones.transformer import CausalTransformer

BACKBONES: dict[str, type[Backbone]] = {
    "transformer": CausalTransformer,
    "hstu": HSTU,
    "t5": T5,
    "hf": HuggingFaceDecoder,
    "fuxi-alpha": FuXiAlpha,
    "fuxi-beta": FuXiBeta,
    "tokenformer": TokenFormer,
    "nextitnet": NextItNet,
}

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
]
