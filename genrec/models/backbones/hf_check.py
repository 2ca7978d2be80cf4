"""Whether a decoder of `transformers` decodes as its full pass does: tried before it is used."""

from __future__ import annotations

import torch

from genrec.errors import ConfigError
from genrec.models.backbones.base import Backbone, BeamState
from genrec.models.meta import SequenceMeta

_KNOWN = "use qwen3, llama, mistral or gpt2, for example"


def check_decoding(backbone: Backbone, *, name: str, layers: int) -> None:
    """Raise ConfigError unless decoding steps with a cache give the states of the full pass.

    Architectures whose layers mix tokens by more than the attention (convolutions, state spaces),
    or keep what they are told from it, build and run; only their steps would be wrong, and so every
    search. Two users of different length are read, two beams each take two steps, and the second
    step continues beams in another order. Nothing is left behind, the state of random numbers
    included. Cost: a few passes over about ten tokens.

    Args:
        backbone: whose `encode` and `decode_step` are compared with `Backbone`'s own, which run the
            full pass.
        name: of the architecture, for messages.
        layers: how many layers must leave keys and values.
    """
    steps = min(2, backbone.spec.max_length - 1)
    if steps < 1:
        return  # a single token is never followed by another
    training, place = backbone.training, next(backbone.parameters()).device
    backbone.eval()  # without dropout
    try:
        with torch.no_grad(), torch.random.fork_rng([place] if place.type == "cuda" else []):
            wrong = _difference(backbone, steps, layers)
    except Exception as error:  # each architecture fails in its own way
        raise ConfigError(
            f"backbone 'hf': {name!r} cannot be decoded with shared keys and values: {error}; "
            f"{_KNOWN}"
        ) from error
    finally:
        backbone.train(training)
    if wrong:
        raise ConfigError(
            f"backbone 'hf': {name!r} cannot be decoded with shared keys and values: {wrong}; "
            f"{_KNOWN}"
        )


def _difference(backbone: Backbone, steps: int, layers: int) -> str:
    """In what its steps differ from full passes; empty if in nothing."""
    weight = next(backbone.parameters())
    length = min(3, backbone.spec.max_length - steps)
    draw = torch.Generator().manual_seed(0)

    def states(*shape: int) -> torch.Tensor:
        drawn = torch.randn(*shape, backbone.spec.d_model, generator=draw, device="cpu")
        return drawn.to(weight.device, weight.dtype)

    mask = torch.ones(2, length, dtype=torch.bool, device=weight.device)
    mask[1, max(1, length - 1) :] = False
    histories, meta = states(2, length), SequenceMeta.from_mask(mask)
    context = backbone.encode(histories, meta)
    slow_context = Backbone.encode(backbone, histories, meta)
    if len(context.cache) != layers:
        return f"{len(context.cache)} of its {layers} layers hand out their keys and values"
    beams, slow_beams = BeamState(), BeamState()
    parent = torch.tensor([[0, 1], [0, 1]], device=weight.device)
    for level in range(steps):
        # The users' tokens are the same, and in the last step the beams' too.
        tokens = states(1, 2 if level == 0 else 1).expand(2, 2, -1)
        following = meta.next_item(level)
        others = torch.cat([tokens[:, :1], states(2, 1)], 1)
        beside, _ = backbone.decode_step(others, following, context, beams, parent)
        hidden, beams = backbone.decode_step(tokens, following, context, beams, parent)
        expected, slow_beams = Backbone.decode_step(
            backbone, tokens, following, slow_context, slow_beams, parent
        )
        # Random weights are small, and then so is what a token reads of the others.
        read = float((expected[0] - expected[1]).abs().max())
        rounding = 8 * torch.finfo(weight.dtype).eps * float(expected.abs().max())
        error = float((hidden - expected).abs().max())
        if not error <= max(0.001 * read, rounding):
            return (
                f"the states of step {level + 1} are {error:.2g} away from those of the full pass, "
                f"where another history moves them by {read:.2g}"
            )
        moved = float((hidden - beside)[:, 0].abs().max())
        if not moved <= max(0.0001 * read, rounding):  # experts compute what others leave them
            return f"in step {level + 1} a beam moves the states of another by {moved:.2g}"
        parent = parent.flip(1)
    return ""
