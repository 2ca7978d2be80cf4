"""Sums of item encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from genrec.errors import ConfigError
from genrec.models.item_encoders.base import ITEM_ENCODERS, CodeTable, ItemEncoder
from genrec.models.registry import build_part
from genrec.models.tables import ItemTables


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
