"""Items as the prefixes of their semantic IDs (SIREN, arXiv 2605.25726)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from genrec.errors import ConfigError
from genrec.models.item_encoders.base import ItemEncoder, register
from genrec.models.tables import ItemTables

MIX = 0x9E3779B97F4A7C15 - 2**64  # 2^64 over the golden ratio, odd


@register("prefix")
class PrefixEmbedding(ItemEncoder):
    """One learned embedding per prefix `(c1)`, `(c1, c2)`, ..., added up or averaged.

    A code of a residual quantizer means something else behind another prefix; this table can tell,
    one row per code cannot. A depth with at most `buckets` possible prefixes has a row for each;
    deeper ones share `buckets` rows by a hash, and some prefixes then share a row.

    Args:
        tables: item tables with codes.
        d_model: width.
        depth: codes of the longest prefix, all levels by default.
        buckets: most rows of one depth.
        pool: `sum` or `mean` over the prefixes.
        dropout: on the pooled vector.

    Memory: `d_model` parameters per row.
    """

    def __init__(
        self,
        *,
        tables: ItemTables,
        d_model: int,
        depth: int | None = None,
        buckets: int = 16_384,
        pool: str = "sum",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        tables.require("codes", part="item encoder 'prefix'")
        levels = len(tables.codebook_sizes)
        if pool not in ("mean", "sum"):
            raise ConfigError(f"item encoder 'prefix': pool={pool!r}; expected 'mean' or 'sum'")
        if depth is not None and not 1 <= depth <= levels:
            raise ConfigError(
                f"item encoder 'prefix': depth={depth}; expected from 1 to the {levels} codes of "
                "an item"
            )
        if buckets < 1:
            raise ConfigError(f"item encoder 'prefix': buckets={buckets}; expected at least 1")
        self.depth, self.pool = depth or levels, pool
        sizes = tables.codebook_sizes
        self.rows = [min(math.prod(sizes[: n + 1]), buckets) for n in range(self.depth)]
        self.weight = nn.Parameter(torch.empty(sum(self.rows), d_model))
        nn.init.normal_(self.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d_model]` of items `[...]`."""
        rows = self.prefix_rows(self.tables.codes[items.reshape(-1)].long())
        pooled = F.embedding_bag(rows, self.weight, mode=self.pool)
        return self.dropout(pooled.view(*items.shape, self.d_model))

    def prefix_rows(self, codes: torch.Tensor) -> torch.Tensor:
        """The row of each prefix, int64 `[n, depth]`, from codes int64 `[n, L]`."""
        found, key, start = [], torch.zeros_like(codes[:, 0]), 0
        for level, rows in enumerate(self.rows):
            # Of many levels the product overflows; what is left is a key as good as any.
            key = key * self.tables.codebook_sizes[level] + codes[:, level]
            exact = rows == math.prod(self.tables.codebook_sizes[: level + 1])
            found.append(start + (key if exact else hashed(key, rows)))
            start += rows
        return torch.stack(found, dim=1)


def hashed(key: torch.Tensor, rows: int) -> torch.Tensor:
    """A fixed pseudo-random row in `0..rows - 1` of each key, int64."""
    mixed = (key + 1) * MIX
    mixed = (mixed ^ (mixed >> 29)) * MIX
    return ((mixed >> 32) & 0x7FFFFFFF) % rows
