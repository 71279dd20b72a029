"""The values of a key: as they travel, and as attributes hold them once read.

Owns the rule that a key travels as it would be read back, whatever was assigned to the attribute. A
plain value travels as its column's type reads it; where attributes hold values of the application's
own, such as enum members, they travel as the type writes them to the database. So a row has one
key, fresh or loaded, and a key that cannot travel is refused by the sender.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from asynctasq import PLAIN_TYPES, InvalidReference, SerializationError, plain_value
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.orm import Mapper
from sqlalchemy.types import TypeEngine

from .conversions import converted

#: One value for each column of the primary key, as attributes hold it or as it travels.
Identity = tuple[Any, ...]

#: For this dialect, types convert alike in all processes, whichever database a row is in.
_NEUTRAL = DefaultDialect()


class _Column(Protocol):
    """One column of a key."""

    def sent(self, value: Any) -> Any:
        """What travels for the attribute's value; raises what the type raises if it cannot."""

    def read(self, sent: Any) -> Any:
        """The attribute's value for what travelled; raises if this column cannot hold it."""


class _Plain:
    """A column whose values travel as they are read."""

    def __init__(self, expected: type, scale: int | None) -> None:
        self._expected = expected
        self._unit = Decimal(1).scaleb(-scale) if expected is Decimal and scale else None

    def sent(self, value: Any) -> Any:
        """The value, as exactly the column's type."""
        if type(value) is self._expected and self._unit is None:
            return value
        value = converted(plain_value(value), self._expected)
        if self._unit is not None and (padded := value.quantize(self._unit)) == value:
            return padded
        return value

    read = sent


class _Processed:
    """A column whose values travel as its type writes them: enums, the application's own types."""

    def __init__(self, type_: TypeEngine[Any]) -> None:
        implementation = type_.dialect_impl(_NEUTRAL)
        self._write = implementation.bind_processor(_NEUTRAL) or _same
        self._read = implementation.result_processor(_NEUTRAL, None) or _same

    def sent(self, value: Any) -> Any:
        """The value as the type writes it, provided that it can be read back."""
        written = plain_value(self._write(value))
        if type(written) not in PLAIN_TYPES:
            raise TypeError(f"{type(written).__qualname__} cannot travel")
        self._read(written)
        return written

    def read(self, sent: Any) -> Any:
        """The value as the type reads it."""
        return self._read(sent)


def _same(value: Any) -> Any:
    return value


def _column(type_: TypeEngine[Any]) -> _Column:
    try:
        expected = type_.python_type
    except NotImplementedError:  # a type of the application's own, or of one database
        return _Processed(type_)
    if expected in PLAIN_TYPES:
        return _Plain(expected, getattr(type_, "scale", None))
    return _Processed(type_)


class Key:
    """The primary key of one model."""

    def __init__(self, mapper: Mapper[Any]) -> None:
        self._name = mapper.class_.__qualname__
        self._columns = [_column(column.type) for column in mapper.primary_key]

    def sent(self, identity: Identity) -> Identity:
        """The key that travels for an instance's identity.

        Raises:
            SerializationError: A part of it cannot travel.
        """
        return tuple(map(self._sent, self._columns, identity))

    def _sent(self, column: _Column, value: Any) -> Any:
        if value is None:  # allowed in a key of several columns
            return None
        try:
            return column.sent(value)
        except Exception as e:  # runs code of the application's types
            raise SerializationError(
                f"the key of this {self._name} cannot be put on the queue: its column holds "
                f"{type(value).__qualname__} ({type(e).__name__}); dispatch what the task needs "
                f"of the row instead"
            ) from e

    def read(self, pk: Any) -> tuple[Identity, Identity]:
        """A key that travelled, as instances would send it, and the identity of its row.

        Raises:
            InvalidReference: It cannot be a key of this model.
        """
        parts = pk if len(self._columns) > 1 and isinstance(pk, tuple) else (pk,)
        if len(parts) != len(self._columns):
            raise InvalidReference(
                f"the key of {self._name} has {len(self._columns)} part(s), not {len(parts)}"
            )
        if all(part is None for part in parts):
            raise InvalidReference(f"a key in the message is none of {self._name}")
        try:
            both = list(map(_read, self._columns, parts))
        except Exception as e:  # runs the same code on what anybody may have written
            raise InvalidReference(f"a key in the message cannot be one of {self._name}") from e
        return tuple(sent for sent, _ in both), tuple(value for _, value in both)


def _read(column: _Column, part: Any) -> tuple[Any, Any]:
    if part is None:
        return None, None
    if type(part) not in PLAIN_TYPES:
        raise TypeError(f"{type(part).__qualname__} in a key")
    value = column.read(part)
    return column.sent(value), value


_keys: WeakKeyDictionary[Mapper[Any], Key] = WeakKeyDictionary()


def key_of(mapper: Mapper[Any]) -> Key:
    """The primary key of a model."""
    key = _keys.get(mapper)
    if key is None:
        key = _keys[mapper] = Key(mapper)
    return key
