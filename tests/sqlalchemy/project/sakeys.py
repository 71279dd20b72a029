"""Models keyed by every type of column, and by columns that hold another type's values."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Double,
    Enum,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Time,
    TypeDecorator,
    Unicode,
    Uuid,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.orm import DeclarativeBase, mapped_column


class KeyBase(DeclarativeBase):
    """Of the models here, whose tables stand by themselves."""

    metadata = MetaData()


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Code(str, enum.Enum):  # noqa: UP042 - whose `str` is not its value, as in older code
    """Its members are text, with names that are not their values."""

    FIRST = "code-1"
    SECOND = "code-2"


class Level(enum.IntEnum):
    LOW = 10
    HIGH = 20


class Text(str):
    """As libraries mark text that is safe, translated, and so on."""


class Moment(datetime):
    """As libraries for dates extend them."""


class DriverUUID(uuid.UUID):
    """As asyncpg gives them."""


@dataclass(frozen=True)
class Isbn:
    """A value of the application."""

    digits: str


class IsbnType(TypeDecorator[Isbn]):
    """The type that stores it as text, with a prefix that no attribute has."""

    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: Isbn | None, dialect: Any) -> str | None:
        return None if value is None else f"ISBN {value.digits}"

    def process_result_value(self, value: str | None, dialect: Any) -> Isbn | None:
        return None if value is None else Isbn(value.removeprefix("ISBN "))


class GUID(TypeDecorator[uuid.UUID]):
    """The recipe of SQLAlchemy's documentation, by which each database stores another form."""

    impl = String(32)
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        native = dialect.name == "postgresql"
        return dialect.type_descriptor(postgresql.UUID() if native else String(32))

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value if value is None or dialect.name == "postgresql" else value.hex

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(value)


class Lower(TypeDecorator[str]):
    """Writes other text than it was given."""

    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.lower()


class Utc(TypeDecorator[datetime]):
    """Moments that the database knows without their zone."""

    impl = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


MICROSECONDS = mysql.DATETIME(fsp=6)
LETTERS = st.characters(codec="ascii", categories=["Lu", "Ll", "Nd"])
SHORT_TEXT = st.text(LETTERS, min_size=1, max_size=30)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1))

#: For each kind of key: the column's type, and the values that applications assign to it.
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "integer": (Integer(), st.integers(1, 2**31 - 1)),
    "small": (SmallInteger(), st.integers(1, 2**15 - 1)),
    "big": (BigInteger(), st.integers(-(2**63), 2**63 - 1)),
    "int_enum": (Integer(), st.sampled_from(Level)),
    "text": (String(30), SHORT_TEXT),
    "unicode": (Unicode(30), SHORT_TEXT),
    "text_class": (String(30), SHORT_TEXT.map(Text)),
    "text_enum": (String(30), st.sampled_from(Code)),
    "enum": (Enum(Size), st.sampled_from(Size)),
    "enum_by_value": (
        Enum(Size, name="size_by_value", values_callable=lambda c: [m.value for m in c]),
        st.sampled_from(Size),
    ),
    "enum_of_text": (Enum(Code), st.sampled_from(Code)),
    "enum_not_native": (Enum(Size, native_enum=False), st.sampled_from(Size)),
    "choices": (Enum("a", "b", name="choices"), st.sampled_from(["a", "b"])),
    "uuid": (Uuid(), st.uuids()),
    "uuid_of_driver": (Uuid(), st.uuids().map(lambda u: DriverUUID(int=u.int))),
    "uuid_as_text": (Uuid(as_uuid=False), st.uuids().map(str)),
    "uuid_not_native": (Uuid(native_uuid=False), st.uuids()),
    "decimal": (Numeric(12, 2), st.decimals(0, 10**6, places=2)),
    "decimal_short": (Numeric(12, 2), st.integers(0, 10**6).map(lambda n: Decimal(n) / 4)),
    "double": (Double(), st.integers(-1000, 1000).map(lambda n: n / 8)),
    "boolean": (Boolean(), st.booleans()),
    "date": (Date(), st.dates(date(2000, 1, 1), date(2037, 1, 1))),
    "date_given_moment": (
        Date(),
        st.dates(date(2000, 1, 1), date(2037, 1, 1)).map(lambda d: datetime.combine(d, time())),
    ),
    "time": (Time(), st.times().map(lambda t: t.replace(microsecond=0))),
    "moment": (DateTime().with_variant(MICROSECONDS, "mysql", "mariadb"), MOMENTS),
    "moment_class": (
        DateTime().with_variant(MICROSECONDS, "mysql", "mariadb"),
        MOMENTS.map(lambda m: Moment(*m.timetuple()[:6], m.microsecond)),
    ),
    "zoned": (
        DateTime(timezone=True).with_variant(MICROSECONDS, "mysql", "mariadb"),
        MOMENTS.map(lambda m: m.replace(tzinfo=UTC)),
    ),
    "interval": (
        Interval(),
        st.integers(0, 10**6).map(lambda s: timedelta(seconds=s)),
    ),
    "bytes": (
        LargeBinary(30).with_variant(mysql.VARBINARY(30), "mysql", "mariadb"),
        st.binary(min_size=1, max_size=30),
    ),
    "decorated": (IsbnType(), SHORT_TEXT.map(Isbn)),
    "decorated_by_database": (GUID(), st.uuids()),
    "decorated_lower": (Lower(), SHORT_TEXT),
    "decorated_moment": (Utc(), MOMENTS.map(lambda m: m.replace(tzinfo=UTC))),
}


def _model(kind: str, type_: Any) -> type[Any]:
    namespace: dict[str, Any] = {
        "__module__": __name__,
        "__tablename__": f"keyed_by_{kind}",
        "key": mapped_column(type_, primary_key=True, autoincrement=False),
        "name": mapped_column(String(30), default="x"),
    }
    return type(f"KeyedBy{kind.title().replace('_', '')}", (KeyBase,), namespace)


MODELS: dict[str, type[Any]] = {kind: _model(kind, type_) for kind, (type_, _) in KINDS.items()}
globals().update({model.__name__: model for model in MODELS.values()})


class Pair(KeyBase):
    """Keyed by several columns, each of another type."""

    __tablename__ = "keyed_by_pair"
    code = mapped_column(String(30), primary_key=True)
    level = mapped_column(Integer(), primary_key=True, autoincrement=False)
    isbn = mapped_column(IsbnType(), primary_key=True)
