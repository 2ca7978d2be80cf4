"""What a backbone is told about the sequence besides the embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class SequenceMeta:
    """Metadata of a padded batch of token embeddings `[B, S, D]`; a backbone never sees ids.

    Attributes:
        mask: bool `[B, S]`, True at real tokens.
        position: int64 `[B, S]`, token index from the first real token of the row.
        item_index: int64 `[B, S]`, which item of the history a token belongs to (equal to
            `position` when one token stands for one item).
        level: int64 `[B, S]`, the code level of a token, -1 where the token is a whole item.
        event_time: int64 `[B, S]` seconds, when the item of the token was consumed.
        query_time: int64 `[B, S]` seconds, when the item predicted from the token is consumed
            (request time at the last token).
        action: int64 `[B, S]`, type of the event.
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
    right_padded: bool = True

    @classmethod
    def from_mask(cls, mask: torch.Tensor, **others: torch.Tensor | None) -> SequenceMeta:
        """Metadata of item-level tokens from the padding mask alone."""
        position = (mask.long().cumsum(1) - 1).clamp_min(0)
        right_padded = bool((mask[:, 1:] <= mask[:, :-1]).all())
        return cls(
            mask=mask, position=position, item_index=position, right_padded=right_padded, **others
        )
