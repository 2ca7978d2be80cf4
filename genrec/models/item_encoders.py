"""Item encoders: item numbers -> vectors, looked up from what is known of each item.

An item number only addresses rows of tables (codes, vectors, learned embeddings); it never enters
as a value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from genrec.errors import ConfigError
from genrec.models.registry import build_part
from genrec.models.tables import ItemTables, share


class ItemEncoder(nn.Module, ABC):
    """Maps item numbers, int64 of any shape, to vectors of width `d_model`.

    Attributes:
        tokens_per_item: vectors of an item in the sequence that a backbone reads.
    """

    tables: ItemTables
    tokens_per_item: int = 1

    def __init__(self, *, tables: ItemTables, d_model: int) -> None:
        super().__init__()
        share(self, "tables", tables)
        self.d_model = d_model

    @abstractmethod
    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d_model]` of items `[...]` in 0..N-1.

        With several tokens per item, `[..., tokens_per_item, d_model]`.
        """

    def token(self, code: torch.Tensor, level: int) -> torch.Tensor:
        """Vectors `[..., d_model]` of codes `[...]` of one level, where each code is a token."""
        raise ConfigError(
            f"item encoder {type(self).__name__}: has one vector per item, not one per code; use "
            "type 'sid-tokens'"
        )

    def all_items(self) -> torch.Tensor:
        """Vectors `[N, d_model]` of the whole catalog."""
        return self(torch.arange(self.tables.num_items, device=self.tables.counts.device))

    @property
    def code_table(self) -> CodeTable | None:
        """The code embeddings a head may share, if this encoder has any."""
        return None


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


class CodeTable(nn.Module):
    """Embeddings of all codes of all levels in one matrix `[sum K, D]`, level after level."""

    offsets: torch.Tensor

    def __init__(self, *, codebook_sizes: Sequence[int], d_model: int) -> None:
        super().__init__()
        self.codebook_sizes = tuple(codebook_sizes)
        self.weight = nn.Parameter(torch.empty(sum(self.codebook_sizes), d_model))
        nn.init.normal_(self.weight, std=0.02)
        sizes = torch.tensor((0, *self.codebook_sizes[:-1]))
        self.register_buffer("offsets", sizes.cumsum(0).to(torch.int32))

    def level(self, level: int) -> torch.Tensor:
        """The rows `[K, D]` of one level."""
        start = sum(self.codebook_sizes[:level])
        return self.weight[start : start + self.codebook_sizes[level]]


class SemanticProjection(ItemEncoder):
    """Continuous item vectors through gated experts (MSP of AsymRec, arXiv 2605.14512).

    `MSP(x) = sum_e softmax(W_g x)_e MLP_e(x)` with two-layer experts, x layer-normalised. The
    paper's number of experts, widths and activation are not public; `experts=1` is the plain
    projection.

    Args:
        tables: item tables with vectors.
        d_model: width of the output.
        experts: number of experts E.
        hidden: hidden width of an expert, `d_model` by default; 0 makes each expert linear.
        dropout: on the output.

    """

    def __init__(
        self,
        *,
        tables: ItemTables,
        d_model: int,
        experts: int = 1,
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        tables.require("vectors", part="item encoder 'semantic'")
        if experts < 1:
            raise ConfigError(f"item encoder 'semantic': experts={experts}; expected at least 1")
        if hidden is not None and hidden < 0:
            raise ConfigError(f"item encoder 'semantic': hidden={hidden}; expected 0 or more")
        self.experts = experts
        vector_dim = tables.vector_dim
        width = d_model if hidden is None else hidden
        self.norm = nn.LayerNorm(vector_dim)
        self.gate = nn.Linear(vector_dim, experts) if experts > 1 else None
        self.inner = nn.Linear(vector_dim, experts * width) if width else None
        self.outer = nn.Parameter(torch.empty(experts, width or vector_dim, d_model))
        for weight in (self.outer, *(m.weight for m in (self.gate, self.inner) if m is not None)):
            nn.init.normal_(weight, std=0.02)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d_model]` of items `[...]`."""
        x = self.norm(self.tables.vectors[items])
        if self.inner is None:
            hidden = x.unsqueeze(-2).expand(*x.shape[:-1], self.experts, x.shape[-1])
        else:
            hidden = F.gelu(self.inner(x)).unflatten(-1, (self.experts, -1))
        if self.gate is not None:
            hidden = hidden * self.gate(x).softmax(-1).unsqueeze(-1)
        out = hidden.flatten(-2) @ self.outer.flatten(0, 1)
        return self.dropout(out)


class IdEmbedding(ItemEncoder):
    """One learned embedding per item (SASRec, Kang and McAuley 2018).

    Memory: `4 d_model` bytes per item, twice that again for the optimiser.
    """

    def __init__(self, *, tables: ItemTables, d_model: int, dropout: float = 0.0) -> None:
        super().__init__(tables=tables, d_model=d_model)
        self.table = nn.Embedding(tables.num_items, d_model)
        nn.init.normal_(self.table.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d_model]` of items `[...]`."""
        return self.dropout(self.table(items))


class SumEncoder(ItemEncoder):
    """The sum of several item encoders.

    Args:
        parts: name -> configuration of each part.
        tables: item tables, read by the parts.
        d_model: width.
    """

    def __init__(
        self, *, parts: Mapping[str, Mapping[str, Any]], tables: ItemTables, d_model: int
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        if not parts:
            raise ConfigError("item encoder 'sum': parts is empty; name at least one encoder")
        self.parts = nn.ModuleDict(
            {
                name: build_part(
                    f"item encoder part {name}", ITEM_ENCODERS, part, tables=tables, d_model=d_model
                )
                for name, part in parts.items()
            }
        )
        for name, part in self.parts.items():
            if part.tokens_per_item != 1:
                raise ConfigError(
                    f"item encoder 'sum': part {name} has one token per code; a sum adds vectors "
                    "of whole items"
                )

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d_model]` of items `[...]`."""
        first, *others = self.parts.values()
        total = first(items)
        for part in others:
            total = total + part(items)
        return total

    @property
    def code_table(self) -> CodeTable | None:
        """The code embeddings of the first part that has any."""
        for part in self.parts.values():
            if isinstance(part, ItemEncoder) and part.code_table is not None:
                return part.code_table
        return None


ITEM_ENCODERS: dict[str, type[ItemEncoder]] = {
    "sid": SidEmbedding,
    "sid-tokens": SidTokens,
    "semantic": SemanticProjection,
    "id": IdEmbedding,
    "sum": SumEncoder,
}
