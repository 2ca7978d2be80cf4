"""What a backbone is told about the sequence besides the embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch


@dataclass
class SequenceMeta:
    """Metadata of a padded batch of token embeddings `[B, S, D]`; a backbone never sees ids.

    Attributes:
        mask: bool `[B, S]`, True at real tokens.
        position: int64 `[B, S]`, token index from the first real token of the row.
        item_index: int64 `[B, S]`, which item of the history a token belongs to (equal to
            `position` when one token stands for one item).
        level: int64 `[B, S]`, the code level of a token; None where tokens are whole items.
        event_time: int64 `[B, S]` seconds, when the item of the token was consumed.
        query_time: int64 `[B, S]` seconds, when the item predicted from the token is consumed
            (request time at the last token).
        action: int64 `[B, S]`, type of the event.
        query_action: int64 `[B, S]`, type of the event at which the item predicted from the token
            is consumed, 0 where nobody knows it.
        user: int64 `[B, S]`, row of the user's features, the same in a row.
        right_padded: every row holds its real tokens first. Then a causal mask alone keeps
            padding out of the real tokens' outputs.
    """

    mask: torch.Tensor
    position: torch.Tensor
    item_index: torch.Tensor | None = None
    level: torch.Tensor | None = None
    event_time: torch.Tensor | None = None
    query_time: torch.Tensor | None = None
    action: torch.Tensor | None = None
    query_action: torch.Tensor | None = None
    user: torch.Tensor | None = None
    right_padded: bool = True

    @classmethod
    def from_mask(cls, mask: torch.Tensor, **others: torch.Tensor | None) -> SequenceMeta:
        """Metadata of item-level tokens from the padding mask alone."""
        position = (mask.long().cumsum(1) - 1).clamp_min(0)
        right_padded = bool((mask[:, 1:] <= mask[:, :-1]).all())
        return cls(
            mask=mask, position=position, item_index=position, right_padded=right_padded, **others
        )

    def per_code(self, levels: int) -> SequenceMeta:
        """Metadata `[B, S * levels]` of the codes of items whose metadata this is.

        An item's inner codes predict the item itself: they are told the time at which it was
        consumed as the time that is asked for, and not the action, which is known only after it
        (0; the last code is told).
        """
        code = torch.arange(levels, device=self.mask.device)
        last = code == levels - 1

        def spread(name: str, value: torch.Tensor) -> torch.Tensor:
            wide = value.unsqueeze(-1).expand(*value.shape, levels)
            if name == "position":
                wide = wide * levels + code
            elif name == "query_time" and self.event_time is not None:
                wide = torch.where(last, wide, self.event_time.unsqueeze(-1))
            elif name == "query_action" and self.action is not None:
                wide = torch.where(last, wide, self.action.unsqueeze(-1))
            elif name == "action":
                wide = wide * last
            return wide.flatten(1)

        made = self.map(spread)
        made.level = code.expand(*self.mask.shape, levels).flatten(1)
        return made

    def map(self, change: Callable[[str, torch.Tensor], torch.Tensor]) -> SequenceMeta:
        """The metadata with `change(name, value)` in place of each value that is known."""
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            changed[field.name] = (
                change(field.name, value) if isinstance(value, torch.Tensor) else value
            )
        return SequenceMeta(**changed)

    def select(self, rows: torch.Tensor) -> SequenceMeta:
        """The metadata of some rows, int64 `[b]`."""
        return self.map(lambda _, value: value[rows])

    def until(self, end: int) -> SequenceMeta:
        """The metadata of the columns before `end`."""
        return self.map(lambda _, value: value[:, :end])

    def first(self) -> torch.Tensor:
        """The column of the first real token of each row, int64 `[B, 1]`; 0 in an empty row."""
        return self.mask.long().argmax(1, keepdim=True)

    def fronted(self) -> SequenceMeta:
        """The metadata `[B, 1 + S]` with a token before, from which the first event is predicted.

        It stands at the time of that event, and has no action.
        """
        first = self.first()
        of_first = self.map(lambda _, value: value.gather(1, first))

        def place(name: str, value: torch.Tensor) -> torch.Tensor:
            if name in ("position", "item_index"):
                return torch.cat([torch.zeros_like(first), value + 1], 1)
            front = {
                "mask": torch.ones_like(first, dtype=torch.bool),
                "query_time": of_first.event_time,
                "action": torch.zeros_like(first),
                "query_action": of_first.action,
            }.get(name, getattr(of_first, name))
            return torch.cat([torch.zeros_like(first) if front is None else front, value], 1)

        return self.map(place)

    def last(self) -> torch.Tensor:
        """The column of the last real token of each row, int64 `[B]`; 0 in an empty row."""
        columns = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (columns * self.mask).argmax(1)

    def next_item(self, level: int) -> SequenceMeta:
        """Metadata `[B, 1]` of the token of `level` of the item that follows the last real token.

        It is what a decoding step is told, the same for all beams of a row. The item is consumed
        at the request time, the query time of the last real token; its action is unknown, 0.
        """
        last = self.last().unsqueeze(1)
        at_last = self.map(lambda _, value: value.gather(1, last))
        item_index = at_last.position if at_last.item_index is None else at_last.item_index
        time = at_last.query_time
        return SequenceMeta(
            mask=torch.ones_like(last, dtype=torch.bool),
            position=at_last.position + 1 + level,
            item_index=item_index + 1,
            level=torch.full_like(last, level),
            event_time=time,
            query_time=time,
            action=None if self.action is None else torch.zeros_like(last),
            query_action=at_last.query_action,
            user=at_last.user,
        )

    def join(self, others: SequenceMeta) -> SequenceMeta:
        """`[B, S]` and `[B, s]` one after the other; what either does not know is left out."""
        joined: dict[str, Any] = {
            field.name: torch.cat([one, two], 1)
            for field in fields(self)
            if isinstance(one := getattr(self, field.name), torch.Tensor)
            and isinstance(two := getattr(others, field.name), torch.Tensor)
        }
        return SequenceMeta(**joined, right_padded=self.right_padded and bool(self.mask.all()))

    def insert(self, others: SequenceMeta) -> SequenceMeta:
        """`[B, s]` placed right after each row's last real token, `[B, S + s]`."""
        steps = others.mask.shape[1]
        columns = self.last().unsqueeze(1) + 1 + torch.arange(steps, device=self.mask.device)

        def place(name: str, value: torch.Tensor) -> torch.Tensor:
            added = getattr(others, name)
            wide = torch.cat([value, value.new_zeros(len(value), steps)], 1)
            # Levels of item-level tokens are not known.
            return wide if added is None else wide.scatter(1, columns, added)

        return self.map(place)
