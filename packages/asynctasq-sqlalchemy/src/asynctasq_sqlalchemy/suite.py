"""What `asynctasq test-adapter sqlalchemy` runs, on SQLite; it needs the extra `testing`."""

from __future__ import annotations

import asyncio
import datetime
import enum
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
from asynctasq.testing import AdapterSuite
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ForeignKey,
    Numeric,
    String,
    TypeDecorator,
    create_engine,
    event,
    make_url,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    selectinload,
)
from sqlalchemy.pool import NullPool

from . import create_worker_session_factory, task_session


class Base(DeclarativeBase):
    """The base of the suite's models."""


class User(Base):
    """The main model."""

    __tablename__ = "suite_users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    orders: Mapped[list[Order]] = relationship()


class Order(Base):
    """The second model, related to the first."""

    __tablename__ = "suite_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    user_id: Mapped[int | None] = mapped_column(ForeignKey(User.id))


class Seat(Base):
    """Keyed by two columns whose attributes have other names."""

    __tablename__ = "suite_seats"
    row: Mapped[str] = mapped_column("seat_row", String(5), primary_key=True)
    number: Mapped[int] = mapped_column("seat_no", primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(50))


class Document(Base):
    """Keyed by a UUID that exists before the row."""

    __tablename__ = "suite_documents"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)


class Country(Base):
    """Keyed by text."""

    __tablename__ = "suite_countries"
    code: Mapped[str] = mapped_column(String(2), primary_key=True)


class Price(Base):
    """Keyed by a Decimal."""

    __tablename__ = "suite_prices"
    amount: Mapped[Decimal] = mapped_column(Numeric(10, 2), primary_key=True, autoincrement=False)


class Day(Base):
    """Keyed by a date and a time."""

    __tablename__ = "suite_days"
    date: Mapped[datetime.date] = mapped_column(primary_key=True)
    at: Mapped[datetime.datetime] = mapped_column(primary_key=True)


class Grade(enum.Enum):
    """Travels by name."""

    GOOD = 1
    BAD = 2


class Unit(str, enum.Enum):  # noqa: UP042 - whose `str` is not its value, as in older code
    """An enum whose members are text themselves."""

    METRE = "m"


class Mark(Base):
    """Keyed by a member of an enum."""

    __tablename__ = "suite_marks"
    grade: Mapped[Grade] = mapped_column(primary_key=True)


class Scale(Base):
    """Keyed by text, to which applications assign members of an enum."""

    __tablename__ = "suite_scales"
    unit: Mapped[str] = mapped_column(String(10), primary_key=True)


class Version(TypeDecorator[tuple[int, ...]]):
    """Stores a version's numbers as text."""

    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: tuple[int, ...] | None, dialect: Any) -> str | None:
        """As `1.2`."""
        return None if value is None else ".".join(map(str, value))

    def process_result_value(self, value: str | None, dialect: Any) -> tuple[int, ...] | None:
        """As `(1, 2)`."""
        return None if value is None else tuple(map(int, value.split(".")))


class Release(Base):
    """Keyed by a type of the application's own."""

    __tablename__ = "suite_releases"
    version: Mapped[tuple[int, ...]] = mapped_column(Version(), primary_key=True)


_HIDE = text("ALTER TABLE suite_users RENAME TO suite_users_away")
_SHOW = text("ALTER TABLE suite_users_away RENAME TO suite_users")


