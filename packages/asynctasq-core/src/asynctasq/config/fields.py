"""Reads configuration fields from the environment, converts them and checks them.

Everything is derived from the fields of the configuration's dataclasses and their types. Owns two
rules: a value that cannot work is refused where it is given, and a misspelt variable is noticed.
"""

from __future__ import annotations

import dataclasses
import logging
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from ..durations import is_duration
from ..errors import ConfigurationError

logger = logging.getLogger(__name__)

PREFIX = "ASYNCTASQ_"

#: Variables that are not fields.
_OTHERS = frozenset({"PLUGINS"})

#: How similar a name must be to count as a misspelling; `TEST_REDIS_URL` must not be taken for one.
_ALIKE = 0.8


def from_environment(cls: type[Any], prefix: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a dataclass that the environment sets, each converted to its type.

    Raises:
        ConfigurationError: A value cannot be converted; names the variable.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        variable = prefix + f.name.upper()
        if variable in environ and _is_readable(hints[f.name]):
            try:
                values[f.name] = _converted(environ[variable], hints[f.name])
            except ValueError as e:
                raise ConfigurationError(f"{variable}: {e}") from None
    return values


def check_variables(
    cls: type[Any],
    sections: Mapping[str, type[Any]],
    more_options: Iterable[str],
    environ: Iterable[str],
) -> None:
    """Refuse misspelt variables; warn of unknown ones that start with a section's prefix.

    The latter may come from elsewhere: Kubernetes sets `ASYNCTASQ_REDIS_PORT` for a service named
    `asynctasq-redis`.

    Args:
        cls: The configuration's dataclass.
        sections: The dataclasses of its sections, by name.
        more_options: Options that are not fields of `cls`.
        environ: The names of all variables.

    Raises:
        ConfigurationError: A variable is misspelt; names the one that was probably meant.
    """
    readable, others = set(_OTHERS), {o.upper() for o in more_options}
    for name, hint in typing.get_type_hints(cls).items():
        (readable if _is_readable(hint) else others).add(name.upper())
    prefixes = tuple(f"{name.upper()}_" for name in sections)
    for prefix, section in zip(prefixes, sections.values(), strict=True):
        others.add(prefix.removesuffix("_"))
        hints = typing.get_type_hints(section).items()
        readable.update(prefix + name.upper() for name, hint in hints if _is_readable(hint))
    for variable in environ:
        name = variable.removeprefix(PREFIX)
        if not variable.startswith(PREFIX) or name in readable:
            continue
        if name.endswith(tuple(f"_{known}" for known in readable)):
            continue  # a known name after someone else's prefix, such as TEST_REDIS_URL
        if name in others:
            near = ", ".join(sorted(PREFIX + r for r in readable if r.startswith(f"{name}_")))
            advice = f"; there are {near}" if near else ""
            raise ConfigurationError(f"{variable}: give {name.lower()} to init{advice}")
        if near_name := nearest(name, readable, _ALIKE):
            raise ConfigurationError(
                f"unknown variable {variable}: did you mean {PREFIX}{near_name}?"
            )
        if name.startswith(prefixes):
            logger.warning("unknown variable %s is ignored", variable)


def unknown_name(name: str, known: Iterable[str], kind: str) -> str:
    """The error message for an unknown name, with what to write instead."""
    near = nearest(name, known)
    advice = f"did you mean {near!r}?" if near else f"known are {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}: {advice}"


def nearest(name: str, names: Iterable[str], alike: float = 0.6) -> str:
    """The known name that was probably meant; empty if none is similar.

    A truncated name is likelier than a misspelt one.
    """
    import difflib  # only errors need it

    near = difflib.get_close_matches(name, names, 10, alike)
    cut_short = [n for n in near if n.startswith(name) or name.startswith(n)]
    return next(iter(cut_short or near), "")


def _is_readable(hint: Any) -> bool:
    """Whether a variable's text can give a value of this type."""
    return not (
        dataclasses.is_dataclass(hint)
        or typing.is_typeddict(hint)
        or typing.get_origin(hint) is Mapping
    )


def _converted(text: str, hint: Any) -> Any:
    if hint is bool:
        if text.lower() not in ("0", "1", "false", "true", "no", "yes"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() in ("1", "true", "yes")
    return hint(text) if hint in (int, float) else text


def in_form(value: Any, hint: Any) -> Any:
    """The value as its field stores it: several strings as a tuple, signing keys as bytes."""
    if typing.get_origin(hint) is not tuple:
        return value
    is_bytes = typing.get_args(hint)[0] is bytes
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        # An empty signing key is an error, not "no signing".
        value = parts or ([value] if is_bytes else [])
    elif isinstance(value, bytes):
        value = [value]
    if not isinstance(value, Iterable):
        return value
    return tuple(v.encode() if is_bytes and isinstance(v, str) else v for v in value)


def check(config: Any, where: str = "") -> None:
    """Check every value against its field's type.

    Args:
        config: An instance of a dataclass.
        where: Prefix for the field's name in an error.

    Raises:
        ConfigurationError: Names the field and what it takes, but never a secret.
    """
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value, hint = getattr(config, f.name), hints[f.name]
        if not _fits(value, hint):
            shown = f"{value!r:.200}" if f.repr else f"this {type(value).__name__}"
            raise ConfigurationError(f"{where}{f.name} must be {_rule(hint)}, not {shown}")


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(v, args[0]) for v in value)
    if typing.is_typeddict(hint) or origin is not None:
        return isinstance(value, Mapping)
    if hint in (int, float):
        if hint is float:
            return value is not None and is_duration(value)
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return isinstance(value, hint)


_RULES = {
    int: "a whole number of at least 1",
    float: "seconds above 0",
    bool: "True or False",
    str: "a text",
    bytes: "bytes",
    Path: "a path",
    types.NoneType: "None",
}


def _rule(hint: Any) -> str:
    """What a field of this type accepts, in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_rule, args))
    if origin is Literal:
        return f"one of {', '.join(args)}"
    if origin is tuple:
        return f"{_rule(args[0])} or several"
    return _RULES.get(hint, "a mapping")
