"""What an event adds to the item it is about: when it happened, and what was done.

A feature joins the token at which its item is complete: the item's only token, or its last code.
Until then nothing of an event is seen but the codes so far. So when the codes of an item are
predicted, in training or in a beam, neither its time nor its action is known, and no feature has
to be delayed.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import nn

from genrec.errors import ConfigError
from genrec.models.embeddings import embedding
from genrec.models.item_encoders.base import ItemEncoder, register
from genrec.models.meta import SequenceMeta
from genrec.models.tables import ItemTables
from genrec.models.times import TIME_BUCKETS, gap_buckets


class EventFeature(ItemEncoder):
    """A part of a sum that reads events and not items; for an item by itself it is zero."""

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Zeros `[..., d_model]`: an item without an event has no such feature."""
        return torch.zeros(*items.shape, self.d_model, device=items.device)

    @abstractmethod
    def events(self, meta: SequenceMeta) -> torch.Tensor | None:
        """What the events of item-level metadata `[B, S]` add, float `[B, S, d_model]`."""


@register("time-gap")
class TimeGapEmbedding(EventFeature):
    """One learned embedding per bucket of a time gap; buckets as those of HSTU.

    Args:
        tables: item tables; not read.
        d_model: width.
        times: which gap. `event`: since the event before; the first event of a window has a row
            of its own. `request`: until the item to be predicted is consumed, for services that
            know when they are asked.
        dropout: on the embedding.
    """

    def __init__(
        self, *, tables: ItemTables, d_model: int, times: str = "event", dropout: float = 0.0
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        if times not in ("event", "request"):
            raise ConfigError(
                f"item encoder 'time-gap': times={times!r}; expected 'event' or 'request'"
            )
        self.times = times
        self.reads = frozenset({"event_time"} | ({"query_time"} if times == "request" else set()))
        self.table = embedding(TIME_BUCKETS + 1, d_model)
        self.dropout = nn.Dropout(dropout)

    def events(self, meta: SequenceMeta) -> torch.Tensor:
        """See `EventFeature.events`."""
        event, query = meta.event_time, meta.query_time
        if event is None or (query is None and self.times == "request"):
            raise ConfigError(
                "item encoder 'time-gap': needs the time of every event; use a dataset with "
                "timestamps"
            )
        if query is not None and self.times == "request":
            return self.dropout(self.table(gap_buckets(query - event).int()))
        before = F.pad(event, (1, 0))[:, :-1]
        rows = gap_buckets(event - before).int()
        return self.dropout(self.table(rows.masked_fill(meta.position == 0, TIME_BUCKETS)))


@register("action")
class ActionEmbedding(EventFeature):
    """One learned embedding per type of action; 0 is an unknown one.

    Args:
        tables: item tables; not read.
        d_model: width.
        num_actions: actions of the dataset, without the unknown.
        dropout: on the embedding.
    """

    reads = frozenset({"action"})

    def __init__(
        self, *, tables: ItemTables, d_model: int, num_actions: int = 15, dropout: float = 0.0
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        if num_actions < 1:
            raise ConfigError(
                f"item encoder 'action': num_actions={num_actions}; expected at least 1"
            )
        self.table = embedding(num_actions + 1, d_model)
        self.dropout = nn.Dropout(dropout)

    def events(self, meta: SequenceMeta) -> torch.Tensor:
        """See `EventFeature.events`."""
        if meta.action is None:
            raise ConfigError(
                "item encoder 'action': needs the action of every event; use a dataset with actions"
            )
        most = self.table.num_embeddings - 1
        if meta.action.numel() and int(meta.action.max()) > most:
            raise ConfigError(
                f"item encoder 'action': the data have action {int(meta.action.max())}, but "
                f"num_actions={most}; set num_actions to the number of actions of the dataset"
            )
        return self.dropout(self.table(meta.action))


@register("calendar")
class CalendarEmbedding(EventFeature):
    """Hour of the day and day of the week (UTC), a learned embedding each.

    Args:
        tables: item tables; not read.
        d_model: width.
        times: of which moment. `event`: of the event. `request`: of the item to be predicted, for
            services that know when they are asked.
        dropout: on the embedding.
    """

    def __init__(
        self, *, tables: ItemTables, d_model: int, times: str = "event", dropout: float = 0.0
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        if times not in ("event", "request"):
            raise ConfigError(
                f"item encoder 'calendar': times={times!r}; expected 'event' or 'request'"
            )
        self.times = times
        self.reads = frozenset({"event_time" if times == "event" else "query_time"})
        self.hour, self.weekday = nn.Embedding(24, d_model), nn.Embedding(7, d_model)
        for table in (self.hour, self.weekday):
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)

    def events(self, meta: SequenceMeta) -> torch.Tensor:
        """See `EventFeature.events`."""
        time = meta.event_time if self.times == "event" else meta.query_time
        if time is None:
            raise ConfigError(
                "item encoder 'calendar': needs the time of every event; use a dataset with "
                "timestamps"
            )
        hour = time.div(3_600, rounding_mode="floor")
        # 1 January 1970 was a Thursday.
        day = hour.div(24, rounding_mode="floor") + 3
        return self.dropout(self.hour(hour % 24) + self.weekday(day % 7))


@register("next-action")
class NextActionEmbedding(EventFeature):
    """One learned embedding per type of action of the event that is asked for.

    For services that ask "which item will they click" and not "what comes next". Nothing is told
    where the action is not known, and in training it is kept back now and then, so that one model
    answers with and without it.

    Args:
        tables: item tables; not read.
        d_model: width.
        num_actions: actions of the dataset, without the unknown.
        unknown: share of training events whose next action is kept back.
        dropout: on the embedding.
    """

    reads = frozenset({"query_action"})

    def __init__(
        self,
        *,
        tables: ItemTables,
        d_model: int,
        num_actions: int = 15,
        unknown: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(tables=tables, d_model=d_model)
        if num_actions < 1 or not 0 <= unknown < 1:
            raise ConfigError(
                f"item encoder 'next-action': num_actions={num_actions}, unknown={unknown}; "
                "expected at least 1, and from 0 to below 1"
            )
        self.unknown = unknown
        self.table = embedding(num_actions + 1, d_model)
        self.dropout = nn.Dropout(dropout)

    def events(self, meta: SequenceMeta) -> torch.Tensor:
        """See `EventFeature.events`."""
        asked = torch.zeros_like(meta.position) if meta.query_action is None else meta.query_action
        most = self.table.num_embeddings - 1
        if asked.numel() and int(asked.max()) > most:
            raise ConfigError(
                f"item encoder 'next-action': the data have action {int(asked.max())}, but "
                f"num_actions={most}; set num_actions to the number of actions of the dataset"
            )
        if self.training and self.unknown:
            kept = torch.rand(asked.shape, device=asked.device) >= self.unknown
            asked = asked * kept
        return self.dropout(self.table(asked))
