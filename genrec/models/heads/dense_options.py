"""Which options of the dense head go together."""

from __future__ import annotations

from collections.abc import Sequence

from genrec.errors import ConfigError


def check_options(
    *,
    items: str,
    similarity: str,
    temperature: float,
    loss: str,
    negatives: int,
    in_batch: int,
    shared: bool,
    unseen: bool,
    negative_power: float,
    action_weights: Sequence[float] | None,
) -> None:
    """Say what is wrong with options of `DenseHead`.

    Raises:
        ConfigError: an option is out of range, or makes no sense beside another.
    """
    for name, value, allowed in (
        ("items", items, ("encoder", "table", "content")),
        ("similarity", similarity, ("dot", "cosine")),
        ("loss", loss, ("full", "sampled", "infonce", "bce")),
    ):
        if value not in allowed:
            raise ConfigError(
                f"head 'dense': {name}={value!r}; expected one of {', '.join(allowed)}"
            )
    if temperature <= 0:
        raise ConfigError(f"head 'dense': temperature={temperature}; expected above 0")
    least = 0 if loss == "infonce" and in_batch > 0 else 1
    if negatives < least or in_batch < 0:
        raise ConfigError(
            f"head 'dense': negatives={negatives}, in_batch={in_batch}; expected negatives of "
            f"at least {least}, and in_batch of 0 or more"
        )
    if action_weights is not None and (
        loss == "full" or not len(action_weights) or min(action_weights) < 0
    ):
        raise ConfigError(
            f"head 'dense': action_weights={list(action_weights)} with loss={loss!r}; expected "
            "numbers of at least 0, first that of unknown actions, and a loss of drawn items"
        )
    if unseen and loss != "bce":
        raise ConfigError(
            f"head 'dense': unseen=True with loss={loss!r}, whose items are drawn for all "
            "states together; leave it out or set loss: bce"
        )
    if not shared and loss != "sampled":
        raise ConfigError(
            f"head 'dense': shared=False with loss={loss!r}; only loss: sampled draws "
            "negatives for each state apart; leave it out or set loss: sampled"
        )
    if negative_power < 0:
        raise ConfigError(
            f"head 'dense': negative_power={negative_power}; expected 0 (uniform) or more, up "
            "to 1 (popularity) in published work"
        )
