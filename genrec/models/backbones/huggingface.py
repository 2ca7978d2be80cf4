"""Any Hugging Face decoder over embeddings: Llama, Qwen3 and their kind, by configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

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
from genrec.models.backbones.hf_check import check_decoding
from genrec.models.backbones.hf_models import (
    SIZES,
    add_lora,
    check_sizes,
    configured,
    read_shape,
    read_weights,
)
from genrec.models.backbones.lengths import alike
from genrec.models.backbones.shared_attention import shared_attention
from genrec.models.meta import SequenceMeta

_ATTENTION = "genrec_shared"  # the name under which transformers finds `_attention`


@register("hf")
class HuggingFaceDecoder(Backbone):
    """A causal decoder of `transformers`, given embeddings instead of token ids.

    Its attention is exchanged for one that hands out the keys and values of a history, and in a
    decoding step reads them once per user. So any architecture works whose layers mix tokens by
    attention through transformers' attention interface alone, as those of Llama, Qwen3, Mistral and
    GPT-2 do; one that would decode otherwise than its full pass is refused when it is built.

    Args:
        d_model: width.
        architecture: a `model_type` of transformers: `qwen3` (default), `llama`, `mistral`,
            `gpt2`, ...
        layers: number of blocks, 2 by default.
        heads: attention heads, 2 by default.
        kv_heads: heads of keys and values (grouped queries), as many as `heads` by default.
        ffn: hidden width of the feed-forward part, `4 * d_model` by default.
        config: further keys of the architecture's configuration (`head_dim`, `attention_dropout`,
            `rope_parameters`, ...). A size that it has under another name, as GPT-2 its `n_inner`,
            is said here, and the option for it refused.
        pretrained: folder or hub name of a model whose weights are the start; it gives the shape,
            and `d_model` must be its width. A saved recommender does not need it any more.
        lora: if given, only low-rank additions are trained (Hu et al. 2022), through peft: options
            of its `LoraConfig` such as `r`, `lora_alpha`, `target_modules`. Needs `pretrained`.
        max_length: longest sequence.
    """

    def __init__(
        self,
        *,
        d_model: int,
        max_length: int,
        architecture: str | None = None,
        layers: int | None = None,
        heads: int | None = None,
        kv_heads: int | None = None,
        ffn: int | None = None,
        config: Mapping[str, Any] | None = None,
        pretrained: str | None = None,
        lora: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "architecture": architecture,
            "layers": layers,
            "heads": heads,
            "kv_heads": kv_heads,
            "ffn": ffn,
            "config": config,
        }
        for name in ("layers", "heads", "kv_heads", "ffn"):
            if options[name] is not None and options[name] < 1:
                raise ConfigError(f"backbone 'hf': {name}={options[name]}; expected at least 1")
        if lora is not None and pretrained is None:
            raise ConfigError(
                "backbone 'hf': lora freezes the decoder, whose weights are random without "
                "pretrained; add pretrained, or leave lora out"
            )
        if pretrained is not None:
            options = read_shape(pretrained, options)
        own = dict(options["config"] or {})
        width = own.get("hidden_size", d_model)
        if width != d_model:
            raise ConfigError(
                f"backbone 'hf': the width is {width}, but d_model={d_model}; set d_model: {width}"
            )
        heads = options["heads"] or own.get(SIZES["heads"]) or 2
        groups = options["kv_heads"] or own.get(SIZES["kv_heads"]) or heads
        for name, value in (("heads", heads), ("kv_heads", groups)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"backbone 'hf': {SIZES[name]}={value!r}; expected at least 1")
        if heads % groups:
            raise ConfigError(f"backbone 'hf': kv_heads={groups} does not divide heads={heads}")
        if d_model % heads and "head_dim" not in own:
            raise ConfigError(
                f"backbone 'hf': heads={heads} does not divide d_model={d_model}; give "
                "config: {head_dim: ...}"
            )
        kind = options["architecture"] or "qwen3"
        given = {"layers": options["layers"], "heads": options["heads"], "ffn": ffn}
        # As many as heads is what an architecture without groups has anyway.
        check_sizes(kind, {**given, "kv_heads": None if groups == heads else groups}, own)
        shape = {
            "hidden_size": d_model,
            "num_hidden_layers": options["layers"] or 2,
            "num_attention_heads": heads,
            "num_key_value_heads": groups,
            "head_dim": d_model // heads,
            "intermediate_size": ffn or 4 * d_model,
            "max_position_embeddings": max_length,
        }
        self.spec = BackboneSpec(style="stream", d_model=d_model, max_length=max_length, cache="kv")
        self.model: Any = configured(kind, shape, own, attention=_ATTENTION)
        if pretrained is not None:
            longest = self.model.config.max_position_embeddings
            if max_length > longest:
                raise ConfigError(
                    f"backbone 'hf': {pretrained!r} reads {longest} tokens, not {max_length}; set "
                    "a smaller max_history"
                )
            read_weights(self.model, pretrained)
        if not next(self.model.parameters()).is_meta:  # where only the shape is wanted
            settings = self.model.config
            check_decoding(self, name=settings.model_type, layers=settings.num_hidden_layers)
        if lora is not None:
            add_lora(self.model, lora)

    @classmethod
    def resolved(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with the shape of a pretrained model filled in."""
        pretrained = options.get("pretrained")
        return dict(options) if pretrained is None else read_shape(pretrained, options)

    @property
    def layer_classes(self) -> set[str]:
        """The model's own."""
        return set(self.model._no_split_modules or ())

    def forward(self, embeddings: torch.Tensor, meta: SequenceMeta) -> torch.Tensor:
        """Map embeddings `[B, S, D]` to hidden states `[B, S, D]`."""
        self.check_length(embeddings.shape[1])
        grouped = embeddings.device.type == "cpu" and meta.right_padded and len(embeddings) > 0
        # All processes run a layer that is gathered from them equally often.
        if not grouped or any(isinstance(one, FSDPModule) for one in self.modules()):
            return self._run(embeddings, meta, None)
        # The models compute padding; on a CPU a pass per group of like rows costs less than that.
        lengths = meta.mask.sum(1).clamp_min(1)
        hidden, groups = [], list(alike(lengths))
        for rows in groups:
            longest = int(lengths[rows[-1]])
            some = meta.select(rows).until(longest)
            part = self._run(embeddings[rows, :longest], some, None)
            hidden.append(F.pad(part, (0, 0, 0, embeddings.shape[1] - longest)))
        return torch.cat(hidden)[torch.cat(groups).argsort()]

    def encode(self, embeddings: torch.Tensor, meta: SequenceMeta) -> ContextState:
        """Read histories `[B, S, D]` and keep their keys and values, `[B, G, S, width]` a layer."""
        kept = _Kept()
        hidden = self._run(embeddings, meta, kept)
        return ContextState(hidden=hidden, last=at_last(hidden, meta), meta=meta, cache=kept.rows)

    def decode_step(
        self,
        tokens: torch.Tensor,
        meta: SequenceMeta,
        context: ContextState,
        beams: BeamState,
        parent: torch.Tensor,
    ) -> tuple[torch.Tensor, BeamState]:
        """See `Backbone.decode_step`; the beams of a user are the tokens of one sequence."""
        own = 1 if beams.meta is None else beams.meta.mask.shape[1] + 1
        self.check_length(context.hidden.shape[1] + own)
        step = _Step(
            context=context,
            allowed=None if bool(context.meta.mask.all()) else context.meta.mask,
            beams=beams,
            parent=parent,
            position=meta.position,
        )
        hidden = self.model(
            inputs_embeds=tokens,
            position_ids=meta.position.expand(parent.shape),
            use_cache=False,
            kept=step,
        ).last_hidden_state
        return hidden, beams.grown(step.rows, meta)

    def _run(
        self, embeddings: torch.Tensor, meta: SequenceMeta, kept: _Kept | None
    ) -> torch.Tensor:
        self.check_length(embeddings.shape[1])
        if len(embeddings) == 0:  # which reshapes inside the model refuse
            return embeddings
        # The causal mask keeps padding on the right out, and positions are columns. If they were
        # given, transformers would take the padding for sequences of their own.
        causal = meta.right_padded
        return self.model(
            inputs_embeds=embeddings,
            attention_mask=None if causal else meta.mask.long(),
            position_ids=None if causal else meta.position,
            use_cache=False,
            kept=kept,
        ).last_hidden_state


