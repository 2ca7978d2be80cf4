"""TokenFormer (Tencent 2026, arXiv 2604.13737): full attention below, sliding windows above.

The paper predicts clicks from static fields, behaviours and a target; here is its sequence part.
Its own code is not public.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from genrec.errors import ConfigError
from genrec.models.backbones.base import (
    Backbone,
    BackboneSpec,
    BeamState,
    ContextState,
    Rows,
    at_last,
    register,
)
from genrec.models.backbones.feedforward import SwiGLU
from genrec.models.backbones.inputs import check_counts
from genrec.models.backbones.packing import Packing
from genrec.models.backbones.shared_attention import shared_attention
from genrec.models.backbones.transformer import attend, causal_mask, rotary_angles, rotate
from genrec.models.meta import SequenceMeta

NOWHERE = -(2**40)  # item number of padding: outside every window
WINDOWS = (32, 16)


@register("tokenformer")
class TokenFormer(Backbone):
    """Pre-norm blocks `h = x + sigmoid(norm(x) W_g) * attention(norm(x))`, `h + SwiGLU(norm(h))`.

    Softmax attention with rotary positions. The lower blocks see all earlier tokens; each upper
    block sees a window of whole items, however many tokens an item has, the token's own item
    included. Norms are root mean squares with weights; nothing but the feed-forward part has a
    projection after the attention unless `projection` is set, as in the published
    re-implementations.

    Args:
        d_model: width D.
        max_length: longest sequence in tokens.
        layers: number of blocks.
        windows: items that each of the uppermost blocks sees, lower ones first; at least one block
            must be left without.
        heads: attention heads; must divide `d_model` into even widths.
        ffn: hidden width of the SwiGLU, `2 * d_model` by default.
        dropout: on the outputs of attention and feed-forward part.
        attention_dropout: on the attention weights.
        projection: a linear layer between attention and gate.

    Parameters of a block: `4 D^2 + 3 ffn D + 2 D`, and `D^2` with the projection. Cost for S
    tokens: `(4 D^2 + 3 ffn D) S + 2 S^2 D` multiply-adds; in decoding, a block with a window keeps
    and reads the tokens of its window only.
    """

    def __init__(
        self,
        *,
        d_model: int,
        max_length: int,
        layers: int = 4,
        windows: Sequence[int] = WINDOWS,
        heads: int = 2,
        ffn: int | None = None,
        dropout: float = 0.2,
        attention_dropout: float = 0.0,
        projection: bool = False,
    ) -> None:
        super().__init__()
        check_counts(layers=layers, heads=heads, ffn=ffn)
        if d_model % (2 * heads):
            raise ConfigError(
                f"backbone: heads={heads} does not divide d_model={d_model} into even widths"
            )
        if len(windows) >= layers or min(windows, default=1) < 1:
            raise ConfigError(
                f"backbone: windows={list(windows)} of {layers} layers; expected fewer windows "
                "than layers, of at least one item each"
            )
        self.head_width = d_model // heads
        self.spec = BackboneSpec(style="stream", d_model=d_model, max_length=max_length, cache="kv")
        self.blocks = nn.ModuleList(
            _Block(
                d_model=d_model,
                heads=heads,
                window=window,
                ffn=ffn or 2 * d_model,
                dropout=dropout,
                attention_dropout=attention_dropout,
                projection=projection,
            )
            for window in (*[None] * (layers - len(windows)), *windows)
        )
        self.norm = nn.RMSNorm(d_model)

    @classmethod
    def of_scale(cls, *, layers: int, heads: int) -> dict[str, Any]:
        """As the base class; of the default windows, the uppermost that leave the lowest block."""
        windows = WINDOWS[max(0, len(WINDOWS) - layers + 1) :]
        return {"layers": layers, "heads": heads, "windows": list(windows)}

    def forward(self, embeddings: torch.Tensor, meta: SequenceMeta) -> torch.Tensor:
        """Map embeddings `[B, S, D]` to hidden states `[B, S, D]`."""
        return self._full_pass(embeddings, meta)

    def encode(self, embeddings: torch.Tensor, meta: SequenceMeta) -> ContextState:
        """Read histories `[B, S, D]`; keep what the next item sees of each block.

        These are keys and values `[B, H, n, width]` and the items they belong to, int64 `[B, n]`,
        where n is S, or the most tokens that a user has in the block's window.
        """
        kept: Rows = []
        hidden = self._full_pass(embeddings, meta, kept)
        items = item_numbers(meta)
        last = meta.last()
        following = items.gather(1, last.unsqueeze(1)) + 1
        cache: Rows = []
        for block, (key, value) in zip(self._blocks(), kept, strict=True):
            if block.window is None:
                cache.append((key, value, items))
                continue
            size = max(1, int((following - items < block.window).sum(1).max()))
            column = last.unsqueeze(1) - size + 1 + torch.arange(size, device=last.device)
            place = column.clamp_min(0)
            rows = place[:, None, :, None].expand(-1, key.shape[1], -1, key.shape[3])
            own = items.gather(1, place).masked_fill(column < 0, NOWHERE)
            cache.append((key.gather(2, rows), value.gather(2, rows), own))
        return ContextState(hidden=hidden, last=at_last(hidden, meta), meta=meta, cache=cache)

    def decode_step(
        self,
        tokens: torch.Tensor,
        meta: SequenceMeta,
        context: ContextState,
        beams: BeamState,
        parent: torch.Tensor,
    ) -> tuple[torch.Tensor, BeamState]:
        """See `Backbone.decode_step`; a beam holds its own keys and values `[H, width]`."""
        grown = beams.grown([], meta)
        own = meta if grown.meta is None else grown.meta
        self.check_length(context.hidden.shape[1] + own.mask.shape[1])
        rotation = rotary_angles(meta.position, self.head_width, tokens.dtype)
        item, own_items = item_numbers(meta), item_numbers(own)
        hidden = tokens
        for index, block in enumerate(self._blocks()):
            key, value, items = context.cache[index]
            normed, query, new_key, new_value = block.project(hidden, rotation)
            own_rows = beams.layer(
                index, parent, new_key.transpose(1, 2), new_value.transpose(1, 2)
            )
            grown.rows.append(own_rows)
            # The window of a later item is not that of the item the cache was made for.
            far = torch.where(block.sees(item, own_items), 0.0, -torch.inf)
            mixed = shared_attention(
                query,
                key,
                value,
                allowed=block.sees(item, items)[:, None, None],
                own_key=own_rows[0],
                own_value=own_rows[1],
                own_bias=far[:, None, None].to(query.dtype),
            )
            hidden = block.finish(hidden, normed, mixed.transpose(1, 2).flatten(2))
        return self.norm(hidden), grown

    def _full_pass(
        self, embeddings: torch.Tensor, meta: SequenceMeta, kept: Rows | None = None
    ) -> torch.Tensor:
        """All tokens through all blocks, whose keys and values are added to `kept`."""
        self.check_length(embeddings.shape[1])
        attention = _Attention.of(
            meta.mask,
            rotation=rotary_angles(meta.position, self.head_width, embeddings.dtype),
            causal=None if meta.right_padded else causal_mask(meta.mask),
            items=item_numbers(meta),
            kept=kept,
        )
        hidden = attention.pack(embeddings.flatten(0, 1))
        for block in self.blocks:
            hidden = block(hidden, attention)
        return attention.unpack(self.norm(hidden)).view_as(embeddings)

    def _blocks(self) -> list[_Block]:
        return cast("list[_Block]", list(self.blocks))


@dataclass(frozen=True)
class _Attention(Packing):
    """What all blocks of one pass share.

    Attributes:
        rotation: cosine and sine of the rotary positions.
        causal: bool `[B, 1, S, S]`, or None where a causal mask is enough.
        items: int64 `[B, S]`, which item a token belongs to.
        kept: where the keys and values of each block go, if they are to be kept.
    """

    rotation: tuple[torch.Tensor, torch.Tensor]
    causal: torch.Tensor | None
    items: torch.Tensor
    kept: Rows | None

    def within(self, window: int | None) -> torch.Tensor | None:
        """The attention mask, bool `[B, 1, S, S]`, of a block with this window."""
        if window is None:
            return self.causal
        causal = causal_mask(self.items > NOWHERE) if self.causal is None else self.causal
        near = self.items[:, :, None] - self.items[:, None, :] < window
        return causal & near[:, None]


class _Block(nn.Module):
    def __init__(
        self,
        *,
        d_model: int,
        heads: int,
        window: int | None,
        ffn: int,
        dropout: float,
        attention_dropout: float,
        projection: bool,
    ) -> None:
        super().__init__()
        self.heads, self.window, self.attention_dropout = heads, window, attention_dropout
        self.attention_norm = nn.RMSNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.gate = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False) if projection else nn.Identity()
        for layer in (self.qkv, self.gate, self.out):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        self.ffn_norm = nn.RMSNorm(d_model)
        self.ffn = SwiGLU(d_model=d_model, hidden=ffn)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor, attention: _Attention) -> torch.Tensor:
        """Real tokens `[M, D]` -> `[M, D]`."""
        normed = self.attention_norm(hidden)
        qkv = attention.unpack(self.qkv(normed))
        query, key, value = self._split(
            qkv.view(*attention.shape, qkv.shape[1]), attention.rotation
        )
        if attention.kept is not None:
            attention.kept.append((key, value))
        mixed = attend(
            query,
            key,
            value,
            allowed=attention.within(self.window),
            dropout=self.attention_dropout if self.training else 0.0,
        )
        return self.finish(
            hidden, normed, attention.pack(mixed.transpose(1, 2).flatten(2).flatten(0, 1))
        )

    def project(
        self, hidden: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Normed tokens `[B, W, D]`; query, key and value `[B, H, W, width]`."""
        normed = self.attention_norm(hidden)
        return normed, *self._split(self.qkv(normed), rotation)

    def finish(
        self, hidden: torch.Tensor, normed: torch.Tensor, mixed: torch.Tensor
    ) -> torch.Tensor:
        """What follows the attention, whose output is `mixed`; all `[..., D]`."""
        hidden = hidden + self.dropout(torch.sigmoid(self.gate(normed)) * self.out(mixed))
        return hidden + self.dropout(self.ffn(self.ffn_norm(hidden)))

    def sees(self, item: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Whether a token of `item` `[B, 1]` sees earlier tokens of `items` `[B, n]`."""
        if self.window is None:
            return items > NOWHERE
        return item - items < self.window

    def _split(
        self, qkv: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return rotate(query, rotation), rotate(key, rotation), value


def item_numbers(meta: SequenceMeta) -> torch.Tensor:
    """Which item of the history each token belongs to, int64 `[B, S]`; NOWHERE at padding."""
    items = meta.position if meta.item_index is None else meta.item_index
    return items.masked_fill(~meta.mask, NOWHERE)
