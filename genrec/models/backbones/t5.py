"""T5 as an encoder-decoder over embeddings (Raffel et al. 2020), the backbone of TIGER."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from genrec.errors import ConfigError
from genrec.models.backbones.base import (
    Backbone,
    BackboneSpec,
    BeamState,
    ContextState,
    Rows,
    register,
)
from genrec.models.backbones.lengths import alike
from genrec.models.backbones.shared_attention import shared_attention
from genrec.models.meta import SequenceMeta


@register("t5")
class T5(Backbone):
    """The encoder reads the history in both directions, the decoder writes what follows it.

    A state is the decoder's, after its start token and the tokens written so far. So each place of
    a history that is learned from is a sample of its own, with the history before it, as TIGER
    (Rajput et al. 2023) trains: contexts of similar length are encoded together.

    Args:
        d_model: width.
        layers: blocks of the encoder, and of the decoder.
        decoder_layers: blocks of the decoder, if they are not as many.
        heads: attention heads.
        head_width: width of a head, `d_model / heads` by default (TIGER: 64 at width 128).
        ffn: hidden width of the feed-forward part, `4 * d_model` by default.
        dropout: T5's own, on everything.
        feed_forward: `relu`, or `gated-gelu` as in T5 1.1.
        buckets: of the relative position bias.
        max_distance: tokens from which on all distances are one bucket.
        max_length: longest history and written codes together.

    Cost of training: the places of a row are encoded one by one, so a row of S items costs up to
    S / 2 times what a causal backbone spends on it. A decoding step reads the cross-attention's
    keys and values once per user; beams hold the self-attention's rows of their own tokens.
    """

    def __init__(
        self,
        *,
        d_model: int,
        max_length: int,
        layers: int = 2,
        decoder_layers: int | None = None,
        heads: int = 2,
        head_width: int | None = None,
        ffn: int | None = None,
        dropout: float = 0.1,
        feed_forward: str = "relu",
        buckets: int = 32,
        max_distance: int = 128,
    ) -> None:
        from transformers import T5Config  # slow to import, and most models are no T5
        from transformers.models.t5.modeling_t5 import T5Stack

        super().__init__()
        sizes = {
            "layers": layers,
            "decoder_layers": decoder_layers,
            "heads": heads,
            "head_width": head_width,
            "ffn": ffn,
        }
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise ConfigError(f"backbone 't5': {name}={value}; expected at least 1")
        if head_width is None and d_model % heads:
            raise ConfigError(
                f"backbone 't5': heads={heads} does not divide d_model={d_model}; give head_width"
            )
        if feed_forward not in ("relu", "gated-gelu"):
            raise ConfigError(
                f"backbone 't5': feed_forward={feed_forward!r}; expected 'relu' or 'gated-gelu'"
            )
        if buckets < 4 or buckets % 2 or max_distance <= buckets:
            raise ConfigError(
                f"backbone 't5': buckets={buckets}, max_distance={max_distance}; expected an even "
                "number of buckets from 4, and a larger distance"
            )
        self.spec = BackboneSpec(
            style="enc_dec", d_model=d_model, max_length=max_length, cache="kv"
        )
        shape: dict[str, Any] = {
            "d_model": d_model,
            "d_kv": head_width or d_model // heads,
            "d_ff": ffn or 4 * d_model,
            "num_heads": heads,
            "dropout_rate": dropout,
            "feed_forward_proj": feed_forward,
            "relative_attention_num_buckets": buckets,
            "relative_attention_max_distance": max_distance,
            "vocab_size": 1,
            "pad_token_id": None,
            "eos_token_id": None,
            "use_cache": False,
        }
        self.encoder = T5Stack(T5Config(num_layers=layers, is_decoder=False, **shape))
        self.decoder = T5Stack(
            T5Config(num_layers=decoder_layers or layers, is_decoder=True, **shape)
        )
        for stack in (self.encoder, self.decoder):
            stack.set_input_embeddings(nn.Identity())  # embeddings are given
        self.start = nn.Parameter(torch.empty(d_model).normal_(std=0.02))

    @property
    def _decoder_blocks(self) -> Any:
        return self.decoder.block

    def forward(self, embeddings: torch.Tensor, meta: SequenceMeta) -> torch.Tensor:
        """Map embeddings `[B, S, D]` to hidden states `[B, S, D]`.

        The state at position s is the decoder's, before it has written anything, with the tokens up
        to s in the encoder.
        """
        row, column = meta.mask.nonzero().unbind(1)
        states = self.block_states(embeddings, meta, row=row, start=column + 1, length=1)
        return states.new_zeros(embeddings.shape).index_put((row, column), states[:, 0])

    def block_states(
        self,
        embeddings: torch.Tensor,
        meta: SequenceMeta,
        *,
        row: torch.Tensor,
        start: torch.Tensor,
        length: int,
    ) -> torch.Tensor:
        """See `Backbone.block_states`: the decoder over each block, given what stands before."""
        self.check_length(embeddings.shape[1])
        if len(row) == 0:
            return embeddings.new_zeros(0, length, embeddings.shape[2])
        groups = list(alike(start))
        states = [
            self._pass(embeddings, meta, row=row[some], start=start[some], length=length)
            for some in groups
        ]
        return torch.cat(states)[torch.cat(groups).argsort()]

    def _pass(
        self,
        embeddings: torch.Tensor,
        meta: SequenceMeta,
        *,
        row: torch.Tensor,
        start: torch.Tensor,
        length: int,
    ) -> torch.Tensor:
        columns = torch.arange(int(start.max()), device=start.device)
        seen = meta.mask[row][:, : len(columns)] & (columns < start[:, None])
        context = self.encoder(
            inputs_embeds=embeddings[row, : len(columns)], attention_mask=seen.long()
        ).last_hidden_state
        block = start[:, None] + torch.arange(length - 1, device=start.device)
        begin = self.start.to(embeddings.dtype).expand(len(row), 1, -1)
        return self.decoder(
            inputs_embeds=torch.cat([begin, embeddings[row[:, None], block]], 1),
            encoder_hidden_states=context,
            encoder_attention_mask=seen.long(),
        ).last_hidden_state

    def encode(self, embeddings: torch.Tensor, meta: SequenceMeta) -> ContextState:
        """Run the encoder, and the decoder's start token, once per user.

        The cache holds per decoder block the keys and values of the cross-attention,
        `[B, H, S, width]`, and those of the start token, `[B, H, 1, width]`.
        """
        self.check_length(embeddings.shape[1])
        hidden = self.encoder(
            inputs_embeds=embeddings, attention_mask=meta.mask.long()
        ).last_hidden_state
        cross: Rows = []
        for block in self._decoder_blocks:
            attention = block.layer[1].EncDecAttention
            cross.append(
                tuple(
                    linear(hidden).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)
                    for linear in (attention.k, attention.v)
                )
            )
        begin = self.start.to(hidden.dtype).expand(len(hidden), 1, -1)
        parent = torch.zeros(len(hidden), 1, dtype=torch.int64, device=hidden.device)
        last, rows = self._step(begin, cross, meta.mask, BeamState(), parent)
        cache = [
            (*keys, *(one[:, 0].transpose(1, 2) for one in own))
            for keys, own in zip(cross, rows, strict=True)
        ]
        return ContextState(hidden=hidden, last=last[:, 0], meta=meta, cache=cache)

    def decode_step(
        self,
        tokens: torch.Tensor,
        meta: SequenceMeta,
        context: ContextState,
        beams: BeamState,
        parent: torch.Tensor,
    ) -> tuple[torch.Tensor, BeamState]:
        """See `Backbone.decode_step`."""
        written = 1 if beams.meta is None else beams.meta.mask.shape[1] + 1
        self.check_length(context.hidden.shape[1] + written)
        hidden, rows = self._step(tokens, context.cache, context.meta.mask, beams, parent)
        return hidden, beams.grown(rows, meta)

    def _step(
        self,
        tokens: torch.Tensor,
        cache: Rows,
        mask: torch.Tensor,
        beams: BeamState,
        parent: torch.Tensor,
    ) -> tuple[torch.Tensor, Rows]:
        """One token `[B, W, D]` through the decoder; a cache without a start token is for it."""
        allowed = None if bool(mask.all()) else mask[:, None, None]
        place = 0 if len(cache[0]) == 2 else 1 + (beams.rows[0][0].shape[2] if beams.rows else 0)
        biased = self._decoder_blocks[0].layer[0].SelfAttention
        distances = biased.compute_bias(1, place + 1, device=tokens.device, past_seen_tokens=place)
        hidden, rows = self.decoder.dropout(tokens), []
        for index, (block, (key, value, *begin)) in enumerate(
            zip(self._decoder_blocks, cache, strict=True)
        ):
            own, cross = block.layer[0], block.layer[1]
            normed = own.layer_norm(hidden)
            query, new_key, new_value = (
                linear(normed).unflatten(-1, (own.SelfAttention.n_heads, -1))
                for linear in (own.SelfAttention.q, own.SelfAttention.k, own.SelfAttention.v)
            )
            own_rows = beams.layer(index, parent, new_key, new_value)
            rows.append(own_rows)
            # The start token is the context of the self-attention; at itself there is none.
            first_key, first_value = begin or (key[:, :, :0], value[:, :, :0])
            shared = first_key.shape[2]
            mixed = shared_attention(
                query.transpose(1, 2),
                first_key,
                first_value,
                own_key=own_rows[0],
                own_value=own_rows[1],
                bias=distances[..., :shared],
                own_bias=distances[..., shared:],
                scale=1.0,
            )
            hidden = hidden + own.dropout(own.SelfAttention.o(mixed.transpose(1, 2).flatten(2)))
            query = cross.EncDecAttention.q(cross.layer_norm(hidden))
            query = query.unflatten(-1, (cross.EncDecAttention.n_heads, -1)).transpose(1, 2)
            mixed = shared_attention(query, key, value, allowed=allowed, scale=1.0)
            hidden = hidden + cross.dropout(
                cross.EncDecAttention.o(mixed.transpose(1, 2).flatten(2))
            )
            hidden = block.layer[2](hidden)
        return self.decoder.dropout(self.decoder.final_layer_norm(hidden)), rows
