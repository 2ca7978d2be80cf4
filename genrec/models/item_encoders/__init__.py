"""Item encoders: one file each, all behind `ItemEncoder`."""

from genrec.models.item_encoders.base import ITEM_ENCODERS, CodeTable, ItemEncoder
from genrec.models.item_encoders.ids import IdEmbedding
from genrec.models.item_encoders.semantic import SemanticProjection
from genrec.models.item_encoders.sid import SidEmbedding, SidTokens
from genrec.models.item_encoders.sums import SumEncoder

ITEM_ENCODERS.update(
    {
        "sid": SidEmbedding,
        "sid-tokens": SidTokens,
        "semantic": SemanticProjection,
        "id": IdEmbedding,
        "sum": SumEncoder,
    }
)

__all__ = [
    "ITEM_ENCODERS",
    "CodeTable",
    "IdEmbedding",
    "ItemEncoder",
    "SemanticProjection",
    "SidEmbedding",
    "SidTokens",
    "SumEncoder",
]
