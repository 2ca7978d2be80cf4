"""Checks on configuration that users write: keys, types, variables."""

from __future__ import annotations

import dataclasses
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from genrec.errors import ConfigError, expected_one_of

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: 1e-3 is a number, and a date stays text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Raises:
        ConfigError: if it does not exist, is not YAML or holds something else.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def check_keys(where: str, given: Iterable[Any], known: Iterable[str]) -> None:
    """Raise ConfigError naming the first unknown key and the nearest known one."""
    known = list(known)
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {expected_one_of(key, known)}")


def check_types(where: str, options: Mapping[str, Any], target: Callable[..., Any]) -> None:
    """Raise ConfigError for the first value that is not of the type its parameter declares.

    Args:
        where: what the message calls the place.
        options: keyword arguments; those that `target` does not declare are left to others.
        target: a function or class with type hints.
    """
    plain_class = isinstance(target, type) and not dataclasses.is_dataclass(target)
    described: Any = target  # mypy takes `target.__init__` for one on an instance
    hints = typing.get_type_hints(described.__init__ if plain_class else target)
    for key, value in options.items():
        if key in hints and not _matches(value, hints[key]):
            raise ConfigError(f"{where}: {key}={value!r}; expected {_shown(hints[key])}")


def check_part(
    what: str, parts: Mapping[str, type], config: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Split `{type: name, ...}` into the name and the options, whose types are checked.

    Names and keys are left to whoever builds the part: they know what it is.

    Raises:
        ConfigError: without a `type`, or for an option of another type than the part declares.
    """
    options = dict(config)
    name = options.pop("type", None)
    if not isinstance(name, str):
        raise ConfigError(f"{what}: needs a `type`; expected one of {', '.join(parts)}")
    if name in parts:
        check_types(f"{what} {name!r}", options, parts[name])
        nested = options.get("parts", [])
        for part in nested.values() if isinstance(nested, Mapping) else nested:
            if isinstance(part, Mapping):
                check_part(what, parts, part)
    return name, options


def expand_variables(value: Any, *, where: str) -> Any:
    """Replace `${NAME}` in strings by environment variables, inside dicts and lists too.

    Raises:
        ConfigError: naming a variable that is not set.
    """
    if isinstance(value, str):

        def look_up(match: re.Match[str]) -> str:
            name = match.group(1)
            if name not in os.environ:
                raise ConfigError(
                    f"{where}: the environment variable {name} is not set; "
                    f"run `export {name}=...` first"
                )
            return os.environ[name]

        return _VARIABLE.sub(look_up, value)
    if isinstance(value, Mapping):
        return {key: expand_variables(item, where=where) for key, item in value.items()}
    if isinstance(value, list):
        return [expand_variables(item, where=where) for item in value]
    return value


def _matches(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if hint is None or hint is type(None):
        return value is None
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if issubclass(kind, str):
        return isinstance(value, str)
    if issubclass(kind, Mapping):
        each = inner[1] if len(inner) == 2 else Any
        return isinstance(value, Mapping) and all(_matches(v, each) for v in value.values())
    if issubclass(kind, Sequence):
        each = inner[0] if inner else Any
        return isinstance(value, list | tuple) and all(_matches(v, each) for v in value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    if kind is bool:
        return isinstance(value, bool)
    # Anything else is an object that a configuration describes by a mapping.
    return isinstance(value, (kind, Mapping))


def _shown(hint: Any) -> str:
    """A type as an error names it: its choices, if it has some, joined by "or"."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(str(choice) for choice in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_shown(one) for one in inner if one is not type(None))
    if isinstance(origin, type) and issubclass(origin, Sequence) and origin is not tuple:
        example = ", such as [8, 8]" if inner[0] is int else ""
        return f"a list of {_shown(inner[0])}{example}"
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")
