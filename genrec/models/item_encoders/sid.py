"""Items as their semantic IDs: code embeddings pooled, or one token per code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from genrec.errors import ConfigError
from genrec.models.item_encoders.base import CodeTable, ItemEncoder, register
from genrec.models.tables import ItemTables


@register("sid")
class SidEmbedding(ItemEncoder):
    """One learned embedding per code of each level, pooled over the levels.

    Args:
        tables: item tables with codes.
        d_model: width.
        pool: `mean` (RPG, Hou et al. 2025) or `sum` (the reconstruction of residual codes).
        dropout: on the pooled vector.

    Memory: `sum(codebook_sizes) * d_model` parameters.
    """

    def __init__(
        self, *, tables: ItemTables, d_model: int, pool: str = "mean", dropout: float = 0.0
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        tables.require("codes", part="item encoder 'sid'")
        if pool not in ("mean", "sum"):
            raise ConfigError(f"item encoder 'sid': pool={pool!r}; expected 'mean' or 'sum'")
        self.pool = pool
        self.table = CodeTable(codebook_sizes=tables.codebook_sizes, d_model=d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d_model]` of items `[...]`."""
        rows = self.tables.codes[items.reshape(-1)] + self.table.offsets
        pooled = F.embedding_bag(rows, self.table.weight, mode=self.pool)
        return self.dropout(pooled.view(*items.shape, self.d_model))

    @property
    def code_table(self) -> CodeTable:
        """The code embeddings."""
        return self.table


@register("sid-tokens")
class SidTokens(ItemEncoder):
    """One token per code: an item is its semantic ID, written out (TIGER, Rajput et al. 2023).

    A history of S items is a sequence of S L tokens, in which each code is predicted from all
    before it by a head that reads tokens. Other heads read the state at an item's last code.

    Args:
        tables: item tables with codes.
        d_model: width.
        dropout: on the tokens.

    Memory: `sum(codebook_sizes) * d_model` parameters.
    """

    def __init__(self, *, tables: ItemTables, d_model: int, dropout: float = 0.0) -> None:
        super().__init__(tables=tables, d_model=d_model)
        tables.require("codes", part="item encoder 'sid-tokens'")
        self.tokens_per_item = len(tables.codebook_sizes)
        self.table = CodeTable(codebook_sizes=tables.codebook_sizes, d_model=d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., L, d_model]` of items `[...]`."""
        rows = self.tables.codes[items] + self.table.offsets
        return self.dropout(F.embedding(rows, self.table.weight))

    def token(self, code: torch.Tensor, level: int) -> torch.Tensor:
        """Vectors `[..., d_model]` of codes `[...]` of `level`."""
        return self.dropout(F.embedding(code, self.table.level(level)))

    @property
    def code_table(self) -> CodeTable:
        """The code embeddings."""
        return self.table
