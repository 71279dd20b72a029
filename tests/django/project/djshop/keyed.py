"""Models keyed by every type of field, and by fields of the application's own."""

from __future__ import annotations

import datetime
import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import models
from django.utils.safestring import SafeString
from hypothesis import strategies as st


class Size(models.TextChoices):
    SMALL = "s"
    LARGE = "l"


class Level(models.IntegerChoices):
    LOW = 10
    HIGH = 20


class Shape(enum.Enum):
    ROUND = "r"
    SQUARE = "q"


@dataclass(frozen=True)
class Isbn:
    """A value of the application."""

    digits: str


#: Not generic at runtime.
CharField: Any = models.CharField


def _isbn(value: Any) -> Any:
    return Isbn(value.removeprefix("ISBN ")) if isinstance(value, str) else value


class IsbnField(CharField):  # type: ignore[misc]
    """As Django's documentation says that a field of one's own should be."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return _isbn(value)

    def to_python(self, value: Any) -> Any:
        return _isbn(value)

    def get_prep_value(self, value: Any) -> Any:
        return f"ISBN {value.digits}" if isinstance(value, Isbn) else value


class LateIsbnField(CharField):  # type: ignore[misc]
    """Converts as late as can be, and hands out text."""

    def to_python(self, value: Any) -> Any:
        return value

    def get_prep_value(self, value: Any) -> Any:
        return value

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return f"ISBN {value.digits}" if isinstance(value, Isbn) else value


class ShapeField(CharField):  # type: ignore[misc]
    """Reads its column by `from_db_value` alone."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return Shape(value)

    def to_python(self, value: Any) -> Any:
        return value if isinstance(value, Shape) else Shape[value]

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return value.value if isinstance(value, Shape) else value

    def get_prep_value(self, value: Any) -> Any:
        return value


class LowerField(CharField):  # type: ignore[misc]
    """Writes other text than it was given."""

    def get_prep_value(self, value: Any) -> Any:
        return str(value).lower()


LETTERS = st.characters(codec="ascii", categories=["Lu", "Ll", "Nd"])
SHORT_TEXT = st.text(LETTERS, min_size=1, max_size=30)
MOMENTS = st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2037, 1, 1))
UTC_MOMENTS = MOMENTS.map(lambda m: m.replace(tzinfo=datetime.UTC))
DATES = st.dates(datetime.date(2000, 1, 1), datetime.date(2037, 1, 1))
TEXT: dict[str, Any] = {"max_length": 40}

#: For each kind of key: the field, and the values that applications assign to it.
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "auto": (models.AutoField, st.integers(1, 2**31 - 1)),
    "big_auto": (models.BigAutoField, st.integers(1, 2**63 - 1)),
    "integer": (models.IntegerField, st.integers(-(2**31), 2**31 - 1)),
    "integer_of_text": (models.IntegerField, st.integers(1, 10**6).map(str)),
    "small": (models.PositiveSmallIntegerField, st.integers(0, 2**15 - 1)),
    "choices_of_integers": (
        lambda **o: models.IntegerField(choices=Level.choices, **o),
        st.sampled_from(Level),
    ),
    "text": (lambda **o: models.CharField(**TEXT, **o), SHORT_TEXT),
    "text_of_integer": (lambda **o: models.CharField(**TEXT, **o), st.integers(1, 10**6)),
    "text_of_uuid": (lambda **o: models.CharField(**TEXT, **o), st.uuids(version=4)),
    "safe_text": (lambda **o: models.CharField(**TEXT, **o), SHORT_TEXT.map(SafeString)),
    "slug": (models.SlugField, SHORT_TEXT),
    "choices": (
        lambda **o: models.CharField(choices=Size.choices, **TEXT, **o),
        st.sampled_from(Size),
    ),
    "uuid": (models.UUIDField, st.uuids(version=4)),
    "uuid_of_text": (models.UUIDField, st.uuids(version=4).map(str)),
    "uuid_of_hex": (models.UUIDField, st.uuids(version=4).map(lambda u: u.hex)),
    "decimal": (
        lambda **o: models.DecimalField(max_digits=12, decimal_places=2, **o),
        st.integers(0, 10**6).map(lambda n: Decimal(n) / 4),
    ),
    "decimal_of_text": (
        lambda **o: models.DecimalField(max_digits=12, decimal_places=2, **o),
        st.integers(0, 10**6).map(lambda n: str(Decimal(n) / 4)),
    ),
    "float": (models.FloatField, st.integers(-1000, 1000).map(lambda n: n / 8)),
    "boolean": (models.BooleanField, st.booleans()),
    "date": (models.DateField, DATES),
    "date_of_text": (models.DateField, DATES.map(str)),
    "date_of_moment": (models.DateField, MOMENTS),
    "moment": (models.DateTimeField, UTC_MOMENTS),
    "moment_naive": (models.DateTimeField, MOMENTS),
    "time": (models.TimeField, MOMENTS.map(lambda m: m.time())),
    "interval": (
        models.DurationField,
        st.integers(0, 10**6).map(lambda s: datetime.timedelta(seconds=s)),
    ),
    "address": (models.GenericIPAddressField, st.ip_addresses(v=4).map(str)),
    "own": (lambda **o: IsbnField(**TEXT, **o), SHORT_TEXT.map(Isbn)),
    "own_late": (lambda **o: LateIsbnField(**TEXT, **o), SHORT_TEXT.map(Isbn)),
    "own_enum": (lambda **o: ShapeField(**TEXT, **o), st.sampled_from(Shape)),
    "own_lower": (lambda **o: LowerField(**TEXT, **o), SHORT_TEXT),
}


def _model(kind: str, field: Any) -> type[Any]:
    members = {
        "__module__": __name__,
        "Meta": type("Meta", (), {"app_label": "djshop"}),
        "key": field(primary_key=True),
        "name": models.CharField(max_length=30, default="x"),
    }
    return type(f"KeyedBy{kind.title().replace('_', '')}", (models.Model,), members)


KEYED: dict[str, type[Any]] = {kind: _model(kind, field) for kind, (field, _) in KINDS.items()}
globals().update({model.__name__: model for model in KEYED.values()})


class Owner(models.Model):
    """Keyed by a field of the application's own, which others are related to."""

    isbn = IsbnField(primary_key=True, max_length=40)

    class Meta:
        app_label = "djshop"


class Owned(models.Model):
    """Keyed by its owner."""

    owner: models.OneToOneField[Any, Any] = models.OneToOneField(
        Owner, on_delete=models.CASCADE, primary_key=True
    )
    name: models.CharField[Any, Any] = models.CharField(max_length=30, default="x")

    class Meta:
        app_label = "djshop"


RELATED: list[type[models.Model]] = [Owner, Owned]
