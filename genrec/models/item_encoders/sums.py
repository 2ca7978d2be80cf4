"""Sums of item encoders, and of what events add to their items."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from genrec.errors import ConfigError
from genrec.models.item_encoders.base import ITEM_ENCODERS, CodeTable, ItemEncoder, register
from genrec.models.item_encoders.events import EventFeature
from genrec.models.meta import SequenceMeta
from genrec.models.registry import build_part
from genrec.models.tables import ItemTables


@register("sum")
class SumEncoder(ItemEncoder):
    """The sum of several item encoders, and of what events add to their items.

    With one token per code (`sid-tokens`), what belongs to the whole item (`semantic`, `prefix`,
    `id` ..., and what events add) joins its last token: TIGER with text, or LIGER's input, without
    telling the codes of an item what it is while they are still predicted.

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
        if len(sizes - {1}) > 1:
            raise ConfigError(
                "item encoder 'sum': its parts have "
                f"{' and '.join(map(str, sorted(sizes - {1})))} tokens per item, which cannot be "
                "added; keep those of one number"
            )
        self.tokens_per_item = max(sizes)
        self.fronts = any(part.fronts for part in self._parts())

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., d_model]` of items `[...]`, or of each of their tokens.

        Where some parts have a vector per token and others one for the item, that joins the last
        token, at which the item is complete.
        """
        parts = self._of_items()
        whole = [part(items) for part in parts if part.tokens_per_item == 1]
        if self.tokens_per_item == 1:
            return added(whole)
        tokens = added([part(items) for part in parts if part.tokens_per_item > 1])
        if not whole:
            return tokens
        complete = tokens[..., -1:, :] + added(whole).unsqueeze(-2)
        return torch.cat([tokens[..., :-1, :], complete], dim=-2)

    def token(self, code: torch.Tensor, level: int) -> torch.Tensor:
        """Vectors `[..., d_model]` of codes `[...]` of `level`, of an item not yet complete."""
        parts = [part for part in self._of_items() if part.tokens_per_item > 1]
        return added([part.token(code, level) for part in parts or self._of_items()])

    def events(self, meta: SequenceMeta) -> torch.Tensor | None:
        """The sum of what the parts make of events."""
        found = [part.events(meta) for part in self._parts()]
        known = [one for one in found if one is not None]
        return added(known) if known else None

    def front(self, meta: SequenceMeta) -> torch.Tensor | None:
        """The sum of what the parts put before the events."""
        found = [part.front(meta) for part in self._parts()]
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
