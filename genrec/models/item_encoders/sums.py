"""Sums of item encoders, and of what events add to their items."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from genrec.errors import ConfigError
from genrec.models.item_encoders.base import ITEM_ENCODERS, CodeTable, ItemEncoder
from genrec.models.item_encoders.events import EventFeature
from genrec.models.meta import SequenceMeta
from genrec.models.registry import build_part
from genrec.models.tables import ItemTables


class SumEncoder(ItemEncoder):
    """The sum of several item encoders, and of what events add to their items.

    Args:
        parts: name -> configuration of each part; at least one encodes items.
        tables: item tables, read by the parts.
        d_model: width.
    """

    def __init__(
        self, *, parts: Mapping[str, Mapping[str, Any]], tables: ItemTables, d_model: int
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        for name in parts:
            if not name or "." in name or hasattr(nn.ModuleDict, name):
                raise ConfigError(
                    f"item encoder 'sum': a part cannot be named {name!r}; choose another name"
                )
        self.parts = nn.ModuleDict(
            {
                name: build_part(
                    f"item encoder part {name}", ITEM_ENCODERS, part, tables=tables, d_model=d_model
                )
                for name, part in parts.items()
            }
        )
        self.reads = frozenset().union(*(part.reads for part in self._parts()))
        of_items = self._of_items()
        if not of_items:
            raise ConfigError(
                f"item encoder 'sum': {'parts is empty' if not parts else 'no part reads items'}; "
                "name at least one encoder of items"
            )
        sizes = {part.tokens_per_item for part in of_items}
        for name, part in self.parts.items():
            if part in of_items and part.tokens_per_item != 1 and len(sizes) > 1:
                raise ConfigError(
                    f"item encoder 'sum': part {name} has one token per code; its vectors cannot "
                    "be added to those of whole items"
                )
        self.tokens_per_item = sizes.pop()

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d_model]` of items `[...]`, or of each of their tokens."""
        return added([part(items) for part in self._of_items()])

    def token(self, code: torch.Tensor, level: int) -> torch.Tensor:
        """Vectors `[..., d_model]` of codes `[...]` of `level`."""
        return added([part.token(code, level) for part in self._of_items()])

    def events(self, meta: SequenceMeta) -> torch.Tensor | None:
        """The sum of what the parts make of events."""
        found = [part.events(meta) for part in self._parts()]
        known = [one for one in found if one is not None]
        return added(known) if known else None

    @property
    def code_table(self) -> CodeTable | None:
        """The code embeddings of the first part that has any."""
        for part in self._parts():
            if part.code_table is not None:
                return part.code_table
        return None

    def _parts(self) -> list[ItemEncoder]:
        return cast("list[ItemEncoder]", list(self.parts.values()))

    def _of_items(self) -> list[ItemEncoder]:
        return [part for part in self._parts() if not isinstance(part, EventFeature)]


def added(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of at least one tensor."""
    return functools.reduce(torch.add, terms)
