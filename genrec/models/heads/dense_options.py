"""Which options of the dense head go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genrec.errors import ConfigError, expected_one_of

NEGATIVES, IN_BATCH = 512, 1024

# What each loss's options are when they are left out, and the losses that read them.
_DRAWN = ("sampled", "infonce")
READ_BY: Mapping[str, tuple[Any, Sequence[str]]] = {
    "negatives": (NEGATIVES, _DRAWN),
    "in_batch": (IN_BATCH, ("infonce",)),
    "shared": (True, ("sampled",)),
    "unseen": (False, ("bce",)),
    "log_q": (True, _DRAWN),
    "negative_power": (0.0, _DRAWN),
    "label_smoothing": (0.0, ("full",)),
    "action_weights": (None, (*_DRAWN, "bce")),
}


def check_options(
    *, items: str, similarity: str, temperature: float, loss: str, **of_losses: Any
) -> None:
    """Say what is wrong with options of `DenseHead`.

    Args:
        items: as of the head.
        similarity: as of the head.
        temperature: as of the head.
        loss: as of the head.
        **of_losses: the options in `READ_BY`, all of them.

    Raises:
        ConfigError: an option is out of range, would do nothing, or makes no sense beside another.
    """
    for name, value, allowed in (
        ("items", items, ("encoder", "table", "content")),
        ("similarity", similarity, ("dot", "cosine")),
        ("loss", loss, ("full", "sampled", "infonce", "bce")),
    ):
        if value not in allowed:
            raise ConfigError(f"head 'dense': {name}={value!r}; {expected_one_of(value, allowed)}")
    if temperature <= 0:
        raise ConfigError(f"head 'dense': temperature={temperature}; expected above 0")
    for name, (default, losses) in READ_BY.items():
        if of_losses[name] != default and loss not in losses:
            raise ConfigError(
                f"head 'dense': {name}={of_losses[name]!r} with loss={loss!r}; only loss: "
                f"{' or '.join(losses)} reads {name}, so leave it out or set that loss"
            )
    negatives, in_batch = of_losses["negatives"], of_losses["in_batch"]
    least = 0 if loss == "infonce" and in_batch > 0 else 1
    if negatives < least or in_batch < 0:
        raise ConfigError(
            f"head 'dense': negatives={negatives}, in_batch={in_batch}; expected negatives of "
            f"at least {least}, and in_batch of 0 or more"
        )
    power = of_losses["negative_power"]
    if power < 0:
        raise ConfigError(
            f"head 'dense': negative_power={power}; expected 0 (uniform) or more, up to 1 "
            "(popularity) in published work"
        )
    if power and not negatives:
        raise ConfigError(
            f"head 'dense': negative_power={power} with negatives=0, so no item is drawn by it; "
            "leave it out or draw negatives"
        )
    weights = of_losses["action_weights"]
    if weights is not None and (not len(weights) or min(weights) < 0):
        raise ConfigError(
            f"head 'dense': action_weights={list(weights)} with loss={loss!r}; expected numbers of "
            "at least 0, first that of unknown actions"
        )