class _Suite(AdapterSuite):
    """What is the same for asynchronous and synchronous sessions."""

    adapter = "sqlalchemy"
    composite_keys = other_keys = knows_deleted = stale_instances = True
    transactions = savepoints = declared_loading = outages = missing_table = knows_limits = True
    transactions_end = False  # a session begins the next one
    outbox = atomic = True
    factory: Any
    session_class: type[Any] = AsyncSession

    def new(self, name: str) -> User:
        return User(name=name)

    def seat(self, name: str) -> Seat:
        """A seat not taken yet."""
        return Seat(row="A", number=uuid.uuid4().int % 10**6, name=name)

    def loadable(self, name: str) -> User:
        """A user with orders."""
        return User(name=name, orders=[Order(name="book"), Order(name="pen")])

    def others(self) -> list[Any]:
        """Rows with keys of every other type."""
        moment = datetime.datetime(2026, 11, 22, 9, 43)
        return [
            Document(),
            Country(code="CH"),
            Price(amount=Decimal("12.50")),
            Day(date=moment.date(), at=moment),
            Mark(grade=Grade.BAD),
            Scale(unit=Unit.METRE),
            Release(version=(1, 20)),
        ]

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            seen.append(statement)

        event.listen(Engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            event.remove(Engine, "before_cursor_execute", note)

    def transaction(self) -> Any:
        return self.factory.begin()

    def savepoint(self, transaction: Any) -> Any:
        return transaction.begin_nested()

    def loading(self) -> Sequence[Any]:
        return [selectinload(User.orders)]

    def loaded(self, row: User) -> list[str]:
        return [order.name for order in row.orders]

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Give the models a session factory for a server that does not exist."""
        self.use(create_worker_session_factory(self.nowhere(), class_=self.session_class))
        try:
            yield
        finally:
            self.use(self.factory)

    def use(self, factory: Any) -> None:
        """Set the models' session factory."""
        Base._asynctasq_session_factory = factory

    def nowhere(self) -> URL:
        """A URL at which no database answers."""
        url: URL = self.factory.kw["bind"].url
        if url.get_backend_name() == "sqlite":
            return url.set(database="/nowhere/suite.db")
        return url.set(host="127.0.0.1", port=1)


async def _in_database(url: URL, work: Callable[[Connection], None]) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(work)


def _delete_rows(connection: Connection) -> None:
    for table in reversed(Base.metadata.sorted_tables):
        connection.execute(table.delete())


class TestSQLAlchemy(_Suite):
    """With `AsyncSession`; a subclass may give another `url`."""

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, tmp_path_factory: pytest.TempPathFactory) -> URL:
        """Of a database."""
        return make_url(f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('suite')}/suite.db")

    @pytest.fixture(scope="class")
    @classmethod
    def tables(cls, url: URL) -> Iterator[None]:
        """Created once per class: creating them for each test would take most of the time."""
        asyncio.run(_in_database(url, Base.metadata.create_all))
        yield
        asyncio.run(_in_database(url, Base.metadata.drop_all))

    @pytest_asyncio.fixture
    async def database(self, url: URL, tables: None) -> AsyncIterator[None]:
        """The tables, without rows."""
        self.factory = create_worker_session_factory(url, class_=self.session_class)
        self.use(self.factory)
        yield
        await _in_database(url, _delete_rows)
        await self.factory.kw["bind"].dispose()
        self.use(None)

    async def saved(self, row: Any) -> Any:
        """The row, committed."""
        async with self.factory.begin() as session:
            session.add(row)
        return row

    async def save(self, name: str) -> Any:
        return await self.saved(User(name=name))

    async def save_changes(self, row: Any) -> None:
        await task_session().flush()

    async def save_other(self, name: str) -> Any:
        return await self.saved(Order(name=name))

    async def save_composite(self, name: str) -> Any:
        return await self.saved(self.seat(name))

    async def save_with_other_keys(self) -> list[Any]:
        return [await self.saved(row) for row in self.others()]

    async def save_loadable(self, name: str) -> Any:
        return await self.saved(self.loadable(name))

    async def rename(self, row: User, name: str) -> None:
        async with self.factory.begin() as session:
            await session.execute(update(User).where(User.id == row.id).values(name=name))

    async def delete(self, row: Any) -> None:
        async with self.factory.begin() as session:
            session.add(row)
            await session.delete(row)

    @asynccontextmanager
    async def without_table(self) -> AsyncIterator[None]:
        engine = self.factory.kw["bind"]
        async with engine.begin() as connection:
            await connection.execute(_HIDE)
        yield
        async with engine.begin() as connection:
            await connection.execute(_SHOW)

    async def stale(self, row: User) -> User:
        async with self.factory() as session:
            found: User = await session.get_one(User, row.id)
            session.expire(found)
        return found

    async def write(self, transaction: AsyncSession, name: str) -> User:
        user = User(name=name)
        transaction.add(user)
        await transaction.flush()
        return user

    async def read(self, transaction: AsyncSession, row: User) -> User:
        return await transaction.get_one(User, row.id)


class TestSynchronousSessions(_Suite):
    """With `Session`, called in a thread; a subclass may give another `url`."""

    asynchronous = False
    session_class = Session

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, tmp_path_factory: pytest.TempPathFactory) -> URL:
        """Of a database."""
        return make_url(f"sqlite:///{tmp_path_factory.mktemp('suite')}/suite.db")

    @pytest.fixture(scope="class")
    @classmethod
    def tables(cls, url: URL) -> Iterator[None]:
        """Created once per class."""
        engine = create_engine(url, poolclass=NullPool)
        Base.metadata.create_all(engine)
        yield
        Base.metadata.drop_all(engine)

    @pytest.fixture
    def database(self, url: URL, tables: None) -> Iterator[None]:
        """The tables, without rows."""
        self.factory = create_worker_session_factory(url, class_=self.session_class)
        self.use(self.factory)
        engine = self.factory.kw["bind"]
        yield
        with engine.begin() as connection:
            _delete_rows(connection)
        engine.dispose()
        self.use(None)

    def saved(self, row: Any) -> Any:
        """The row, committed."""
        with self.factory.begin() as session:
            session.add(row)
        return row

    def save(self, name: str) -> Any:
        return self.saved(User(name=name))

    def save_changes(self, row: Any) -> None:
        task_session().flush()

    def save_other(self, name: str) -> Any:
        return self.saved(Order(name=name))

    def save_composite(self, name: str) -> Any:
        return self.saved(self.seat(name))

    def save_with_other_keys(self) -> list[Any]:
        return [self.saved(row) for row in self.others()]

    def save_loadable(self, name: str) -> Any:
        return self.saved(self.loadable(name))

    def rename(self, row: User, name: str) -> None:
        with self.factory.begin() as session:
            session.execute(update(User).where(User.id == row.id).values(name=name))

    def delete(self, row: Any) -> None:
        with self.factory.begin() as session:
            session.add(row)
            session.delete(row)

    @contextmanager
    def without_table(self) -> Iterator[None]:
        engine = self.factory.kw["bind"]
        with engine.begin() as connection:
            connection.execute(_HIDE)
        yield
        with engine.begin() as connection:
            connection.execute(_SHOW)

    def stale(self, row: User) -> User:
        with self.factory() as session:
            found: User = session.get_one(User, row.id)
            session.expire(found)
        return found

    def write(self, transaction: Session, name: str) -> User:
        user = User(name=name)
        transaction.add(user)
        transaction.flush()
        return user

    def read(self, transaction: Session, row: User) -> User:
        return transaction.get_one(User, row.id)
