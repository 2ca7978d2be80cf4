"""Items as themselves."""

from __future__ import annotations

import torch
from torch import nn

from genrec.models.embeddings import embedding
from genrec.models.item_encoders.base import ItemEncoder, register
from genrec.models.tables import ItemTables


@register("id")
class IdEmbedding(ItemEncoder):
    """One learned embedding per item (SASRec, Kang and McAuley 2018).

    Memory: `4 d_model` bytes per item, twice that again for the optimiser.
    """

    def __init__(self, *, tables: ItemTables, d_model: int, dropout: float = 0.0) -> None:
        super().__init__(tables=tables, d_model=d_model)
        self.table = embedding(tables.num_items, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d_model]` of items `[...]`."""
        return self.dropout(self.table(items))
