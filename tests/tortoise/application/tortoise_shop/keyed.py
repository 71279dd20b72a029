"""Models keyed by every field type of Tortoise, and by fields of the application's own."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from tortoise import fields
from tortoise.models import Model


class Size(str, enum.Enum):  # noqa: UP042 - whose `str` is not its value, as in older code
    SMALL = "s"
    LARGE = "l"


class Shape(enum.Enum):
    ROUND = "r"
    SQUARE = "q"


class Level(enum.IntEnum):
    LOW = 10
    HIGH = 20


class Text(str):
    """As libraries mark text that is safe, translated, and so on."""


class DriverUUID(uuid.UUID):
    """As asyncpg gives them."""


@dataclass(frozen=True)
class Isbn:
    """A value of the application."""

    digits: str


#: Not generic in all versions of Tortoise.
CharField: Any = fields.CharField


class IsbnField(CharField):  # type: ignore[misc]
    """Stores it as text, with a prefix that no attribute has."""

    def to_db_value(self, value: Any, instance: Any) -> Any:
        return f"ISBN {value.digits}"

    def to_python_value(self, value: Any) -> Any:
        return Isbn(value.removeprefix("ISBN ")) if isinstance(value, str) else value


class LowerField(CharField):  # type: ignore[misc]
    """Writes other text than it was given."""

    def to_db_value(self, value: Any, instance: Any) -> Any:
        return super().to_db_value(str(value).lower(), instance)


LETTERS = st.characters(codec="ascii", categories=["Lu", "Ll", "Nd"])
SHORT_TEXT = st.text(LETTERS, min_size=1, max_size=30)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1))
UTC_MOMENTS = MOMENTS.map(lambda m: m.replace(tzinfo=UTC))
TEXT: dict[str, Any] = {"max_length": 40}

#: For each kind of key: the field, and the values that applications assign to it.
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "int": (fields.IntField, st.integers(1, 2**31 - 1)),
    "small": (fields.SmallIntField, st.integers(1, 2**15 - 1)),
    "big": (fields.BigIntField, st.integers(1, 2**63 - 1)),
    "int_of_enum": (fields.IntField, st.sampled_from(Level)),
    "text": (lambda **o: CharField(**TEXT, **o), SHORT_TEXT),
    "text_class": (lambda **o: CharField(**TEXT, **o), SHORT_TEXT.map(Text)),
    "text_of_enum": (lambda **o: CharField(**TEXT, **o), st.sampled_from(Size)),
    "text_of_int": (lambda **o: CharField(**TEXT, **o), st.integers(1, 10**6)),
    "char_enum": (lambda **o: fields.CharEnumField(Shape, **o), st.sampled_from(Shape)),
    "char_enum_of_text": (lambda **o: fields.CharEnumField(Size, **o), st.sampled_from(Size)),
    "int_enum": (
        lambda **o: fields.IntEnumField(Level, **o),
        st.sampled_from(Level),
    ),
    "uuid": (fields.UUIDField, st.uuids()),
    "uuid_of_driver": (fields.UUIDField, st.uuids().map(lambda u: DriverUUID(int=u.int))),
    "uuid_of_text": (fields.UUIDField, st.uuids().map(str)),
    "decimal": (
        lambda **o: fields.DecimalField(max_digits=12, decimal_places=2, **o),
        st.integers(0, 10**6).map(lambda n: Decimal(n) / 4),
    ),
    "float": (fields.FloatField, st.integers(-1000, 1000).map(lambda n: n / 8)),
    "boolean": (fields.BooleanField, st.booleans()),
    "date": (fields.DateField, st.dates(date(2000, 1, 1), date(2037, 1, 1))),
    "moment": (fields.DatetimeField, UTC_MOMENTS),
    "moment_naive": (fields.DatetimeField, MOMENTS),
    "time": (
        fields.TimeField,
        UTC_MOMENTS.map(lambda m: m.timetz()),
    ),
    "interval": (fields.TimeDeltaField, st.integers(0, 10**6).map(lambda s: timedelta(seconds=s))),
    "own": (lambda **o: IsbnField(**TEXT, **o), SHORT_TEXT.map(Isbn)),
    "own_lower": (lambda **o: LowerField(**TEXT, **o), SHORT_TEXT),
}


def _model(kind: str, field: Any) -> type[Any]:
    members = {
        "__module__": __name__,
        "key": field(primary_key=True),
        "name": fields.CharField(max_length=30, default="x"),
    }
    return type(f"KeyedBy{kind.title().replace('_', '')}", (Model,), members)


KEYED: dict[str, type[Any]] = {kind: _model(kind, field) for kind, (field, _) in KINDS.items()}
globals().update({model.__name__: model for model in KEYED.values()})
