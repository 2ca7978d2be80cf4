"""Causal transformer (Vaswani et al. 2017), by default pre-norm as in GPT-2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from genrec.errors import ConfigError, expected_one_of
from genrec.models.backbones.base import (
    Backbone,
    BackboneSpec,
    BeamState,
    ContextState,
    Rows,
    at_last,
    register,
)
from genrec.models.backbones.inputs import check_counts
from genrec.models.backbones.packing import Packing
from genrec.models.backbones.shared_attention import shared_attention
from genrec.models.meta import SequenceMeta

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


@register("transformer")
class CausalTransformer(Backbone):
    """Decoder blocks on `scaled_dot_product_attention`.

    Args:
        d_model: width.
        layers: number of blocks.
        heads: attention heads; must divide `d_model`.
        ffn: hidden width of the feed-forward part, `4 * d_model` by default.
        dropout: on the outputs of attention and feed-forward.
        attention_dropout: on the attention weights.
        positions: `learned` (absolute, added to the input) or `rotary` (Su et al. 2021).
        activation: `gelu`, `relu` or `silu`.
        norm: where layer norms stand: `pre`, before attention and feed-forward, or `post`, after
            the sum with what went in (Vaswani et al., and the published baseline of TencentGR). One
            more is at the end in either case.
        norm_eps: epsilon of the layer norms.
        dropout_at: `outputs`, of attention and feed-forward, or where SASRec and the published
            baseline of TencentGR have it, `sasrec`: on the input after positions, before the
            activation and on the output of the feed-forward, and not on that of the attention.
        scale_input: multiply embeddings by the root of the width before positions are added, as
            Vaswani et al. and SASRec do.
        max_length: longest sequence; only learned positions hold a table of that size.

    Only attention is computed at padding. Cost per layer and sequence of S tokens:
    `(8 + 4 ffn / D) S D^2 + 4 S^2 D` multiply-adds; activations are linear in S where the
    platform has a fused attention kernel. A decoding step costs the same as one more token per
    beam, and reads the keys and values of the context once per user.
    """

    def __init__(
        self,
        *,
        d_model: int,
        max_length: int,
        layers: int = 2,
        heads: int = 2,
        ffn: int | None = None,
        dropout: float = 0.2,
        attention_dropout: float = 0.0,
        positions: str = "learned",
        activation: str = "gelu",
        norm: str = "pre",
        norm_eps: float = 1e-5,
        dropout_at: str = "outputs",
        scale_input: bool = False,
    ) -> None:
        super().__init__()
        check_counts(layers=layers, heads=heads, ffn=ffn)
        if d_model % heads:
            raise ConfigError(f"backbone: heads={heads} does not divide d_model={d_model}")
        if positions not in ("learned", "rotary"):
            raise ConfigError(f"backbone: positions={positions!r}; expected 'learned' or 'rotary'")
        if positions == "rotary" and (d_model // heads) % 2:
            raise ConfigError(
                f"backbone: rotary positions need an even head width, got {d_model // heads}"
            )
        if activation not in ACTIVATIONS:
            raise ConfigError(
                f"backbone: activation={activation!r}; {expected_one_of(activation, ACTIVATIONS)}"
            )
        if norm not in ("pre", "post"):
            raise ConfigError(f"backbone: norm={norm!r}; expected 'pre' or 'post'")
        if dropout_at not in ("outputs", "sasrec"):
            raise ConfigError(
                f"backbone: dropout_at={dropout_at!r}; expected 'outputs' or 'sasrec'"
            )
        if not norm_eps > 0:
            raise ConfigError(f"backbone: norm_eps={norm_eps}; expected above 0")
        self.input_dropout = nn.Dropout(dropout if dropout_at == "sasrec" else 0.0)
        self.head_width = d_model // heads
        self.input_scale = d_model**0.5 if scale_input else 1.0
        self.spec = BackboneSpec(style="stream", d_model=d_model, max_length=max_length, cache="kv")
        self.position = nn.Embedding(max_length, d_model) if positions == "learned" else None
        if self.position is not None:
            nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList(
            _Block(
                d_model=d_model,
                heads=heads,
                ffn=ffn or 4 * d_model,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation=activation,
                pre=norm == "pre",
                norm_eps=norm_eps,
                as_sasrec=dropout_at == "sasrec",
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(d_model, eps=norm_eps)
        init_linear(self)

    def forward(self, embeddings: torch.Tensor, meta: SequenceMeta) -> torch.Tensor:
        """Map embeddings `[B, S, D]` to hidden states `[B, S, D]`."""
        return self._full_pass(embeddings, meta)

    def encode(self, embeddings: torch.Tensor, meta: SequenceMeta) -> ContextState:
        """Read histories `[B, S, D]` and keep their keys and values, `[B, H, S, width]` a layer."""
        kept: Rows = []
        hidden = self._full_pass(embeddings, meta, kept)
        return ContextState(hidden=hidden, last=at_last(hidden, meta), meta=meta, cache=kept)

    def decode_step(
        self,
        tokens: torch.Tensor,
        meta: SequenceMeta,
        context: ContextState,
        beams: BeamState,
        parent: torch.Tensor,
    ) -> tuple[torch.Tensor, BeamState]:
        """See `Backbone.decode_step`; a beam holds its own keys and values `[H, width]`."""
        own = 1 if beams.meta is None else beams.meta.mask.shape[1] + 1
        self.check_length(context.hidden.shape[1] + own)
        hidden, rotation = self._placed(tokens, meta)
        allowed = None if bool(context.meta.mask.all()) else context.meta.mask[:, None, None]
        rows: Rows = []
        blocks = cast("list[_Block]", list(self.blocks))
        for index, (block, (key, value)) in enumerate(zip(blocks, context.cache, strict=True)):
            query, new_key, new_value = block.project(hidden).permute(2, 0, 3, 1, 4).unbind(0)
            if rotation is not None:
                query, new_key = rotate(query, rotation), rotate(new_key, rotation)
            own_rows = beams.layer(
                index, parent, new_key.transpose(1, 2), new_value.transpose(1, 2)
            )
            rows.append(own_rows)
            mixed = shared_attention(
                query, key, value, allowed=allowed, own_key=own_rows[0], own_value=own_rows[1]
            )
            hidden = block.finish(hidden, mixed.transpose(1, 2).flatten(2))
        return self.norm(hidden), beams.grown(rows, meta)

    def _placed(
        self, embeddings: torch.Tensor, meta: SequenceMeta
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
        """Embeddings with learned positions, or the rotation that stands for them."""
        embeddings = embeddings * self.input_scale if self.input_scale != 1.0 else embeddings
        if self.position is not None:
            return self.input_dropout(embeddings + self.position(meta.position)), None
        embeddings = self.input_dropout(embeddings)
        return embeddings, rotary_angles(meta.position, self.head_width, embeddings.dtype)

    def _full_pass(
        self, embeddings: torch.Tensor, meta: SequenceMeta, kept: Rows | None = None
    ) -> torch.Tensor:
        """All tokens through all blocks, whose keys and values are added to `kept`."""
        self.check_length(embeddings.shape[1])
        hidden, rotation = self._placed(embeddings, meta)
        attention = _Attention.of(
            meta.mask,
            allowed=None if meta.right_padded else causal_mask(meta.mask),
            rotation=rotation,
            kept=kept,
        )
        hidden = attention.pack(hidden.flatten(0, 1))
        for block in self.blocks:
            hidden = block(hidden, attention)
        return attention.unpack(self.norm(hidden)).view_as(embeddings)


@dataclass(frozen=True)
class _Attention(Packing):
    """What all blocks of one pass share. Padding takes part in the attention only.

    Attributes:
        allowed: bool `[B, 1, S, S]`, or None where a causal mask is enough.
        rotation: cosine and sine of rotary positions.
        kept: where the keys and values of each block go, if they are to be kept.
    """

    allowed: torch.Tensor | None = None
    rotation: tuple[torch.Tensor, torch.Tensor] | None = None
    kept: Rows | None = None


class _Block(nn.Module):
    def __init__(
        self,
        *,
        d_model: int,
        heads: int,
        ffn: int,
        dropout: float,
        attention_dropout: float,
        activation: str,
        pre: bool,
        norm_eps: float,
        as_sasrec: bool,
    ) -> None:
        super().__init__()
        self.pre = pre
        self.heads = heads
        self.head_width = d_model // heads
        self.attention_dropout = attention_dropout
        self.attention_norm = nn.LayerNorm(d_model, eps=norm_eps)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.ffn_norm = nn.LayerNorm(d_model, eps=norm_eps)
        self.ffn = nn.Sequential(
            nn.Linear(d_model, ffn),
            *([nn.Dropout(dropout)] if as_sasrec else []),
            ACTIVATIONS[activation](),
            nn.Linear(ffn, d_model),
        )
        self.dropout = nn.Dropout(dropout)
        self.attention_out = nn.Identity() if as_sasrec else self.dropout

    def forward(self, hidden: torch.Tensor, attention: _Attention) -> torch.Tensor:
        qkv = attention.unpack(self.project(hidden).flatten(1))
        qkv = qkv.view(*attention.shape, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        if attention.rotation is not None:
            query, key = rotate(query, attention.rotation), rotate(key, attention.rotation)
        if attention.kept is not None:
            attention.kept.append((key, value))
        mixed = attend(
            query,
            key,
            value,
            allowed=attention.allowed,
            dropout=self.attention_dropout if self.training else 0.0,
        )
        return self.finish(hidden, attention.pack(mixed.transpose(1, 2).flatten(2).flatten(0, 1)))

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Query, key and value `[..., 3, H, width]` of tokens `[..., D]`."""
        qkv = self.qkv(self.attention_norm(hidden) if self.pre else hidden)
        return qkv.unflatten(-1, (3, self.heads, self.head_width))

    def finish(self, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """What follows the attention, whose output is `mixed`; both `[..., D]`."""
        hidden = hidden + self.attention_out(self.out(mixed))
        if self.pre:
            return hidden + self.dropout(self.ffn(self.ffn_norm(hidden)))
        hidden = self.attention_norm(hidden)
        return self.ffn_norm(hidden + self.dropout(self.ffn(hidden)))


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    allowed: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """Causal softmax attention of `[B, H, S, width]`, or within `allowed` `[B, 1, S, S]`.

    On a CPU it runs in fp32 under autocast too: the fused bf16 kernel is slower there, five times
    at 20 tokens and still at 200 (torch 2.13).
    """
    options: dict[str, Any] = {
        "attn_mask": allowed,
        "dropout_p": dropout,
        "is_causal": allowed is None,
    }
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, **options)
    with torch.autocast("cpu", enabled=False):
        mixed = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), **options)
    return mixed.to(query.dtype)


def init_linear(module: nn.Module, *, std: float = 0.02) -> None:
    """Draw the weights of all linear layers from N(0, std), as GPT-2 does; biases are zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)


def causal_mask(mask: torch.Tensor) -> torch.Tensor:
    """Attention mask bool `[B, 1, S, S]`: real tokens see real tokens up to themselves.

    A padded row sees itself, so that no row of the softmax is empty.
    """
    length = mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)
    return ((causal & mask[:, None, :]) | itself)[:, None]


def rotary_angles(
    position: torch.Tensor, width: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine `[B, 1, S, width / 2]` of rotary positions, base 10,000."""
    exponent = torch.arange(0, width, 2, device=position.device, dtype=torch.float32) / width
    angle = position[:, None, :, None].float() * (10_000.0**-exponent)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate the pairs (i, i + width / 2) of `x` `[B, H, S, width]` by their angle."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
