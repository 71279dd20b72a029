"""The key that stands for a row, there and back; never with SQL.

The identity that SQLAlchemy keeps beside an instance is read, not its attributes: those may be
expired, which would load them, or carry other names than their columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from asynctasq import DeletedModelError, InvalidReference, Ref, UnsavedModelError, class_path
from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstanceState, Mapper
from sqlalchemy.orm.attributes import instance_state

Identity = tuple[Any, ...]

_PLAIN = (int, str, bytes, float, UUID)

_FROM_TEXT: dict[type, Callable[[str], Any]] = {
    UUID: UUID,
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
    time: time.fromisoformat,
}


def to_ref(obj: object) -> Ref:
    """The reference of a row that exists, committed or only flushed.

    Raises:
        UnsavedModelError: The instance was never flushed, or its insert was rolled back.
        DeletedModelError: The row was deleted, or is about to be in this session.
    """
    state: InstanceState[Any] = instance_state(obj)
    name = type(obj).__qualname__
    if state.was_deleted or (state.session is not None and obj in state.session.deleted):
        raise DeletedModelError(f"this {name} was deleted; there is no row to refer to")
    if state.identity is None:
        raise UnsavedModelError(
            f"this {name} has no row yet: add it to a session and flush or commit it first"
        )
    key = tuple(_plain(value) for value in state.identity)
    shard = state.identity_token
    return Ref(
        model=class_path(type(obj)),
        pk=key[0] if len(key) == 1 else key,
        db=None if shard is None else str(shard),
    )


def identities(mapper: Mapper[Any], keys: Iterable[Any]) -> list[Identity]:
    """Keys from the wire as the identities that SQLAlchemy will give to their rows.

    Raises:
        InvalidReference: A key cannot be one of this model.
    """
    convert = [_converter(column) for column in mapper.primary_key]
    return [_identity(mapper, convert, key) for key in keys]


def _identity(mapper: Mapper[Any], convert: list[Callable[[Any], Any]], key: Any) -> Identity:
    parts = key if len(convert) > 1 and isinstance(key, tuple) else (key,)
    name = mapper.class_.__qualname__
    if len(parts) != len(convert):
        raise InvalidReference(f"the key of {name} has {len(convert)} part(s), not {len(parts)}")
    try:
        return tuple(c(part) for c, part in zip(convert, parts, strict=True))
    except (ValueError, TypeError, ArithmeticError, KeyError) as e:
        raise InvalidReference(f"a key in the message cannot be one of {name}") from e


def _plain(value: Any) -> Any:
    """The value in a type that travels: an enum by its name, asyncpg's UUID as Python's."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, UUID):
        return UUID(int=value.int)
    base = next((t for t in _PLAIN if isinstance(value, t)), None)
    return value if base is None or isinstance(value, bool) else base(value)


def _converter(column: ColumnElement[Any]) -> Callable[[Any], Any]:
    """From a wire value to the column's Python type, where a value means the same in both."""
    try:
        expected = column.type.python_type
    except NotImplementedError:  # a type of the application's own; the database will tell
        return lambda value: value
    if issubclass(expected, Enum):
        return lambda value: expected[value]

    def convert(value: Any) -> Any:
        if type(value) is expected:
            return value
        return _converted(value, expected)

    return convert


def _converted(value: Any, expected: type) -> Any:
    if isinstance(value, bool):
        raise TypeError("a truth value is no key")
    if isinstance(value, expected):
        return value
    if isinstance(value, str) and expected in _FROM_TEXT:
        return _FROM_TEXT[expected](value)
    if expected in (int, float, Decimal, str) and isinstance(value, int | float | Decimal | str):
        converted = expected(value)
        if not isinstance(value, str) and expected is not str and converted != value:
            raise ValueError("the value does not fit")
        return converted
    raise TypeError(f"{type(value).__name__} instead of {expected.__name__}")
