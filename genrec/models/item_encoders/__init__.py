"""Item encoders: one file each, all behind `ItemEncoder`."""

from genrec.models.item_encoders.base import ITEM_ENCODERS, CodeTable, ItemEncoder, register
from genrec.models.item_encoders.events import (
    ActionEmbedding,
    CalendarEmbedding,
    EventFeature,
    NextActionEmbedding,
    TimeGapEmbedding,
)
from genrec.models.item_encoders.features import FeatureEncoder, UserFeatures
from genrec.models.item_encoders.ids import IdEmbedding
from genrec.models.item_encoders.prefix import PrefixEmbedding
from genrec.models.item_encoders.semantic import SemanticProjection
from genrec.models.item_encoders.sid import SidEmbedding, SidTokens
from genrec.models.item_encoders.sums import SumEncoder
from genrec.registry import import_parts

import_parts(__name__, __path__)

__all__ = [
    "ITEM_ENCODERS",
    "ActionEmbedding",
    "CalendarEmbedding",
    "CodeTable",
    "EventFeature",
    "FeatureEncoder",
    "IdEmbedding",
    "ItemEncoder",
    "NextActionEmbedding",
    "PrefixEmbedding",
    "SemanticProjection",
    "SidEmbedding",
    "SidTokens",
    "SumEncoder",
    "TimeGapEmbedding",
    "UserFeatures",
    "register",
]
