"""Arguments as text for people, read from their bytes: `order=Order#5, subject='Welcome!'`.

Owns the rule that looking at a message builds none of its values, fetches no row and imports
nothing: what the bytes name is shown as text, shortened, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from . import scalars
from .encoding import FROZENSET, OBJECT, REF, SET, TUPLE

#: Longest text of one value, and of all arguments, in characters.
_VALUE_LENGTH, _WHOLE_LENGTH = 60, 500

#: How deep containers are shown, and how many of their items.
_DEPTH, _ITEMS = 4, 5

_BRACKETS = {TUPLE: "()", SET: "{}", FROZENSET: "{}"}


@dataclass(frozen=True, slots=True)
class Reference:
    """An argument that is a model instance, as the bytes name it.

    Attributes:
        parameter: Its name, or its position where the task is not known.
        text: As in the arguments: `Order#5`.
        model: The class's path.
        key: The primary key as text; parts of a composite one are separated by commas.
    """

    parameter: str
    text: str
    model: str
    key: str


class _Text(str):
    """What is shown as it is."""

    __slots__ = ()


def described(payload: bytes, names: Sequence[str] = ()) -> str:
    """The arguments in a message's payload; empty if it is damaged.

    Args:
        names: Of the task's positional parameters, where the task is known.
    """
    try:
        args, kwargs = _unpacked(payload, _DEPTH)
        shown = [(names[i] if i < len(names) else "", value) for i, value in enumerate(args)]
        shown += [(str(name), value) for name, value in kwargs.items()]
    except Exception:  # noqa: BLE001 - whatever decoding damaged bytes raises
        return ""
    parts = [f"{name}={_shown(value)}" if name else _shown(value) for name, value in shown]
    return _shortened(", ".join(parts), _WHOLE_LENGTH)


def references(payload: bytes, names: Sequence[str] = ()) -> tuple[Reference, ...]:
    """The arguments in a message's payload that are model instances; none if it is damaged.

    Args:
        names: As for `described`.
    """
    try:
        args, kwargs = msgpack.unpackb(payload, strict_map_key=False)
        arguments = [(names[i] if i < len(names) else str(i), v) for i, v in enumerate(args)]
        arguments += [(str(name), value) for name, value in kwargs.items()]
        found = [
            _reference_of(name, _unpacked(value.data, 1))
            for name, value in arguments
            if isinstance(value, msgpack.ExtType) and value.code == REF
        ]
    except Exception:  # noqa: BLE001 - whatever decoding damaged bytes raises
        return ()
    return tuple(found)


def _reference_of(parameter: str, body: dict[Any, Any]) -> Reference:
    model = str(body.get("__orm_class__", "?"))
    return Reference(parameter, _reference(body), _shortened(model, _WHOLE_LENGTH), _key(body))


def texts_by_name(payload: bytes, names: Sequence[str] = ()) -> dict[str, str]:
    """Each argument with a name as text, as `described` shows it, but strings bare and whole.

    Raises:
        ValueError: The payload is damaged.
    """
    try:
        args, kwargs = _unpacked(payload, _DEPTH)
        values = dict(zip(names, args, strict=False)) | kwargs
        return {str(name): _bare(value) for name, value in values.items()}
    except Exception as e:  # whatever decoding damaged bytes raises
        raise ValueError("not the arguments of a call") from e


def text_of(packed: bytes) -> str:
    """One encoded value as `texts_by_name` shows it."""
    return _bare(_unpacked(packed, _DEPTH))


def _bare(value: Any) -> str:
    return value if type(value) is str else _shown(value)


def _unpacked(data: bytes, depth: int) -> Any:
    def extension(code: int, content: bytes) -> object:
        if code in scalars.DECODERS:
            return _Text(_shortened(content.decode("utf-8", "replace"), _VALUE_LENGTH))
        return _Text(_container(code, content, depth - 1)) if depth else _Text("...")

    return msgpack.unpackb(data, ext_hook=extension, strict_map_key=False)


def _container(code: int, content: bytes, depth: int) -> str:
    inside = _unpacked(content, depth)
    if code == REF and isinstance(inside, dict):
        return _reference(inside)
    if code == OBJECT and isinstance(inside, list) and len(inside) == 2:
        return f"{_last_part(inside[0])}({_shown(inside[1])})"
    if code in _BRACKETS and isinstance(inside, list):
        return _items(inside, _BRACKETS[code])
    return "?"


def _reference(body: dict[Any, Any]) -> str:
    return _shortened(f"{_last_part(body.get('__orm_class__', '?'))}#{_key(body)}", _VALUE_LENGTH)


def _key(body: dict[Any, Any]) -> str:
    keys = [v for k, v in body.items() if str(k).startswith("__orm:")]
    return "?" if not keys else ",".join(map(_key_part, _listed(keys[0])))


def _listed(key: Any) -> list[Any]:
    return key if isinstance(key, list) else [key]


def _key_part(value: Any) -> str:
    return _shortened(str(value), _VALUE_LENGTH)


def _last_part(path: Any) -> str:
    return str(path).rpartition(".")[2]


def _shown(value: Any) -> str:
    if isinstance(value, _Text):
        return str(value)
    if isinstance(value, list):
        return _items(value, "[]")
    if isinstance(value, dict):
        pairs = [f"{_shown(k)}: {_shown(v)}" for k, v in list(value.items())[:_ITEMS]]
        return "{" + ", ".join([*pairs, *_more(len(value))]) + "}"
    if isinstance(value, str | bytes):
        return _shortened(repr(value[:_VALUE_LENGTH]), _VALUE_LENGTH)
    return _shortened(str(value), _VALUE_LENGTH)


def _items(items: list[Any], brackets: str) -> str:
    return brackets[0] + ", ".join([*map(_shown, items[:_ITEMS]), *_more(len(items))]) + brackets[1]


def _more(count: int) -> list[str]:
    return ["..."] if count > _ITEMS else []


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
