"""Parts by name, built with checked keyword arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from genrec.errors import ConfigError, expected_one_of

T = TypeVar("T")


def with_defaults(parts: Mapping[str, type[T]], config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the defaults of all options it leaves out, those of its own `parts` too.

    What is unknown is left as it is: `build_part` names it.

    Args:
        parts: name -> class.
        config: `type` and keyword arguments of the class.
    """
    options = dict(config)
    name = options.get("type")
    if not isinstance(name, str) or name not in parts:
        return options
    for key, parameter in inspect.signature(parts[name].__init__).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            options.setdefault(key, parameter.default)
    nested = options.get("parts")
    if isinstance(nested, Mapping):
        options["parts"] = {
            key: with_defaults(parts, part) if isinstance(part, Mapping) else part
            for key, part in nested.items()
        }
    return options


def build_part(
    what: str, parts: Mapping[str, type[T]], config: Mapping[str, Any], **given: Any
) -> T:
    """Construct `parts[config["type"]]` from the other keys of `config`.

    Args:
        what: the role, for messages (`backbone`, `head`, ...).
        parts: name -> class.
        config: `type` and keyword arguments of the class.
        **given: arguments that the recommender supplies (sizes, tables); a class takes those
            that its constructor names.

    Raises:
        ConfigError: for a missing or unknown type or a misspelt key, with the nearest right one,
            and for a value that the part or a layer of it refuses.
    """
    options = dict(config)
    name = options.pop("type", None)
    if name not in parts:
        raise ConfigError(f"{what}: unknown type {name!r}; {expected_one_of(name, parts)}")
    accepted = inspect.signature(parts[name].__init__).parameters
    for key in options:
        if key not in accepted or key in given:
            free = [a for a in accepted if a != "self" and a not in given]
            raise ConfigError(f"{what} {name!r}: unknown key {key!r}; {expected_one_of(key, free)}")
        values = options[key] if isinstance(options[key], (list, tuple)) else [options[key]]
        if any(isinstance(value, float) and not math.isfinite(value) for value in values):
            raise ConfigError(f"{what} {name!r}: {key}={options[key]}; expected a finite number")
        # At 1 nothing is left to learn from.
        if key.endswith(("dropout", "label_smoothing")) and not 0 <= options[key] < 1:
            raise ConfigError(f"{what} {name!r}: {key}={options[key]}; expected from 0 to below 1")
    supplied = {key: value for key, value in given.items() if key in accepted}
    try:
        return parts[name](**supplied, **options)
    except (ConfigError, torch.OutOfMemoryError):
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # PyTorch checks its own layers
        raise ConfigError(f"{what} {name!r}: {error}") from error
