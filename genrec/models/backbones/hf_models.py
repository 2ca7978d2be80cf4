"""Decoders of `transformers` without tokens: configured, read from a folder, extended by LoRA."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from genrec.errors import ConfigError, expected_one_of

_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
SIZES = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn": "intermediate_size",
}
_OURS = (*_TOKENS, "vocab_size", "tie_word_embeddings", "is_decoder", "use_cache")


def configured(
    architecture: str, shape: Mapping[str, Any], own: Mapping[str, Any], *, attention: str
) -> Any:
    """A model with random weights.

    Args:
        architecture: a `model_type` of transformers.
        shape: keys of the configuration that all decoders should have; those that this one does
            not know are left out.
        own: keys that it must know; they come before `shape`.
        attention: name of the attention function.

    Raises:
        ConfigError: for an architecture or a key that does not exist, a value that it refuses, or
            one that is no causal decoder on transformers' attention interface.
    """
    if architecture not in CONFIG_MAPPING:
        raise ConfigError(
            f"backbone 'hf': architecture={architecture!r}; "
            f"{expected_one_of(architecture, sorted(CONFIG_MAPPING))}"
        )
    known = _keys(architecture)
    for key in own:
        if key not in known:
            raise ConfigError(
                f"backbone 'hf': config of {architecture!r} has no key {key!r} to set; "
                f"{expected_one_of(key, sorted(known))}"
            )
    named = AutoConfig.for_model(architecture).attribute_map  # GPT-2 says n_embd for hidden_size
    given = {
        key: value
        for key, value in shape.items()
        if key in known and named.get(key, key) not in own
    }
    try:
        config = AutoConfig.for_model(architecture, **{**given, **own, "vocab_size": 1})
        for name in _TOKENS:
            setattr(config, name, None)
        model = AutoModel.from_config(config, attn_implementation=attention)
    except Exception as error:  # each architecture refuses in its own way
        if isinstance(error, KeyError) and error.args == (attention,):  # from a table of its own
            raise ConfigError(_not_through_interface(architecture)) from error
        raise ConfigError(f"backbone 'hf': {architecture!r}: {error}") from error
    causal = [m.is_causal for m in model.modules() if hasattr(m, "is_causal")]
    if not causal or not all(causal):
        raise ConfigError(_not_through_interface(architecture))
    model.set_input_embeddings(nn.Identity())  # embeddings are given
    return model


def check_sizes(architecture: str, sizes: Mapping[str, int | None], own: Mapping[str, Any]) -> None:
    """Refuse sizes that would not reach the model.

    Args:
        architecture: a `model_type` of transformers.
        sizes: options of the backbone named in `SIZES`; None where one is not given.
        own: further keys of the architecture's configuration, which come before them.

    Raises:
        ConfigError: for an option whose key the architecture does not have, or of which `own` says
            something else.
    """
    if architecture not in CONFIG_MAPPING:
        return  # `configured` names it
    known, named = _keys(architecture), AutoConfig.for_model(architecture).attribute_map
    for option, value in sizes.items():
        key = SIZES[option]
        if value is None:
            continue
        if key not in known:
            raise ConfigError(
                f"backbone 'hf': {option}={value}: {architecture!r} has no {key}, so it would do "
                f"nothing; leave {option} out, or say it under config as {architecture!r} does"
            )
        for name in sorted({key, named.get(key, key)} & set(own)):
            if own[name] != value:
                raise ConfigError(
                    f"backbone 'hf': {option}={value}, but config says {name}: {own[name]}; leave "
                    "one of them out"
                )


def read_shape(pretrained: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the backbone with the shape of a model on disk or of a hub filled in.

    Once they are filled in they say everything, and nothing is read again.

    Raises:
        ConfigError: if there is no such model, or options give another shape.
    """
    own = dict(options.get("config") or {})
    if "hidden_size" in own:
        return dict(options)
    for key in ("architecture", "layers", "heads", "kv_heads", "ffn"):
        if options.get(key) is not None:
            raise ConfigError(
                f"backbone 'hf': {key}={options[key]!r}: pretrained={pretrained!r} has a shape of "
                f"its own; leave {key} out"
            )
    try:
        found = AutoConfig.from_pretrained(pretrained)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"backbone 'hf': pretrained={pretrained!r} is no model of transformers: {error}"
        ) from error
    values, known = found.to_dict(), _keys(found.model_type)
    heads = found.num_attention_heads
    return {
        **options,
        "architecture": found.model_type,
        "layers": found.num_hidden_layers,
        "heads": heads,
        "kv_heads": getattr(found, "num_key_value_heads", None) or heads,
        "config": {
            "hidden_size": found.hidden_size,
            **{key: values[key] for key in sorted(known & set(values))},
            **own,
        },
    }


def read_weights(model: nn.Module, pretrained: str) -> None:
    """Fill the model with the weights of another, but for its token embeddings.

    Raises:
        ConfigError: if it cannot be read, holds its weights in no safetensors, or lacks some.
    """
    if torch.get_default_device().type == "meta":
        return  # only the shape is wanted: the weights come with the recommender's own
    try:
        found = AutoModel.from_pretrained(pretrained, dtype=torch.float32, use_safetensors=True)
        missing = model.load_state_dict(found.state_dict(), strict=False).missing_keys
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"backbone 'hf': pretrained={pretrained!r}: {error} (weights are read from safetensors "
            "only, never from pickles such as pytorch_model.bin)"
        ) from error
    if missing:
        raise ConfigError(
            f"backbone 'hf': pretrained={pretrained!r} lacks {len(missing)} weights, first "
            f"{missing[0]}"
        )


def add_lora(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Freeze the model and add low-rank matrices to some of its layers, at first without effect.

    Raises:
        ConfigError: without peft, or for options that it refuses.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "backbone 'hf': lora needs peft; run: pip install \"genrec[lora]\""
        ) from error
    known = list(inspect.signature(LoraConfig).parameters)
    for key in options:
        if key not in known:
            raise ConfigError(
                f"backbone 'hf': lora: unknown key {key!r}; {expected_one_of(key, known)}"
            )
    try:
        inject_adapter_in_model(LoraConfig(**options), model)
    except (TypeError, ValueError) as error:  # names modules that do not exist, ranks below 1
        raise ConfigError(f"backbone 'hf': lora: {error}") from error
    if not next(model.parameters()).is_meta:
        for module in model.modules():  # transformers draws anew what has no such mark
            vars(module)["_is_hf_initialized"] = True


def _not_through_interface(architecture: str) -> str:
    return (
        f"backbone 'hf': {architecture!r} is not a causal decoder whose attention goes through "
        "transformers' attention interface; use qwen3, llama, mistral or gpt2, for example"
    )


def _keys(architecture: str) -> set[str]:
    """The keys of an architecture's configuration that may be set."""
    default = AutoConfig.for_model(architecture)
    general = PretrainedConfig().to_dict()
    return {*default.to_dict(), *default.attribute_map} - set(general) - set(_OURS)
