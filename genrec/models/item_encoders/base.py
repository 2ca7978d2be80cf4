"""Item encoders: item numbers -> vectors, looked up from what is known of each item.

An item number only addresses rows of tables (codes, vectors, learned embeddings); it never enters
as a value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from genrec.errors import ConfigError
from genrec.models.meta import SequenceMeta
from genrec.models.tables import ItemTables, share
from genrec.registry import registrar


class ItemEncoder(nn.Module, ABC):
    """Maps item numbers, int64 of any shape, to vectors of width `d_model`.

    Attributes:
        tokens_per_item: vectors of an item in the sequence that a backbone reads.
        reads: fields of `SequenceMeta` that `events` needs.
        fronts: whether a token stands before the events, see `front`.
    """

    tables: ItemTables
    tokens_per_item: int = 1
    reads: frozenset[str] = frozenset()
    fronts: bool = False

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

    def events(self, meta: SequenceMeta) -> torch.Tensor | None:
        """What the events of item-level metadata `[B, S]` add to the items they are about.

        Returns:
            float `[B, S, d_model]`, added to the token at which the item is complete; None if only
            the items count.
        """
        return None

    def front(self, meta: SequenceMeta) -> torch.Tensor | None:
        """Vectors `[B, d_model]` of a token before the events, which predicts the first of them.

        Returns:
            None if there is no such token.
        """
        return None

    def all_items(self) -> torch.Tensor:
        """Vectors `[N, d_model]` of the whole catalog."""
        return self(torch.arange(self.tables.num_items, device=self.tables.counts.device))

    @property
    def code_table(self) -> CodeTable | None:
        """The code embeddings a head may share, if this encoder has any."""
        return None


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


# By name; filled where all of them are known, and read by sums of them.
ITEM_ENCODERS: dict[str, type[ItemEncoder]] = {}
register = registrar(ITEM_ENCODERS)
