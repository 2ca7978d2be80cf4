"""Recommenders composed of an item encoder, a backbone and a head."""

from genrec.models.backbones import (
    BACKBONES,
    HSTU,
    T5,
    Backbone,
    BackboneSpec,
    BeamState,
    CausalTransformer,
    ContextState,
    FuXiAlpha,
    FuXiBeta,
    HuggingFaceDecoder,
    TokenFormer,
)
from genrec.models.code_decoder import CodeDecoder
from genrec.models.heads import (
    HEADS,
    AutoregressiveHead,
    DenseHead,
    Head,
    ParallelHead,
    RegressionHead,
    TokenHead,
)
from genrec.models.item_encoders import (
    ITEM_ENCODERS,
    IdEmbedding,
    ItemEncoder,
    SemanticProjection,
    SidEmbedding,
    SidTokens,
    SumEncoder,
)
from genrec.models.meta import SequenceMeta
from genrec.models.recommender import Recommender, RecommenderConfig, RecommenderOutput
from genrec.models.tables import ItemTables

__all__ = [
    "BACKBONES",
    "HEADS",
    "HSTU",
    "ITEM_ENCODERS",
    "T5",
    "AutoregressiveHead",
    "Backbone",
    "BackboneSpec",
    "BeamState",
    "CausalTransformer",
    "CodeDecoder",
    "ContextState",
    "DenseHead",
    "FuXiAlpha",
    "FuXiBeta",
    "Head",
    "HuggingFaceDecoder",
    "IdEmbedding",
    "ItemEncoder",
    "ItemTables",
    "ParallelHead",
    "Recommender",
    "RecommenderConfig",
    "RecommenderOutput",
    "RegressionHead",
    "SemanticProjection",
    "SequenceMeta",
    "SidEmbedding",
    "SidTokens",
    "SumEncoder",
    "TokenFormer",
    "TokenHead",
]