@dataclass
class _Kept:
    """What a pass leaves behind: keys and values of its layers, in their order."""

    rows: Rows = field(default_factory=list)


@dataclass
class _Step(_Kept):
    """What the layers of a decoding step read besides.

    Attributes:
        context: the encoded histories.
        allowed: bool `[B, S]`, their real tokens; None if all are.
        beams: the beams' own rows before the step.
        parent: int64 `[B, W]`.
        position: int64 `[B, 1]`, of the step's token.
    """

    context: ContextState = field(kw_only=True)
    allowed: torch.Tensor | None = field(kw_only=True)
    beams: BeamState = field(kw_only=True)
    parent: torch.Tensor = field(kw_only=True)
    position: torch.Tensor = field(kw_only=True)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    kept: _Kept | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The attention of one layer, as transformers' attention interface calls it.

    Args:
        module: the layer.
        query: float `[B, H, S, width]`; in a step `[B, H, W, width]`, a token per beam.
        key: float `[B, G, S, width]`; in a step those of the new tokens.
        value: likewise.
        attention_mask: of the sequence; not read in a step, in which beams never see each other.
        kept: where keys and values go; in a step, what is read of history and beams too.
        scaling: of the scores.
        sliding_window: how many tokens back a token sees, itself included.
        **options: what `sdpa_attention_forward` takes besides.

    Returns:
        float `[B, S, H, width]`, and no weights.

    Raises:
        ConfigError: for attention sinks.
    """
    if options.get("s_aux") is not None:  # which PyTorch's attention would leave out
        raise ConfigError("attention sinks are not supported")
    if not isinstance(kept, _Step):
        if kept is not None:
            kept.rows.append((key, value))
        mixed, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return mixed, None
    context, index, allowed = kept.context, len(kept.rows), kept.allowed
    own = kept.beams.layer(index, kept.parent, key.transpose(1, 2), value.transpose(1, 2))
    kept.rows.append(own)
    own_bias = None
    if sliding_window is not None:
        allowed = context.meta.mask & (kept.position - context.meta.position < sliding_window)
        back = torch.arange(own[0].shape[2] - 1, -1, -1, device=query.device)
        own_bias = query.new_zeros(len(back)).masked_fill(back >= sliding_window, -torch.inf)
    old_key, old_value = context.cache[index]
    mixed = shared_attention(
        query,
        old_key,
        old_value,
        allowed=None if allowed is None else allowed[:, None, None],
        own_key=own[0],
        own_value=own[1],
        own_bias=own_bias,
        scale=scaling,
    )
    return mixed.transpose(1, 2), None


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
